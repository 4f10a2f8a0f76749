package streams

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

func TestEach(t *testing.T) {
	process := Each(func(_ context.Context, in []*events.Prompt) ([]*events.Pair, []error) {
		outs, errs := make([]*events.Pair, len(in)), make([]error, len(in))
		for i, p := range in {
			switch p.GetPosition() {
			case 0:
				outs[i] = pairOf(p)
			case 1:
				errs[i] = errFlaky
			}
		}
		return outs, errs
	})
	first := prompt("r", 0, 0)
	got := process(t.Context(), []events.Message{closedAt("r", 0, 1), first, prompt("r", 0, 1), prompt("r", 0, 2)})
	if len(got) != 4 {
		t.Fatalf("%d outcomes, want 4", len(got))
	}
	if reject := new(schemas.Reject); !errors.As(got[0].Err, &reject) {
		t.Errorf("a message of another kind: %v, want a reject", got[0].Err)
	}
	if diff := cmp.Diff([]Emit{{schemas.Pairs, pairOf(first)}}, got[1].Out, protocmp()); diff != "" || got[1].Err != nil {
		t.Errorf("output: %v (-want +got):\n%s", got[1].Err, diff)
	}
	if !errors.Is(got[2].Err, errFlaky) {
		t.Errorf("error: %v, want %v", got[2].Err, errFlaky)
	}
	if got[3].Err != nil || len(got[3].Out) != 0 {
		t.Errorf("no output: %+v, want none and no error", got[3])
	}
}

func TestMany(t *testing.T) {
	process := Many(func(_ context.Context, in []*events.Checkpoint) ([][]events.Message, []error) {
		return [][]events.Message{{prompt("r", 0, 0), closedAt("r", 0, 1)}}, make([]error, len(in))
	})
	got := process(t.Context(), []events.Message{&events.Checkpoint{Schema: 1, Run: "r", Digest: "d"}})
	want := []Emit{{schemas.Prompts, prompt("r", 0, 0)}, {schemas.Control, closedAt("r", 0, 1)}}
	if diff := cmp.Diff(want, got[0].Out, protocmp()); diff != "" || got[0].Err != nil {
		t.Errorf("outputs: %v (-want +got):\n%s", got[0].Err, diff)
	}
}

// A stage that returns no outcome for a message has not processed it.
func TestForgottenMessagesAreNotDone(t *testing.T) {
	c := openQuick(t)
	publish(t, c, schemas.Prompts, promptList("r", 0, 2)...)
	s := generator("r", 2)
	start(t, c, s, Each(func(context.Context, []*events.Prompt) ([]*events.Pair, []error) { return nil, nil }))
	await(t, c, schemas.DeadLetters, "r", 2)
}
