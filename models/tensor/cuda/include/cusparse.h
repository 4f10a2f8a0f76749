// Not cuSPARSE: names for libtorch's headers, see ../nccl.cpp.
#pragma once
typedef struct cusparseContext *cusparseHandle_t;
typedef enum {} cusparseStatus_t;
