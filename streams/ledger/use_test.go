package ledger

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// A stream is nearly full at four fifths. A full one refuses more messages without losing any, and continues when it has room.
func TestAFullStream(t *testing.T) {
	dir := t.TempDir()
	small := streams.Limits{MaxBytes: 1 << 20, Sync: time.Minute}
	c := openIn(t, dir, small)
	big := func(i int) events.Message {
		p := prompt("r", 0, i)
		p.Response = strings.Repeat("word ", 20<<10)
		return p
	}
	warned, n := 0, 0
	var err error
	for ; err == nil; n++ {
		uses, useErr := Uses(testContext(t), c, "r")
		if useErr != nil {
			t.Fatal(useErr)
		}
		if uses[0].Log == schemas.Prompts && uses[0].NearlyFull() {
			warned++
		} else if warned > 0 {
			t.Error("it is no longer nearly full")
		}
		err = c.Publish(testContext(t), schemas.Prompts, big(n))
	}
	if !errors.Is(err, streams.ErrFull) || warned == 0 || warned > 4 {
		t.Fatalf("%d messages, %d warnings, %v", n, warned, err)
	}
	n--
	if got := stored(t, c, schemas.Prompts, "r"); len(got) != n {
		t.Errorf("%d prompts, want %d", len(got), n)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	wide := openIn(t, dir, streams.Limits{MaxBytes: 8 << 20, Sync: time.Minute})
	publish(t, wide, schemas.Prompts, big(n))
	if got := stored(t, wide, schemas.Prompts, "r"); len(got) != n+1 {
		t.Errorf("%d prompts, want %d", len(got), n+1)
	}
}

// Stages are listed with their unsettled messages and their workers.
func TestStages(t *testing.T) {
	c := openQuick(t)
	publish(t, c, schemas.Prompts, promptList("r", 0, 3)...)
	s := generator("r", 1)
	start(t, c, s, answer)
	await(t, c, schemas.Pairs, "r", 3)
	settled(t, c, s)
	stages, err := Stages(testContext(t), c, "r")
	if err != nil || len(stages) != 1 || stages[0].Stage != "generator" || stages[0].In != schemas.Prompts || stages[0].Lag() != 0 ||
		len(stages[0].Workers) != 1 {
		t.Errorf("stages %+v, %v", stages, err)
	}
}

func TestStageETA(t *testing.T) {
	s := StageState{Unread: 90, Unanswered: 10, Workers: []streams.Worker{{Rate: 2}, {Rate: 3}}}
	if got := fmt.Sprint(s.Lag(), s.Rate(), s.ETA()); got != "100 5 20s" {
		t.Error(got)
	}
	if got := (StageState{Unread: 5}).ETA(); got != 0 {
		t.Error(got)
	}
}
