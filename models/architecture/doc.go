// Package architecture describes models without computing them: their configurations (config.json, adapter_config.json and
// guide.json), the names and shapes of their weights, the number of their parameters, and the memory of their caches. It
// uses neither libtorch nor cgo, so a plan or an inspection needs neither. Package models computes what this package
// describes.
//
// A Config describes a language model of any family, a LoRA a low-rank adapter on one, a Guide a guiding auto-encoder, and a
// Reward a reward model.
//
// Shapes are written [B, T, H]: B rows, T positions, H the hidden width; V is the vocabulary, D the width of a head.
package architecture
