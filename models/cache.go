package models

import (
	"fmt"

	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
)

// RowStep divides the number of rows of every batch in which a row's numbers must not depend on its place. Matrix products
// distribute blocks of rows over threads. With 5, 6, 7, 9, 10 or 11 rows and two threads, another kernel computes the last rows
// and gives other last bits. With a multiple of 4, one kernel computes all rows.
const RowStep = 4

// headRows is how many hidden states go through the output head together if the weights are not packed. It bounds the memory for
// the logits, [headRows, V]. Because it is fixed, the logits of a state do not depend on how many other states there are.
const headRows = 64

// Token is one token of a row.
type Token struct {
	ID       int64
	Slot     int // the row's slot in the cache
	Position int // in the row, from 0
}

// Cache stores the keys and values of rows that are computed token by token, each row in its own slot. A step takes any tokens of
// any rows. The result for a token depends only on that token and those before it in its row. With a packed model this holds to
// the last bit for any step. With another model it holds to the last bit between steps of equal size, and Step adds unused rows
// to reach a fixed size.
//
// A slot can be given to another row at any time: a row begins at position 0 and never sees earlier contents of the slot. A layer
// with a sliding window stores the window (and a step's tokens) instead of the whole row.
//
// A cache lives on the engine until Free. Its methods are called inside Engine.Do.
type Cache struct {
	m      *Model
	layers []*tensor.TokenCache
	slots  int
	length int
	burst  int
}

// CacheBytes returns the size of a cache in bytes.
func (m *Model) CacheBytes(size architecture.CacheSize) int64 {
	dtype, _ := elementType(m.dtype) // a model computes in a type that files have
	return m.cfg.CacheBytes(dtype, size)
}

// NewCache returns an empty cache. A Length above Config.MaxLength makes the scope fail with ErrSequence.
func (m *Model) NewCache(s *tensor.Scope, o architecture.CacheSize) *Cache {
	c := &Cache{m: m, slots: o.Slots, length: o.Length, burst: o.Burst}
	if o.Slots < 1 || o.Length < 1 || o.Burst < 1 || o.Length > m.cfg.MaxLength() {
		s.Fail(fmt.Errorf("%w: a cache of %d rows of %d tokens, %d in a step: the model takes 1 to %d tokens",
			ErrSequence, o.Slots, o.Length, o.Burst, m.cfg.MaxLength()))
		return c
	}
	m.net.reach(s, o.Length)
	for layer := range m.cfg.Layers {
		// One more slot, for the unused rows that Step adds.
		c.layers = append(c.layers, s.NewTokenCache(m.dtype, int64(o.Slots)+1, int64(m.cfg.KVHeads), int64(m.cfg.HeadDim),
			int64(o.Columns(m.cfg, layer))))
	}
	return c
}

// Free releases the cache.
func (c *Cache) Free() {
	for _, l := range c.layers {
		l.Free()
	}
}

// Step computes the final hidden state of each token, [M, H], and stores its key and value. Earlier tokens of a row must come
// first, and every position before a token must have been computed in its slot. If the model is not packed, Step adds unused rows
// up to the given number of rows, and to a multiple of RowStep.
func (c *Cache) Step(s *tensor.Scope, tokens []Token, rows int) *tensor.Tensor {
	n := len(tokens)
	if rows = (max(rows, n) + RowStep - 1) / RowStep * RowStep; c.m.packed != nil {
		rows = n
	}
	ids, slots, positions := make([]int64, rows), make([]int64, rows), make([]int64, rows)
	for i := range rows {
		if i >= n {
			slots[i] = int64(c.slots)
			continue
		}
		t := tokens[i]
		if t.Slot < 0 || t.Slot >= c.slots || t.Position < 0 || t.Position >= c.length {
			s.Fail(fmt.Errorf("%w: slot %d, position %d in a cache of %d rows of %d tokens", ErrSequence, t.Slot, t.Position,
				c.slots, c.length))
		}
		if t.ID < 0 || t.ID >= int64(c.m.cfg.Vocab) {
			s.Fail(fmt.Errorf("%w: token %d is not in the vocabulary of %d", ErrSequence, t.ID, c.m.cfg.Vocab))
		}
		ids[i], slots[i], positions[i] = t.ID, int64(t.Slot), int64(t.Position)
	}
	var h *tensor.Tensor
	err := s.NoGrad(func(s *tensor.Scope) error {
		at := s.TokenRows(slots, positions)
		p := pass{scope: s, packed: c.m.packed, adapted: c.m.adapter.byWeight(), positions: at.Positions}
		p.attend = func(_ *tensor.Scope, layer int, q, k, v *tensor.Tensor) *tensor.Tensor {
			c.layers[layer].Store(k, v, at)
			return c.layers[layer].Attend(q, at, int64(c.m.cfg.Window(layer)), c.m.cfg.AttentionScale())
		}
		h = c.m.net.hidden(c.m.net.embed(s.FromInt64(ids, int64(rows), 1), p), p)
		h = h.Reshape(int64(rows), int64(c.m.cfg.Hidden)).Narrow(0, 0, int64(n))
		return nil
	})
	s.Fail(err)
	if h == nil {
		return s.Zeros(c.m.dtype, 0) // invalid, as everything in a failed scope
	}
	return h
}

// Logits returns the logits of the next token, given the hidden states of a step: h [N, H] -> [N, V]. If the model is not packed,
// it computes them in groups of a fixed size.
func (c *Cache) Logits(s *tensor.Scope, h *tensor.Tensor) *tensor.Tensor {
	if c.m.packed != nil {
		return c.m.tokenLogits(h)
	}
	n := h.Size(0)
	var parts []*tensor.Tensor
	for i := int64(0); i < n; i += headRows {
		part := h.Narrow(0, i, min(headRows, n-i))
		if short := headRows - part.Size(0); short > 0 {
			part = s.Cat(0, part, s.Zeros(c.m.dtype, short, h.Size(1)))
		}
		parts = append(parts, c.m.tokenLogits(part))
	}
	return s.Cat(0, parts...).Narrow(0, 0, n)
}
