package tensor

import (
	lib "github.com/sugarme/gotch/libtch"
)

// Gather picks along dim: out[i][j] = t[i][index[i][j]] for dim 1. index is Int64 with t's number of dimensions.
func (t *Tensor) Gather(dim int64, index *Tensor) *Tensor {
	s := t.enter("Gather")
	if s == nil || !s.takes("Gather", index) {
		return t.eng.invalid
	}
	lib.AtgGather(&s.eng.out[0], t.c, dim, index.c, 0)
	return s.result("Gather")
}

// IndexAdd is a copy of t with the slices of src along dim added at index, Int64 [N], one after the other.
func (t *Tensor) IndexAdd(dim int64, index, src *Tensor) *Tensor {
	s := t.enter("IndexAdd")
	if s == nil || !s.takes("IndexAdd", index) || !s.takes("IndexAdd", src) {
		return t.eng.invalid
	}
	lib.AtgIndexAdd(&s.eng.out[0], t.c, dim, index.c, src.c)
	return s.result("IndexAdd")
}

// IndexSelect picks whole slices along dim; index is Int64 [N].
func (t *Tensor) IndexSelect(dim int64, index *Tensor) *Tensor {
	s := t.enter("IndexSelect")
	if s == nil || !s.takes("IndexSelect", index) {
		return t.eng.invalid
	}
	lib.AtgIndexSelect(&s.eng.out[0], t.c, dim, index.c)
	return s.result("IndexSelect")
}

// Embedding looks up rows of t [V, D]: ids Int64 [...] -> [..., D].
func (t *Tensor) Embedding(ids *Tensor) *Tensor {
	s := t.enter("Embedding")
	if s == nil || !s.takes("Embedding", ids) {
		return t.eng.invalid
	}
	lib.AtgEmbedding(&s.eng.out[0], t.c, ids.c, -1, 0, 0)
	return s.result("Embedding")
}

// MaskedFill puts v where the Bool mask is true.
func (t *Tensor) MaskedFill(mask *Tensor, v float64) *Tensor {
	s := t.enter("MaskedFill")
	if s == nil || !s.takes("MaskedFill", mask) {
		return t.eng.invalid
	}
	c := scalar(v)
	lib.AtgMaskedFill(&s.eng.out[0], t.c, mask.c, c)
	lib.AtsFree(c)
	return s.result("MaskedFill")
}

// Tril keeps the lower triangle of the last two dimensions up to the diagonal, zeros elsewhere.
func (t *Tensor) Tril(diagonal int64) *Tensor {
	s := t.enter("Tril")
	if s == nil {
		return t.eng.invalid
	}
	lib.AtgTril(&s.eng.out[0], t.c, diagonal)
	return s.result("Tril")
}

// Triu keeps the upper triangle of the last two dimensions from the diagonal on, zeros elsewhere.
func (t *Tensor) Triu(diagonal int64) *Tensor {
	s := t.enter("Triu")
	if s == nil {
		return t.eng.invalid
	}
	lib.AtgTriu(&s.eng.out[0], t.c, diagonal)
	return s.result("Triu")
}
