// Not cuBLAS: names for libtorch's headers, see ../nccl.cpp.
#pragma once
typedef struct cublasContext *cublasHandle_t;
typedef enum {} cublasStatus_t;
