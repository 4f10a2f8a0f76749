// The interface between group.cpp and cuda/nccl.cpp.
#ifndef LDALIGN_TENSOR_COLLECTIVES_H
#define LDALIGN_TENSOR_COLLECTIVES_H

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>
#include <memory>
#include <vector>

// Collectives are the operations of a group. They return when they are done, and throw errors.
class Collectives {
public:
  virtual ~Collectives() = default;
  virtual void sum(std::vector<at::Tensor> &tensors) = 0;
  virtual void broadcast(std::vector<at::Tensor> &tensors, int root) = 0;
  // abort makes an operation in progress fail if its connections do not show that a member has died. Another thread calls it.
  virtual void abort() = 0;
};

// nccl_collectives joins a group whose members have one GPU each, with consecutive numbers. It is null in the CPU build.
__attribute__((weak)) std::unique_ptr<Collectives> nccl_collectives(const c10::intrusive_ptr<c10d::Store> &store, int rank,
                                                                    int size, int device, std::chrono::milliseconds timeout);

#endif
