package reward

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
)

// Options determine the shapes in which sequences are computed. These affect the last bits of the outputs and the memory,
// which is about 4·Rows·Heads·Length² floats for the longest sequences.
type Options struct {
	Rows int // rows of a batch, a multiple of models.RowStep; 0 means 4
	Step int // lengths are rounded up to a multiple of it; 0 means 64
}

// WithDefaults returns the options with the defaults for zeros.
func (o Options) WithDefaults() Options {
	if o.Rows == 0 {
		o.Rows = models.RowStep
	}
	if o.Step == 0 {
		o.Step = 64
	}
	return o
}

// Validate returns an error if options with their defaults are invalid.
func (o Options) Validate() error {
	if o.Rows < 1 || o.Rows%models.RowStep != 0 {
		return fmt.Errorf("reward: %d rows in a batch: want a multiple of %d", o.Rows, models.RowStep)
	}
	if o.Step < 1 {
		return fmt.Errorf("reward: lengths in steps of %d: want at least 1", o.Step)
	}
	return nil
}

// Outputs calls emit with the logits of every sequence, [Labels] each, and its index in rows: batch by batch, in the order of
// each batch's first row. A sequence's numbers do not depend on the others. If a row does not fit, Outputs returns an error
// that wraps models.ErrSequence before it computes anything. Each batch is one call of Engine.Do. If ctx ends or emit returns
// an error, Outputs stops after the batch in progress.
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
