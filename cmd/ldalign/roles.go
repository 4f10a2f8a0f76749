package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/dataset"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/stages/distance"
	"github.com/ldalign/ldalign/stages/encoder"
	"github.com/ldalign/ldalign/stages/evaluator"
	"github.com/ldalign/ldalign/stages/generator"
	"github.com/ldalign/ldalign/stages/prompter"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer"
	"github.com/ldalign/ldalign/trainer/lineage"
	"github.com/ldalign/ldalign/trainer/objective"
	"github.com/ldalign/ldalign/trainer/retention"
)

// role names a stage that a process can play.
type role string

const (
	rolePrompter  role = "prompter"
	roleGenerator role = "generator"
	roleEncoder   role = "encoder"
	roleDistance  role = "distance"
	roleEvaluator role = "evaluator"
)

// roles are the stages that a run's objective needs, in the order in which data flows. A replay runs those behind the log
// that it reads.
func roles(spec schemas.Spec) []role {
	makers := []struct {
		role
		out schemas.Kind
	}{
		{rolePrompter, schemas.Prompts},
		{roleGenerator, schemas.Pairs},
		{roleEncoder, schemas.Encoded},
		{roleDistance, schemas.Scored},
	}
	var out []role
	for _, m := range makers {
		if _, replayed := spec.ReadsFrom(m.out); !replayed {
			out = append(out, m.role)
		}
		if m.out == objective.TrainsFrom(spec.Objective.Kind) {
			break
		}
	}
	if spec.Data.Eval != "" {
		out = append(out, roleEvaluator)
	}
	return out
}

// plays refuses a role that a replay has not got: its worker would write what the replay reads from its source.
func plays(spec schemas.Spec, r role) error {
	if !spec.Replays() || slices.Contains(roles(spec), r) {
		return nil
	}
	return fmt.Errorf("%w: run %s replays %s of run %s: it has no %s", errUsage, spec.Run, spec.Source.From, spec.Source.Run, r)
}

// work plays one role of a run until ctx ends. It returns nil after a clean drain.
func (n *node) work(ctx context.Context, r role, spec schemas.Spec, engine *tensor.Engine, m *meter) (err error) {
	heartbeat := n.Streams.Announce(ctx, spec.Run, string(r))
	defer heartbeat.Close()
	stage := streams.Stage{
		Name: string(r), Run: spec.Run, Linger: 20 * time.Millisecond, Observer: m, End: uint32(spec.Iterations), Heartbeat: heartbeat,
	}
	switch r {
	case rolePrompter:
		set, err := prompter.Load(spec)
		if err != nil {
			return err
		}
		level := zerolog.InfoLevel
		if len(set.Report.Dropped) > 0 {
			level = zerolog.WarnLevel
		}
		n.Log.WithLevel(level).Str("run", spec.Run).Str("stage", string(r)).Msg(spec.Data.Train + ": " + set.Report.String())
		for _, p := range set.Report.Problems {
			n.Log.Warn().Str("run", spec.Run).Str("stage", string(r)).Msg("dropped " + p.String())
		}
		if err := n.sameData(ctx, spec, set); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		stage.In, stage.Batch, stage.MaxInFlight = schemas.Checkpoints, 1, spec.MaxInFlight
		return n.Streams.RunStage(ctx, stage, streams.Many(prompter.New(spec, set.Records).Process))
	case roleGenerator:
		s := generator.New(spec, n.Checkpoints, engine)
		s.Progress = func(done, of int) {
			heartbeat.Move()
			m.Sampled(done, of)
		}
		defer func() { err = errors.Join(err, s.Close(context.WithoutCancel(ctx))) }()
		stage.In, stage.Linger = schemas.Prompts, 100*time.Millisecond
		stage.Batch, stage.Refill = spec.Generation.Slots, 7*spec.Generation.Slots
		process := streams.EachRefilling(s.Process)
		if _, replayed := spec.ReadsFrom(stage.In); replayed {
			return n.generateAgain(ctx, stage, spec, process)
		}
		return n.Streams.RunRefilling(ctx, stage, process)
	case roleEncoder:
		s := encoder.New(spec, n.Checkpoints, engine)
		heartbeat.Say(streams.StateWaiting, "for the guide's checkpoint")
		defer func() { err = errors.Join(err, s.Close(context.WithoutCancel(ctx))) }()
		if err := ready(ctx, s); err != nil || ctx.Err() != nil {
			return err
		}
		stage.In, stage.Batch = schemas.Pairs, 4*spec.Generation.Slots
		fromSource(&stage, spec)
		return n.Streams.RunStage(ctx, stage, streams.Each(s.Process))
	case roleDistance:
		stage.In, stage.Batch = schemas.Encoded, 256
		fromSource(&stage, spec)
		s := distance.Stage{Metric: spec.Objective.Distance}
		return n.Streams.RunStage(ctx, stage, streams.Each(s.Process))
	case roleEvaluator:
		set, err := prompter.LoadEval(spec)
		if err != nil {
			return err
		}
		s := evaluator.New(spec, set.Records, n.Checkpoints, engine)
		heartbeat.Say(streams.StateWaiting, "for a guide's checkpoint")
		defer func() { err = errors.Join(err, s.Close(context.WithoutCancel(ctx))) }()
		if err := ready(ctx, s); err != nil || ctx.Err() != nil {
			return err
		}
		stage.In, stage.Batch = schemas.Checkpoints, 1
		return n.Streams.RunStage(ctx, stage, streams.Each(s.Process))
	case roleTrainer: // no stage: train plays it
	}
	return fmt.Errorf("%w: %q is no role of a stage", errUsage, r)
}

// fromSource has a stage of a replay that stands right behind the log which the replay reads take its messages from there.
func fromSource(stage *streams.Stage, spec schemas.Spec) {
	feed, replayed := lineage.Feed(spec, stage.In)
	if !replayed || feed.Kind != stage.In {
		return
	}
	stage.Source = &feed
	for i := spec.FirstIteration(); i < spec.Iterations; i++ {
		stage.Iterations = append(stage.Iterations, uint32(i))
	}
}

// generateAgain runs the generator of a replay from prompts. The prompts of all iterations are in the log from the start,
// but those of iteration i are for the policy i of this run: each iteration begins when that policy is announced, and ends
// with the next one.
func (n *node) generateAgain(ctx context.Context, stage streams.Stage, spec schemas.Spec, process streams.Refilling) error {
	fromSource(&stage, spec)
	for _, i := range stage.Iterations {
		policy, err := n.awaitPolicy(ctx, spec.Run, i)
		if err != nil {
			return ended(ctx, err)
		}
		stage.Iterations = []uint32{i}
		stage.Adopt = func(m events.Message) {
			if p, ok := m.(*events.Prompt); ok {
				p.Checkpoint = policy
				p.SampleSeed = schemas.SampleSeed(spec.Seed, i, p.GetPromptId(), p.GetSample())
			}
		}
		if err := n.untilPolicy(ctx, spec.Run, i+1, func(ctx context.Context) error {
			return n.Streams.RunRefilling(ctx, stage, process)
		}); err != nil {
			return ended(ctx, err)
		}
	}
	<-ctx.Done()
	return nil
}

// awaitPolicy waits until the policy of an iteration is announced and returns its digest.
func (n *node) awaitPolicy(ctx context.Context, run string, iteration uint32) (digest string, err error) {
	err = n.Streams.Follow(ctx, schemas.Checkpoints, run, int(iteration), 0, func(r streams.Received) error {
		if c, ok := r.Message.(*events.Checkpoint); ok && c.GetKind() == string(checkpoints.Policy) {
			digest = c.GetDigest()
			return streams.ErrStop
		}
		return nil
	})
	return digest, err
}

// untilPolicy runs work until the policy of an iteration is announced, or ctx ends.
func (n *node) untilPolicy(ctx context.Context, run string, iteration uint32, work func(context.Context) error) error {
	working, stop := context.WithCancel(ctx)
	defer stop()
	group, working := errgroup.WithContext(working)
	group.Go(func() error { return work(working) })
	group.Go(func() error {
		defer stop()
		_, err := n.awaitPolicy(working, run, iteration)
		return err
	})
	return group.Wait()
}

// ended drops an error that is only the end of ctx.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// ready waits for what a stage needs before its first message. Inside a message it would be waited for as long as work
// under way is given when the stage is told to end.
func ready(ctx context.Context, stage interface{ Ready(context.Context) error }) error {
	if err := stage.Ready(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// sameData notes the digest of the run's records, and what became of the rows, when its prompter starts for the first
// time, and refuses others later: iterations of one run must ask the same prompts.
func (n *node) sameData(ctx context.Context, spec schemas.Spec, set dataset.Set) error {
	// a run that is not declared yet may still fail to begin, and begin anew with other data
	err := n.Streams.Follow(ctx, schemas.Control, spec.Run, 0, 0, func(r streams.Received) error {
		if c, ok := r.Message.(*events.Control); ok && c.GetKind() == events.ControlSpec {
			return streams.ErrStop
		}
		return nil
	})
	if err != nil {
		return err
	}
	note := &events.Control{Schema: events.Version, Run: spec.Run, Kind: events.ControlData, Message: set.Digest()}
	records := &events.Control{
		Schema: events.Version, Run: spec.Run, Kind: events.ControlRecords, Total: uint64(set.Report.Kept), Message: set.Report.String(),
	}
	for _, m := range []*events.Control{note, records} {
		if err := n.Streams.Publish(ctx, schemas.Control, m); err != nil {
			return err
		}
	}
	// of several notes, the log's first counts
	var first string
	err = n.Streams.Read(ctx, schemas.Control, spec.Run, 0, 0, func(r streams.Received) error {
		if c, ok := r.Message.(*events.Control); ok && c.GetKind() == note.GetKind() {
			first = c.GetMessage()
			return streams.ErrStop
		}
		return nil
	})
	if err != nil || first == note.GetMessage() {
		return err
	}
	return fmt.Errorf("%s is not what run %s began with (records %.12s, now %.12s): restore it, or start a run of another name",
		spec.Data.Train, spec.Run, first, note.GetMessage())
}

// train runs the trainer of a run, or of its guide only. hints is the subject of the store's notifications, empty for none.
func (n *node) train(
	ctx context.Context, spec schemas.Spec, engine *tensor.Engine, meter trainer.Meter, hints string, guideOnly bool,
) error {
	if err := n.Intact(ctx, spec.Run); err != nil {
		return err
	}
	heartbeat := n.Streams.Announce(ctx, spec.Run, string(roleTrainer))
	defer heartbeat.Close()
	return trainer.New(trainer.Config{
		Spec: spec, Streams: n.Streams, Checkpoints: n.Checkpoints, Engine: engine, Tokenizers: tokenizerFolder,
		Holder: runs.Holder(), Hints: hints, GuideOnly: guideOnly, Meter: present{meter, heartbeat},
		Metrics: filepath.Join(n.Dir, "runs", spec.Run),
		Hold:    func(ctx context.Context) { _ = heartbeat.Hold(ctx) }, // its error is that ctx has ended, which the trainer sees
		Ranks: func(ctx context.Context, size int) (*tensor.Group, func() error, error) {
			return n.ranks(ctx, spec.Compute, size)
		},
		Log: n.Log.With().Str("stage", "trainer").Logger(),
	}).Run(ctx)
}

// tokenizerFolder finds the tokenizer of a model made from scratch.
func tokenizerFolder(name string) (fs.FS, error) {
	if name == "builtin:demo" {
		return dataset.DemoTokenizer(), nil
	}
	if info, err := os.Stat(name); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("model.scratch.tokenizer: %q is no folder with a tokenizer.json", name)
	}
	return os.DirFS(name), nil
}

// everything plays all roles of one run in this process until the run is complete and evaluated.
func (n *node) everything(ctx context.Context, spec schemas.Spec, engine *tensor.Engine, m *meter) error {
	if err := n.Streams.EnsureTopology(ctx); err != nil {
		return err
	}
	if err := n.Intact(ctx, spec.Run); err != nil { // before what is left of a run is taken for a complete one
		return err
	}
	done, err := n.complete(ctx, spec)
	if err != nil || done {
		return err
	}
	if err := checkData(spec); err != nil {
		return err
	}
	return n.play(ctx, spec, roles(spec), engine, m, false, expectedResults(spec))
}

// play plays roles and the trainer in this process until the trainer has ended and so many policies are evaluated.
func (n *node) play(
	ctx context.Context, spec schemas.Spec, roles []role, engine *tensor.Engine, m *meter, guideOnly bool, results int,
) error {
	stageCtx, stop := context.WithCancel(ctx)
	defer stop()
	group, stageCtx := errgroup.WithContext(stageCtx)
	for _, r := range roles {
		group.Go(func() error { return n.work(stageCtx, r, spec, engine, m) })
	}
	group.Go(func() error { return n.watchStall(stageCtx, spec) })
	trained := n.train(stageCtx, spec, engine, m, "", guideOnly)
	if trained == nil {
		trained = n.awaitResults(stageCtx, spec, results, m)
	}
	stop()
	staged := group.Wait()
	if staged != nil && (trained == nil || errors.Is(trained, context.Canceled) || errors.Is(trained, trainer.ErrInterrupted)) {
		return staged // a failed stage is why the trainer was stopped
	}
	if trained == nil && !guideOnly && spec.Retention != (schemas.RetentionSpec{}) {
		// what waited for the last evaluations
		_, trained = runs.Prune(ctx, n.Session, spec, spec.Retention, retention.Reason(spec.Retention), false)
	}
	return trained
}

// checkData reads the data that a spec names before a run is declared: from then on its spec cannot change any more. A
// replay has its prompts from the log.
func checkData(spec schemas.Spec) error {
	if !spec.Replays() {
		if _, err := prompter.Load(spec); err != nil {
			return fmt.Errorf("data.train: %w", err)
		}
	}
	if spec.Data.Eval == "" {
		return nil
	}
	if _, err := prompter.LoadEval(spec); err != nil {
		return fmt.Errorf("data.eval: %w", err)
	}
	return nil
}

// complete tells whether a run has all its policies and results.
func (n *node) complete(ctx context.Context, spec schemas.Spec) (bool, error) {
	last, err := n.Checkpoints.Policy(ctx, spec.Run, uint32(spec.Iterations))
	if errors.Is(err, checkpoints.ErrNoCheckpoint) {
		return false, nil
	}
	if err != nil || last.SpecDigest != spec.Digest() {
		return false, err // of another spec: the trainer says what to do
	}
	have, err := n.results(ctx, spec.Run)
	return len(have) >= expectedResults(spec), err
}

// expectedResults is how many policies the evaluator measures.
func expectedResults(spec schemas.Spec) int {
	if spec.Data.Eval == "" {
		return 0
	}
	return spec.Iterations + 1 - max(spec.Evaluation.First, spec.FirstIteration())
}

// results are a run's evaluations by iteration; of several for one checkpoint the last counts.
func (n *node) results(ctx context.Context, run string) (map[uint32]*events.Result, error) {
	out := map[uint32]*events.Result{}
	err := n.Streams.Read(ctx, schemas.Results, run, streams.AllIterations, 0, func(r streams.Received) error {
		if result, ok := r.Message.(*events.Result); ok && result.GetStep() == 0 {
			out[result.GetIteration()] = result
		}
		return nil
	})
	return out, err
}

// awaitResults waits until so many policies of the run are evaluated, or their evaluation is a dead letter.
func (n *node) awaitResults(ctx context.Context, spec schemas.Spec, want int, m *meter) error {
	if want == 0 {
		return nil
	}
	m.Evaluated(0, want)
	group, reading := errgroup.WithContext(ctx)
	settled := make(chan uint32)
	for _, kind := range []schemas.Kind{schemas.Results, schemas.DeadLetters} {
		group.Go(func() error {
			return n.Streams.Follow(reading, kind, spec.Run, streams.AllIterations, 0, func(r streams.Received) error {
				if d, ok := r.Message.(*events.DeadLetter); ok && d.GetStage() != string(roleEvaluator) {
					return nil
				}
				if step, ok := r.Message.(*events.Result); ok && step.GetStep() > 0 {
					return nil
				}
				select {
				case settled <- r.Message.GetIteration():
					return nil
				case <-reading.Done():
					return reading.Err()
				}
			})
		})
	}
	enough := errors.New("all are settled")
	group.Go(func() error {
		have := map[uint32]bool{}
		for len(have) < want {
			select {
			case iteration := <-settled:
				have[iteration] = true
				m.Evaluated(len(have), want)
			case <-reading.Done():
				return reading.Err()
			}
		}
		return enough
	})
	if err := group.Wait(); !errors.Is(err, enough) {
		return err
	}
	return nil
}
