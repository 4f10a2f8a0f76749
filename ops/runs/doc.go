// Package runs is what is done with runs from outside a stage: opening their server and store, reading and changing their
// state. It needs no tensors, so it builds without cgo. Verbs of the command parse, call it, and print.
//
// Package derive plans what a run derived from another one is; this package reads the facts for it. Files use only files above
// them:
//
//	session.go                          the connections
//	spec.go, declared.go, lease.go      a run's spec, and the right to change the run
//	facts.go, intact.go, results.go     what there is of a run
//	stage.go, liveness.go, stall.go     who works on a run, and what it waits for
//	status.go                           how far a run is
//	audit.go, exact.go, sweep.go        proofs and estimates from logs and store
//	export.go                           a policy as a folder
//	backup.go, rename.go, restore.go    a copy of a run, and back
//	letters.go, prune.go, delete.go     what is removed
package runs
