package reward

import (
	"context"

	"github.com/ldalign/ldalign/models/tensor"
)

// Numbers counts the elements of the model's tensors.
func (m *Model) Numbers(ctx context.Context) (n int64) {
	if err := m.eng.Do(ctx, func(*tensor.Scope) error {
		for _, t := range m.kept {
			n += t.Numel()
		}
		return nil
	}); err != nil {
		panic(err)
	}
	return n
}
