package streams

import (
	"strings"
	"testing"

	"github.com/ldalign/ldalign/schemas"
)

// A deleted run leaves nothing, its neighbours stay whole, and its name cannot be had while the server remembers its ids.
func TestDeleteRun(t *testing.T) {
	dir := t.TempDir()
	c := openIn(t, dir, quick)
	ctx := testContext(t)
	const n = 5
	for _, run := range []string{"r", "other", "r"} { // the second time stores nothing
		publish(t, c, schemas.Prompts, promptList(run, 0, n)...)
		publish(t, c, schemas.Control, closedAt(run, 0, n))
	}
	s := generator("r", 2)
	stop := start(t, c, s, answer)
	await(t, c, schemas.Pairs, "r", n)
	settled(t, c, s)
	if err := c.Idle(ctx, "r"); err == nil || !strings.Contains(err.Error(), "generator") {
		t.Errorf("a run that is worked on: %v", err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := c.Idle(ctx, "r"); err != nil {
		t.Error(err)
	}
	if err := c.Pause(ctx, "r", "", "a test"); err != nil {
		t.Fatal(err)
	}
	sizes, err := c.SizeOf(ctx, "r")
	if err != nil || len(sizes) != 3 || sizes[0] != (RunSize{schemas.Prompts, n}) || sizes[1] != (RunSize{schemas.Pairs, n}) {
		t.Errorf("%v, %v", sizes, err)
	}
	for range 2 {
		if err := c.DeleteRun(ctx, "r"); err != nil {
			t.Fatal(err)
		}
	}
	runs, err := c.Runs(ctx)
	if err != nil || len(runs) != 1 || runs[0] != "other" {
		t.Errorf("runs %v, %v", runs, err)
	}
	if pauses, err := c.Pauses(ctx, "r"); err != nil || len(pauses) > 0 {
		t.Errorf("pauses %v, %v", pauses, err)
	}
	if infos, err := c.consumers(ctx, schemas.Prompts, "r"); err != nil || len(infos) > 0 {
		t.Errorf("%d consumers, %v", len(infos), err)
	}
	if got := stored(t, c, schemas.Prompts, "other"); len(got) != n {
		t.Errorf("the other run has %d prompts", len(got))
	}
	if purged := c.purged(ctx, StreamName(schemas.Prompts)); purged != n {
		t.Errorf("%d holes are known, want %d", purged, n)
	}
	if err := c.Reusable(ctx, "r"); err == nil || !strings.Contains(err.Error(), "take another name") {
		t.Errorf("its name: %v", err)
	}
	if err := c.Reusable(ctx, "other"); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	again := openIn(t, dir, quick)
	if err := again.Reusable(ctx, "r"); err != nil {
		t.Errorf("after the server was started again: %v", err)
	}
	publish(t, again, schemas.Prompts, promptList("r", 0, n)...)
	if got := stored(t, again, schemas.Prompts, "r"); len(got) != n {
		t.Errorf("a new run of that name has %d prompts", len(got))
	}
}
