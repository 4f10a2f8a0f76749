package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// moveRun saves what a run has of some kinds and loads it into another log.
func moveRun(t *testing.T, from, to *streams.Conn, run string, kinds ...schemas.Kind) {
	t.Helper()
	moved := Moved{}
	for _, kind := range kinds {
		var file bytes.Buffer
		if _, err := Save(testContext(t), from, kind, run, &file, func() {}); err != nil {
			t.Fatal(err)
		}
		for range 2 { // loaded again it stores nothing
			if err := Load(testContext(t), to, kind, run, bytes.NewReader(file.Bytes()), moved, func() {}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// recalled is what a source holds of its iterations, of n pairs each.
func recalled(t *testing.T, c *streams.Conn, s streams.Source, n int) (ids []string) {
	t.Helper()
	for i := s.Begin; i < s.End; i++ {
		got, err := Recall(testContext(t), c, s, "again", i, n, nil)
		if err != nil {
			t.Fatal(err)
		}
		if count, err := CountIn(testContext(t), c, s, i); err != nil || count != n {
			t.Errorf("iteration %d: %d, %v", i, count, err)
		}
		for _, m := range got.Messages {
			ids = append(ids, m.ID()+" "+events.PromptOf(m).GetPrompt())
		}
	}
	return ids
}

// A part of a log that was chosen before the run was backed up is the same messages afterwards, in whatever places, however
// often it was restored, whatever was redriven since, and whatever else is in the log.
func TestLocate(t *testing.T) {
	ctx := testContext(t)
	const n = 5
	log := openQuick(t)
	filled(t, log, n) // pairs of r at 1, 3, … with another run's between them
	pins := map[string]streams.Source{}
	for name, span := range map[string][2]uint32{"both": {0, 2}, "first": {0, 1}, "second": {1, 2}} {
		source, err := Survey(ctx, log, schemas.Pairs, "r", span[0], span[1])
		if err != nil {
			t.Fatal(err)
		}
		pins[name] = source
	}
	publish(t, log, schemas.Pairs, pairOf(prompt("r", 0, n))) // as a redriven one, later than all pins
	want := map[string][]string{}
	for name, s := range pins {
		want[name] = recalled(t, log, s, n)
		if at, err := log.Locate(ctx, s); err != nil || at != s {
			t.Errorf("%s: where it was: %+v, %v", name, at, err)
		}
	}
	for generation, before := range []int{100, 3, 0} { // messages of others in front
		next := openQuick(t)
		for k := range before {
			publish(t, next, schemas.Pairs, pairOf(prompt("another", 0, k)))
		}
		moveRun(t, log, next, "r", schemas.Prompts, schemas.Pairs, schemas.Control)
		log = next
		for name, s := range pins {
			if got := recalled(t, log, s, n); !slices.Equal(got, want[name]) {
				t.Errorf("generation %d: %s has other pairs: %v", generation, name, got)
			}
		}
		// a stage that reads the part
		source := pins["both"]
		s := streams.Stage{
			Name: "encoder", In: schemas.Pairs, Run: fmt.Sprint("again", generation), Batch: n, Iterations: []uint32{0, 1}, Source: &source,
		}
		stop := start(t, log, s, encoded)
		await(t, log, schemas.Encoded, s.Run, 2*n)
		settled(t, log, s)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if got := stored(t, log, schemas.Encoded, s.Run); len(got) != 2*n {
			t.Errorf("generation %d: the stage made %d of %d", generation, len(got), 2*n)
		}
	}
	// chosen in the restored log, it is where it says
	anew, err := Survey(ctx, log, schemas.Pairs, "r", 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	if got := recalled(t, log, anew, n); !slices.Equal(got, want["second"]) {
		t.Errorf("chosen anew, it has other pairs: %v", got)
	}
	never := pins["both"]
	never.First, never.Last = 1001, 1009
	if _, err := Recall(ctx, log, never, "again", 0, n, nil); !errors.Is(err, streams.ErrIncomplete) || !strings.Contains(err.Error(), "none stood at") {
		t.Errorf("what was never there: %v", err)
	}
}

// Ends that stand at the same sequences in two logs, with different messages between them, are refused.
func TestLocateTwice(t *testing.T) {
	log, packed := openQuick(t), openQuick(t)
	for k := range 3 {
		publish(t, log, schemas.Pairs, pairOf(prompt("r", 0, k)), pairOf(prompt("other", 0, k)))
	}
	moveRun(t, log, packed, "r", schemas.Pairs)
	pin := streams.Source{Run: "r", Kind: schemas.Pairs, First: 1, Last: 3, End: 1}
	if _, err := packed.Locate(testContext(t), pin); !errors.Is(err, streams.ErrIncomplete) ||
		!strings.Contains(err.Error(), "are different pairs") {
		t.Errorf("two parts with these ends: %v", err)
	}
}
