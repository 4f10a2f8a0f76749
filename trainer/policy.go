package trainer

import (
	"context"
	"errors"
	"io"
	"math"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/trainer/intake"
	"github.com/ldalign/ldalign/trainer/loop"
	"github.com/ldalign/ldalign/trainer/schedule"
)

// reader returns a reader of the run's iterations from the log.
func (t *Trainer) reader() *intake.Reader {
	return &intake.Reader{
		Spec: t.Spec, Streams: t.Streams, Checkpoints: t.Checkpoints, Engine: t.Engine, Model: t.model, Format: t.format,
		Base: t.base, Resume: t.resume, Observe: t.Meter.Observe, Log: t.Log,
	}
}

// states returns the keeper of a phase's states. file, trained, load and read are the fields of loop.States.
func (t *Trainer) states(
	file string, trained []tensor.Named, load func(context.Context, string) error, read func() (string, uint64),
) *loop.States {
	return &loop.States{
		Checkpoints: t.Checkpoints, Engine: t.Engine, Run: t.Spec.Run, SpecDigest: t.Spec.Digest(), Parent: t.base.Digest,
		Machine: t.machine(), Keep: t.Spec.Training.KeepStates, File: file, Trained: trained, Load: load, Read: read, Log: t.Log,
	}
}

// run makes a phase, restores the newest state if it belongs to this phase, and trains the phase to its end. The caller
// closes the phase, also after an error.
func (t *Trainer) run(ctx context.Context, c loop.Config, states *loop.States) (*loop.Phase, error) {
	c.Engine, c.Saver, c.Hold, c.Lease, c.SegmentLines = t.Engine, states, t.Hold, t.lease, t.segmentLines
	p, err := loop.New(ctx, c)
	if err != nil {
		return nil, err
	}
	if m := t.resume; m != nil && m.Cursor.Phase == c.Plan.Phase && m.Cursor.Iteration == c.Plan.Iteration {
		if err := states.Restore(ctx, p, *m); err != nil {
			return p, err
		}
	}
	return p, p.Run(ctx)
}

// closePhase closes the phase that run has returned, which may be nil.
func closePhase(ctx context.Context, p *loop.Phase, err error) error {
	if p == nil {
		return err
	}
	return errors.Join(err, p.Close(context.WithoutCancel(ctx)))
}

// iterate trains iteration i from t.base and publishes the policy of iteration i+1.
func (t *Trainer) iterate(ctx context.Context, i uint32) (err error) {
	in, err := t.reader().Collect(ctx, i)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := errors.Join(t.addAdapter(ctx, i), t.model.SetTrainable(ctx, true)); err != nil {
		return err
	}
	c := loop.Config{
		Plan: schedule.PolicyPlan(t.Spec, i), Task: in.Task(), Params: t.model.Trainable(), Batches: in.Batches(),
		Arrivals: in.Arrivals(), Planned: in.Planned(),
	}
	c.Observer = t.observer(t.Spec.Objective.Kind, c.Plan)
	p, err := t.run(ctx, c, t.states(t.policyFile(), c.Params, t.loadTrained, in.Read))
	defer func() { err = closePhase(ctx, p, err) }()
	if err != nil {
		return err
	}
	return t.publishPolicy(ctx, i+1, in.Metrics(), p)
}

// readFile reads files of the run's checkpoints.
func (t *Trainer) readFile(ctx context.Context) func(checkpoints.File) ([]byte, error) {
	return func(f checkpoints.File) ([]byte, error) { return t.Checkpoints.ReadFile(ctx, t.Spec.Run, f) }
}

func (t *Trainer) writeWeights(ctx context.Context) func(io.Writer) error {
	return func(w io.Writer) error { return t.model.WriteWeights(ctx, w) }
}

// publishPolicy commits the model as the policy of an iteration, its adapter merged, with the base's other files, and
// announces it.
func (t *Trainer) publishPolicy(ctx context.Context, iteration uint32, metrics []checkpoints.Metric, p *loop.Phase) error {
	files, err := t.mergeAdapter(ctx)
	if err != nil {
		return err
	}
	canary, err := t.canary(ctx)
	if err != nil {
		return err
	}
	metrics = append(metrics, canary...)
	files = append(files, checkpoints.Source{Name: checkpoints.WeightsFile, Write: t.writeWeights(ctx)})
	files = append(files, p.Files(t.readFile(ctx))...)
	for _, f := range t.base.Files {
		if inherited(f.Name) {
			files = append(files, checkpoints.Carry(f))
		}
	}
	manifest, err := t.Checkpoints.Commit(ctx, t.Spec.Run, checkpoints.Draft{
		Kind: checkpoints.Policy, Iteration: iteration, Step: uint64(p.Steps()), Parent: t.base.Digest,
		SpecDigest: t.Spec.Digest(), Machine: t.machine(), Metrics: metrics, Files: files,
	})
	if err != nil {
		return err
	}
	t.base, t.resume = manifest, nil
	t.Log.Info().Str("run", t.Spec.Run).Str("checkpoint", manifest.Key).Uint32("iteration", iteration).Msg("policy published")
	loop.Prune(ctx, t.Checkpoints, t.Spec.Run, t.Spec.Training.KeepStates, t.Log)
	return t.publishEvent(ctx, manifest)
}

// canary is the metric with which a worker that has loaded the weights checks that it computes the same log-probs.
func (t *Trainer) canary(ctx context.Context) ([]checkpoints.Metric, error) {
	value, err := t.model.Canary(ctx)
	if err != nil {
		return nil, err
	}
	if math.IsNaN(value) || math.IsInf(value, 0) { // a manifest cannot contain it; the evaluation will show it
		return nil, nil
	}
	return []checkpoints.Metric{{Name: checkpoints.CanaryMetric, Value: value}}, nil
}

func (t *Trainer) publishEvent(ctx context.Context, m checkpoints.Manifest) error {
	return t.Streams.Publish(ctx, schemas.Checkpoints, events.Message(checkpoints.Event(m)))
}
