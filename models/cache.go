package models

import (
	"fmt"
	"math"

	"github.com/ldalign/ldalign/models/tensor"
)

// Cache holds the keys and values of a group of rows that decode together. Row i has its prompt in columns 0 to
// len_i-1; the j-th token that it generates stands in column bucket+j, common to all rows, at position len_i+j. The
// gap between is never seen. The number of columns that a step looks at is a function of bucket and j alone, and
// attention is plain matmul, softmax, matmul (the flash kernel's bits depend on the other rows when there is one
// query): so a row's numbers depend neither on its neighbours nor on their lengths.
//
// A cache lives on the engine until Free. Its methods are called inside Engine.Do.
type Cache struct {
	m            *Model
	keys, values []*tensor.Tensor // of each layer: [B, KVHeads, columns, D]
	mask         *tensor.Tensor   // [B, 1, 1, columns]: 0 where a row looks, -inf elsewhere
	lens         *tensor.Tensor   // Int64 [B]
	last         *tensor.Tensor   // Int64 [B], the row of each prompt's last token in [B·bucket, H]
	rows         int64
	bucket       int64
	used         int64 // columns in use
	columns      int64
	step         int64
}

// NewCache makes room for one row per length: prompts of at most bucket tokens, and up to grow tokens behind each.
// Steps look at a multiple of step columns. The row's length plus grow must not be above Config.MaxLength.
func (m *Model) NewCache(s *tensor.Scope, lens []int, bucket, grow, step int) *Cache {
	c := &Cache{m: m, rows: int64(len(lens)), bucket: int64(bucket), step: int64(step)}
	c.columns = (int64(bucket+grow) + c.step - 1) / c.step * c.step
	mask := make([]float32, c.rows*c.columns)
	ends, last := make([]int64, len(lens)), make([]int64, len(lens))
	for i, n := range lens {
		if n < 1 || n > bucket || bucket > m.cfg.MaxLength() || n+grow > m.cfg.MaxLength() {
			s.Fail(fmt.Errorf("%w: row %d: a prompt of %d tokens padded to %d, and %d tokens more, the model takes %d",
				ErrSequence, i, n, bucket, grow, m.cfg.MaxLength()))
			return c
		}
		ends[i], last[i] = int64(n), int64(i*bucket+n-1)
		row := mask[int64(i)*c.columns:][:c.columns]
		for j := n; j < len(row); j++ {
			row[j] = float32(math.Inf(-1))
		}
	}
	shape := []int64{c.rows, int64(m.cfg.KVHeads), c.columns, int64(m.cfg.HeadDim)}
	for range m.cfg.Layers {
		c.keys = append(c.keys, s.Zeros(m.dtype, shape...).Keep())
		c.values = append(c.values, s.Zeros(m.dtype, shape...).Keep())
	}
	c.mask = s.FromFloat32(mask, c.rows, 1, 1, c.columns).To(m.dtype).Keep()
	c.lens = s.FromInt64(ends, c.rows).Keep()
	c.last = s.FromInt64(last, c.rows).Keep()
	return c
}

// Free releases the cache.
func (c *Cache) Free() {
	for _, t := range append(append(c.keys, c.values...), c.mask, c.lens, c.last) {
		t.Free()
	}
}

// Prefill takes the prompts, padded on the right to the bucket: ids [B·bucket], row after row -> the hidden state of
// each prompt's last token, [B, H].
func (c *Cache) Prefill(s *tensor.Scope, ids []int64) *tensor.Tensor {
	var h *tensor.Tensor
	err := s.NoGrad(func(s *tensor.Scope) error {
		x := c.m.net.embed(s.FromInt64(ids, c.rows, c.bucket))
		h = c.m.net.hidden(x, pass{attend: func(layer int, q, k, v *tensor.Tensor) *tensor.Tensor {
			c.keys[layer].Narrow(2, 0, c.bucket).Copy_(k)
			c.values[layer].Narrow(2, 0, c.bucket).Copy_(v)
			return causal(layer, q, k, v)
		}})
		h = h.Reshape(c.rows*c.bucket, int64(c.m.cfg.Hidden)).IndexSelect(0, c.last)
		return nil
	})
	s.Fail(err)
	c.used = c.bucket
	return h
}

// Step takes the next token of every row, ids [B] -> the hidden state of that token, [B, H].
func (c *Cache) Step(s *tensor.Scope, ids []int64) *tensor.Tensor {
	if c.used >= c.columns {
		s.Fail(fmt.Errorf("models: the cache's %d columns are full", c.columns))
	}
	column := c.used
	visible := min((column/c.step+1)*c.step, c.columns)
	var h *tensor.Tensor
	err := s.NoGrad(func(s *tensor.Scope) error {
		c.mask.Narrow(3, column, 1).Zero_()
		mask := c.mask.Narrow(3, 0, visible)
		positions := c.lens.AddScalar(float64(column - c.bucket))
		x := c.m.net.embed(s.FromInt64(ids, c.rows, 1))
		h = c.m.net.hidden(x, pass{positions: positions, attend: func(layer int, q, k, v *tensor.Tensor) *tensor.Tensor {
			keys, values := c.keys[layer], c.values[layer]
			keys.Narrow(2, column, 1).Copy_(k)
			values.Narrow(2, column, 1).Copy_(v)
			return c.attend(q, keys.Narrow(2, 0, visible), values.Narrow(2, 0, visible), mask)
		}})
		h = h.Reshape(c.rows, int64(c.m.cfg.Hidden))
		return nil
	})
	s.Fail(err)
	c.used++
	return h
}

// attend is attention of one query: q [B, Heads, 1, D], k and v [B, KVHeads, W, D], mask [B, 1, 1, W] -> [B, Heads, 1,
// D].
func (c *Cache) attend(q, k, v, mask *tensor.Tensor) *tensor.Tensor {
	cfg := c.m.cfg
	groups, dim := int64(cfg.KVHeads), int64(cfg.HeadDim)
	q = q.Reshape(c.rows, groups, int64(cfg.Heads)/groups, dim).MulScalar(1 / math.Sqrt(float64(dim)))
	p := q.Matmul(k.Transpose(2, 3)).Add(mask).Softmax(-1)
	return p.Matmul(v).Reshape(c.rows, int64(cfg.Heads), 1, dim)
}
