package telemetry

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/activity"
)

// Every observer is told of everything; a screen adds up what stages and trainers of several runs did, and shows each run's
// work on lines of its own.
func TestScreen(t *testing.T) {
	var first, second bytes.Buffer
	display, other := progress.New(&first, progress.Options{}), progress.New(&second, progress.Options{})
	screen, copied := NewScreen(display), NewScreen(other)
	all := All{screen, copied}
	generator := streams.StageID{Run: "a", Stage: "generator"}
	all.Batch(streams.BatchDone{StageID: generator, Messages: 3, Took: time.Second})
	all.Batch(streams.BatchDone{StageID: streams.StageID{Run: "b", Stage: "generator"}, Messages: 4, Took: time.Second})
	all.Settled(streams.MessageSettled{StageID: generator, Outcome: streams.Done})
	all.Silent(generator)
	for _, done := range []int{0, 2, 5} {
		all.Observe(activity.Training{Work: activity.Work{Run: "a", Done: done, Total: 5}, Objective: "spin"})
	}
	all.Observe(activity.Waiting{Work: activity.Work{Run: "a", Done: 1, Total: 8}, Kind: "pairs"})
	all.Sampled(Sampled{StageID: generator, Done: 2, Of: 8})
	all.Sampled(Sampled{StageID: streams.StageID{Run: "b", Stage: "generator"}, Done: 8, Of: 8})
	all.Evaluated(Evaluated{Run: "b", Done: 2, Of: 2})
	for _, run := range []string{"a", "b"} {
		screen.End(run)
		copied.End(run)
	}
	if err := display.Close(); err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"a: train spin 0: 5 steps", "a: wait for pairs 0: 1 pair", "sampling 2/8", "b: sample: 8 responses", "b: evaluate: 2 policies",
	} {
		if !strings.Contains(first.String(), line) || !strings.Contains(second.String(), line) {
			t.Errorf("%q is not shown by both:\n%s\n%s", line, first.String(), second.String())
		}
	}
	var sums []string
	for _, s := range screen.Stages([]string{"prompter", "generator", "trainer"}) {
		sums = append(sums, fmt.Sprint(s.Name, " ", s.Items, " ", s.Unit))
	}
	if got := strings.Join(sums, ", "); got != "generator 7 messages, trainer 5 steps" {
		t.Errorf("sums: %s", got)
	}
}
