package trainer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/curves"
	"github.com/ldalign/ldalign/trainer/objective"
)

// Files of a checkpoint that the trainer itself reads.
const (
	guideFile     = "guide.safetensors"
	optimizerFile = "optimizer.safetensors"
)

// saveState copies what a state checkpoint consists of: the trained weights (an adapter alone where one is trained),
// optimizer, records and batches at a cursor. Everything random is drawn from seeds by place, so there is no random state to
// keep. It returns what commits the copy, which must be called once; older states then lose their blobs.
func (t *Trainer) saveState(
	ctx context.Context, p *phase, cursor checkpoints.Cursor, trained []tensor.Named,
) (commit func() error, err error) {
	weights, err := models.TakeSnapshot(ctx, t.Engine, trained)
	if err != nil {
		return nil, err
	}
	optimizer, err := t.optimizerSnapshot(ctx, p)
	if err != nil {
		weights.Free()
		return nil, err
	}
	p.settle()
	draft := checkpoints.Draft{
		Kind: checkpoints.State, Iteration: p.iteration, Step: uint64(cursor.Step), Parent: t.base.Digest,
		SpecDigest: t.Spec.Digest(), Machine: t.machine(), Cursor: &cursor,
		Files: append(p.lines(),
			checkpoints.Source{Name: t.stateFile(p.name), Write: weights.Write},
			checkpoints.Source{Name: optimizerFile, Write: optimizer.Write},
		),
	}
	return func() error {
		defer weights.Free()
		defer optimizer.Free()
		manifest, err := t.Checkpoints.Commit(ctx, t.Spec.Run, draft)
		if err != nil {
			return fmt.Errorf("trainer: the state of step %d could not be saved: %w", cursor.Step, err)
		}
		p.pieces.committed = &manifest
		t.Log.Info().Str("run", t.Spec.Run).Str("checkpoint", manifest.Key).Uint32("iteration", draft.Iteration).
			Int("step", cursor.Step).Msg("state saved")
		return t.prune(ctx)
	}, nil
}

// optimizerSnapshot copies the optimizer's state, which the ranks have in parts.
func (t *Trainer) optimizerSnapshot(ctx context.Context, p *phase) (snapshot *models.Snapshot, err error) {
	if p.ranks == nil {
		return models.TakeSnapshot(ctx, t.Engine, p.optimizer.State())
	}
	if err := p.ranks.tell(ctx, order{Gather: true}); err != nil {
		return nil, err
	}
	var state []tensor.Named
	var foreign []*tensor.Tensor
	err = p.ranks.gather(ctx, p, func(s *tensor.Scope, all []tensor.Named) error {
		own := map[*tensor.Tensor]bool{}
		for _, n := range p.optimizer.State() {
			own[n.Tensor] = true
		}
		for _, n := range all {
			if !own[n.Tensor] {
				foreign = append(foreign, n.Tensor.Keep())
			}
		}
		state = all
		return s.Err()
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, t.Engine.Do(ctx, func(*tensor.Scope) error {
			for _, x := range foreign {
				x.Free()
			}
			return nil
		}))
	}()
	return models.TakeSnapshot(ctx, t.Engine, state)
}

func (t *Trainer) prune(ctx context.Context) error {
	_, err := t.Checkpoints.Prune(ctx, t.Spec.Run, t.Spec.Training.KeepStates)
	return err
}

// resumes tells whether the newest state checkpoint was saved in this phase of this iteration.
func (t *Trainer) resumes(phase string, iteration uint32) bool {
	return t.resume != nil && t.resume.Cursor.Phase == phase && t.resume.Cursor.Iteration == iteration
}

// restore takes a phase to where the newest state checkpoint left it, if there is one of this phase and iteration, and
// returns the number of steps already made. load reads the phase's weights from a local file.
func (t *Trainer) restore(ctx context.Context, p *phase, load func(ctx context.Context, path string) error) (int, error) {
	m := t.resume
	if !t.resumes(p.name, p.iteration) {
		return 0, nil
	}
	if err := t.withLocal(ctx, *m, t.stateFile(p.name), func(path string) error { return load(ctx, path) }); err != nil {
		return 0, err
	}
	if err := t.withLocal(ctx, *m, optimizerFile, func(path string) error { return t.readOptimizer(ctx, path, p) }); err != nil {
		return 0, err
	}
	data, err := t.Checkpoints.ReadLines(ctx, *m, curves.File)
	if err != nil {
		return 0, err
	}
	if p.records, err = curves.Read(data); err != nil {
		return 0, err
	}
	if err := t.restoreBatches(ctx, *m, p); err != nil {
		return 0, err
	}
	t.Log.Info().Str("run", t.Spec.Run).Str("checkpoint", m.Key).Uint32("iteration", p.iteration).
		Int("step", m.Cursor.Step).Msg("going on from a saved state")
	return m.Cursor.Step, nil
}

// restoreBatches takes over which pairs a state's steps were made of, and refuses to go on with other pairs: the numbers
// of the steps would mean others, and some would be trained twice.
func (t *Trainer) restoreBatches(ctx context.Context, m checkpoints.Manifest, p *phase) error {
	saved, err := t.Checkpoints.Batches(ctx, m)
	if err != nil {
		return err
	}
	if len(saved.Steps) != m.Cursor.Step {
		return fmt.Errorf("trainer: checkpoint %s is of step %d, but its %s has %d steps", m.Key, m.Cursor.Step,
			checkpoints.BatchesFile, len(saved.Steps))
	}
	if m.Cursor.Open {
		if err := t.catchUp(ctx, m, p, len(saved.Pairs)); err != nil {
			return err
		}
	}
	have := p.batches.Pairs
	if m.Cursor.Open {
		have = have[:min(len(have), len(saved.Pairs))]
	}
	if !slices.Equal(saved.Pairs, have) {
		return fmt.Errorf("trainer: checkpoint %s was trained on %d pairs, but the log gives %d, or others in their place: "+
			"messages were lost or changed; restore the stream's store", m.Key, len(saved.Pairs), len(have))
	}
	p.batches.Steps = saved.Steps
	_, batch := p.next(m.Cursor.Step)
	unknown := m.Cursor.Open && len(m.Cursor.Pending) == 0
	if !unknown && !slices.Equal(p.pending(batch), m.Cursor.Pending) {
		return fmt.Errorf("trainer: checkpoint %s was to go on with other pairs than this build would take (%v): "+
			"go on with the build that wrote it", m.Key, m.Cursor.Pending)
	}
	return nil
}

// catchUp takes in the pairs that a state had when its iteration was still arriving. They must be in the log.
func (t *Trainer) catchUp(ctx context.Context, m checkpoints.Manifest, p *phase, n int) error {
	if n == 0 {
		return nil
	}
	kind := objective.TrainsFrom(t.Spec.Objective.Kind)
	last, err := t.Streams.Last(ctx, kind, t.Spec.Run)
	if err != nil && !errors.Is(err, streams.ErrNotFound) {
		return err
	}
	if last.Seq < m.Cursor.Sequence {
		return lost(kind, t.Spec.Run, last.Seq, m.Cursor.Sequence)
	}
	complete, err := p.grow(ctx, n, m.Cursor.Position, true)
	p.open = !complete
	return err
}

// lost is the error of a log that ends before a checkpoint's cursor.
func lost(kind schemas.Kind, run string, end, cursor uint64) error {
	return fmt.Errorf("trainer: stream %s of run %s ends at sequence %d, but the checkpoint's cursor is at %d: "+
		"messages were lost from the log; restore the stream's store", kind, run, end, cursor)
}

func (t *Trainer) withLocal(ctx context.Context, m checkpoints.Manifest, name string, f func(path string) error) error {
	file, ok := m.File(name)
	if !ok {
		return fmt.Errorf("trainer: checkpoint %s has no %s", m.Key, name)
	}
	path, err := t.Checkpoints.Local(ctx, t.Spec.Run, file)
	if err != nil {
		return err
	}
	if err := f(path); err != nil {
		return fmt.Errorf("trainer: checkpoint %s, %s: %w", m.Key, name, err)
	}
	return nil
}

// readOptimizer copies a file's tensors into the optimizer's state, which must have the same names, types and shapes.
func (t *Trainer) readOptimizer(ctx context.Context, path string, p *phase) (err error) {
	file, err := safetensors.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if p.ranks != nil {
		if err := p.ranks.tell(ctx, order{Load: true}); err != nil {
			return err
		}
		return p.ranks.scatter(ctx, p, func(s *tensor.Scope, like tensor.Named) (*tensor.Tensor, error) {
			return models.ReadTensor(s, file, like.Name, like.Tensor.DType(), like.Tensor.Shape()...)
		})
	}
	return t.Engine.Do(ctx, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			state := p.optimizer.State()
			for i, n := range state {
				state[i].Tensor, err = models.ReadTensor(s, file, n.Name, n.Tensor.DType(), n.Tensor.Shape()...)
				if err != nil {
					return err
				}
			}
			return p.optimizer.LoadState(s, state)
		})
	})
}

func (t *Trainer) writeWeights(ctx context.Context) func(io.Writer) error {
	return func(w io.Writer) error { return t.model.WriteWeights(ctx, w) }
}

// publishPolicy commits the model as the policy of an iteration, its adapter merged, with the base's other files, and
// announces it.
func (t *Trainer) publishPolicy(ctx context.Context, iteration uint32, metrics []checkpoints.Metric, p *phase) error {
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
	files = append(files, t.wholeLines(ctx, p)...)
	for _, f := range t.base.Files {
		if inherited(f.Name) {
			files = append(files, checkpoints.Carry(f))
		}
	}
	manifest, err := t.Checkpoints.Commit(ctx, t.Spec.Run, checkpoints.Draft{
		Kind: checkpoints.Policy, Iteration: iteration, Step: uint64(p.made()), Parent: t.base.Digest,
		SpecDigest: t.Spec.Digest(), Machine: t.machine(), Metrics: metrics, Files: files,
	})
	if err != nil {
		return err
	}
	t.base, t.resume = manifest, nil
	t.Log.Info().Str("run", t.Spec.Run).Str("checkpoint", manifest.Key).Uint32("iteration", iteration).Msg("policy published")
	if err := t.prune(ctx); err != nil {
		return err
	}
	return t.publishEvent(ctx, manifest)
}

// canary is the metric by which who loads the model's weights knows that it computes with them.
func (t *Trainer) canary(ctx context.Context) ([]checkpoints.Metric, error) {
	value, err := t.model.Canary(ctx)
	if err != nil {
		return nil, err
	}
	if !finite(value) { // a manifest has no form for it; the evaluation will show it
		return nil, nil
	}
	return []checkpoints.Metric{{Name: checkpoints.CanaryMetric, Value: value}}, nil
}

func (t *Trainer) publishEvent(ctx context.Context, m checkpoints.Manifest) error {
	return t.Streams.Publish(ctx, schemas.Checkpoints, events.Message(checkpoints.Event(m)))
}
