// Package jsonl reads and writes JSONL files whose records have ids: a line is a JSON object, its id a text or a whole
// number. A Writer appends whole lines only, so that work which was stopped in any way continues in the same file.
package jsonl
