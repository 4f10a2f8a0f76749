// Package trainer turns scored pairs into checkpoints: one run from its first policy to its last.
//
// Read it in this order: trainer.go (a run), begin.go (its first policy), guide.go, policy.go (an iteration). What an
// iteration is made of is in package intake, its steps in package loop, what is minimised in packages objective and task,
// and which example is trained when in package schedule. docs/architecture.md lists them all.
//
// Exactness rests on three things. The examples of an iteration are put into the prompter's order before they are
// shuffled, so the order in which workers finished does not matter. Everything random is derived from the spec's seed. And
// a state checkpoint holds weights, optimizer state and the cursor together, so a killed trainer repeats the steps since
// the last one and arrives at the same bits.
package trainer
