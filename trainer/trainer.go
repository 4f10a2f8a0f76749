package trainer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/activity"
	"github.com/ldalign/ldalign/trainer/fit"
	"github.com/ldalign/ldalign/trainer/lineage"
	"github.com/ldalign/ldalign/trainer/loop"
	"github.com/ldalign/ldalign/trainer/retention"
)

// Config is what a trainer works with.
type Config struct {
	// Spec is the resolved run spec.
	Spec        schemas.Spec
	Streams     *streams.Conn
	Checkpoints *checkpoints.Repository
	Engine      *tensor.Engine
	// Tokenizers finds the tokenizer folder of a model made from scratch, such as builtin:demo.
	Tokenizers func(name string) (fs.FS, error)
	// Holder names this process in the lease: host and pid.
	Holder string
	// Hints is a subject on which the store announces writes, see streams.Conn.OnHint; empty for none.
	Hints string
	// GuideOnly ends Run when the guide is published. The run can be continued later.
	GuideOnly bool
	// Metrics is the folder for metrics.jsonl and TensorBoard's files; empty for none.
	Metrics string
	Meter   Meter
	// Hold, if not nil, is called between two steps and blocks while the run is paused. It must return when its context
	// ends.
	Hold func(ctx context.Context)
	Log  zerolog.Logger
}

// Meter receives events about what the trainer does. Several goroutines may call it at once.
type Meter interface {
	Observe(activity.Event)
}

// Errors of Run that are not failures of this trainer.
var (
	ErrInterrupted = activity.ErrInterrupted
	ErrLeaseLost   = loop.ErrLeaseLost
)

// leaseTTL is the default of Trainer.leaseTTL.
const leaseTTL = 10 * time.Second

// Trainer executes one run from its first policy to its last. Run may be called once.
type Trainer struct {
	Config

	model     *models.Model
	tokenizer *tokenizer.Tokenizer
	format    *tokenizer.Format
	// base is the newest policy checkpoint: the weights that the current iteration starts from.
	base checkpoints.Manifest
	// resume is the newest state checkpoint that is newer than base; nil when there is none.
	resume  *checkpoints.Manifest
	plotter *plotter
	// segmentLines is loop.Config.SegmentLines of the phases; tests lower it.
	segmentLines int
	// leaseTTL is how long other trainers must wait after this one has died; tests lower it.
	leaseTTL time.Duration
	lease    lease
}

// lease is a streams.Lease with the trainer's errors.
type lease struct{ *streams.Lease }

func (l lease) Confirm(ctx context.Context) error {
	err := l.Lease.Confirm(ctx)
	if errors.Is(err, streams.ErrLeaseTaken) {
		return fmt.Errorf("%w: %w", ErrLeaseLost, err)
	}
	return err
}

// New makes a trainer.
func New(c Config) *Trainer { return &Trainer{Config: c, leaseTTL: leaseTTL} }

// Run takes the run from its present state to its last iteration: it declares the run, makes or finds the first policy,
// trains the guide when the objective needs one, and trains and publishes one policy per iteration. It returns nil when
// the run is complete, ErrInterrupted when ctx ended and the state was saved, *streams.ErrHeld when another trainer holds
// the run's lease, and ErrLeaseLost when this trainer has lost it.
func (t *Trainer) Run(ctx context.Context) (err error) {
	held, err := t.Streams.AcquireLease(ctx, t.Spec.Run, t.Holder, t.leaseTTL)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, held.Release()) }()
	t.lease = lease{held}
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	defer func() { cancel(nil); <-watched }()
	go func() {
		defer close(watched)
		select {
		case <-held.Lost():
			cancel(fmt.Errorf("%w: run %s", ErrLeaseLost, t.Spec.Run))
		case <-ctx.Done():
		}
	}()
	defer func() {
		if cause := context.Cause(ctx); err != nil && errors.Is(cause, ErrLeaseLost) {
			err = cause // report the lost lease, not the errors that it caused
		}
	}()
	t.Checkpoints = t.Checkpoints.Patient(ctx.Done(), t.storeAway)
	defer t.guard(ctx)()
	if err := t.Checkpoints.Claim(ctx, t.Spec.Run); err != nil {
		return err
	}
	declared, err := t.declared(ctx)
	if err != nil {
		return err
	}
	limits, err := streams.ParseLimits(t.Spec.Streams)
	if err == nil {
		err = t.Streams.Declare(ctx, t.Spec.Run, limits)
	}
	if err != nil {
		return err
	}
	// The run is declared only after begin succeeds, so that until then its spec may change under the same name.
	defer func() { err = errors.Join(err, t.close(context.WithoutCancel(ctx))) }()
	if err := outOfMemory(t.begin(ctx), "take a smaller model (model.from)"); err != nil {
		return err
	}
	if text := fit.Rounded(t.Spec); text != "" {
		t.Log.Warn().Str("run", t.Spec.Run).Msg(text)
	}
	if !declared {
		if err := t.declare(ctx); err != nil {
			return err
		}
	}
	if err := t.reader().CloseIterations(ctx); err != nil {
		return err
	}
	if err := t.announce(ctx); err != nil {
		return err
	}
	end, err := t.startPlotter(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	if t.Hints != "" {
		listening := make(chan struct{})
		defer func() { cancel(nil); <-listening }()
		go func() {
			defer close(listening)
			t.listen(ctx)
		}()
	}
	if t.Spec.TrainsGuide() {
		if err := outOfMemory(t.trainGuide(ctx),
			"lower training.micro_tokens, or take a smaller guide (guide.encoder and guide.decoder)"); err != nil {
			return err
		}
	}
	if t.GuideOnly {
		return nil
	}
	t.retain(ctx) // an earlier trainer may have ended between publishing a policy and its retention
	for int(t.base.Iteration) < t.Spec.Iterations {
		if err := outOfMemory(t.iterate(ctx, t.base.Iteration), t.smallerStep()); err != nil {
			return err
		}
		t.retain(ctx)
	}
	return t.Streams.Publish(ctx, schemas.Control, &events.Control{
		Schema: events.Version, Run: t.Spec.Run, Kind: events.ControlFinished, Iteration: t.base.Iteration,
	})
}

// storeAway reports that the checkpoint store does not answer; with a nil error, that it answers again. Several goroutines may
// call it.
func (t *Trainer) storeAway(err error) {
	away := activity.StoreAway{Work: activity.Work{Run: t.Spec.Run, Total: 1}, Err: err}
	if err != nil {
		t.Log.Warn().Err(err).Str("run", t.Spec.Run).Msg("waiting for the checkpoint store")
	} else {
		away.Done = 1
		t.Log.Info().Str("run", t.Spec.Run).Msg("the checkpoint store answers again")
	}
	t.Meter.Observe(away)
}

// guard makes all commits wait until the lease is confirmed. When ctx has ended, they wait for the lease's lifetime at most. end
// undoes it.
func (t *Trainer) guard(ctx context.Context) (end func()) {
	ending, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(t.leaseTTL, cancel) })
	t.Checkpoints.Guard(t.Spec.Run, func(committing context.Context) error {
		committing, cancel := context.WithCancel(committing)
		defer cancel()
		defer context.AfterFunc(ending, cancel)()
		return t.lease.Confirm(committing)
	})
	return func() {
		t.Checkpoints.Guard(t.Spec.Run, nil)
		stop()
		cancel()
	}
}

// declared reports whether the run is declared. A declaration with another spec is an error.
func (t *Trainer) declared(ctx context.Context) (bool, error) {
	found, err := lineage.Declaration(ctx, t.Streams, t.Spec.Run)
	if errors.Is(err, streams.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, t.same(found)
}

// same returns an error if a declaration of the run has another spec than this trainer.
func (t *Trainer) same(found lineage.Declared) error {
	if digest := t.Spec.Digest(); found.Digest != digest {
		return fmt.Errorf("trainer: run %s exists with another spec (digest %.12s, declared at %s as sequence %d of %s; this one is "+
			"%.12s%s): give the new one another name under `run:`, or continue with the spec that `ldalign status %s --spec` prints",
			t.Spec.Run, found.Digest, found.Time.UTC().Format(time.RFC3339), found.Seq, found.Stream, digest,
			changes(found.Text, t.Spec), t.Spec.Run)
	}
	return nil
}

// changes names the first keys in which a spec differs from the declared one, each after a "; ". It is empty when the
// declaration cannot be parsed.
func changes(declared []byte, spec schemas.Spec) string {
	const most = 5
	was, err := schemas.ParseDeclared(spec.Run, declared)
	if err != nil {
		return ""
	}
	text := ""
	for i, d := range schemas.Differences(was, spec) {
		if i == most {
			return text + "; …"
		}
		text += fmt.Sprintf("; %s: %q, was %q", d.Key, d.Values[1], d.Values[0])
	}
	return text
}

// declare publishes the resolved spec, which workers read. It returns an error if another process has meanwhile declared the run
// with another spec: the first declaration counts.
func (t *Trainer) declare(ctx context.Context) error {
	found, err := lineage.Declare(ctx, t.Streams, t.Spec)
	if err != nil {
		return err
	}
	return t.same(found)
}

// announce publishes the events of all checkpoints that have none, as after a crash between manifest and event.
func (t *Trainer) announce(ctx context.Context) error {
	announced := map[string]bool{}
	err := t.Streams.Read(ctx, schemas.Checkpoints, t.Spec.Run, streams.AllIterations, 0, func(r streams.Received) error {
		announced[r.Message.ID()] = true
		return nil
	})
	if err != nil {
		return err
	}
	return t.Checkpoints.Reconcile(ctx, t.Spec.Run, func(digest string) bool { return announced[digest] },
		func(ctx context.Context, event *events.Checkpoint) error {
			return t.Streams.Publish(ctx, schemas.Checkpoints, event)
		})
}

// listen calls announce at every hint of the store that it was written to, until ctx ends. Hints only make announcements
// earlier, so errors are only logged.
func (t *Trainer) listen(ctx context.Context) {
	err := t.Streams.OnHint(ctx, t.Hints, func() error {
		t.Log.Debug().Str("run", t.Spec.Run).Msg("the store was written to: announcing new checkpoints")
		if err := t.announce(ctx); err != nil && ctx.Err() == nil {
			t.Log.Warn().Err(err).Str("run", t.Spec.Run).Msg("cannot announce new checkpoints")
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		t.Log.Warn().Err(err).Str("run", t.Spec.Run).Msg("the store's notifications are no longer received")
	}
}

func (t *Trainer) close(ctx context.Context) error {
	var err error
	if t.model != nil {
		err = t.model.Close(ctx)
	}
	if t.tokenizer != nil {
		err = errors.Join(err, t.tokenizer.Close())
	}
	return err
}

// retain removes what the spec's retention no longer keeps. It logs a failure and tries again after the next iteration and
// at the next start.
func (t *Trainer) retain(ctx context.Context) {
	keep := t.Spec.Retention
	if err := t.lease.Confirm(ctx); err != nil {
		return // the run ends with the error
	}
	got, err := retention.Apply(ctx, t.Streams, t.Checkpoints, t.Spec, keep, retention.Reason(keep), false)
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Log.Warn().Err(err).Str("run", t.Spec.Run).Msg("retention failed; the trainer tries again after the next iteration")
	}
	for _, s := range got.Stays {
		t.Log.Debug().Str("run", t.Spec.Run).Uint32("iteration", s.Iteration).Str("what", s.What).Str("why", s.Why).
			Msg("older than the run's retention, but still needed: kept")
	}
}
