package schemas

import (
	"fmt"
	"strings"
)

// SpecError lists all problems of a run spec, in the order of the file.
type SpecError struct {
	Problems []Problem
}

// Problem is one thing wrong with a run spec.
type Problem struct {
	// File is the spec's file, or --set; empty for a spec that was not read from text.
	File string
	// Line and Column start at 1. They are 0 if the position is not known.
	Line, Column int
	// Key is the full path, such as training.batch; empty for a problem of the whole text.
	Key string
	// Message says what was found and what is expected.
	Message string
}

// Error returns one line per problem.
func (e *SpecError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// String returns file:line:column: key: message, without the parts that are unknown.
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
		}
		b.WriteString(": ")
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}
