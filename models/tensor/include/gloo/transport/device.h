// Not Gloo: forward declarations for torch/csrc/distributed/c10d/ProcessGroupGloo.hpp, see group.cpp.
#pragma once
namespace gloo::transport {
class Device;
class UnboundBuffer;
} // namespace gloo::transport
