// Not cuSOLVER: names for libtorch's headers, see ../nccl.cpp.
#pragma once
typedef enum {} cusolverStatus_t;
