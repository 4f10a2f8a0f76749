// Not cuSOLVER: names for libtorch's headers, see ../nccl.cpp.
#pragma once
#include "cusolver_common.h"
typedef struct cusolverDnContext *cusolverDnHandle_t;
