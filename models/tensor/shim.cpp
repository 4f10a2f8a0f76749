#include "shim_internal.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Logging.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <mutex>

namespace {

std::optional<at::Tensor> maybe(void *t) { return t ? std::optional<at::Tensor>(T(t)) : std::nullopt; }

at::Device device_of(int d) { return d < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, d); }

std::vector<at::Tensor> list(void **ts, size_t n) {
  std::vector<at::Tensor> v;
  v.reserve(n);
  for (size_t i = 0; i < n; i++) v.push_back(T(ts[i]));
  return v;
}

// The norm of all elements of all gradients, computed as torch.nn.utils.clip_grad_norm_ does.
at::Tensor total_norm(const std::vector<at::Tensor> &grads) {
  std::vector<at::Tensor> norms;
  norms.reserve(grads.size());
  for (const auto &g : grads) norms.push_back(at::linalg_vector_norm(g.detach(), 2.0));
  return at::linalg_vector_norm(at::stack(norms), 2.0);
}

at::Tensor map(int f, const at::Tensor &x) {
  switch (f) {
  case SHIM_EXP:
    return at::exp(x);
  case SHIM_LOG_SIGMOID:
    return at::log_sigmoid(x);
  case SHIM_SILU:
    return at::silu(x);
  case SHIM_GELU:
    return at::gelu(x);
  case SHIM_GELU_TANH:
    return at::gelu(x, "tanh");
  }
  throw std::invalid_argument("unknown function");
}

// Returns the least m >= n for which each thread's share of m elements is a multiple of 64, the most that one pass of libtorch's
// vector loops processes (two AVX-512 registers of 16-bit numbers).
int64_t aligned(int64_t n, int f) {
  constexpr int64_t lanes = 64, grain = at::internal::GRAIN_SIZE, gelu_parallel = 0x4000;
  const int64_t threads = at::get_num_threads();
  for (int64_t m = (n + lanes - 1) / lanes * lanes;; m += lanes) {
    int64_t shares = std::min(threads, at::divup(m, grain));
    if ((f == SHIM_GELU || f == SHIM_GELU_TANH) && m > gelu_parallel) shares = threads;
    if (m % (shares * lanes) == 0) return m;
  }
}

} // namespace

char *shim_config(char **out) { TRY(*out = strdup(at::show_config().c_str());) }

// Without C++ stack traces: one costs milliseconds for each error, and only the message's first line is used.
void shim_quiet_errors(void) {
  static std::once_flag once;
  std::call_once(once, [] { c10::SetStackTraceFetcher([] { return std::string(); }); });
}

uintptr_t shim_thread(void) {
  static thread_local char mark;
  return reinterpret_cast<uintptr_t>(&mark);
}

// These two functions are MKL's; libtorch is linked with it.
extern "C" int mkl_serv_cbwr_get_auto_branch(void) __attribute__((weak));
extern "C" int mkl_serv_cbwr_set(int) __attribute__((weak));

// mkl_branch is the instruction set of MKL's reproducible products on this processor; on AMD's it is an older one than MKL uses.
static int mkl_branch() { return mkl_serv_cbwr_get_auto_branch ? mkl_serv_cbwr_get_auto_branch() : 0; }

bool mkl_takes_avx512() {
  static const bool takes = mkl_branch() >= 12;
  return takes;
}

// shim_strict_products makes MKL's matrix products give a row of a batch the same bits wherever it is, in batches of
// models.RowStep rows. AMD's processors always do that, Intel's only in this mode. It has no effect once MKL was used.
void shim_strict_products(void) {
  constexpr int avx2 = 10, strict = 0x10000;
  if (mkl_serv_cbwr_set && mkl_branch() >= avx2) mkl_serv_cbwr_set(mkl_branch() | strict);
}

// When a thread first reads the number of threads, it gets the number that any thread has set last. So read before setting.
char *shim_set_threads(int n) {
  TRY({
    at::get_num_threads();
    at::set_num_threads(n);
  })
}

int shim_threads(void) { return at::get_num_threads(); }

int shim_set_grad(int on) {
  bool was = at::GradMode::is_enabled();
  at::GradMode::set_enabled(on);
  return was;
}

void shim_free(void **tensors, size_t n) {
  for (size_t i = 0; i < n; i++) delete static_cast<at::Tensor *>(tensors[i]);
}

char *shim_info(void *t, shim_info_t *out) {
  TRY({
    const at::Tensor &x = T(t);
    if (x.dim() > SHIM_MAX_DIMS) throw std::invalid_argument("more than 16 dimensions");
    out->ndim = x.dim();
    for (int64_t i = 0; i < x.dim(); i++) out->shape[i] = x.size(i);
    out->numel = x.numel();
    out->itemsize = x.element_size();
    out->dtype = static_cast<int>(x.scalar_type());
    out->device = x.is_cuda() ? x.get_device() : -1;
    out->requires_grad = x.requires_grad();
  })
}

char *shim_from_data(void **out, const void *data, size_t bytes, const int64_t *shape, int ndim, int dtype,
                     int device) {
  TRY({
    at::Tensor x = at::empty(at::IntArrayRef(shape, ndim), at::TensorOptions().dtype(at::ScalarType(dtype)));
    if (x.nbytes() != bytes) throw std::invalid_argument("the data's length does not match the shape");
    if (bytes > 0) memcpy(x.data_ptr(), data, bytes);
    give(out, x.to(device_of(device)));
  })
}

char *shim_read(void *t, int dtype, void *dst, size_t bytes) {
  TRY({
    at::Tensor x = T(t).detach().to(at::kCPU, at::ScalarType(dtype)).contiguous();
    if (x.nbytes() != bytes) throw std::invalid_argument("the buffer's length does not match the tensor");
    if (bytes > 0) memcpy(dst, x.data_ptr(), bytes);
  })
}

char *shim_item(void *t, double *out) { TRY(*out = T(t).item<double>();) }

char *shim_copy(void *dst, void *src) { TRY(T(dst).copy_(T(src));) }

char *shim_clone(void **out, void *t) { TRY(give(out, at::clone(T(t)));) }

char *shim_alias(void **out, void *t) { TRY(give(out, T(t));) }

char *shim_sum(void **out, void *t, const int64_t *dims, int ndims, int keepdim) {
  TRY({
    const at::Tensor &x = T(t);
    give(out, ndims == 0 ? at::sum(x) : at::sum(x, at::IntArrayRef(dims, ndims), keepdim));
  })
}

char *shim_softmax(void **out, void *t, int64_t dim, int log) {
  TRY(give(out, log ? at::log_softmax(T(t), dim) : at::softmax(T(t), dim));)
}

// libtorch computes the last elements of each thread's share by scalar code and the others by vector code, with different
// formulas, so an element's last bit depends on its place. With padding to whole vectors it does not.
char *shim_map(void **out, void *t, int f) {
  TRY({
    at::Tensor x = T(t);
    if (!x.is_cpu() || x.numel() == 0) {
      give(out, map(f, x));
      return nullptr;
    }
    if (!x.is_non_overlapping_and_dense()) x = x.contiguous();
    const int64_t n = x.numel(), m = aligned(n, f);
    if (m == n)
      give(out, map(f, x));
    else
      give(out, map(f, at::constant_pad_nd(x.reshape({-1}), {0, m - n}, 1)).narrow(0, 0, n).view(x.sizes()));
  })
}

char *shim_layer_norm(void **out, void *t, void *weight, void *bias, double eps) {
  TRY(give(out, at::layer_norm(T(t), T(weight).sizes(), T(weight), maybe(bias), eps));)
}

char *shim_rms_norm(void **out, void *t, void *weight, double eps) {
  TRY({
    const at::Tensor &x = T(t);
    at::Tensor h = x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
    h = h * at::rsqrt(at::mean(h * h, {-1}, /*keepdim=*/true) + eps);
    give(out, T(weight) * h.to(x.scalar_type()));
  })
}

char *shim_sdpa(void **out, void *q, void *k, void *v, void *mask, int causal, double scale) {
  TRY({
    // Versions of libtorch differ in what they do with both.
    if (mask && causal) throw std::invalid_argument("causal attention takes no mask");
    auto s = scale == 0 ? std::nullopt : std::optional<double>(scale);
    give(out, at::scaled_dot_product_attention(T(q), T(k), T(v), maybe(mask), /*dropout_p=*/0.0, causal != 0, s));
  })
}

char *shim_grad(void **out, void *t) {
  TRY({
    const at::Tensor &g = T(t).grad();
    if (!g.defined()) throw std::runtime_error("the tensor has no gradient: Backward did not reach it");
    give(out, g);
  })
}

void shim_free_grads(void **params, size_t n) {
  for (size_t i = 0; i < n; i++) T(params[i]).mutable_grad().reset();
}

char *shim_backward(void *loss, int keep_graph) { TRY(T(loss).backward({}, keep_graph != 0);) }

char *shim_clip_grad_norm(void **grads, size_t n, double max_norm, double *norm) {
  TRY({
    at::NoGradGuard no_grad;
    auto gs = list(grads, n);
    at::Tensor total = total_norm(gs);
    at::Tensor coef = at::clamp((total + 1e-6).reciprocal() * max_norm, std::nullopt, 1.0);
    if (coef.item<double>() != 1)
      for (auto &g : gs) g.detach().mul_(coef);
    *norm = total.item<double>();
  })
}

namespace {

// in_blocks runs f on parts of tensors of one shape, on all threads. So the temporaries of an element-wise formula stay in the
// cache, and none has the tensors' size.
template <class F> void in_blocks(std::vector<at::Tensor> ts, F f) {
  constexpr int64_t size = 1 << 15;
  const int64_t n = ts[0].numel();
  for (at::Tensor &t : ts) {
    if (!ts[0].is_cpu() || !t.is_contiguous()) {
      f(ts);
      return;
    }
    t = t.view(-1);
  }
  at::parallel_for(0, (n + size - 1) / size, 1, [&](int64_t from, int64_t to) {
    at::NoGradGuard no_grad;
    for (int64_t i = from; i < to; i++) {
      std::vector<at::Tensor> part;
      for (const at::Tensor &t : ts) part.push_back(t.narrow(0, i * size, std::min(size, n - i * size)));
      f(part);
    }
  });
}

} // namespace

// Decoupled weight decay, bias correction, epsilon outside the root: torch.optim.AdamW, one tensor at a time.
char *shim_adamw(void **params, void **grads, void **exp_avg, void **exp_avg_sq, size_t n, int64_t step, double lr,
                 double beta1, double beta2, double eps, double weight_decay) {
  TRY({
    at::NoGradGuard no_grad;
    const double correction1 = 1 - std::pow(beta1, static_cast<double>(step));
    const double correction2 = std::sqrt(1 - std::pow(beta2, static_cast<double>(step)));
    for (size_t i = 0; i < n; i++)
      in_blocks({T(params[i]), T(grads[i]), T(exp_avg[i]), T(exp_avg_sq[i])}, [&](std::vector<at::Tensor> &t) {
        at::Tensor &p = t[0], &g = t[1], &m = t[2], &v = t[3];
        p.mul_(1 - lr * weight_decay);
        m.lerp_(g, 1 - beta1);
        v.mul_(beta2).addcmul_(g, g, 1 - beta2);
        p.addcdiv_(m, v.sqrt().div_(correction2).add_(eps), -lr / correction1);
      });
  })
}

// Not centered, no momentum, weight decay added to the gradient: torch.optim.RMSprop, one tensor at a time.
char *shim_rmsprop(void **params, void **grads, void **square_avg, size_t n, double lr, double alpha, double eps,
                   double weight_decay) {
  TRY({
    at::NoGradGuard no_grad;
    for (size_t i = 0; i < n; i++)
      in_blocks({T(params[i]), T(grads[i]), T(square_avg[i])}, [&](std::vector<at::Tensor> &t) {
        at::Tensor &p = t[0], &v = t[2], g = weight_decay == 0 ? t[1] : t[1].add(p, weight_decay);
        v.mul_(alpha).addcmul_(g, g, 1 - alpha);
        p.addcdiv_(g, v.sqrt().add_(eps), -lr);
      });
  })
}
