// Package loop trains one phase: optimizer steps over the examples of a task, epoch by epoch. It saves a state checkpoint
// every few steps, from which a killed trainer resumes with the same bits.
//
// A phase has three parts: what is decided before it begins (schedule.Plan and Config), what it has recorded (journal), and
// the running Phase, which uses the others. States saves phases as checkpoints and restores them.
//
// Exactness rests on this: the plan is a function of the spec, everything random is derived from the spec's seed, and a
// state contains weights, optimizer state and cursor together.
package loop
