// Package derive plans runs that begin with what another run has made. A replay reads its log, a sweep is several replays, a
// fork starts from one of its policies, a restore is the run itself, perhaps under another name.
//
// A plan is a pure function: from the parent's spec, a request and the facts that the request needs, it gives the spec of the
// new run, or the reason why there is none. Package runs reads the facts; verbs print the spec or play it.
//
// Files use only files above them: facts.go, change.go, replay.go, sweep.go, fork.go, restore.go.
package derive
