// Package derive plans runs that start from another run, their parent. A replay reads the parent's log, a sweep is several
// replays, a fork starts from one of the parent's policies, and a restore is the run of a backup, perhaps under another name.
//
// Planning is a pure function: from the parent's spec, a request and the facts that the request needs, it makes the spec of the
// new run, or returns an error that says why it cannot. Package runs reads the facts; verbs print the spec or play the run.
//
// Each file uses only earlier ones of this list: facts.go, change.go, replay.go, sweep.go, fork.go, restore.go.
package derive
