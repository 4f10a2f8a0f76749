// Groups of processes with one GPU each, by the NCCL in libtorch_cuda. This file is not part of a Go package: `make cuda` compiles
// and links it. In the CPU build its function is missing, and group.cpp detects that. It was compiled and linked, not run on a GPU.
//
// libtorch's headers include those of CUDA's libraries. cuda_runtime and nccl.h are NVIDIA's own, because their structures are
// part of the layout here. Of the others only the names of handles are needed, which include/ declares.
#define USE_C10D_NCCL

#include "../collectives.h"

#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <atomic>
#include <cstdlib>
#include <thread>

namespace {

using c10d::ProcessGroupNCCL;

class NCCL final : public Collectives {
public:
  NCCL(const c10::intrusive_ptr<c10d::Store> &store, int rank, int size, int device, std::chrono::milliseconds timeout)
      : device(at::kCUDA, static_cast<c10::DeviceIndex>(device)), timeout(timeout) {
    // One of libtorch's own ways to handle errors ends the process from another thread. Turn them off; run handles errors.
    setenv("NCCL_ASYNC_ERROR_HANDLING", "0", 1);
    setenv("NCCL_BLOCKING_WAIT", "0", 1);
    const auto options = ProcessGroupNCCL::Options::create();
    options->timeout = timeout;
    group = c10::make_intrusive<ProcessGroupNCCL>(store, rank, size, options);
    const c10::cuda::CUDAGuard guard(this->device);
    std::vector<at::Tensor> all{at::zeros({1}, at::TensorOptions().device(this->device))};
    run(all, nullptr); // the members meet at their first operation
  }

  ~NCCL() override {
    try {
      group->abort();
    } catch (...) { // nobody waits for it any more
    }
  }

  void sum(std::vector<at::Tensor> &tensors) override { run(tensors, nullptr); }

  void broadcast(std::vector<at::Tensor> &tensors, int root) override {
    c10d::BroadcastOptions o;
    o.rootRank = root;
    run(tensors, &o);
  }

  void abort() override { over = true; }

private:
  // run replaces each tensor by the sum, or with from by one member's value. A tensor on the CPU is copied to the GPU and back.
  void run(std::vector<at::Tensor> &tensors, const c10d::BroadcastOptions *from) {
    const c10::cuda::CUDAGuard guard(device);
    std::vector<std::vector<at::Tensor>> lists;
    std::vector<c10::intrusive_ptr<c10d::Work>> works;
    for (const at::Tensor &t : tensors) {
      lists.push_back({t.to(device).contiguous()});
      works.push_back(from ? group->broadcast(lists.back(), *from) : group->allreduce(lists.back()));
    }
    const auto last = std::chrono::steady_clock::now() + timeout;
    for (const auto &w : works) {
      while (!w->isCompleted()) { // also after an error
        if (over) fail("another process has ended");
        if (std::chrono::steady_clock::now() > last) fail("the others did not come in time");
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
      if (w->exception()) {
        group->abort();
        std::rethrow_exception(w->exception());
      }
      w->wait(); // orders the stream behind it
    }
    for (size_t i = 0; i < tensors.size(); i++)
      if (!lists[i][0].is_same(tensors[i])) tensors[i].copy_(lists[i][0]);
  }

  [[noreturn]] void fail(const char *why) {
    group->abort(); // else the GPU would wait for ever
    throw std::runtime_error(why);
  }

  const at::Device device;
  const std::chrono::milliseconds timeout;
  std::atomic<bool> over{false};
  c10::intrusive_ptr<ProcessGroupNCCL> group;
};

} // namespace

std::unique_ptr<Collectives> nccl_collectives(const c10::intrusive_ptr<c10d::Store> &store, int rank, int size, int device,
                                              std::chrono::milliseconds timeout) {
  const int first = device - rank, there = c10::cuda::device_count();
  if (first + size > there)
    throw std::runtime_error(std::to_string(size) + " trainer processes from cuda:" + std::to_string(first) +
                             " on need a GPU each, and this machine shows " + std::to_string(there));
  return std::make_unique<NCCL>(store, rank, size, device, timeout);
}
