package play

import (
	"context"
	"fmt"

	"github.com/ldalign/ldalign/dataset"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/ops/telemetry"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer"
	"github.com/ldalign/ldalign/trainer/activity"
)

// train runs the trainer of a run; with guideOnly, until the guide is trained.
func (p *Player) train(ctx context.Context, spec schemas.Spec, guideOnly bool) error {
	if err := p.Intact(ctx, spec.Run); err != nil {
		return err
	}
	heartbeat := p.Streams.Announce(ctx, spec.Run, runs.Trainer)
	defer heartbeat.Close()
	return trainer.New(trainer.Config{
		Spec: spec, Streams: p.Streams, Checkpoints: p.Checkpoints, Engine: p.Engine, Tokenizers: dataset.TokenizerFolder,
		Holder: runs.Holder(), Hints: p.hints, GuideOnly: guideOnly, Meter: beating{p.Observer, heartbeat},
		Metrics: p.ReportDir(spec.Run),
		Hold:    func(ctx context.Context) { _ = heartbeat.Hold(ctx) }, // its only error is the end of ctx, which the trainer sees
		Log:     p.Log.With().Str("stage", runs.Trainer).Logger(),
	}).Run(ctx)
}

// beating passes the trainer's events to the observer and to the trainer's heartbeat.
type beating struct {
	telemetry.Observer
	heartbeat *streams.Heartbeat
}

// Observe is part of trainer.Meter.
func (b beating) Observe(e activity.Event) {
	work, state := e.Progress(), streams.StateWorking
	detail := fmt.Sprintf("%s: %d of %d %s", e, work.Done, work.Total, e.Unit())
	moved := b.heartbeat.Move
	switch e := e.(type) {
	case activity.Waiting, activity.Reading:
		if !work.Ended() {
			state = streams.StateWaiting
		}
	case activity.StoreAway:
		if detail = e.String(); e.Err != nil {
			state, detail = streams.StateWaiting, fmt.Sprintf("%s: %v", e, e.Err)
			moved = func() {} // a failed try is no progress
		}
	case activity.Training:
		if e.Last != nil {
			moved = func() { b.heartbeat.Did(1) }
		}
	}
	b.heartbeat.Say(state, detail)
	moved()
	b.Observer.Observe(e)
}
