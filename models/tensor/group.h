// Groups of processes, by c10d with the Gloo or NCCL built into libtorch. Plain C, with the convention of shim.h.
#ifndef LDALIGN_TENSOR_GROUP_H
#define LDALIGN_TENSOR_GROUP_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// The store by which the members find each other. The server listens on port (0: any free one) and sets *bound to its port.
char *shim_store_new(void **out, int *bound, const char *host, int port, int server, int timeout_ms);
void shim_store_free(void *store);

// Returns when all members have joined. device is the number of this process's GPU, or -1 for the CPU. On the CPU Gloo connects
// the members, and address is the address of this process in their network.
char *shim_group_new(void **out, void *store, int rank, int size, int device, const char *address, int timeout_ms);
void shim_group_free(void *group);
// Makes an operation in progress on GPUs fail, whose connections do not show that a member has died. Any thread may call it.
void shim_group_abort(void *group);
// All members must call these in the same order with tensors of the same types and shapes.
char *shim_group_sum(void *group, void **tensors, size_t n);
char *shim_group_broadcast(void *group, void **tensors, size_t n, int root);

#ifdef __cplusplus
}
#endif
#endif
