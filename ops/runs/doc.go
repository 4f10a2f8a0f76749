// Package runs opens the server and the store of runs, and reads and changes the state of runs. Stages and the trainer do not
// use it. It needs no tensors, so it builds without cgo. The verbs of the command parse arguments, call it, and print.
//
// Package derive plans a run that is derived from another one; this package reads the facts for the plan. Each file uses only
// files listed above it:
//
//	session.go                          the connections
//	spec.go, declared.go, lease.go      a run's spec, and the lease that allows changing the run
//	facts.go, intact.go, results.go     what the server and the store have of a run
//	stage.go, liveness.go, stall.go     which workers a run has, and what it waits for
//	status.go                           the progress of a run
//	audit.go, exact.go, sweep.go        audits, comparisons and estimates from logs and store
//	export.go                           a policy or guide as a folder
//	backup.go, rename.go, restore.go    backing up and restoring a run
//	letters.go, prune.go, delete.go     redriving, dropping and removing
package runs
