// CUDA's libraries are loaded when the program runs, so that the same program computes on machines with and without a GPU.
#include "shim_internal.h"

#include <ATen/Context.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <dlfcn.h>

#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <string>

namespace {

// load returns why libtorch cannot compute on a GPU, or "" if it can.
std::string load() {
#ifdef __linux__
  if (!dlopen("libcuda.so.1", RTLD_LAZY)) return "this machine has no NVIDIA driver (libcuda.so.1)";
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 0); // without it cuBLAS may give other bits each time
  // The loader looks in the program's run path, which names the folder of libtorch_cpu.so.
  if (!dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL)) return dlerror();
  return at::globalContext().hasCUDA() ? "" : "NVIDIA's driver finds no GPU that this libtorch can use";
#else
  return "libtorch has no CUDA for this operating system";
#endif
}

} // namespace

// shim_cuda loads CUDA where NVIDIA's driver is. libtorch asks once whether it is there, so call this before anything else.
// Returns "" or why there is no CUDA; the caller does not free it.
const char *shim_cuda(void) {
  static std::once_flag once;
  static std::string why;
  std::call_once(once, [] {
    try {
      why = load();
    } catch (const std::exception &e) {
      why = e.what();
    }
  });
  return why.c_str();
}

char *shim_devices(int *n) { TRY(*n = c10::impl::getDeviceGuardImpl(at::kCUDA)->deviceCount();) }

// libtorch passes on how much memory is free only by a header of CUDA's.
char *shim_free_memory(int device, size_t *bytes) {
  TRY({
    typedef int (*query)(size_t *free, size_t *total);
    const auto ask = reinterpret_cast<query>(dlsym(RTLD_DEFAULT, "cudaMemGetInfo"));
    if (!ask) throw std::runtime_error("the CUDA runtime is not loaded");
    const c10::DeviceGuard guard(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device)));
    size_t total = 0;
    if (const int code = ask(bytes, &total)) throw std::runtime_error("cudaMemGetInfo returned " + std::to_string(code));
  })
}

void shim_deterministic(void) {
  at::Context &context = at::globalContext();
  context.setDeterministicAlgorithms(true, /*warn_only=*/false);
  context.setDeterministicFillUninitializedMemory(false);
  context.setAllowBF16ReductionCuBLAS(false);
}
