package models

// Compute is how training computes. It affects the last bits, time and memory.
type Compute struct {
	// BFloat16 runs forward and backward passes in bfloat16. Weights, their gradients, norms and log-probs keep their types.
	BFloat16 bool
	// Recompute keeps only the input of each layer, and runs the layer again in the backward pass, with equal bits.
	Recompute bool
}

// training holds what only a pass whose gradients flow needs.
type training struct {
	how     Compute
	kernels bool // Float32 on the CPU
}
