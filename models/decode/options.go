package decode

import (
	"fmt"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
)

// Options is the size of a scheduler. With a packed model it affects speed and memory only. With another model, Slots and Prefill
// also affect the last bits of scores, and so possibly a text.
type Options struct {
	Slots   int // rows that decode together, at least 1
	Length  int // tokens of a prompt and its response; 0 means the model's limit
	Prefill int // most prompt tokens in one step; 0 means architecture.Prefill
	Queue   int // most submitted requests that wait for a slot; 0 means 1024
}

// withDefaults replaces zeros by the defaults for a model, and checks the result.
func (o Options) withDefaults(cfg architecture.Config) (Options, error) {
	if o.Prefill == 0 {
		o.Prefill = architecture.Prefill
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

// cache returns the size of the cache.
func (o Options) cache() architecture.CacheSize {
	return architecture.CacheSize{Slots: o.Slots, Length: o.Length, Burst: min(o.Prefill, o.Length)}
}

// CacheBytes returns the bytes that the cache of a model takes with these options.
func (o Options) CacheBytes(m *models.Model) int64 {
	if o.Prefill == 0 {
		o.Prefill = architecture.Prefill
	}
	if o.Length == 0 {
		o.Length = m.Config().MaxLength()
	}
	return m.CacheBytes(o.cache())
}

// SlotsFor returns the greatest number of slots, at least 1 and at most most, whose cache fits budget bytes.
func (o Options) SlotsFor(m *models.Model, budget int64, most int) int {
	o.Slots = 1
	one := o.CacheBytes(m)
	o.Slots = 2
	each := o.CacheBytes(m) - one
	return max(1, min(most, 1+int((budget-one)/max(each, 1))))
}
