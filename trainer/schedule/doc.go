// Package schedule says which example is trained when and at which rate: pure functions of the spec and of the number of
// examples. It needs no tensors.
package schedule
