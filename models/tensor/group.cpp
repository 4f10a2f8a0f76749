// libtorch_cpu exports c10d's ProcessGroupGloo and its headers declare it, but they include Gloo's own headers, which are not
// shipped. ProcessGroupGloo only holds pointers to Gloo's types, and this file uses it through functions that libtorch exports.
// So include/gloo has forward declarations in place of Gloo's headers, and the layout of ProcessGroupGloo is still that of
// libtorch's own header.
#define USE_C10D_GLOO

#include "collectives.h"
#include "group.h"
#include "shim_internal.h"

#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <chrono>
#include <memory>
#include <string>

namespace {

using Store = c10::intrusive_ptr<c10d::TCPStore>;
using Group = std::unique_ptr<Collectives>;
using Work = c10::intrusive_ptr<c10d::Work>;

// On CPUs, by Gloo. When a member dies its connections close, so the operations of the others fail at once.
class Gloo final : public Collectives {
public:
  Gloo(const c10::intrusive_ptr<c10d::Store> &store, int rank, int size, const char *address, std::chrono::milliseconds timeout) {
    const auto options = c10d::ProcessGroupGloo::Options::create(timeout);
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(address));
    options->threads = 1; // one operation after the other: the order is the members' alone
    group = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, options);
  }

  void sum(std::vector<at::Tensor> &tensors) override {
    each(tensors, [&](std::vector<at::Tensor> &list) { return group->allreduce(list, c10d::AllreduceOptions()); });
  }

  void broadcast(std::vector<at::Tensor> &tensors, int root) override {
    c10d::BroadcastOptions o;
    o.rootRank = root;
    each(tensors, [&](std::vector<at::Tensor> &list) { return group->broadcast(list, o); });
  }

  void abort() override {}

private:
  // each starts an operation for every tensor and waits for all of them, also after an error.
  template <class F> void each(const std::vector<at::Tensor> &tensors, F start) {
    std::vector<std::vector<at::Tensor>> lists;
    std::vector<Work> works;
    std::exception_ptr first;
    lists.reserve(tensors.size());
    try {
      for (const at::Tensor &t : tensors) {
        lists.push_back({t});
        works.push_back(start(lists.back()));
      }
    } catch (...) {
      first = std::current_exception();
    }
    for (auto &w : works) {
      try {
        w->wait();
      } catch (...) {
        if (!first) first = std::current_exception();
      }
    }
    if (first) std::rethrow_exception(first);
  }

  c10::intrusive_ptr<c10d::ProcessGroupGloo> group;
};

std::vector<at::Tensor> list_of(void **tensors, size_t n) {
  std::vector<at::Tensor> list;
  for (size_t i = 0; i < n; i++) list.push_back(T(tensors[i]).detach());
  return list;
}

} // namespace

char *shim_store_new(void **out, int *bound, const char *host, int port, int server, int timeout_ms) {
  TRY({
    c10d::TCPStoreOptions o;
    o.port = uint16_t(port);
    o.isServer = server != 0;
    o.waitWorkers = false;
    o.timeout = std::chrono::milliseconds(timeout_ms);
    auto store = c10::make_intrusive<c10d::TCPStore>(host, o);
    *bound = store->getPort();
    *out = new Store(std::move(store));
  })
}

void shim_store_free(void *store) { delete static_cast<Store *>(store); }

char *shim_group_new(void **out, void *store, int rank, int size, int device, const char *address, int timeout_ms) {
  TRY({
    const c10::intrusive_ptr<c10d::Store> &meeting = *static_cast<Store *>(store);
    const std::chrono::milliseconds timeout(timeout_ms);
    Group group;
    if (device < 0)
      group = std::make_unique<Gloo>(meeting, rank, size, address, timeout);
    else if (nccl_collectives)
      group = nccl_collectives(meeting, rank, size, device, timeout);
    else
      throw std::runtime_error("this program is built without CUDA");
    *out = new Group(std::move(group));
  })
}

void shim_group_free(void *group) { delete static_cast<Group *>(group); }

void shim_group_abort(void *group) { (*static_cast<Group *>(group))->abort(); }

char *shim_group_sum(void *group, void **tensors, size_t n) {
  TRY({
    auto list = list_of(tensors, n);
    (*static_cast<Group *>(group))->sum(list);
  })
}

char *shim_group_broadcast(void *group, void **tensors, size_t n, int root) {
  TRY({
    auto list = list_of(tensors, n);
    (*static_cast<Group *>(group))->broadcast(list, root);
  })
}
