// Package loop trains one phase: optimizer steps over the examples of a task, epoch by epoch, with a state checkpoint every
// few steps from which a killed trainer goes on with the same bits.
//
// A phase goes through four states, each with a type of its own: what is decided before it begins (schedule.Plan and
// Config), what computes its steps (stepper), what it has recorded (journal), and the running Phase that holds them. What
// depends on nothing above stands lowest: stepper and journal know nothing of Phase. A State keeps phases in checkpoints,
// and Follow computes the steps of another process's phase.
//
// Exactness rests on this: the plan is a function of the spec, everything random is derived from the spec's seed, and a
// state holds weights, optimizer state and cursor together.
package loop
