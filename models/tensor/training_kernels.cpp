#include "kernels_internal.h"

namespace kernels {
namespace {

// Returns the reciprocal of a row's root mean square.
INLINE float reciprocal_rms(const float *x, int64_t d, float eps) {
  vec squares = {}, v;
  int64_t at = 0;
  for (; at + LANES <= d; at += LANES) {
    load(v, x + at);
    squares += v * v;
  }
  float sum = sum_vec(squares);
  for (; at < d; at++) sum += x[at] * x[at];
  return 1.0f / std::sqrt(sum / static_cast<float>(d) + eps);
}

// dx = r·(g - x·r²·mean(g·x)) with g = dy·(weight + offset)
INLINE void rms_norm_backward_body(const float *x, const float *weight, float offset, const float *dy, float *dx,
                                   int64_t d, float r) {
  vec dots = {}, a, b, c;
  int64_t at = 0;
  for (; at + LANES <= d; at += LANES) {
    load(a, dy + at);
    load(b, weight + at);
    load(c, x + at);
    dots += a * (b + offset) * c;
  }
  float dot = sum_vec(dots);
  for (; at < d; at++) dot += dy[at] * (weight[at] + offset) * x[at];
  const float k = r * r * dot / static_cast<float>(d);
  for (at = 0; at + LANES <= d; at += LANES) {
    load(a, dy + at);
    load(b, weight + at);
    load(c, x + at);
    store_vec(dx + at, (a * (b + offset) - c * k) * r);
  }
  for (; at < d; at++) dx[at] = (dy[at] * (weight[at] + offset) - x[at] * k) * r;
}

void rms_norm_backward_any(const float *x, const float *w, float o, const float *dy, float *dx, int64_t d, float r) {
  rms_norm_backward_body(x, w, o, dy, dx, d, r);
}
#ifdef KERNELS_AVX2
TARGET_AVX2 void rms_norm_backward_avx2(const float *x, const float *w, float o, const float *dy, float *dx, int64_t d,
                                        float r) {
  rms_norm_backward_body(x, w, o, dy, dx, d, r);
}
#endif

INLINE vec derivative(int f, vec a, vec &value) {
  if (f == SILU) {
    const vec s = 1.0f / (exp_vec(-a) + 1.0f);
    value = a * s;
    return s * (a * (1.0f - s) + 1.0f);
  }
  const vec u = (a + a * a * a * 0.044715f) * 1.5957691216057308f; // GELU by tanh: a·sigmoid(u)
  const vec s = 1.0f / (exp_vec(-u) + 1.0f);
  value = a * s;
  return s + a * s * (1.0f - s) * (1.0f + a * a * 0.134145f) * 1.5957691216057308f;
}

INLINE void gate_backward_body(int f, const float *a, const float *b, const float *dy, float *da, float *db, int64_t n) {
  for (int64_t i = 0; i < n; i += LANES) {
    const int64_t count = std::min(LANES, n - i);
    float in[3][LANES] = {}, out[2][LANES];
    memcpy(in[0], a + i, count * sizeof(float));
    memcpy(in[1], b + i, count * sizeof(float));
    memcpy(in[2], dy + i, count * sizeof(float));
    vec x, y, g, value;
    load(x, in[0]);
    load(y, in[1]);
    load(g, in[2]);
    store_vec(out[0], g * y * derivative(f, x, value));
    store_vec(out[1], g * value);
    memcpy(da + i, out[0], count * sizeof(float));
    memcpy(db + i, out[1], count * sizeof(float));
  }
}

void gate_backward_any(int f, const float *a, const float *b, const float *dy, float *da, float *db, int64_t n) {
  gate_backward_body(f, a, b, dy, da, db, n);
}
#ifdef KERNELS_AVX2
TARGET_AVX2 void gate_backward_avx2(int f, const float *a, const float *b, const float *dy, float *da, float *db,
                                    int64_t n) {
  gate_backward_body(f, a, b, dy, da, db, n);
}
#endif

// Replaces the row x by exp(x - most) and returns the sum.
INLINE float exponents_body(float *x, int64_t v, float most) {
  vec sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * LANES <= v; i += 4 * LANES)
    UNROLL for (int j = 0; j < 4; j++) {
      vec e;
      load(e, x + i + j * LANES);
      e = exp_vec(e - most);
      sums[j] += e;
      store_vec(x + i + j * LANES, e);
    }
  float sum = sum_vec((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < v; i += LANES) {
    float in[LANES];
    for (int64_t j = 0; j < LANES; j++) in[j] = i + j < v ? x[i + j] : -std::numeric_limits<float>::infinity();
    vec e;
    load(e, in);
    e = exp_vec(e - most);
    store_vec(in, e);
    for (int64_t j = 0; j < LANES && i + j < v; j++) {
      x[i + j] = in[j];
      sum += in[j];
    }
  }
  return sum;
}

// Returns the greatest number of a row. It does not look for NaN.
INLINE float most_body(const float *x, int64_t v) {
  vec most = vec{} - std::numeric_limits<float>::infinity(), e;
  int64_t i = 0;
  for (; i + LANES <= v; i += LANES) {
    load(e, x + i);
    most = e > most ? e : most;
  }
  float best = most[0];
  for (int64_t j = 1; j < LANES; j++) best = std::max(best, most[j]);
  for (; i < v; i++) best = std::max(best, x[i]);
  return best;
}

INLINE void scale_body(float *x, int64_t v, float by) {
  vec e;
  int64_t i = 0;
  for (; i + LANES <= v; i += LANES) {
    load(e, x + i);
    store_vec(x + i, e * by);
  }
  for (; i < v; i++) x[i] *= by;
}

float exponents_any(float *x, int64_t v, float most) { return exponents_body(x, v, most); }
float most_any(const float *x, int64_t v) { return most_body(x, v); }
void scale_any(float *x, int64_t v, float by) { scale_body(x, v, by); }
#ifdef KERNELS_AVX2
TARGET_AVX2 float exponents_avx2(float *x, int64_t v, float most) { return exponents_body(x, v, most); }
TARGET_AVX2 float most_avx2(const float *x, int64_t v) { return most_body(x, v); }
TARGET_AVX2 void scale_avx2(float *x, int64_t v, float by) { scale_body(x, v, by); }
#endif

} // namespace

void rms_norm_backward(const float *x, const float *weight, float offset, const float *dy, float *dx, float *dweight,
                       int64_t rows, int64_t d, double eps) {
  std::vector<float> r(rows);
  parallel(rows, share(rows, rows * d), [&] {
    return [&](int64_t i) {
      r[i] = reciprocal_rms(x + i * d, d, static_cast<float>(eps));
      DISPATCH(rms_norm_backward, x + i * d, weight, offset, dy + i * d, dx + i * d, d, r[i]);
    };
  });
  if (!dweight) return;
  constexpr int64_t columns = 64;
  parallel((d + columns - 1) / columns, 1, [&] {
    return [&](int64_t block) {
      const int64_t from = block * columns, to = std::min(d, from + columns);
      float sum[columns] = {};
      for (int64_t i = 0; i < rows; i++)
        for (int64_t j = from; j < to; j++) sum[j - from] += dy[i * d + j] * (x[i * d + j] * r[i]);
      for (int64_t j = from; j < to; j++) dweight[j] = sum[j - from];
    };
  });
}

void gate_backward(int f, const float *a, const float *b, const float *dy, float *da, float *db, int64_t n) {
  constexpr int64_t part = 4096;
  parallel((n + part - 1) / part, 1, [&] {
    return [&](int64_t p) {
      const int64_t i = p * part;
      DISPATCH(gate_backward, f, a + i, b + i, dy + i, da + i, db + i, std::min(part, n - i));
    };
  });
}

void exponents(float *logits, const int64_t *targets, float *logp, float *sums, int64_t rows, int64_t v) {
  parallel(rows, 1, [&] {
    return [&](int64_t i) {
      float *x = logits + i * v;
      const float most = DISPATCH(most, x, v), target = x[targets[i]];
      const float sum = DISPATCH(exponents, x, v, most);
      logp[i] = target - most - std::log(sum);
      sums[i] = sum;
    };
  });
}

void head_gradient(float *exponents, const int64_t *targets, const float *sums, const float *grad, int64_t rows,
                   int64_t v) {
  parallel(rows, 1, [&] {
    return [&](int64_t i) {
      float *x = exponents + i * v;
      DISPATCH(scale, x, v, -grad[i] / sums[i]);
      x[targets[i]] += grad[i];
    };
  });
}

} // namespace kernels
