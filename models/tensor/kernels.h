// The by-token kernels: plain C++ without libtorch, on float32 arrays in row-major order. What they compute for a token depends on
// that token's own data alone, and not on the number of tokens, the token's place among them, or the number of threads. They run
// on the OpenMP threads of the calling thread.
#ifndef LDALIGN_KERNELS_H
#define LDALIGN_KERNELS_H

#include <stddef.h>
#include <stdint.h>

namespace kernels {

// A packed matrix [n, k] holds panels of PANEL columns of its transpose: [ceil(n/PANEL), k, PANEL], zeros behind n.
constexpr int64_t PANEL = 16;

int64_t panels(int64_t n);

// pack packs w, whose strides are in elements.
template <class T> void pack(const T *w, int64_t n, int64_t k, int64_t stride_n, int64_t stride_k, T *out);

// not_finite returns the index of the first of n floating numbers, of any alignment, whose exponent bits are all ones, or -1. T
// is an unsigned integer of their size.
template <class T> int64_t not_finite(const void *numbers, int64_t n, T exponent);

// linear is y[m, n] = x[m, k] · wᵀ + bias, of a packed w; bias may be null. T is float, or uint16_t for bfloat16.
template <class T>
void linear(const float *x, const T *w, const float *bias, float *y, int64_t m, int64_t n, int64_t k);

// rows gathers rows of a packed matrix: out[i, k] = w[ids[i], k].
template <class T> void rows(const T *w, const int64_t *ids, float *out, int64_t count, int64_t k);

// rms_norm is y = (weight + offset)·x/√(mean(x²) + eps) for rows of size d.
void rms_norm(const float *x, const float *weight, float offset, float *y, int64_t rows, int64_t d, double eps);

// rotate rotates heads of size d by half-split rotary tables [positions, d]; the first half of sin is negated. With inverse it
// rotates them back.
void rotate(const float *x, const float *cos, const float *sin, const int64_t *positions, float *y, int64_t tokens,
            int64_t heads, int64_t d, bool inverse = false);

enum { SILU, GELU_TANH };

// gate is y = f(a)·b element by element.
void gate(int f, const float *a, const float *b, float *y, int64_t n);

// A cache holds the keys [slots, heads, d, columns] and the values [slots, heads, columns, cache_width(d)] of rows, both zero at
// first. The token at position p of a row is in column p % columns. Attention reads up to 32 numbers behind a slot's keys, so
// the last slot must stay unused.
int64_t cache_width(int64_t d);
struct cache {
  float *keys, *values;
  int64_t heads, d, columns;
};

// store stores the keys and values [tokens, heads, d] of tokens in their rows.
void store(const cache &c, const float *k, const float *v, const int64_t *slots, const int64_t *positions,
           int64_t tokens);

// attend is softmax(q·kᵀ·scale)·v of each token over the positions up to its own in its row, at most window of them (0:
// all): q and out [tokens, groups·heads, d]. Query heads g·groups to (g+1)·groups-1 share key-value head g.
void attend(const cache &c, const float *q, const int64_t *slots, const int64_t *positions, float *out, int64_t tokens,
            int64_t groups, int64_t window, float scale);

// log_softmax_at is log softmax(logits)[target] of each row [v].
void log_softmax_at(const float *logits, const int64_t *targets, float *out, int64_t rows, int64_t v);

// scored is a token with a number: an addition to its logit, or its log-probability.
struct scored {
  int64_t token;
  float value;
};

// sampling is how to draw one row's token.
struct sampling {
  double temperature;        // 0: the most probable token
  double top_p;              // 1: all
  double min_p;              // 0: all
  int64_t top_k;             // 0: all
  double repetition_penalty; // on the tokens seen; 1: none
  double u;                  // where the distribution is inverted, in [0, 1)
  const int64_t *seen;
  int64_t seen_count;
  const scored *bias; // added to logits, after the repetition penalty
  int64_t bias_count;
  scored *list; // gets the list_count most probable tokens by the untouched logits; token -1 past the vocabulary's end
  int64_t list_count;
};

// sample draws one token per row of logits [v], each by its own settings: the penalty on the tokens seen, the bias, then
// temperature, top-k, top-p and min-p. logps is the log-probability of the token in the distribution of the untouched
// logits. A row whose logits are not all finite, before or after its penalties, gets token -1 and lists nothing.
void sample(const float *logits, const sampling *settings, int64_t *tokens, float *logps, int64_t rows, int64_t v);

// The kernels of training. They add up over rows, so a result may depend on the number of rows.

// fast_products reports whether product has an AVX-512 form on this processor. libtorch 2.1's linear algebra uses AVX-512 on
// Intel's processors only, and is faster than product there.
bool fast_products();

// matrix is a matrix whose element (i, j) is data[i·row + j·column].
struct matrix {
  const float *data;
  int64_t row, column;
};

// product is y[m, n] = a[m, k]·b[k, n], or adds that to y. Each element is a sum in a fixed order, as in linear.
void product(const matrix &a, const matrix &b, float *y, int64_t m, int64_t n, int64_t k, bool add);

// exponents replaces each row of logits [rows, v] by exp(logits - the greatest of the row). It writes the row's sum to sums[row],
// and log softmax(logits)[target] to logp[row].
void exponents(float *logits, const int64_t *targets, float *logp, float *sums, int64_t rows, int64_t v);

// head_gradient replaces the result of exponents by the gradient of the logits, computed from that of logp.
void head_gradient(float *exponents, const int64_t *targets, const float *sums, const float *grad, int64_t rows,
                   int64_t v);

} // namespace kernels

#endif
