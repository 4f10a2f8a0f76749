// Attention by libtorch's scaled_dot_product_attention, for devices other than the CPU. On a GPU it runs flash or memory-efficient
// kernels, which keep no [T, T]. It was run on the CPU in float32, float64 and bfloat16, and not on a GPU.
#include "shim_internal.h"

#include <ATen/core/grad_mode.h>

namespace {

// shared repeats each key-value head for the consecutive query heads that share it: [B, heads, T, D] -> [B, Heads, T, D].
at::Tensor shared(const at::Tensor &x, int64_t heads) {
  const int64_t groups = heads / x.size(1);
  if (groups == 1) return x;
  return x.unsqueeze(2)
      .expand({x.size(0), x.size(1), groups, x.size(2), x.size(3)})
      .reshape({x.size(0), heads, x.size(2), x.size(3)});
}

// last is attention of queries at the last T of S positions: q [T, Heads, D], k and v [S, heads, D] -> [T, Heads, D]. A query sees
// the positions up to its own, at most window of them (0: all).
at::Tensor last(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, int64_t window, double scale) {
  const int64_t t = q.size(0), s = k.size(0);
  const bool whole = window <= 0 || window >= s, causal = t == s && whole;
  std::optional<at::Tensor> mask;
  if (!causal && !(t == 1 && whole)) {
    const auto options = at::TensorOptions().dtype(at::kLong).device(q.device());
    const at::Tensor own = at::arange(s - t, s, options).unsqueeze(1), key = at::arange(s, options);
    mask = key <= own;
    if (!whole) mask = mask->logical_and(key > own - window);
  }
  const auto batch = [](const at::Tensor &x) { return x.transpose(0, 1).unsqueeze(0); };
  return at::scaled_dot_product_attention(batch(q), shared(batch(k), q.size(1)), shared(batch(v), q.size(1)), mask, 0.0, causal,
                                          scale)
      .squeeze(0)
      .transpose(0, 1);
}

// run is some successive tokens of a step: those of one row, in order, which begin at column 0 of its slot, or any others.
struct run {
  int64_t from, count;
  bool row;
};

std::vector<run> runs(const int64_t *slots, const int64_t *positions, int64_t m, int64_t columns) {
  std::vector<run> list;
  for (int64_t i = 0; i < m;) {
    int64_t n = 1;
    while (i + n < m && slots[i + n] == slots[i] && positions[i + n] == positions[i] + n) n++;
    const bool row = n > 1 && positions[i + n - 1] < columns; // otherwise the row's first columns hold later positions
    if (!row && !list.empty() && !list.back().row)
      list.back().count += n;
    else
      list.push_back({i, n, row});
    i += n;
  }
  return list;
}

} // namespace

at::Tensor fused_packed_attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, const int64_t *numbers,
                                  size_t count, int64_t window, double scale) {
  std::vector<at::Tensor> parts;
  for (size_t i = 0; i + 3 < count; i += 4) {
    const int64_t prefix = numbers[i], length = numbers[i + 1], own = numbers[i + 2], n = numbers[i + 3];
    if (n == 0) continue;
    const auto rows = [&](const at::Tensor &x) {
      return length == 0 ? x.narrow(0, own, n) : at::cat({x.narrow(0, prefix, length), x.narrow(0, own, n)});
    };
    parts.push_back(last(q.narrow(0, own, n), rows(k), rows(v), window, scale));
  }
  return parts.empty() ? at::empty_like(q) : at::cat(parts);
}

char *shim_fused_attend(void **out, void *keys, void *values, void *query, void *slots, void *positions,
                        const int64_t *slot, const int64_t *position, size_t m, int64_t window, double scale) {
  TRY({
    at::NoGradGuard no_grad;
    const at::Tensor &kc = T(keys), &vc = T(values), q = T(query).contiguous(); // [M, Heads, 1, D]
    const int64_t heads = kc.size(1), columns = kc.size(2), d = kc.size(3);
    if (q.size(0) != static_cast<int64_t>(m) || q.size(1) % heads != 0 || q.size(-1) != d)
      throw std::invalid_argument("the query has another shape");
    std::vector<at::Tensor> parts;
    for (const run &r : runs(slot, position, q.size(0), columns)) {
      const at::Tensor part = q.narrow(0, r.from, r.count);
      if (r.row) {
        const int64_t seen = position[r.from + r.count - 1] + 1;
        const auto row = [&](const at::Tensor &x) { return x.select(0, slot[r.from]).narrow(1, 0, seen).transpose(0, 1); };
        parts.push_back(last(part.squeeze(2), row(kc), row(vc), window, scale).unsqueeze(2));
        continue;
      }
      // A column holds the position that is `back` before the token's own.
      const at::Tensor p = T(positions).narrow(0, r.from, r.count).unsqueeze(1);
      const at::Tensor back = (p - at::arange(columns, p.options())).remainder(columns);
      at::Tensor seen = back <= p;
      if (window > 0) seen = seen.logical_and(back < window);
      bool ascending = true; // as those of decoding rows are when all slots are taken: nothing is copied
      for (int64_t i = 1; i < r.count; i++) ascending = ascending && slot[r.from + i] == slot[r.from] + i;
      const auto rows = [&](const at::Tensor &x) {
        return ascending ? x.narrow(0, slot[r.from], r.count) : x.index_select(0, T(slots).narrow(0, r.from, r.count));
      };
      parts.push_back(at::scaled_dot_product_attention(part.view({r.count, heads, -1, d}), rows(kc), rows(vc),
                                                       seen.view({r.count, 1, 1, columns}), 0.0, false, scale)
                          .reshape({r.count, -1, 1, d}));
    }
    give(out, parts.empty() ? at::empty_like(q) : at::cat(parts));
  })
}
