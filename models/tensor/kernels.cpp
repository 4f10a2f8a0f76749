#include "kernels_internal.h"

#include <memory>
#include <numeric>

namespace kernels {
namespace {

// ---- packed linear maps ----

constexpr int64_t DEPTH = 192; // of a block of k: a block of a panel stays in the first-level cache
constexpr int64_t AHEAD = 16 * DEPTH;

// tile computes MR rows of one panel over a block of k. Every element is a chain of fused multiply-adds in the order of k.
template <int MR, class T>
INLINE void tile_body(const float *x, int64_t ldx, const T *w, float *y, int64_t ldy, int64_t depth, bool first) {
  vec acc[MR][2];
  UNROLL for (int i = 0; i < MR; i++) acc[i][0] = acc[i][1] = vec{};
  _Pragma("GCC unroll 4") for (int64_t k = 0; k < depth; k++) {
    vec a, b;
    load(a, w + k * PANEL);
    load(b, w + k * PANEL + LANES);
    __builtin_prefetch(w + k * PANEL + AHEAD);
    UNROLL for (int i = 0; i < MR; i++) {
      const float s = x[i * ldx + k];
      acc[i][0] += a * s;
      acc[i][1] += b * s;
    }
  }
  UNROLL for (int i = 0; i < MR; i++) {
    float *out = y + i * ldy;
    if (!first) {
      vec a, b;
      load(a, out);
      load(b, out + LANES);
      acc[i][0] += a;
      acc[i][1] += b;
    }
    store_vec(out, acc[i][0]);
    store_vec(out + LANES, acc[i][1]);
  }
}

// widened returns a block of a panel as float32: the block itself, or a copy in buffer if it is used often enough to be worth
// one.
INLINE const float *widened(const float *block, int64_t, int64_t, float *) { return block; }
INLINE const float *widened(const uint16_t *block, int64_t depth, int64_t m, float *buffer) {
  if (m <= 6) return nullptr;
  for (int64_t i = 0; i < depth * PANEL; i += LANES) {
    vec v;
    load(v, block + i);
    store_vec(buffer + i, v);
  }
  return buffer;
}

// block computes all rows of one panel over a block of k.
template <class T>
INLINE void block_body(const float *x, const T *w, float *y, int64_t ldy, int64_t m, int64_t k, int64_t depth,
                       bool first) {
  int64_t row = 0;
  while (row < m) {
    const float *from = x + row * k;
    float *to = y + row * ldy;
    const int64_t left = m - row;
    if (left == 6 || left > 8) {
      tile_body<6>(from, k, w, to, ldy, depth, first);
      row += 6;
    } else if (left >= 4) {
      tile_body<4>(from, k, w, to, ldy, depth, first);
      row += 4;
    } else if (left >= 2) {
      tile_body<2>(from, k, w, to, ldy, depth, first);
      row += 2;
    } else {
      tile_body<1>(from, k, w, to, ldy, depth, first);
      row += 1;
    }
  }
}

// panel computes all rows of one panel: y [m, PANEL] with row stride ldy.
template <class T>
INLINE void panel_body(const float *x, int64_t ldx, const T *w, float *y, int64_t ldy, int64_t m, int64_t k, bool add) {
  float buffer[DEPTH * PANEL];
  for (int64_t at = 0; at < k; at += DEPTH) {
    const int64_t depth = std::min(DEPTH, k - at);
    const T *block = w + at * PANEL;
    if (const float *wide = widened(block, depth, m, buffer))
      block_body(x + at, wide, y, ldy, m, ldx, depth, at == 0 && !add);
    else
      block_body(x + at, block, y, ldy, m, ldx, depth, at == 0 && !add);
  }
}

template <class T>
void panel_any(const float *x, int64_t ldx, const T *w, float *y, int64_t ldy, int64_t m, int64_t k, bool add) {
  panel_body(x, ldx, w, y, ldy, m, k, add);
}
#ifdef KERNELS_AVX2
template <class T>
TARGET_AVX2 void panel_avx2(const float *x, int64_t ldx, const T *w, float *y, int64_t ldy, int64_t m, int64_t k,
                            bool add) {
  panel_body(x, ldx, w, y, ldy, m, k, add);
}

// ---- the same sums for AVX-512: a register holds a panel's row, and a tile may be two panels wide ----

typedef float wide __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t iwide __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t hwide __attribute__((vector_size(32), aligned(2), may_alias));

INLINE void load(wide &to, const float *p) { to = *reinterpret_cast<const wide *>(p); }
INLINE void load(wide &to, const uint16_t *p) {
  iwide bits = __builtin_convertvector(*reinterpret_cast<const hwide *>(p), iwide) << 16;
  to = reinterpret_cast<wide &>(bits);
}

// tile512 computes MR rows of NP panels, which are stride apart, over a block of k.
template <int MR, int NP, class T>
INLINE void tile512_body(const float *x, int64_t ldx, const T *w, int64_t stride, float *y, int64_t ldy, int64_t depth,
                         bool first) {
  wide acc[MR][NP];
  UNROLL for (int i = 0; i < MR; i++) UNROLL for (int p = 0; p < NP; p++) acc[i][p] = wide{};
  for (int64_t k = 0; k < depth; k++) {
    wide a[NP];
    UNROLL for (int p = 0; p < NP; p++) {
      load(a[p], w + p * stride + k * PANEL);
      __builtin_prefetch(w + p * stride + k * PANEL + AHEAD);
    }
    UNROLL for (int i = 0; i < MR; i++) {
      const float s = x[i * ldx + k];
      UNROLL for (int p = 0; p < NP; p++) acc[i][p] += a[p] * s;
    }
  }
  UNROLL for (int i = 0; i < MR; i++) UNROLL for (int p = 0; p < NP; p++) {
    float *out = y + i * ldy + p * PANEL;
    if (!first) {
      wide before;
      load(before, out);
      acc[i][p] += before;
    }
    *reinterpret_cast<wide *>(out) = acc[i][p];
  }
}

template <int NP, class T>
INLINE void block512_body(const float *x, const T *w, int64_t stride, float *y, int64_t ldy, int64_t m, int64_t k,
                          int64_t depth, bool first) {
  int64_t row = 0;
  const auto rows = [&](auto count) __attribute__((always_inline)) {
    constexpr int MR = decltype(count)::value;
    for (; m - row >= MR; row += MR)
      tile512_body<MR, NP>(x + row * k, k, w, stride, y + row * ldy, ldy, depth, first);
  };
  rows(std::integral_constant<int, 12>());
  rows(std::integral_constant<int, 8>());
  rows(std::integral_constant<int, 4>());
  rows(std::integral_constant<int, 2>());
  rows(std::integral_constant<int, 1>());
}

// panels512 computes all rows of NP panels: y [m, NP·PANEL] with row stride ldy.
template <int NP, class T>
TARGET_AVX512 void panels512(const float *x, int64_t ldx, const T *w, float *y, int64_t ldy, int64_t m, int64_t k,
                             bool add) {
  float buffer[NP * DEPTH * PANEL];
  for (int64_t at = 0; at < k; at += DEPTH) {
    const int64_t depth = std::min(DEPTH, k - at);
    const T *block = w + at * PANEL;
    const float *copy = nullptr;
    for (int p = 0; p < NP; p++) copy = widened(block + p * k * PANEL, depth, m, buffer + p * DEPTH * PANEL);
    if (std::is_same<T, uint16_t>::value && copy)
      block512_body<NP>(x + at, buffer, DEPTH * PANEL, y, ldy, m, ldx, depth, at == 0 && !add);
    else
      block512_body<NP>(x + at, block, k * PANEL, y, ldy, m, ldx, depth, at == 0 && !add);
  }
}
#endif

} // namespace

int64_t panels(int64_t n) { return (n + PANEL - 1) / PANEL; }

template <class T> void pack(const T *w, int64_t n, int64_t k, int64_t stride_n, int64_t stride_k, T *out) {
  constexpr int64_t TILE = 32; // of k: rows often lie a power of two apart, and would push each other out of the cache
  parallel(panels(n), 4, [&] {
    return [&](int64_t p) {
      const int64_t columns = std::min(PANEL, n - p * PANEL);
      for (int64_t at = 0; at < k; at += TILE) {
        const int64_t depth = std::min(TILE, k - at);
        const T *from = w + p * PANEL * stride_n + at * stride_k;
        T tile[PANEL][TILE] = {}, *to = out + (p * k + at) * PANEL;
        if (stride_k == 1) {
          for (int64_t i = 0; i < columns; i++) memcpy(tile[i], from + i * stride_n, depth * sizeof(T));
        } else {
          for (int64_t j = 0; j < depth; j++)
            for (int64_t i = 0; i < columns; i++) tile[i][j] = from[i * stride_n + j * stride_k];
        }
        for (int64_t j = 0; j < depth; j++)
          for (int64_t i = 0; i < PANEL; i++) to[j * PANEL + i] = tile[i][j];
      }
    };
  });
}
template void pack(const float *, int64_t, int64_t, int64_t, int64_t, float *);
template void pack(const uint16_t *, int64_t, int64_t, int64_t, int64_t, uint16_t *);

namespace {

// any_not_finite reports whether any of n numbers is NaN or infinite.
template <class T> INLINE bool any_not_finite_body(const uint8_t *p, int64_t n, T exponent) {
  constexpr int64_t lanes = 32 / sizeof(T);
  typedef T bits __attribute__((vector_size(32), aligned(1), may_alias));
  bits bad = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto found = (*reinterpret_cast<const bits *>(p + i * sizeof(T)) & exponent) == exponent;
    bad |= reinterpret_cast<const bits &>(found);
  }
  T all = 0;
  for (int64_t l = 0; l < lanes; l++) all |= bad[l];
  for (; i < n; i++) {
    T x;
    memcpy(&x, p + i * sizeof(T), sizeof(T));
    all |= (x & exponent) == exponent;
  }
  return all != 0;
}
template <class T> bool any_not_finite_any(const uint8_t *p, int64_t n, T exponent) {
  return any_not_finite_body(p, n, exponent);
}
#ifdef KERNELS_AVX2
template <class T> TARGET_AVX2 bool any_not_finite_avx2(const uint8_t *p, int64_t n, T exponent) {
  return any_not_finite_body(p, n, exponent);
}
#endif

} // namespace

template <class T> int64_t not_finite(const void *numbers, int64_t n, T exponent) {
  constexpr int64_t block = 1 << 16;
  const uint8_t *from = static_cast<const uint8_t *>(numbers);
  std::atomic<int64_t> first{INT64_MAX};
  parallel((n + block - 1) / block, 1, [&] {
    return [&](int64_t b) {
      const int64_t at = b * block, count = std::min(block, n - at);
      if (at >= first.load() || !DISPATCH(any_not_finite, from + at * sizeof(T), count, exponent)) return;
      for (int64_t i = at; i < at + count; i++) {
        T x;
        memcpy(&x, from + i * sizeof(T), sizeof(T));
        if ((x & exponent) != exponent) continue;
        int64_t least = first.load();
        while (i < least && !first.compare_exchange_weak(least, i)) {
        }
        return;
      }
    };
  });
  return first.load() == INT64_MAX ? -1 : first.load();
}
template int64_t not_finite(const void *, int64_t, uint16_t);
template int64_t not_finite(const void *, int64_t, uint32_t);
template int64_t not_finite(const void *, int64_t, uint64_t);

namespace {

// multiply is y[m, n] = x[m, k] · wᵀ + bias, or adds that to y, for a packed w and the given row strides.
template <class T>
void multiply(const float *x, int64_t ldx, const T *w, const float *bias, float *y, int64_t ldy, int64_t m, int64_t n,
              int64_t k, bool add) {
  const auto add_bias = [&](int64_t at, int64_t columns) {
    if (bias)
      for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < columns; j++) y[i * ldy + at + j] += bias[at + j];
  };
  int64_t done = 0; // panels
#ifdef KERNELS_AVX2
  if (avx512) {
    const int64_t pairs = n / PANEL / 2;
    parallel(pairs, 1, [&] {
      return [&](int64_t pair) {
        const int64_t at = pair * 2 * PANEL;
        panels512<2>(x, ldx, w + at * k, y + at, ldy, m, k, add);
        add_bias(at, 2 * PANEL);
      };
    });
    done = pairs * 2;
  }
#endif
  parallel(panels(n) - done, 2, [&] {
    return [&, edge = std::vector<float>()](int64_t p) mutable {
      const int64_t at = (done + p) * PANEL, columns = std::min(PANEL, n - at);
      float *to = y + at;
      int64_t ld = ldy;
      if (columns < PANEL) { // the last panel is wider than what is left of y
        edge.resize(m * PANEL);
        to = edge.data();
        ld = PANEL;
        if (add)
          for (int64_t i = 0; i < m; i++) memcpy(to + i * PANEL, y + i * ldy + at, columns * sizeof(float));
      }
      DISPATCH(panel, x, ldx, w + at * k, to, ld, m, k, add);
      if (columns < PANEL)
        for (int64_t i = 0; i < m; i++) memcpy(y + i * ldy + at, to + i * PANEL, columns * sizeof(float));
      add_bias(at, columns);
    };
  });
}

} // namespace

template <class T>
void linear(const float *x, const T *w, const float *bias, float *y, int64_t m, int64_t n, int64_t k) {
  multiply(x, k, w, bias, y, n, m, n, k, false);
}
template void linear(const float *, const float *, const float *, float *, int64_t, int64_t, int64_t);
template void linear(const float *, const uint16_t *, const float *, float *, int64_t, int64_t, int64_t);

bool fast_products() { return avx512; }

void product(const matrix &a, const matrix &b, float *y, int64_t m, int64_t n, int64_t k, bool add) {
  // The packed part of b stays in the last-level cache, and the part of a that is read beside it in the second-level cache.
  constexpr int64_t depth = 8 * DEPTH, columns = 2048, height = 512;
  const std::unique_ptr<float[]> packed(new float[panels(std::min(n, columns)) * PANEL * std::min(k, depth)]);
  std::unique_ptr<float[]> copy;
  for (int64_t l = 0; l < k; l += depth) {
    const int64_t d = std::min(depth, k - l);
    for (int64_t j = 0; j < n; j += columns) {
      const int64_t c = std::min(columns, n - j);
      pack(b.data + l * b.row + j * b.column, c, d, b.column, b.row, packed.get());
      for (int64_t i = 0; i < m; i += height) {
        const int64_t h = std::min(height, m - i);
        const float *x = a.data + i * a.row + l * a.column;
        int64_t ldx = a.row;
        if (a.column != 1 || a.row > 2 * depth) {
          if (!copy) copy.reset(new float[std::min(m, height) * std::min(k, depth)]);
          parallel((h + 15) / 16, 1, [&] {
            return [&](int64_t block) { // 16 rows at a time: a line of a transposed matrix holds as many
              const int64_t from = block * 16, to = std::min(h, from + 16);
              if (a.column == 1) {
                for (int64_t r = from; r < to; r++) memcpy(copy.get() + r * d, x + r * a.row, d * sizeof(float));
                return;
              }
              for (int64_t t = 0; t < d; t++)
                for (int64_t r = from; r < to; r++) copy[r * d + t] = x[r * a.row + t * a.column];
            };
          });
          x = copy.get();
          ldx = d;
        }
        multiply(x, ldx, packed.get(), static_cast<const float *>(nullptr), y + i * n + j, n, h, c, d, add || l > 0);
      }
    }
  }
}

template <class T> void rows(const T *w, const int64_t *ids, float *out, int64_t count, int64_t k) {
  for (int64_t i = 0; i < count; i++) {
    const T *from = w + ids[i] / PANEL * k * PANEL + ids[i] % PANEL;
    for (int64_t j = 0; j < k; j++) out[i * k + j] = widen(from[j * PANEL]);
  }
}
template void rows(const float *, const int64_t *, float *, int64_t, int64_t);
template void rows(const uint16_t *, const int64_t *, float *, int64_t, int64_t);

// ---- elementwise ----

void rms_norm(const float *x, const float *weight, float offset, float *y, int64_t rows, int64_t d, double eps) {
  parallel(rows, share(rows, rows * d), [&] {
    return [&](int64_t i) {
      const float *in = x + i * d;
      float *out = y + i * d;
      vec squares = {}, v;
      int64_t at = 0;
      for (; at + LANES <= d; at += LANES) {
        load(v, in + at);
        squares += v * v;
      }
      float sum = sum_vec(squares);
      for (; at < d; at++) sum += in[at] * in[at];
      const float scale = 1.0f / std::sqrt(sum / static_cast<float>(d) + static_cast<float>(eps));
      for (int64_t j = 0; j < d; j++) out[j] = (weight[j] + offset) * (in[j] * scale);
    };
  });
}

void rotate(const float *x, const float *cos, const float *sin, const int64_t *positions, float *y, int64_t tokens,
            int64_t heads, int64_t d, bool inverse) {
  const int64_t half = d / 2;
  parallel(tokens, share(tokens, tokens * heads * d), [&] {
    return [&](int64_t t) {
      const float *c = cos + positions[t] * d, *s = sin + positions[t] * d;
      const float *first = inverse ? s + half : s, *second = inverse ? s : s + half;
      for (int64_t h = 0; h < heads; h++) {
        const float *in = x + (t * heads + h) * d;
        float *out = y + (t * heads + h) * d;
        for (int64_t i = 0; i < half; i++) {
          out[i] = in[i] * c[i] + in[i + half] * first[i];
          out[i + half] = in[i + half] * c[i + half] + in[i] * second[i];
        }
      }
    };
  });
}

namespace {

INLINE vec gate_vec(int f, vec a, vec b) {
  if (f == SILU) return a / (exp_vec(-a) + 1.0f) * b;
  // GELU by tanh: a·sigmoid(2u), u = √(2/π)·(a + 0.044715·a³)
  const vec u = (a + a * a * a * 0.044715f) * 1.5957691216057308f;
  return a / (exp_vec(-u) + 1.0f) * b;
}

INLINE void gate_body(int f, const float *a, const float *b, float *y, int64_t n) {
  for (int64_t i = 0; i < n; i += LANES) {
    float in[2 * LANES] = {}, out[LANES];
    vec u, v;
    if (i + LANES <= n) {
      load(u, a + i);
      load(v, b + i);
      store_vec(y + i, gate_vec(f, u, v));
      continue;
    }
    memcpy(in, a + i, (n - i) * sizeof(float));
    memcpy(in + LANES, b + i, (n - i) * sizeof(float));
    load(u, in);
    load(v, in + LANES);
    store_vec(out, gate_vec(f, u, v));
    memcpy(y + i, out, (n - i) * sizeof(float));
  }
}

void gate_any(int f, const float *a, const float *b, float *y, int64_t n) { gate_body(f, a, b, y, n); }
#ifdef KERNELS_AVX2
TARGET_AVX2 void gate_avx2(int f, const float *a, const float *b, float *y, int64_t n) { gate_body(f, a, b, y, n); }
#endif

} // namespace

void gate(int f, const float *a, const float *b, float *y, int64_t n) {
  constexpr int64_t part = 4096;
  parallel((n + part - 1) / part, 1, [&] {
    return [&](int64_t p) {
      const int64_t i = p * part;
      DISPATCH(gate, f, a + i, b + i, y + i, std::min(part, n - i));
    };
  });
}

// ---- attention over a cache ----

int64_t cache_width(int64_t d) { return (d + LANES - 1) / LANES * LANES; }

void store(const cache &c, const float *k, const float *v, const int64_t *slots, const int64_t *positions,
           int64_t tokens) {
  const int64_t width = cache_width(c.d);
  parallel(tokens * c.heads, 32, [&] {
    return [&](int64_t item) {
      const int64_t t = item / c.heads, row = slots[t] * c.heads + item % c.heads, column = positions[t] % c.columns;
      float *keys = c.keys + row * c.d * c.columns + column;
      for (int64_t i = 0; i < c.d; i++) keys[i * c.columns] = k[item * c.d + i];
      memcpy(c.values + (row * c.columns + column) * width, v + item * c.d, c.d * sizeof(float));
    };
  });
}

namespace {

// scores of Q queries [d] for columns of keys [d, columns], NV vectors of them at a time: s[q, j] = q·k_j. It computes whole
// vectors, so it reads and writes up to OVERRUN columns more than count; these are ignored.
template <int Q, int NV>
INLINE void scores_body(const float *q, int64_t d, const float *keys, int64_t columns, int64_t count, float *s,
                        int64_t lds) {
  for (int64_t j = 0; j < count; j += NV * LANES) {
    vec acc[Q][NV];
    UNROLL for (int i = 0; i < Q; i++) UNROLL for (int l = 0; l < NV; l++) acc[i][l] = vec{};
    for (int64_t t = 0; t < d; t++) {
      vec a[NV];
      UNROLL for (int l = 0; l < NV; l++) load(a[l], keys + t * columns + j + l * LANES);
      UNROLL for (int i = 0; i < Q; i++) {
        const float x = q[i * d + t];
        UNROLL for (int l = 0; l < NV; l++) acc[i][l] += a[l] * x;
      }
    }
    UNROLL for (int i = 0; i < Q; i++) UNROLL for (int l = 0; l < NV; l++)
        store_vec(s + i * lds + j + l * LANES, acc[i][l]);
  }
}

// softmax of s[0..n) without the division by the sum, which it returns.
INLINE float softmax_body(float *s, int64_t n, float scale) {
  float most = -std::numeric_limits<float>::infinity();
  for (int64_t j = 0; j < n; j++) most = std::max(most, s[j]);
  vec sum = {};
  for (int64_t j = 0; j < n; j += LANES) { // s has room for whole vectors
    vec v;
    for (int64_t i = n - j; i < LANES; i++) s[j + i] = -std::numeric_limits<float>::infinity();
    load(v, s + j);
    v = exp_vec((v - most) * scale);
    sum += v;
    store_vec(s + j, v);
  }
  return sum_vec(sum);
}

// mix adds count values [width]: out[q, ·] += Σ_j p[q, j]·v_j, in the order of j, NV vectors of width at a time.
template <int Q, int NV>
INLINE void mix_body(const float *p, int64_t ldp, const float *values, int64_t width, int64_t count, float *out) {
  vec acc[Q][NV];
  UNROLL for (int i = 0; i < Q; i++) UNROLL for (int l = 0; l < NV; l++) load(acc[i][l], out + i * width + l * LANES);
  for (int64_t j = 0; j < count; j++) {
    vec a[NV];
    UNROLL for (int l = 0; l < NV; l++) load(a[l], values + j * width + l * LANES);
    UNROLL for (int i = 0; i < Q; i++) {
      const float x = p[i * ldp + j];
      UNROLL for (int l = 0; l < NV; l++) acc[i][l] += a[l] * x;
    }
  }
  UNROLL for (int i = 0; i < Q; i++) UNROLL for (int l = 0; l < NV; l++)
      store_vec(out + i * width + l * LANES, acc[i][l]);
}

// span is what a token attends to: one key-value head of its row, positions first to last.
struct span {
  const float *keys, *values;
  int64_t columns, d, width, first, last;
  float scale;
};

// head is Q query heads of one token: q [Q, d] -> out [Q, d]. s and mixed are scratch: [Q, lds] and [Q, width].
template <int Q, int NV>
INLINE void head_body(const span &in, const float *q, float *s, int64_t lds, float *mixed, float *out) {
  const int64_t n = in.last - in.first + 1;
  for (int64_t j = 0; j < n;) { // up to two pieces where the ring ends
    const int64_t column = (in.first + j) % in.columns, count = std::min(n - j, in.columns - column);
    scores_body<Q, NV>(q, in.d, in.keys + column, in.columns, count, s + j, lds);
    j += count;
  }
  float sum[Q];
  for (int i = 0; i < Q; i++) sum[i] = softmax_body(s + i * lds, n, in.scale);
  memset(mixed, 0, Q * in.width * sizeof(float));
  for (int64_t j = 0; j < n;) {
    const int64_t column = (in.first + j) % in.columns, count = std::min(n - j, in.columns - column);
    const float *values = in.values + column * in.width;
    int64_t at = 0;
    for (; at + NV * LANES <= in.width; at += NV * LANES)
      mix_body<Q, NV>(s + j, lds, values + at, in.width, count, mixed + at);
    for (; at < in.width; at += LANES) mix_body<Q, 1>(s + j, lds, values + at, in.width, count, mixed + at);
    j += count;
  }
  for (int i = 0; i < Q; i++) {
    const float share = 1.0f / sum[i];
    for (int64_t t = 0; t < in.d; t++) out[i * in.d + t] = mixed[i * in.width + t] * share;
  }
}

INLINE void group_body(const span &in, int64_t groups, const float *q, float *s, int64_t lds, float *mixed, float *out) {
  int64_t g = 0;
  for (; g + 4 <= groups; g += 4) head_body<4, 2>(in, q + g * in.d, s, lds, mixed, out + g * in.d);
  for (; g + 3 <= groups; g += 3) head_body<3, 2>(in, q + g * in.d, s, lds, mixed, out + g * in.d);
  for (; g < groups; g++) head_body<1, 4>(in, q + g * in.d, s, lds, mixed, out + g * in.d);
}

void group_any(const span &in, int64_t groups, const float *q, float *s, int64_t lds, float *mixed, float *out) {
  group_body(in, groups, q, s, lds, mixed, out);
}
#ifdef KERNELS_AVX2
TARGET_AVX2 void group_avx2(const span &in, int64_t groups, const float *q, float *s, int64_t lds, float *mixed,
                            float *out) {
  group_body(in, groups, q, s, lds, mixed, out);
}
#endif

} // namespace

void attend(const cache &c, const float *q, const int64_t *slots, const int64_t *positions, float *out, int64_t tokens,
            int64_t groups, int64_t window, float scale) {
  const int64_t width = cache_width(c.d);
  parallel(tokens * c.heads, 1, [&] {
    return [&, s = std::vector<float>(), mixed = std::vector<float>(4 * width)](int64_t item) mutable {
      const int64_t t = item / c.heads, h = item % c.heads, last = positions[t];
      const int64_t first = window > 0 ? std::max<int64_t>(0, last - window + 1) : 0;
      const int64_t lds = last - first + 1 + OVERRUN, row = slots[t] * c.heads + h, at = item * groups * c.d;
      if (static_cast<int64_t>(s.size()) < 4 * lds) s.resize(4 * lds);
      const span in = {c.keys + row * c.d * c.columns, c.values + row * c.columns * width, c.columns, c.d, width,
                       first, last, scale};
      DISPATCH(group, in, groups, q + at, s.data(), lds, mixed.data(), out + at);
    };
  });
}

// ---- log-probabilities and sampling ----

namespace {

// weights writes exp((x - most)·scale) of n numbers to out, which has room for whole vectors, and returns their sum.
INLINE double weights_body(const float *x, int64_t n, float most, float scale, float *out) {
  double total = 0;
  for (int64_t j = 0; j < n; j += 64 * LANES) {
    vec sum = {};
    const int64_t end = std::min(n, j + 64 * LANES);
    for (int64_t i = j; i < end; i += LANES) {
      vec v;
      if (i + LANES <= n) {
        load(v, x + i);
      } else {
        for (int64_t l = 0; l < LANES; l++) v[l] = i + l < n ? x[i + l] : -std::numeric_limits<float>::infinity();
      }
      v = exp_vec((v - most) * scale);
      sum += v;
      if (out) store_vec(out + i, v);
    }
    total += sum_vec(sum);
  }
  return total;
}
double weights_any(const float *x, int64_t n, float most, float scale, float *out) {
  return weights_body(x, n, most, scale, out);
}
#ifdef KERNELS_AVX2
TARGET_AVX2 double weights_avx2(const float *x, int64_t n, float most, float scale, float *out) {
  return weights_body(x, n, most, scale, out);
}
#endif

double log_sum_exp(const float *x, int64_t n, float most) {
  return most + std::log(DISPATCH(weights, x, n, most, 1.0f, nullptr));
}

// greatest returns the index of the first greatest number, or -1 if a number is not finite.
int64_t greatest(const float *x, int64_t n) {
  int64_t at = 0;
  float bad = 0;
  for (int64_t i = 0; i < n; i++) {
    bad += x[i] * 0;
    if (x[i] > x[at]) at = i;
  }
  return bad == 0 ? at : -1;
}

// draw inverts the cumulative distribution of n weights at u. A weight of 0 is never drawn.
template <class Weight> int64_t draw(int64_t n, double total, double u, Weight weight) {
  double mass = 0;
  int64_t last = 0;
  for (int64_t i = 0; i < n; i++) {
    const double w = weight(i);
    if (w == 0) continue;
    mass += w;
    last = i;
    if (mass > u * total) return i;
  }
  return last; // rounding left a little above the sum
}

struct candidate {
  float weight;
  int64_t token;
  bool operator<(const candidate &o) const { return weight != o.weight ? weight > o.weight : token < o.token; }
};

// pick draws a token among the weights [v] that top-k, top-p and min-p leave.
int64_t pick(const float *w, int64_t v, double total, const sampling &o) {
  if (o.top_k == 0 && o.top_p >= 1 && o.min_p == 0) return draw(v, total, o.u, [&](int64_t i) { return w[i]; });
  std::vector<candidate> list;
  const float least = static_cast<float>(o.min_p); // the greatest weight is 1
  const bool min_first = o.top_k == 0; // what top-p counts is what top-k leaves, min-p comes behind
  for (int64_t i = 0; i < v; i++)
    if (w[i] > 0 && (!min_first || w[i] >= least)) list.push_back({w[i], i});
  int64_t kept = list.size(), sorted = 0;
  const auto sort_to = [&](int64_t n) { // the n first ones are in order, and before all others
    n = std::min<int64_t>(n, list.size());
    if (n > sorted) {
      std::partial_sort(list.begin() + sorted, list.begin() + n, list.end());
      sorted = n;
    }
  };
  if (o.top_k > 0 && o.top_k < kept) {
    sort_to(o.top_k);
    kept = o.top_k;
    sort_to(kept + 1);
    while (kept < static_cast<int64_t>(list.size()) && list[kept].weight == list[o.top_k - 1].weight) sort_to(++kept + 1);
    total = 0;
    for (int64_t i = 0; i < kept; i++) total += list[i].weight;
  }
  if (!min_first && least > 0) {
    const auto end = std::remove_if(list.begin(), list.begin() + kept, [&](const candidate &c) { return c.weight < least; });
    kept = end - list.begin(); // those in front keep their order
    sorted = std::min(sorted, kept);
    list.resize(kept);
  }
  if (o.top_p < 1) {
    double before = 0;
    int64_t n = 0;
    for (; n < kept && (n == 0 || before < o.top_p * total); n++) {
      if (n >= sorted) sort_to(std::min(kept, std::max<int64_t>(64, 4 * sorted)));
      before += list[n].weight;
    }
    kept = n;
  }
  double mass = 0;
  for (int64_t i = 0; i < kept; i++) mass += list[i].weight;
  return list[draw(kept, mass, o.u, [&](int64_t i) { return list[i].weight; })].token;
}

} // namespace

void log_softmax_at(const float *logits, const int64_t *targets, float *out, int64_t rows, int64_t v) {
  parallel(rows, 1, [&] {
    return [&](int64_t i) {
      const float *x = logits + i * v;
      const int64_t top = greatest(x, v);
      out[i] = top < 0 ? std::numeric_limits<float>::quiet_NaN()
                       : static_cast<float>(x[targets[i]] - log_sum_exp(x, v, x[top]));
    };
  });
}

namespace {

// list writes the n most probable tokens of logits x [v] to out; of two equal ones the lower token comes first.
void list(const float *x, int64_t v, double log_sum, scored *out, int64_t n) {
  std::vector<int64_t> order(v);
  std::iota(order.begin(), order.end(), 0);
  const int64_t some = std::min(n, v);
  std::partial_sort(order.begin(), order.begin() + some, order.end(),
                    [&](int64_t a, int64_t b) { return x[a] != x[b] ? x[a] > x[b] : a < b; });
  for (int64_t i = 0; i < some; i++) out[i] = {order[i], static_cast<float>(x[order[i]] - log_sum)};
}

} // namespace

void sample(const float *logits, const sampling *settings, int64_t *tokens, float *logps, int64_t rows, int64_t v) {
  parallel(rows, 1, [&] {
    return [&, changed = std::vector<float>(), w = std::vector<float>()](int64_t i) mutable {
      const sampling &o = settings[i];
      const float *x = logits + i * v, *y = x;
      tokens[i] = -1;
      logps[i] = std::numeric_limits<float>::quiet_NaN();
      for (int64_t j = 0; j < o.list_count; j++) o.list[j] = {-1, 0};
      int64_t top = greatest(x, v);
      if (top < 0) return;
      const double log_sum = log_sum_exp(x, v, x[top]);
      if (o.repetition_penalty != 1 || o.bias_count > 0) {
        changed.assign(x, x + v);
        for (int64_t j = 0; j < o.seen_count && o.repetition_penalty != 1; j++) {
          const float score = x[o.seen[j]], penalty = static_cast<float>(o.repetition_penalty);
          changed[o.seen[j]] = score < 0 ? score * penalty : score / penalty;
        }
        for (int64_t j = 0; j < o.bias_count; j++) changed[o.bias[j].token] += o.bias[j].value;
        y = changed.data();
        top = greatest(y, v);
        if (top < 0) return;
      }
      int64_t token = top;
      if (o.temperature > 0) {
        w.resize((v + LANES - 1) / LANES * LANES);
        const double total = DISPATCH(weights, y, v, y[top], static_cast<float>(1 / o.temperature), w.data());
        token = pick(w.data(), v, total, o);
      }
      tokens[i] = token;
      logps[i] = static_cast<float>(x[token] - log_sum);
      if (o.list_count > 0) list(x, v, log_sum, o.list, o.list_count);
    };
  });
}

} // namespace kernels
