// Package metrics writes the figures of a run's training steps where tools read them: metrics.jsonl, a line for a step,
// and TensorBoard's event files.
//
// Both are views of what the checkpoints hold. Opening them for a run that goes on makes them hold exactly the steps that
// it goes on from: lines of steps that will be made again are taken out, lines that are missing are written anew.
package metrics
