package reward

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
)

// Options decide the shapes that sequences are computed in, and so the last bits of the outputs and the memory: about
// 4·Rows·Heads·Length² floats for the longest sequences.
type Options struct {
	Rows int // of a batch, a multiple of models.RowStep; 0 is 4
	Step int // lengths are rounded up to a multiple of it; 0 is 64
}

// WithDefaults fills in what is 0.
func (o Options) WithDefaults() Options {
	if o.Rows == 0 {
		o.Rows = models.RowStep
	}
	if o.Step == 0 {
		o.Step = 64
	}
	return o
}

// Validate tells what is wrong with options whose defaults are filled in.
func (o Options) Validate() error {
	if o.Rows < 1 || o.Rows%models.RowStep != 0 {
		return fmt.Errorf("reward: %d rows in a batch: want a multiple of %d", o.Rows, models.RowStep)
	}
	if o.Step < 1 {
		return fmt.Errorf("reward: lengths in steps of %d: want at least 1", o.Step)
	}
	return nil
}

// Outputs calls emit with the logits of every sequence, [Labels] each, and its index in rows: batch by batch, in the order
// of each batch's first row. A sequence's numbers do not depend on the others. A row that does not fit is an error that
// wraps models.ErrSequence, returned before anything is computed. A batch is one call of Engine.Do; the end of ctx or an
// error of emit ends the work after the batch in progress.
func (m *Model) Outputs(
	ctx context.Context, rows []models.Sequence, opts Options, emit func(i int, logits []float32) error,
) error {
	opts = opts.WithDefaults()
	if err := opts.Validate(); err != nil {
		return err
	}
	cfg := m.Config()
	for i, row := range rows {
		if err := check(cfg, row); err != nil {
			return fmt.Errorf("reward: %w: row %d %w", models.ErrSequence, i, err)
		}
	}
	all := batches(rows, opts.Rows, opts.Step, cfg.MaxLength())
	slices.SortStableFunc(all, func(a, b batch) int { return cmp.Compare(a.index[0], b.index[0]) })
	for _, b := range all {
		var values []float32
		err := m.eng.Do(ctx, func(s *tensor.Scope) error {
			return s.NoGrad(func(s *tensor.Scope) error {
				values = m.Logits(s, b.rows, b.pad).Float32s()
				return nil
			})
		})
		if err != nil {
			return fmt.Errorf("reward: %w", err)
		}
		for k, i := range b.index {
			if err := emit(i, values[k*cfg.Labels:(k+1)*cfg.Labels]); err != nil {
				return err
			}
		}
	}
	return nil
}
