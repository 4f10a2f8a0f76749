// The native functions that libtch lacks or gets wrong. Plain C.
//
// Convention: every function that can fail returns NULL on success and
// otherwise the error message, allocated with malloc; the caller frees it.
// Tensors are at::Tensor*, owned by the caller, exactly as in libtch.
#ifndef LDALIGN_TENSOR_SHIM_H
#define LDALIGN_TENSOR_SHIM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SHIM_MAX_DIMS 16

typedef struct {
  int64_t shape[SHIM_MAX_DIMS];
  int64_t ndim;
  int64_t numel;
  int64_t itemsize;
  int dtype;  // at::ScalarType
  int device; // -1 CPU, n CUDA(n)
  int requires_grad;
} shim_info_t;

// Process and thread.
char *shim_config(char **out);
const char *shim_cuda(void);
char *shim_devices(int *n);                          // the number of GPUs, if shim_cuda has found CUDA
char *shim_free_memory(int device, size_t *bytes);   // of CUDA(device)
void shim_deterministic(void);                       // for GPUs: the same operation on the same numbers gives the same bits
void shim_quiet_errors(void);
void shim_keep_memory(void);
void shim_strict_products(void);
uintptr_t shim_thread(void);
char *shim_set_threads(int n);
int shim_threads(void);
int shim_set_grad(int on);

// Lifetime, data in and out.
void shim_free(void **tensors, size_t n);
char *shim_info(void *t, shim_info_t *out);
char *shim_from_data(void **out, const void *data, size_t bytes, const int64_t *shape, int ndim, int dtype,
                     int device);
char *shim_read(void *t, int dtype, void *dst, size_t bytes);
char *shim_item(void *t, double *out);

// Operations.
enum {
  SHIM_EXP,
  SHIM_LOG_SIGMOID,
  SHIM_SILU,
  SHIM_GELU,
  SHIM_GELU_TANH,
};
char *shim_map(void **out, void *t, int f);
char *shim_copy(void *dst, void *src);
char *shim_clone(void **out, void *t);
char *shim_alias(void **out, void *t); // another handle of the same tensor
char *shim_sum(void **out, void *t, const int64_t *dims, int ndims, int keepdim);
char *shim_softmax(void **out, void *t, int64_t dim, int log);
char *shim_layer_norm(void **out, void *t, void *weight, void *bias, double eps);
char *shim_rms_norm(void **out, void *t, void *weight, double eps);
char *shim_sdpa(void **out, void *q, void *k, void *v, void *mask, int causal, double scale);

// By token (see kernels.h): float32 on the CPU. The norm, the rotation and the gate have gradients. bytoken.cpp has them.
typedef struct {
  int64_t token;
  float value;
} shim_scored_t; // laid out as kernels::scored
// A row of shim_sample: its settings, and how many entries of seen, bias and list belong to it, after those of the rows before.
typedef struct {
  double temperature, top_p, min_p, repetition_penalty, u;
  int64_t top_k, seen, biased, listed;
} shim_draw_t;
char *shim_pack(void **out, void *weight);
char *shim_pack_data(void **out, const void *data, size_t bytes, int dtype, int64_t rows, int64_t columns, int transpose);
int64_t shim_not_finite(const void *data, size_t bytes, int dtype);
char *shim_packed_linear(void **out, void *x, void *packed, int64_t n, void *bias);
char *shim_packed_rows(void **out, void *packed, int64_t n, void *ids);
char *shim_token_rms_norm(void **out, void *x, void *weight, double offset, double eps);
char *shim_token_rotate(void **out, void *x, void *cos, void *sin, void *positions);
char *shim_token_gate(void **out, int f, void *a, void *b);
int64_t shim_cache_width(int64_t d);
char *shim_cache_store(void *keys, void *values, void *k, void *v, void *slots, void *positions, int fused);
char *shim_cache_attend(void **out, void *keys, void *values, void *q, void *slots, void *positions, int64_t window,
                        double scale);
char *shim_fused_attend(void **out, void *keys, void *values, void *q, void *slots, void *positions, const int64_t *slot,
                        const int64_t *position, size_t m, int64_t window, double scale);
char *shim_log_softmax_at(void **out, void *logits, void *targets);
char *shim_sample(void *logits, const shim_draw_t *draws, const int64_t *seen, const shim_scored_t *bias, int64_t *tokens,
                  float *logps, shim_scored_t *list, size_t rows);

// Training: autograd functions that add the gradients of weights to the weights' own. training.cpp has them.
char *shim_train_linear(void **out, void *x, void *weight, void *bias, int in_first);
char *shim_train_embed(void **out, void *weight, void *ids);
char *shim_train_attention(void **out, void *q, void *k, void *v, const int64_t *segments, size_t count, int64_t window,
                           double scale, int fused);
char *shim_train_head(void **out, void *h, void *weight, void *targets, int64_t most);
// shim_recompute calls goRecompute(engine, id, x, out), and again in the backward pass. goRecompute, in Go, takes ownership of x.
char *shim_recompute(void **out, void *x, uintptr_t engine, uint64_t id);
char *goRecompute(uintptr_t engine, uint64_t id, void *x, void **out);

// Gradients and optimizers, over lists of n tensors.
char *shim_grad(void **out, void *t);
void shim_free_grads(void **params, size_t n);
char *shim_backward(void *loss, int keep_graph);
char *shim_clip_grad_norm(void **grads, size_t n, double max_norm, double *norm);
char *shim_adamw(void **params, void **grads, void **exp_avg, void **exp_avg_sq, size_t n, int64_t step, double lr,
                 double beta1, double beta2, double eps, double weight_decay);
char *shim_rmsprop(void **params, void **grads, void **square_avg, size_t n, double lr, double alpha, double eps,
                   double weight_decay);

#ifdef __cplusplus
}
#endif
#endif
