// c10d's ProcessGroupGloo is exported by libtorch_cpu and declared in its headers, but those include Gloo's own, which are
// not shipped. Nothing here needs more of Gloo than names: the class holds pointers to its types alone, and is used through
// functions that libtorch exports. So include/gloo has forward declarations in their place, and the layout of
// ProcessGroupGloo is still that of libtorch's own header.
#define USE_C10D_GLOO

#include "group.h"
#include "shim_internal.h"

#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <chrono>
#include <string>

namespace {

using Store = c10::intrusive_ptr<c10d::TCPStore>;
using Group = c10::intrusive_ptr<c10d::ProcessGroupGloo>;
using Work = c10::intrusive_ptr<c10d::Work>;

// each starts an operation for every tensor and waits for all, so that no operation is left behind by an error.
template <class F> void each(void **tensors, size_t n, F start) {
  std::vector<std::vector<at::Tensor>> lists(n);
  std::vector<Work> works;
  std::exception_ptr first;
  try {
    for (size_t i = 0; i < n; i++) {
      lists[i] = {T(tensors[i]).detach()};
      works.push_back(start(lists[i]));
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

char *shim_group_new(void **out, void *store, int rank, int size, const char *address, int timeout_ms) {
  TRY({
    auto options = c10d::ProcessGroupGloo::Options::create(std::chrono::milliseconds(timeout_ms));
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(address));
    options->threads = 1; // one operation after the other: the order is the members' alone
    *out = new Group(c10::make_intrusive<c10d::ProcessGroupGloo>(*static_cast<Store *>(store), rank, size, options));
  })
}

void shim_group_free(void *group) { delete static_cast<Group *>(group); }

char *shim_group_sum(void *group, void **tensors, size_t n) {
  TRY({
    auto &g = *static_cast<Group *>(group);
    each(tensors, n, [&](std::vector<at::Tensor> &list) { return g->allreduce(list, c10d::AllreduceOptions()); });
  })
}

char *shim_group_broadcast(void *group, void **tensors, size_t n, int root) {
  TRY({
    auto &g = *static_cast<Group *>(group);
    c10d::BroadcastOptions o;
    o.rootRank = root;
    each(tensors, n, [&](std::vector<at::Tensor> &list) { return g->broadcast(list, o); });
  })
}
