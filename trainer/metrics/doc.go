// Package metrics writes the metrics of a run's training steps for other tools: metrics.jsonl, with a line for each step, and
// TensorBoard's event files.
//
// The checkpoints contain the same records. When a run resumes, Open makes the files contain exactly the steps that the run
// resumes from: it removes the steps that will be made again and writes missing ones.
package metrics
