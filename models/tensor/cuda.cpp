// CUDA's libraries are loaded when the program runs, so that the same program computes on machines with and without a GPU.
#include "shim.h"

#include <ATen/Context.h>

#ifdef __linux__
#include <dlfcn.h>
#endif

#include <mutex>
#include <string>

namespace {

// load returns why libtorch cannot compute on a GPU, or "" if it can.
std::string load() {
#ifdef __linux__
  if (!dlopen("libcuda.so.1", RTLD_LAZY)) return "this machine has no NVIDIA driver (libcuda.so.1)";
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
