package ledger

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
)

// A deleted run leaves nothing behind, and other runs stay complete. A new run of the same name may begin at once: the server
// does not take its messages for repetitions of the old ones.
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
	sizes, err := SizeOf(ctx, c, "r")
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
	if _, err := c.Readers(ctx, schemas.Prompts, "r"); !errors.Is(err, streams.ErrNotFound) {
		t.Errorf("consumers of a deleted run: %v", err)
	}
	if got := stored(t, c, schemas.Prompts, "other"); len(got) != n {
		t.Errorf("the other run has %d prompts", len(got))
	}
	// a connection of another process, which has used the old run
	other, err := streams.Attach(ctx, dir, streams.Options{Limits: quick, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	})
	var wantIDs []string
	for i := range n {
		wantIDs = append(wantIDs, pairID(i))
	}
	slices.Sort(wantIDs)
	for incarnation := range 3 {
		for _, by := range []*streams.Conn{c, other, c} { // messages that exist are stored once
			publish(t, by, schemas.Prompts, promptList("r", 0, n)...)
			publish(t, by, schemas.Control, closedAt("r", 0, n))
		}
		stop := start(t, other, s, answer)
		await(t, c, schemas.Pairs, "r", n)
		settled(t, c, s)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		for _, kind := range []schemas.Kind{schemas.Prompts, schemas.Pairs} {
			got := stored(t, c, kind, "r")
			ids := idsOf(got) // in any order: under load a message may be delivered again
			if slices.Sort(ids); len(ids) != n || !slices.Equal(ids, wantIDs) {
				t.Errorf("incarnation %d: %d %s: %v", incarnation+1, len(got), kind, got)
			}
		}
		audits, err := Audit(ctx, c, "r", AuditOptions{Iteration: streams.AllIterations, Source: schemas.Pairs})
		if err != nil || len(audits) != 1 || !audits[0].Balances() || audits[0].Ready != n || audits[0].Duplicates != 0 {
			t.Errorf("incarnation %d: %+v, %v", incarnation+1, audits, err)
		}
		if err := c.DeleteRun(ctx, "r"); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	again := openIn(t, dir, quick)
	publish(t, again, schemas.Prompts, promptList("r", 0, n)...)
	if got := stored(t, again, schemas.Prompts, "r"); len(got) != n {
		t.Errorf("a new run of that name has %d prompts", len(got))
	}
}
