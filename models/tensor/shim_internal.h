// What the C++ files of this package share.
#ifndef LDALIGN_SHIM_INTERNAL_H
#define LDALIGN_SHIM_INTERNAL_H

#include "shim.h"

#include <ATen/ATen.h>

#include <cstring>
#include <stdexcept>
#include <vector>

// TRY runs the body and turns any C++ exception into a malloc'ed message.
#define TRY(...)                                                                                                     \
  try {                                                                                                              \
    __VA_ARGS__                                                                                                      \
  } catch (const std::exception &e) {                                                                                \
    return strdup(e.what());                                                                                         \
  } catch (...) {                                                                                                    \
    return strdup("unknown C++ exception");                                                                          \
  }                                                                                                                  \
  return nullptr;

inline at::Tensor &T(void *t) { return *static_cast<at::Tensor *>(t); }

inline void give(void **out, at::Tensor t) { *out = new at::Tensor(std::move(t)); }

// mkl_takes_avx512 tells whether the MKL that libtorch is linked with computes products in AVX-512 here.
bool mkl_takes_avx512();

// With gradients: what bytoken.cpp computes without, of the same contiguous operands. f is one of kernels.h.
at::Tensor differentiable_rms_norm(const at::Tensor &x, const at::Tensor &weight, double offset, double eps);
at::Tensor differentiable_rotate(const at::Tensor &x, const at::Tensor &cos, const at::Tensor &sin,
                                 const at::Tensor &positions);
at::Tensor differentiable_gate(int f, const at::Tensor &a, const at::Tensor &b);

// Packed attention of fused.cpp, with gradients. The arguments are those of shim_train_attention.
at::Tensor fused_packed_attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, const int64_t *numbers,
                                  size_t count, int64_t window, double scale);

#endif
