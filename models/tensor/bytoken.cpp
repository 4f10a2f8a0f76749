// The by-token operations on tensors: by the kernels for float32 on the CPU, else by libtorch. An operation has gradients only
// where its comment says so. The libtorch form was run in float64 on the CPU, and not on a GPU.
#include "shim_internal.h"

#include "kernels.h"

#include <ATen/TensorIndexing.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

namespace {

using at::indexing::Slice;

bool fast(const at::Tensor &x) { return x.is_cpu() && x.scalar_type() == at::kFloat; }

const float *floats(const at::Tensor &x) { return x.data_ptr<float>(); }

void want(bool ok, const char *what) {
  if (!ok) throw std::invalid_argument(what);
}

void want_fast(const at::Tensor &x) {
  want(fast(x) && x.is_contiguous(), "want contiguous float32 on the CPU");
}

void want_ids(const at::Tensor &ids, int64_t n, int64_t most) {
  want(ids.is_cpu() && ids.scalar_type() == at::kLong && ids.is_contiguous() && ids.numel() == n,
       "want one contiguous int64 a token, on the CPU");
  const int64_t *p = ids.data_ptr<int64_t>();
  for (int64_t i = 0; i < n; i++) want(p[i] >= 0 && p[i] < most, "index out of range");
}

bool differentiable(std::initializer_list<at::Tensor> ts) {
  return at::GradMode::is_enabled() &&
         std::any_of(ts.begin(), ts.end(), [](const at::Tensor &t) { return t.requires_grad(); });
}

const uint16_t *halves(const at::Tensor &x) { return reinterpret_cast<const uint16_t *>(x.data_ptr()); }

kernels::cache cache_of(const at::Tensor &keys, const at::Tensor &values) {
  want_fast(keys);
  want_fast(values);
  want(keys.dim() == 4 && values.dim() == 4 && values.size(3) == kernels::cache_width(keys.size(2)) &&
           values.size(2) == keys.size(3) && values.size(1) == keys.size(1) && values.size(0) == keys.size(0) &&
           keys.size(2) * keys.size(3) >= 32,
       "keys and values are not those of a cache");
  return {keys.data_ptr<float>(), values.data_ptr<float>(), keys.size(1), keys.size(2), keys.size(3)};
}

at::Tensor pack(at::Tensor w) {
  want(w.is_cpu() && w.dim() == 2, "want a matrix on the CPU");
  if (w.scalar_type() != at::kBFloat16) w = w.to(at::kFloat);
  at::Tensor p = at::empty({kernels::panels(w.size(0)), w.size(1), kernels::PANEL}, w.options());
  if (w.scalar_type() == at::kBFloat16)
    kernels::pack(halves(w), w.size(0), w.size(1), w.stride(0), w.stride(1), static_cast<uint16_t *>(p.data_ptr()));
  else
    kernels::pack(floats(w), w.size(0), w.size(1), w.stride(0), w.stride(1), p.data_ptr<float>());
  return p;
}

} // namespace

char *shim_pack(void **out, void *weight) { TRY(give(out, pack(T(weight).detach()));) }

char *shim_pack_data(void **out, const void *data, size_t bytes, int dtype, int64_t rows, int64_t columns, int transpose) {
  TRY({
    const auto type = at::ScalarType(dtype);
    want(rows >= 0 && columns >= 0 && bytes == static_cast<size_t>(rows * columns) * at::elementSize(type),
         "the data's length does not match the shape");
    at::Tensor w;
    if (reinterpret_cast<uintptr_t>(data) % at::elementSize(type) == 0) {
      w = at::from_blob(const_cast<void *>(data), {rows, columns}, at::TensorOptions().dtype(type)); // read only
    } else {
      w = at::empty({rows, columns}, at::TensorOptions().dtype(type));
      memcpy(w.data_ptr(), data, bytes);
    }
    give(out, pack(transpose ? w.t() : w));
  })
}

int64_t shim_not_finite(const void *data, size_t bytes, int dtype) {
  switch (at::ScalarType(dtype)) {
  case at::kFloat: return kernels::not_finite<uint32_t>(data, bytes / 4, 0x7f800000);
  case at::kBFloat16: return kernels::not_finite<uint16_t>(data, bytes / 2, 0x7f80);
  case at::kHalf: return kernels::not_finite<uint16_t>(data, bytes / 2, 0x7c00);
  case at::kDouble: return kernels::not_finite<uint64_t>(data, bytes / 8, 0x7ff0000000000000);
  default: return -1;
  }
}

char *shim_packed_linear(void **out, void *input, void *packed, int64_t n, void *bias) {
  TRY({
    const at::Tensor x = T(input).contiguous(), &w = T(packed);
    want_fast(x);
    const int64_t k = w.size(1), m = x.numel() / std::max<int64_t>(k, 1);
    want(x.size(-1) == k && kernels::panels(n) == w.size(0), "the packed matrix has another shape");
    if (bias) want_fast(T(bias));
    if (bias) want(T(bias).numel() == n, "the bias has another size");
    auto shape = x.sizes().vec();
    shape.back() = n;
    at::Tensor y = at::empty(shape, x.options());
    const float *b = bias ? floats(T(bias)) : nullptr;
    if (w.scalar_type() == at::kBFloat16)
      kernels::linear(floats(x), halves(w), b, y.data_ptr<float>(), m, n, k);
    else
      kernels::linear(floats(x), floats(w), b, y.data_ptr<float>(), m, n, k);
    give(out, y);
  })
}

char *shim_packed_rows(void **out, void *packed, int64_t n, void *ids) {
  TRY({
    const at::Tensor &w = T(packed), &i = T(ids);
    want_ids(i, i.numel(), n);
    auto shape = i.sizes().vec();
    shape.push_back(w.size(1));
    at::Tensor y = at::empty(shape, w.options().dtype(at::kFloat));
    if (w.scalar_type() == at::kBFloat16)
      kernels::rows(halves(w), i.data_ptr<int64_t>(), y.data_ptr<float>(), i.numel(), w.size(1));
    else
      kernels::rows(floats(w), i.data_ptr<int64_t>(), y.data_ptr<float>(), i.numel(), w.size(1));
    give(out, y);
  })
}

char *shim_token_rms_norm(void **out, void *input, void *weight, double offset, double eps) {
  TRY({
    const at::Tensor x = T(input).contiguous(), &w = T(weight);
    want_fast(x);
    want_fast(w);
    want(w.numel() == x.size(-1), "the weight has another size");
    if (differentiable({x, w})) {
      give(out, differentiable_rms_norm(x, w, offset, eps));
      return nullptr;
    }
    at::Tensor y = at::empty_like(x);
    kernels::rms_norm(floats(x), floats(w), static_cast<float>(offset), y.data_ptr<float>(), x.numel() / w.numel(),
                      w.numel(), eps);
    give(out, y);
  })
}

char *shim_token_rotate(void **out, void *input, void *cos, void *sin, void *positions) {
  TRY({
    const at::Tensor x = T(input).contiguous(); // [M, 1, heads, D]
    want_fast(x);
    want_fast(T(cos));
    want_fast(T(sin));
    want(x.dim() == 4 && x.size(1) == 1 && T(cos).size(1) == x.size(3) && T(cos).sizes() == T(sin).sizes(),
         "want [M, 1, heads, D] and tables [positions, D]");
    want_ids(T(positions), x.size(0), T(cos).size(0));
    if (differentiable({x})) {
      give(out, differentiable_rotate(x, T(cos), T(sin), T(positions)));
      return nullptr;
    }
    at::Tensor y = at::empty_like(x);
    kernels::rotate(floats(x), floats(T(cos)), floats(T(sin)), T(positions).data_ptr<int64_t>(), y.data_ptr<float>(),
                    x.size(0), x.size(2), x.size(3));
    give(out, y);
  })
}

char *shim_token_gate(void **out, int f, void *first, void *second) {
  TRY({
    const at::Tensor a = T(first).contiguous(), b = T(second).contiguous();
    want_fast(a);
    want_fast(b);
    want(a.sizes() == b.sizes(), "two shapes");
    const int function = f == SHIM_SILU ? kernels::SILU : kernels::GELU_TANH;
    if (differentiable({a, b})) {
      give(out, differentiable_gate(function, a, b));
      return nullptr;
    }
    at::Tensor y = at::empty_like(a);
    kernels::gate(function, floats(a), floats(b), y.data_ptr<float>(), a.numel());
    give(out, y);
  })
}

int64_t shim_cache_width(int64_t d) { return kernels::cache_width(d); }

char *shim_cache_store(void *keys, void *values, void *key, void *value, void *slots, void *positions, int fused) {
  TRY({
    at::NoGradGuard no_grad;
    at::Tensor &kc = T(keys), &vc = T(values);
    const int64_t m = T(key).size(0), heads = kc.size(1), d = kc.size(fused ? 3 : 2), columns = kc.size(fused ? 2 : 3);
    const at::Tensor k = T(key).contiguous().view({m, heads, d}), v = T(value).contiguous().view({m, heads, d});
    if (fast(k) && !fused) {
      const kernels::cache c = cache_of(kc, vc);
      want_ids(T(slots), m, kc.size(0) - 1);
      want_ids(T(positions), m, INT64_MAX);
      kernels::store(c, floats(k), floats(v), T(slots).data_ptr<int64_t>(), T(positions).data_ptr<int64_t>(), m);
      return nullptr;
    }
    const at::Tensor column = T(positions).remainder(columns);
    if (fused)
      kc.index_put_({T(slots), Slice(), column}, k);
    else
      kc.index_put_({T(slots), Slice(), Slice(), column}, k);
    vc.slice(3, 0, d).index_put_({T(slots), Slice(), column}, v);
  })
}

char *shim_cache_attend(void **out, void *keys, void *values, void *query, void *slots, void *positions, int64_t window,
                        double scale) {
  TRY({
    at::NoGradGuard no_grad;
    const at::Tensor &kc = T(keys), &vc = T(values), q = T(query).contiguous(); // [M, Heads, 1, D]
    const int64_t m = q.size(0), heads = kc.size(1), d = kc.size(2), columns = kc.size(3);
    want(q.size(1) % heads == 0 && q.size(-1) == d && q.numel() == m * q.size(1) * d, "the query has another shape");
    const int64_t groups = q.size(1) / heads;
    if (fast(q)) {
      const kernels::cache c = cache_of(kc, vc);
      want_ids(T(slots), m, kc.size(0) - 1);
      want_ids(T(positions), m, window > 0 ? INT64_MAX : columns);
      at::Tensor y = at::empty_like(q);
      kernels::attend(c, floats(q), T(slots).data_ptr<int64_t>(), T(positions).data_ptr<int64_t>(), y.data_ptr<float>(),
                      m, groups, window, static_cast<float>(scale));
      give(out, y);
      return nullptr;
    }
    // A column holds the position that is `back` before the token's own.
    const at::Tensor p = T(positions).unsqueeze(1); // [M, 1]
    const at::Tensor back = (p - at::arange(columns, p.options())).remainder(columns);
    at::Tensor hidden = back > p;
    if (window > 0) hidden = hidden.logical_or(back >= window);
    const at::Tensor k = kc.index_select(0, T(slots)), v = vc.slice(3, 0, d).index_select(0, T(slots));
    const at::Tensor s = at::matmul(q.view({m, heads, groups, d}) * scale, k)
                             .masked_fill(hidden.view({m, 1, 1, columns}), -std::numeric_limits<float>::infinity());
    give(out, at::matmul(s.softmax(-1), v).view(q.sizes()));
  })
}

char *shim_log_softmax_at(void **out, void *scores, void *targets) {
  TRY({
    const at::Tensor x = T(scores).contiguous();
    if (!fast(x)) {
      give(out, x.to(x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat)
                    .log_softmax(-1)
                    .gather(1, T(targets).unsqueeze(1))
                    .squeeze(1));
      return nullptr;
    }
    want(x.dim() == 2, "want [N, V]");
    want_ids(T(targets), x.size(0), x.size(1));
    at::Tensor y = at::empty({x.size(0)}, x.options());
    kernels::log_softmax_at(floats(x), T(targets).data_ptr<int64_t>(), y.data_ptr<float>(), x.size(0), x.size(1));
    give(out, y);
  })
}

char *shim_sample(void *logits, const shim_draw_t *draws, const int64_t *seen, const shim_scored_t *bias, int64_t *tokens,
                  float *logps, shim_scored_t *list, size_t rows) {
  TRY({
    const at::Tensor x = T(logits).to(at::kCPU, at::kFloat).contiguous();
    want(x.dim() == 2 && x.size(0) == static_cast<int64_t>(rows), "want [rows, V]");
    std::vector<kernels::sampling> settings;
    for (size_t i = 0; i < rows; i++) {
      const shim_draw_t &d = draws[i];
      for (int64_t j = 0; j < d.seen; j++) want(seen[j] >= 0 && seen[j] < x.size(1), "token out of range");
      for (int64_t j = 0; j < d.biased; j++) want(bias[j].token >= 0 && bias[j].token < x.size(1), "token out of range");
      settings.push_back({d.temperature, d.top_p, d.min_p, d.top_k, d.repetition_penalty, d.u, seen, d.seen,
                          reinterpret_cast<const kernels::scored *>(bias), d.biased,
                          reinterpret_cast<kernels::scored *>(list), d.listed});
      seen += d.seen, bias += d.biased, list += d.listed;
    }
    kernels::sample(floats(x), settings.data(), tokens, logps, x.size(0), x.size(1));
  })
}
