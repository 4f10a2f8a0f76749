// Package offline generates, scores and rewards the records of JSONL files, with the code that the stages use on streams.
// However a job was stopped, running it again continues in its output file.
package offline
