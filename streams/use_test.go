package streams

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// A stream that fills says so at four fifths, refuses what is more without losing what it has, and goes on when it has room.
func TestAFullStream(t *testing.T) {
	dir := t.TempDir()
	small := Limits{MaxBytes: 1 << 20, Sync: time.Minute}
	c := openIn(t, dir, small)
	big := func(i int) events.Message {
		p := prompt("r", 0, i)
		p.Response = strings.Repeat("word ", 20<<10)
		return p
	}
	warned, n := 0, 0
	var err error
	for ; err == nil; n++ {
		uses, useErr := c.Uses(testContext(t))
		if useErr != nil {
			t.Fatal(useErr)
		}
		if uses[0].Kind == schemas.Prompts && uses[0].NearlyFull() {
			warned++
		} else if warned > 0 {
			t.Error("it is no longer nearly full")
		}
		err = c.Publish(testContext(t), schemas.Prompts, big(n))
	}
	if !errors.Is(err, ErrFull) || warned == 0 || warned > 4 {
		t.Fatalf("%d messages, %d warnings, %v", n, warned, err)
	}
	n--
	if got := stored(t, c, schemas.Prompts, "r"); len(got) != n {
		t.Errorf("%d prompts, want %d", len(got), n)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	wide := openIn(t, dir, Limits{MaxBytes: 8 << 20, Sync: time.Minute})
	publish(t, wide, schemas.Prompts, big(n))
	if got := stored(t, wide, schemas.Prompts, "r"); len(got) != n+1 {
		t.Errorf("%d prompts, want %d", len(got), n+1)
	}
}
