// Groups of processes, by c10d with the Gloo or the NCCL that is built into libtorch. Plain C, with the convention of shim.h.
#ifndef LDALIGN_TENSOR_GROUP_H
#define LDALIGN_TENSOR_GROUP_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// The store by which the members find each other. The server listens on port, 0 for any free one; *bound is the port.
char *shim_store_new(void **out, int *bound, const char *host, int port, int server, int timeout_ms);
void shim_store_free(void *store);

// Returns when all members have joined. device is the number of this process's GPU, or -1: then the members are connected by
// Gloo, and address is that of this process in their network.
char *shim_group_new(void **out, void *store, int rank, int size, int device, const char *address, int timeout_ms);
void shim_group_free(void *group);
// Has an operation that is under way fail on GPUs, whose connections do not tell that a member has died. It may be called beside one.
void shim_group_abort(void *group);
// All members must call these in the same order with tensors of the same types and shapes.
char *shim_group_sum(void *group, void **tensors, size_t n);
char *shim_group_broadcast(void *group, void **tensors, size_t n, int root);

#ifdef __cplusplus
}
#endif
#endif
