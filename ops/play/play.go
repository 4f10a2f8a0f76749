// Package play plays whole runs in this process: the stages of a pipeline, and the trainer.
package play

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/ops/pipeline"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/ops/telemetry"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/stages/prompter"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/activity"
	"github.com/ldalign/ldalign/trainer/retention"
)

// Player plays runs.
type Player struct {
	*runs.Session
	Pipeline pipeline.Table
	Engine   *tensor.Engine
	Observer telemetry.Observer
	hints    string // see Trainer
}

// Busy returns how long the engine has computed.
func (p *Player) Busy() time.Duration { return p.Engine.Busy() }

// Run plays all stages and the trainer of a run until the run is complete and evaluated.
func (p *Player) Run(ctx context.Context, spec schemas.Spec) error {
	if err := p.Intact(ctx, spec.Run); err != nil { // before Complete, which could take a half-lost run for a complete one
		return err
	}
	done, err := p.Complete(ctx, spec)
	if err != nil || done {
		return err
	}
	if err := CheckData(spec); err != nil {
		return err
	}
	if err := p.Declare(ctx, spec); err != nil {
		return err
	}
	if err := p.play(ctx, spec, p.Pipeline.Of(spec), runs.ExpectedResults(spec), false); err != nil {
		return err
	}
	if spec.Retention == (schemas.RetentionSpec{}) {
		return nil
	}
	// apply the retention once more: the last evaluations are now done
	_, err = runs.Prune(ctx, p.Session, spec, spec.Retention, retention.Reason(spec.Retention), false)
	return err
}

// RunAll plays runs to their ends, at most parallel of them at a time, and calls ended after each. A failed run does not stop the
// others. RunAll returns the errors of all runs that failed; activity.ErrInterrupted if ctx ended and none failed.
func (p *Player) RunAll(ctx context.Context, specs []schemas.Spec, parallel int, ended func(run string)) error {
	failures := make([]error, len(specs))
	group := errgroup.Group{}
	group.SetLimit(parallel)
	for i, spec := range specs {
		group.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			defer ended(spec.Run)
			if err := p.Run(ctx, spec); err != nil && !activity.Interrupted(err) {
				failures[i] = fmt.Errorf("run %s: %w", spec.Run, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	err := errors.Join(failures...)
	if ctx.Err() != nil && err == nil {
		return activity.ErrInterrupted
	}
	return err
}

// Guide plays a run until its guide is trained and, if the spec evaluates policy 0, until that is evaluated.
func (p *Player) Guide(ctx context.Context, spec schemas.Spec) error {
	if err := errors.Join(CheckData(spec), p.Declare(ctx, spec)); err != nil {
		return err
	}
	needed := []schemas.Kind{schemas.Prompts, schemas.Pairs}
	results := 0
	if spec.Data.Eval != "" && spec.Evaluation.First == 0 {
		needed, results = append(needed, schemas.Results), 1
	}
	stages := slices.DeleteFunc(p.Pipeline.Of(spec), func(r pipeline.Row) bool { return !slices.Contains(needed, r.Out) })
	return p.play(ctx, spec, stages, results, true)
}

// Trainer plays only the trainer of a run. hints is the subject on which the store's notifications arrive; empty for none.
func (p *Player) Trainer(ctx context.Context, spec schemas.Spec, hints string) error {
	hinted := *p
	hinted.hints = hints
	return hinted.play(ctx, spec, nil, 0, false)
}

// play plays stages and the trainer until the trainer has ended and the given number of policies is evaluated. It returns
// runs.ErrStalled if the run makes no progress.
func (p *Player) play(ctx context.Context, spec schemas.Spec, stages pipeline.Table, results int, guideOnly bool) error {
	playing, stop := context.WithCancel(ctx)
	defer stop()
	group, playing := errgroup.WithContext(playing)
	player := pipeline.NewPlayer(p.Session, p.Engine, p.Observer)
	for _, row := range stages {
		group.Go(func() error { return player.Play(playing, row, spec) })
	}
	group.Go(func() error { return p.WatchStall(playing, spec, p.Pipeline.Stages()) })
	trained := p.train(playing, spec, guideOnly)
	if trained == nil {
		trained = p.awaitResults(playing, spec, results)
	}
	stop()
	staged := group.Wait()
	if staged != nil && (trained == nil || activity.Interrupted(trained)) {
		return staged // the trainer was stopped because a stage failed
	}
	return trained
}

// CheckData reads the data that a spec names, and returns an error if it is unusable. Run calls it before it declares a run,
// since the spec of a declared run cannot change. A replay needs no data.train: its prompts are in the log.
func CheckData(spec schemas.Spec) error {
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

// awaitResults waits until the given number of policies is evaluated. An evaluation that became a dead letter counts too.
func (p *Player) awaitResults(ctx context.Context, spec schemas.Spec, want int) error {
	if want == 0 {
		return nil
	}
	evaluator := p.Pipeline.Stages().Makes(schemas.Results)
	tell := func(done int) { p.Observer.Evaluated(telemetry.Evaluated{Run: spec.Run, Done: done, Of: want}) }
	tell(0)
	group, reading := errgroup.WithContext(ctx)
	settled := make(chan uint32)
	for _, kind := range []schemas.Kind{schemas.Results, schemas.DeadLetters} {
		group.Go(func() error {
			return p.Streams.Follow(reading, kind, spec.Run, streams.AllIterations, 0, func(r streams.Received) error {
				if d, ok := r.Message.(*events.DeadLetter); ok && d.GetStage() != evaluator {
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
				tell(len(have))
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
