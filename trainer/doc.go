// Package trainer turns scored pairs into checkpoints.
//
// Read it in this order: objective.go (what is minimised, as pure functions), weights.go (distances to weights), plan.go
// (which example is trained when, as pure functions of the spec), loop.go (steps, state checkpoints, exact resume) and
// trainer.go (one run from its first policy to its last).
//
// Exactness rests on three things. The examples of an iteration are put into the prompter's order before they are
// shuffled, so the order in which workers finished does not matter. Everything random is derived from the spec's seed. And
// a state checkpoint holds weights, optimizer state and the cursor together, so a killed trainer repeats the steps since
// the last one and arrives at the same bits.
package trainer
