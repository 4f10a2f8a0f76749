package models

// Compute says how training computes. It decides the last bits, time and memory.
type Compute struct {
	// BFloat16 runs forward and backward in bfloat16. Weights, their gradients, norms and log-probs stay as they are.
	BFloat16 bool
	// Recompute keeps nothing of a layer but its input, and runs the layer again on the way back, to equal bits.
	Recompute bool
}

// training is what a pass whose gradients flow has besides.
type training struct {
	how     Compute
	kernels bool // Float32 on the CPU
}
