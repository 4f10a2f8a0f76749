package decode

import (
	"fmt"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
)

// Options are the size of a scheduler. With a packed model they decide speed and memory only, never a text; with another one
// Slots and Prefill decide the last bit.
type Options struct {
	Slots   int // rows that decode together, at least 1
	Length  int // tokens of a prompt and its response; 0 is the model's limit
	Prefill int // prompt tokens of one step at most; 0 is 256
	Queue   int // submitted requests that wait for a slot at most; 0 is 1024
}

// withDefaults fills in what is 0 for a model, and checks the rest.
func (o Options) withDefaults(cfg architecture.Config) (Options, error) {
	if o.Prefill == 0 {
		o.Prefill = 256
	}
	if o.Length == 0 {
		o.Length = cfg.MaxLength()
	}
	if o.Queue == 0 {
		o.Queue = 1024
	}
	if o.Slots < 1 || o.Prefill < 1 || o.Length < 1 || o.Queue < 1 {
		return o, fmt.Errorf("%w: Slots %d, Prefill %d, Length %d and Queue %d must be at least 1",
			ErrRequest, o.Slots, o.Prefill, o.Length, o.Queue)
	}
	if o.Length > cfg.MaxLength() {
		return o, fmt.Errorf("%w: Length is %d, the model takes %d tokens", ErrRequest, o.Length, cfg.MaxLength())
	}
	return o, nil
}

// cache is the size of the cache that the options ask for.
func (o Options) cache() architecture.CacheSize {
	return architecture.CacheSize{Slots: o.Slots, Length: o.Length, Burst: min(o.Prefill, o.Length)}
}

// CacheBytes is the memory of the keys and values of a model that decodes with these options.
func (o Options) CacheBytes(m *models.Model) int64 {
	if o.Prefill == 0 {
		o.Prefill = 256
	}
	if o.Length == 0 {
		o.Length = m.Config().MaxLength()
	}
	return m.CacheBytes(o.cache())
}

// SlotsFor is the greatest number of slots, up to most, whose cache fits the memory budget in bytes; at least 1.
func (o Options) SlotsFor(m *models.Model, budget int64, most int) int {
	o.Slots = 1
	one := o.CacheBytes(m)
	o.Slots = 2
	each := o.CacheBytes(m) - one
	return max(1, min(most, 1+int((budget-one)/max(each, 1))))
}
