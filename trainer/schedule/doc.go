// Package schedule decides which example is trained when and at which learning rate, by pure functions of the spec and the
// number of examples. It needs no tensors.
package schedule
