// What the kernel files share: vectors, and loops over the threads of libtorch's OpenMP.
#ifndef LDALIGN_KERNELS_INTERNAL_H
#define LDALIGN_KERNELS_INTERNAL_H

#include "kernels.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <exception>
#include <limits>
#include <mutex>
#include <type_traits>
#include <vector>

// The inner loops are written with GCC's vector extension and compiled twice on x86: for AVX2 with FMA, and for the build's own
// target. The two round differently, as two kinds of processor may. Matrix products have a third form, for AVX-512, which computes
// the same sums as the form for AVX2.
#if defined(__x86_64__) && defined(__GNUC__)
#define KERNELS_AVX2 1
#define TARGET_AVX2 __attribute__((target("avx2,fma")))
#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#endif
#pragma GCC diagnostic ignored "-Wpsabi" // no vector crosses a call: all that takes one is inlined
#define INLINE __attribute__((always_inline)) inline
#define UNROLL _Pragma("GCC unroll 16")

namespace kernels {
namespace {

constexpr int64_t LANES = 8;
constexpr int64_t OVERRUN = 32; // columns that attention may read behind the last one it needs
typedef float vec __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint16_t hvec __attribute__((vector_size(16), aligned(2), may_alias));

#ifdef KERNELS_AVX2
const bool avx2 = (__builtin_cpu_init(), __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#else
const bool avx512 = false;
#endif

// DISPATCH runs name_body in the best form that the processor has.
#ifdef KERNELS_AVX2
#define DISPATCH(name, ...) (avx2 ? name##_avx2(__VA_ARGS__) : name##_any(__VA_ARGS__))
#else
#define DISPATCH(name, ...) name##_any(__VA_ARGS__)
#endif

INLINE void load(vec &to, const float *p) { to = *reinterpret_cast<const vec *>(p); }
INLINE void load(vec &to, const uint16_t *p) {
  ivec wide = __builtin_convertvector(*reinterpret_cast<const hvec *>(p), ivec) << 16;
  to = reinterpret_cast<vec &>(wide);
}
INLINE void store_vec(float *p, const vec &v) { *reinterpret_cast<vec *>(p) = v; }
INLINE float widen(float x) { return x; }
INLINE float widen(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

// exp to about one unit in the last place (Cephes' expf): 0 below -87, no more than e^88.
INLINE vec exp_vec(vec x) {
  const ivec low = x < -87.0f;
  x = low ? vec{} - 87.0f : x;
  x = x > 88.0f ? vec{} + 88.0f : x;
  const vec shifted = x * 1.44269504088896341f + 12582912.0f; // rounds to a whole number
  const vec n = shifted - 12582912.0f;
  const vec r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  vec y = r * 1.9875691500e-4f + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  ivec bits = reinterpret_cast<ivec &>(y) + (__builtin_convertvector(n, ivec) << 23);
  return low ? vec{} : reinterpret_cast<vec &>(bits);
}

INLINE float sum_vec(vec v) {
  float s = 0;
  for (int64_t i = 0; i < LANES; i++) s += v[i];
  return s;
}

// parallel runs the numbers 0 to count-1 on the threads of libtorch's own OpenMP library; each thread takes the next chunk when it
// is free. Each thread calls make once, for a worker with its own scratch memory. Linking another OpenMP library would start a
// second pool of threads, so parallel looks up the loaded one by name. If none is loaded, it uses one thread. An exception, such as
// for scratch memory, ends the work and is thrown to the caller: leaving a thread of the pool, it would end the process.
template <class Make> void parallel(int64_t count, int64_t chunk, Make make) {
  typedef void (*pool)(void (*)(void *), void *, unsigned, unsigned);
  static const pool run = reinterpret_cast<pool>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  struct job {
    std::atomic<int64_t> next;
    int64_t count, chunk;
    Make &make;
    std::mutex mutex;
    std::exception_ptr error; // the first one
    static void work(void *self) {
      job &j = *static_cast<job *>(self);
      try {
        auto worker = j.make();
        for (int64_t at; (at = j.next.fetch_add(j.chunk)) < j.count;)
          for (int64_t i = at; i < std::min(j.count, at + j.chunk); i++) worker(i);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(j.mutex);
        if (!j.error) j.error = std::current_exception();
        j.next = j.count;
      }
    }
  } j = {{0}, count, chunk, make, {}, {}};
  if (run && count > chunk)
    run(job::work, &j, 0, 0);
  else
    job::work(&j);
  if (j.error) std::rethrow_exception(j.error);
}

// share is a chunk size for parallel that does not split n elements into parts of fewer than 8192.
int64_t share(int64_t count, int64_t n) {
  return std::max<int64_t>(1, std::min(count, count * 8192 / std::max<int64_t>(n, 1)));
}

} // namespace
} // namespace kernels

#endif
