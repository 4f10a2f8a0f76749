// Package offline generates, scores and rewards the records of JSONL files, by the code that the stages use on streams.
// A job that was stopped in any way continues in its output file.
package offline
