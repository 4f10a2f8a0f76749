#include "kernels_internal.h"

namespace kernels {
namespace {

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
