// Package trainer turns scored pairs into checkpoints. It executes one run from its first policy to its last.
//
// Read it in this order: trainer.go (a run), begin.go (its first policy), guide.go, policy.go (an iteration). Package intake
// reads the pairs of an iteration, package loop makes the steps, packages objective and task define the losses, and package
// schedule decides which example is trained when. docs/architecture.md lists all packages.
//
// Exactness rests on three things. The trainer puts the examples of an iteration into the prompter's order before it
// shuffles them, so the order in which workers finished does not matter. Everything random is derived from the spec's seed.
// A state checkpoint contains weights, optimizer state and the cursor together, so a killed trainer repeats the steps since
// the last state and arrives at the same bits.
package trainer
