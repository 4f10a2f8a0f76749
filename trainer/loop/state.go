package loop

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/trainer/curves"
)

// OptimizerFile is the name of the file with the optimizer's state.
const OptimizerFile = "optimizer.safetensors"

// States saves the states of a phase as checkpoints: the trained weights (the adapter, if one is trained), the optimizer's
// state, records and batches at a cursor. There is no random state to save, because every random choice has its own seed.
type States struct {
	Checkpoints *checkpoints.Repository
	Engine      *tensor.Engine
	Run         string
	SpecDigest  string
	// Parent is the digest of the policy that the phase starts from.
	Parent  string
	Machine *checkpoints.Machine
	// Keep is how many states keep their files.
	Keep int
	// File is the name of the file with the trained tensors, Trained. Load reads them back from a local file.
	File    string
	Trained []tensor.Named
	Load    func(ctx context.Context, path string) error
	// Read returns how far the log has been read.
	Read func() (stream string, sequence uint64)
	Log  zerolog.Logger
}

// Save is part of Saver. The commit must be called once; older states then lose their blobs.
func (st *States) Save(ctx context.Context, p *Phase, at checkpoints.Cursor) (commit func() error, err error) {
	at.Stream, at.Sequence = st.Read()
	weights, err := models.TakeSnapshot(ctx, st.Engine, st.Trained)
	if err != nil {
		return nil, err
	}
	optimizer, err := models.TakeSnapshot(ctx, st.Engine, p.optimizer.State())
	if err != nil {
		weights.Free()
		return nil, err
	}
	p.settle()
	draft := checkpoints.Draft{
		Kind: checkpoints.State, Iteration: at.Iteration, Step: uint64(at.Step), Parent: st.Parent,
		SpecDigest: st.SpecDigest, Machine: st.Machine, Cursor: &at,
		Files: append(p.lines(),
			checkpoints.Source{Name: st.File, Write: weights.Write},
			checkpoints.Source{Name: OptimizerFile, Write: optimizer.Write},
		),
	}
	return func() error {
		defer weights.Free()
		defer optimizer.Free()
		manifest, err := st.Checkpoints.Commit(ctx, st.Run, draft)
		if err != nil {
			return fmt.Errorf("trainer: the state of step %d could not be saved: %w", at.Step, err)
		}
		p.committed = &manifest
		st.Log.Info().Str("run", st.Run).Str("checkpoint", manifest.Key).Uint32("iteration", at.Iteration).
			Int("step", at.Step).Msg("state saved")
		Prune(ctx, st.Checkpoints, st.Run, st.Keep, st.Log)
		return nil
	}, nil
}

// Prune removes the files of superseded states. A failure is only logged: the next Prune removes what this one has left.
func Prune(ctx context.Context, repository *checkpoints.Repository, run string, keep int, log zerolog.Logger) {
	if _, err := repository.Prune(ctx, run, keep); err != nil && ctx.Err() == nil {
		log.Warn().Err(err).Str("run", run).Msg("the files of old states could not be removed; the next save tries again")
	}
}

// Restore sets a phase to a saved state.
func (st *States) Restore(ctx context.Context, p *Phase, m checkpoints.Manifest) error {
	if err := st.withLocal(ctx, m, st.File, func(path string) error { return st.Load(ctx, path) }); err != nil {
		return err
	}
	if err := st.withLocal(ctx, m, OptimizerFile, func(path string) error { return p.readOptimizer(ctx, path) }); err != nil {
		return err
	}
	data, err := st.Checkpoints.ReadLines(ctx, m, curves.File)
	if err != nil {
		return err
	}
	records, err := curves.Read(data)
	if err != nil {
		return err
	}
	batches, err := st.Checkpoints.Batches(ctx, m)
	if err != nil {
		return err
	}
	if len(batches.Steps) != m.Cursor.Step {
		return fmt.Errorf("trainer: checkpoint %s is of step %d, but its %s has %d steps", m.Key, m.Cursor.Step,
			checkpoints.BatchesFile, len(batches.Steps))
	}
	if err := p.goOn(ctx, m, records, batches); err != nil {
		return err
	}
	st.Log.Info().Str("run", st.Run).Str("checkpoint", m.Key).Uint32("iteration", m.Cursor.Iteration).
		Int("step", m.Cursor.Step).Msg("resuming from a saved state")
	return nil
}

func (st *States) withLocal(ctx context.Context, m checkpoints.Manifest, name string, f func(path string) error) error {
	file, ok := m.File(name)
	if !ok {
		return fmt.Errorf("trainer: checkpoint %s has no %s", m.Key, name)
	}
	path, err := st.Checkpoints.Local(ctx, st.Run, file)
	if err != nil {
		return err
	}
	if err := f(path); err != nil {
		return fmt.Errorf("trainer: checkpoint %s, %s: %w", m.Key, name, err)
	}
	return nil
}

// goOn takes over the records of a state. It is an error if the log gives other pairs than the state has, because the state's
// batches refer to pairs by number and some would be trained twice.
func (p *Phase) goOn(ctx context.Context, m checkpoints.Manifest, records []curves.Step, saved checkpoints.Batches) error {
	at := *m.Cursor
	if at.Open && len(saved.Pairs) > 0 {
		got, err := p.Arrivals.ReadBack(ctx, len(saved.Pairs), at, p.saving.wait)
		p.take(got)
		if err != nil {
			return err
		}
	}
	have := p.batches.Pairs
	if at.Open {
		have = have[:min(len(have), len(saved.Pairs))]
	}
	if !slices.Equal(saved.Pairs, have) {
		return fmt.Errorf("trainer: the %d pairs that checkpoint %s was trained on are not those in the log, which has %d: "+
			"messages were lost or changed; restore the stream's store", len(saved.Pairs), m.Key, len(have))
	}
	p.records, p.batches.Steps, p.from = records, saved.Steps, at.Step
	_, batch := p.next(at.Step)
	unknown := at.Open && len(at.Pending) == 0
	if !unknown && !slices.Equal(p.pending(batch), at.Pending) {
		return fmt.Errorf("trainer: checkpoint %s expects other pairs next (%v) than this build would train: "+
			"resume with the build that wrote it", m.Key, at.Pending)
	}
	return nil
}

// readOptimizer copies a file's tensors into the optimizer's state, which must have the same names, types and shapes.
func (p *Phase) readOptimizer(ctx context.Context, path string) (err error) {
	file, err := safetensors.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return p.Engine.Do(ctx, func(s *tensor.Scope) error {
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
