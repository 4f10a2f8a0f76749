package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/ops/telemetry"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/lineage"
)

// Player plays stages of runs in this process.
type Player struct {
	Streams     *streams.Conn
	Checkpoints *checkpoints.Repository
	// Engine may be nil if no stage needs one.
	Engine *Engine
	// Observer receives the events of the stages; nil for none.
	Observer streams.Observer
	// Sampled, if not nil, is called with the number of a batch's responses that are sampled.
	Sampled func(id streams.StageID, done, of int)
	// Grace is streams.Stage's Grace.
	Grace time.Duration
	Log   zerolog.Logger
}

// NewPlayer returns a player of stages in a session, which passes their events to observer. engine may be nil if no stage needs
// one.
func NewPlayer(s *runs.Session, engine *Engine, observer telemetry.Observer) *Player {
	return &Player{
		Streams: s.Streams, Checkpoints: s.Checkpoints, Engine: engine, Observer: observer, Log: s.Log,
		Sampled: func(id streams.StageID, done, of int) {
			observer.Sampled(telemetry.Sampled{StageID: id, Done: done, Of: of})
		},
	}
}

// linger is how long a part-filled batch waits for more, unless the stage's row says otherwise.
const linger = 20 * time.Millisecond

// Play plays a stage of a run until ctx ends. It returns nil after a clean drain.
func (p *Player) Play(ctx context.Context, row Row, spec schemas.Spec) (err error) {
	if row.Build == nil {
		return fmt.Errorf("the stage %s computes tensors, but this program was built without them (with CGO_ENABLED=0)", row.Name)
	}
	heartbeat := p.Streams.Announce(ctx, spec.Run, row.Name)
	defer heartbeat.Close()
	work, err := row.Build(ctx, Job{
		Spec: spec, Streams: p.Streams, Checkpoints: p.Checkpoints, Engine: p.Engine,
		Log: p.Log.With().Str("run", spec.Run).Str("stage", row.Name).Logger(),
		Sampled: func(done, of int) {
			heartbeat.Move()
			if p.Sampled != nil {
				p.Sampled(streams.StageID{Run: spec.Run, Stage: row.Name}, done, of)
			}
		},
	})
	if err != nil {
		return err
	}
	if work.Close != nil {
		defer func() { err = errors.Join(err, work.Close(context.WithoutCancel(ctx))) }()
	}
	if work.Ready != nil {
		heartbeat.Say(streams.StateWaiting, work.WaitsFor)
		if err := p.ready(ctx, work, heartbeat); ctx.Err() != nil {
			return nil
		} else if err != nil {
			return err
		}
	}
	stage := streams.Stage{
		Name: row.Name, In: row.In, Run: spec.Run, Linger: row.Linger, Grace: p.Grace, MaxInFlight: work.MaxInFlight,
		Observer: p.Observer, Heartbeat: heartbeat, End: uint32(spec.Iterations), Libtorch: work.Libtorch,
	}
	if row.Linger == 0 {
		stage.Linger = linger
	}
	if row.Batch != nil {
		stage.Batch = row.Batch(spec)
	}
	if row.Refill != nil {
		stage.Refill = row.Refill(spec)
	}
	stage.Moves = func() uint64 { // a step of the engine is progress, and so is a part of a download
		moves := p.Checkpoints.BytesRead()
		if p.Engine != nil {
			moves += uint64(p.Engine.Busy())
		}
		return moves
	}
	feed, replayed := lineage.Feed(spec, row.In)
	if replayed = replayed && feed.Kind == row.In; !replayed {
		return p.run(ctx, stage, work)
	}
	// the stage reads the replay's kind of message: it takes its input from the source's log
	stage.Source = &feed
	for i := spec.FirstIteration(); i < spec.Iterations; i++ {
		stage.Iterations = append(stage.Iterations, uint32(i))
	}
	if work.Adopt == nil {
		return p.run(ctx, stage, work)
	}
	return p.byPolicy(ctx, stage, work)
}

// ready calls a stage's Ready until the checkpoint store is available.
func (p *Player) ready(ctx context.Context, work Work, heartbeat *streams.Heartbeat) error {
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		err := work.Ready(ctx)
		if !errors.Is(err, checkpoints.ErrUnavailable) {
			return err
		}
		p.Log.Warn().Err(err).Msg("waiting for the checkpoint store")
		heartbeat.Say(streams.StateWaiting, "for the checkpoint store: "+err.Error())
		select {
		case <-again.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *Player) run(ctx context.Context, stage streams.Stage, work Work) error {
	if work.Refilling != nil {
		return p.Streams.RunRefilling(ctx, stage, work.Refilling)
	}
	return p.Streams.RunStage(ctx, stage, work.Process)
}

// byPolicy runs a stage of a replay whose input messages name a policy. The source's log has the messages of all iterations from
// the start, but those of iteration i need policy i of this run. So each iteration begins when this run announces its policy,
// and ends when it announces the next one.
func (p *Player) byPolicy(ctx context.Context, stage streams.Stage, work Work) error {
	for _, i := range stage.Iterations {
		policy, err := p.awaitPolicy(ctx, stage.Run, i)
		if err != nil {
			return ended(ctx, err)
		}
		stage.Iterations = []uint32{i}
		stage.Adopt = func(m events.Message) { work.Adopt(m, i, policy) }
		if err := p.untilPolicy(ctx, stage.Run, i+1, func(ctx context.Context) error {
			return p.run(ctx, stage, work)
		}); err != nil {
			return ended(ctx, err)
		}
	}
	<-ctx.Done()
	return nil
}

// awaitPolicy waits until the policy of an iteration is announced and returns its digest.
func (p *Player) awaitPolicy(ctx context.Context, run string, iteration uint32) (digest string, err error) {
	err = p.Streams.Follow(ctx, schemas.Checkpoints, run, int(iteration), 0, func(r streams.Received) error {
		if c, ok := r.Message.(*events.Checkpoint); ok && c.GetKind() == string(checkpoints.Policy) {
			digest = c.GetDigest()
			return streams.ErrStop
		}
		return nil
	})
	return digest, err
}

// untilPolicy runs work until the policy of an iteration is announced, or ctx ends.
func (p *Player) untilPolicy(ctx context.Context, run string, iteration uint32, work func(context.Context) error) error {
	working, stop := context.WithCancel(ctx)
	defer stop()
	group, working := errgroup.WithContext(working)
	group.Go(func() error { return work(working) })
	group.Go(func() error {
		defer stop()
		_, err := p.awaitPolicy(working, run, iteration)
		return err
	})
	return group.Wait()
}

// ended returns nil in place of an error that only reports the end of ctx.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}
