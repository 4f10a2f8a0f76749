// Package runs is what is done with runs from outside a stage: opening their server and store, reading and changing their
// state. It needs no tensors, so it builds without cgo. Verbs of the command parse, call it, and print.
package runs
