package trainer_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/dataset"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/trainer"
	"github.com/ldalign/ldalign/trainer/schedule"
)

// streamed is a run of one iteration by the streaming schedule, whose scored pairs a test publishes itself: 10 of them in
// batches of 4 and parts of 2, two epochs.
func streamed(run string, change ...func(*schemas.Spec)) schemas.Spec {
	return testSpec(run, append([]func(*schemas.Spec){func(s *schemas.Spec) {
		s.Iterations, s.Training.Schedule, s.Training.Epochs, s.Objective.Normaliser = 1, "streaming", 2, "running"
		s.Training.CheckpointEvery = 1
		s.Guide.From = "run:none" // the distances are the test's
	}}, change...)...)
}

// streamedPair is the i-th pair of the run, scored: what the stages would have made.
func (w *world) streamedPair(spec schemas.Spec, i int) *events.Scored {
	w.t.Helper()
	tok, err := tokenizer.FromFS(dataset.DemoTokenizer())
	if err != nil {
		w.t.Fatal(err)
	}
	defer tok.Close()
	format, err := tokenizer.NewFormat(tok, tokenizer.FormatOptions{Template: spec.Model.Template})
	if err != nil {
		w.t.Fatal(err)
	}
	prompt := handMadePrompt(spec.Run, i)
	prompt.Total = 10
	p, chosen, err := format.Pair(prompt.GetPrompt(), prompt.GetResponse())
	if err != nil {
		w.t.Fatal(err)
	}
	_, rejected, err := format.Pair(prompt.GetPrompt(), fmt.Sprintf("No %d.", 7*i))
	if err != nil {
		w.t.Fatal(err)
	}
	return &events.Scored{
		Schema: events.Version, Distance: 0.5 + float64(i%4),
		Pair: &events.Pair{
			Schema: events.Version, Prompt: prompt, PromptIds: p, ChosenIds: chosen, RejectedIds: rejected,
			ChosenLogp: -20 - float64(i), RejectedLogp: -18, PolicyDigest: w.policy(spec.Run, 0).Digest,
		},
	}
}

// begin makes policy 0 of a run, without which there are no pairs: its trainer waits for them until it is stopped.
func (w *world) begin(spec schemas.Spec) {
	w.t.Helper()
	ctx, meter := stopAt(w.t.Context(), "wait for scored 0", 0)
	if err := w.trainer(spec, meter).Run(ctx); !errors.Is(err, trainer.ErrInterrupted) {
		w.t.Fatal(err)
	}
}

func (w *world) closeIteration(run string, total uint64) {
	w.t.Helper()
	w.publish(schemas.Control, &events.Control{Schema: events.Version, Run: run, Kind: "closed", Total: total})
}

// arrival is the order in which the pairs of a test come.
func arrival() []int { return []int{3, 0, 7, 1, 9, 2, 8, 4, 6, 5} }

// fill publishes all pairs of a run.
func (w *world) fill(spec schemas.Spec) {
	w.t.Helper()
	w.closeIteration(spec.Run, 10)
	for _, i := range arrival() {
		w.publish(schemas.Scored, w.streamedPair(spec, i))
	}
}

// TestStreamingTrainsWhatIsThere: steps are made as soon as their pairs are in the log, in its order; what comes of it is
// what comes of a log that was full before the trainer began.
func TestStreamingTrainsWhatIsThere(t *testing.T) {
	w := newWorld(t)
	full := streamed("full")
	w.begin(full)
	w.fill(full)
	w.train(full)
	want := w.results("full")

	slow := streamed("slow")
	w.begin(slow)
	w.closeIteration(slow.Run, 10)
	order := arrival()
	publish := func(n int) { // further pairs
		for _, i := range order[:n] {
			w.publish(schemas.Scored, w.streamedPair(slow, i))
		}
		order = order[n:]
	}
	publish(3)
	// each step that is made brings what the next one waits for: if it waited for more, this would hang
	waits := 0
	err := w.trainer(slow, func(work string, done, _ int) {
		switch {
		case work == "wait for scored 0" && done == 3 && len(order) == 7:
			publish(2) // the first step can be made, of 4; one is left over
		case work == "train ldalign 0" && done == 1 && len(order) == 5:
			publish(4)
		case work == "wait for scored 0" && done == 9 && len(order) == 1:
			waits++
			publish(1)
		}
	}).Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if waits != 1 {
		t.Errorf("the last pair was waited for %d times, want once, after two steps", waits)
	}
	if diff := cmp.Diff(want, w.results("slow")); diff != "" {
		t.Errorf("(-full log +slow one):\n%s", diff)
	}
	b := w.batches(w.policy("slow", 1))
	for k, i := range arrival() {
		if id := schemas.PairID("slow", 0, fmt.Sprintf("p%d", i), 0); b.Pairs[k] != id {
			t.Errorf("pair %d of the record is %s, want p%d as in the log", k, b.Pairs[k], i)
		}
	}
	steps := [][]int{{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9}}
	for chunk := range slices.Chunk(schedule.Permutation(10, slow.Seed, schedule.Policy, 0, 1), 4) {
		steps = append(steps, chunk)
	}
	var got [][]int
	for _, s := range b.Steps {
		got = append(got, s.Pairs)
	}
	if diff := cmp.Diff(steps, got); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

// TestStreamingRunEqualsUndisturbed: interrupted at every step and while waiting, and killed while pairs arrive, a run ends
// with the bits of one that was left alone.
func TestStreamingRunEqualsUndisturbed(t *testing.T) {
	w := newWorld(t)
	full := streamed("undisturbed")
	w.begin(full)
	w.fill(full)
	w.train(full)
	want := w.results("undisturbed")

	spec := streamed("stopped")
	w.begin(spec)
	w.closeIteration(spec.Run, 10)
	for k, i := range arrival() { // stopped whenever the log has no more
		w.publish(schemas.Scored, w.streamedPair(spec, i))
		if k == 9 {
			break
		}
		ctx, cancel := context.WithCancel(t.Context())
		err := w.trainer(spec, func(work string, done, total int) {
			if work == "wait for scored 0" && done == k+1 && total == 10 {
				cancel()
			}
		}).Run(ctx)
		cancel()
		if !errors.Is(err, trainer.ErrInterrupted) {
			t.Fatalf("after %d pairs: %v, want trainer.ErrInterrupted", k+1, err)
		}
		state := w.latest(spec.Run, checkpoints.State)
		if c := state.Cursor; c.Step != (k+1)/4 || !c.Open || c.Position != c.Step*4 {
			t.Fatalf("after %d pairs the cursor is %+v", k+1, c)
		}
	}
	for step := 3; step <= 6; step++ { // and in the epoch that needs nothing more
		ctx, meter := stopAt(t.Context(), "train ldalign 0", step)
		if err := w.trainer(spec, meter).Run(ctx); !errors.Is(err, trainer.ErrInterrupted) {
			t.Fatalf("at step %d: %v, want trainer.ErrInterrupted", step, err)
		}
		if c := w.latest(spec.Run, checkpoints.State).Cursor; c.Open || c.Step != step {
			t.Fatalf("at step %d the cursor is %+v", step, c)
		}
	}
	w.train(spec)
	if diff := cmp.Diff(want, w.results("stopped")); diff != "" {
		t.Errorf("(-undisturbed +stopped):\n%s", diff)
	}

	spec = streamed("killed")
	w.begin(spec)
	w.closeIteration(spec.Run, 10)
	for _, i := range arrival()[:6] {
		w.publish(schemas.Scored, w.streamedPair(spec, i))
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := w.trainer(spec, func(work string, done, total int) {
		if work == "wait for scored 0" && done == 6 && total == 10 { // one step is made, and its state is saved
			w.store.refuse.Store(true)
			cancel()
		}
	}).Run(ctx)
	cancel()
	w.store.refuse.Store(false)
	if err == nil {
		t.Fatal("the run was not cut off")
	}
	for _, i := range arrival()[6:] {
		w.publish(schemas.Scored, w.streamedPair(spec, i))
	}
	w.train(spec)
	if diff := cmp.Diff(want, w.results("killed")); diff != "" {
		t.Errorf("(-undisturbed +killed):\n%s", diff)
	}
}

// TestStreamingOnTheSameLog: a trainer that begins anew on the log of a finished run arrives at its bits.
func TestStreamingOnTheSameLog(t *testing.T) {
	w := newWorld(t)
	spec := streamed("again")
	w.begin(spec)
	w.fill(spec)
	w.train(spec)
	want := w.results(spec.Run)
	w.root = filepath.Join(t.TempDir(), "store")
	w.reopen()
	w.train(spec)
	if diff := cmp.Diff(want, w.results(spec.Run)); diff != "" {
		t.Errorf("(-first +again):\n%s", diff)
	}
}

// TestStreamingWithDeadLetters: pairs that die do not hold the others up, wherever in the iteration they do. The learning
// rate's schedule is that of the pairs which were asked for.
func TestStreamingWithDeadLetters(t *testing.T) {
	w := newWorld(t)
	spec := streamed("dying", func(s *schemas.Spec) { s.Training.Epochs = 1 })
	w.begin(spec)
	w.closeIteration(spec.Run, 10)
	die := func(i int) {
		p := handMadePrompt(spec.Run, i)
		w.publish(schemas.DeadLetters, &events.DeadLetter{
			Schema: events.Version, Run: spec.Run, Stage: "generator", Reason: schemas.ReasonPoison, Stream: "prompts",
			Sequence: uint64(1000 + i), Subject: schemas.Subject(schemas.Prompts, spec.Run, 0), PairId: p.ID(), Original: []byte("x"),
		})
	}
	die(0)
	for _, i := range []int{4, 1, 2, 3, 9, 7} {
		w.publish(schemas.Scored, w.streamedPair(spec, i))
	}
	died := false
	err := w.trainer(spec, func(work string, done, _ int) {
		if work == "wait for scored 0" && done == 7 && !died {
			died = true
			for _, i := range []int{5, 6, 8} {
				die(i)
			}
		}
	}).Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	records := w.records(w.policy(spec.Run, 1))
	if b := w.batches(w.policy(spec.Run, 1)); len(b.Pairs) != 6 || len(records) != 2 {
		t.Errorf("%d pairs in %d steps, want 6 in 2", len(b.Pairs), len(records))
	}
	for k, r := range records {
		if want := schedule.LearningRate(spec.Optimizer, schedule.PeakRate(spec.Optimizer, 0), k, 3); r.LR != want {
			t.Errorf("step %d has rate %v, want %v: that of 10 pairs", r.Step, r.LR, want)
		}
	}
}

// TestStreamingWithoutPairs ends with the reason.
func TestStreamingWithoutPairs(t *testing.T) {
	w := newWorld(t)
	spec := streamed("nothing")
	w.closeIteration(spec.Run, 0)
	err := w.trainer(spec, silent).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "nothing to train on") {
		t.Errorf("got %v, want an error that says so", err)
	}
}

// TestStreamingCursorBeyondTheLog: a log that has lost pairs which a state was made of is not waited on.
func TestStreamingCursorBeyondTheLog(t *testing.T) {
	w := newWorld(t)
	spec := streamed("lost")
	w.begin(spec)
	w.closeIteration(spec.Run, 10)
	for _, i := range arrival()[:5] {
		w.publish(schemas.Scored, w.streamedPair(spec, i))
	}
	ctx, meter := stopAt(t.Context(), "train ldalign 0", 1)
	if err := w.trainer(spec, meter).Run(ctx); !errors.Is(err, trainer.ErrInterrupted) {
		t.Fatal(err)
	}
	w.openStreams(t.TempDir())
	w.closeIteration(spec.Run, 10)
	w.publish(schemas.Scored, w.streamedPair(spec, 3))
	err := w.trainer(spec, silent).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "messages were lost") {
		t.Errorf("got %v, want an error that tells of lost messages", err)
	}
}

// TestStreamingFineTunes: supervised training from prompts knows the schedule too, and counts what the length rule takes.
func TestStreamingFineTunes(t *testing.T) {
	w := newWorld(t)
	spec := handMade("prompts")
	spec.Training.Schedule, spec.Training.Epochs, spec.Data.Overlong = "streaming", 2, "reject"
	for _, i := range []int{5, 2, 0, 1, 4, 3} {
		p := handMadePrompt(spec.Run, i)
		if i == 2 {
			p.Response = strings.Repeat("too long ", 40)
		}
		w.publish(schemas.Prompts, p)
	}
	w.closeIteration(spec.Run, 6)
	w.train(spec)
	b := w.batches(w.policy(spec.Run, 1))
	if len(b.Pairs) != 5 || len(b.Skipped) != 1 || b.Pairs[0] != schemas.PairID(spec.Run, 0, "p5", 0) || len(b.Steps) != 6 {
		t.Errorf("%d pairs from %s on, %d skipped, %d steps", len(b.Pairs), b.Pairs[0], len(b.Skipped), len(b.Steps))
	}
}
