package dataset

import (
	"fmt"
	"strings"
)

// maxProblems bounds the problems that a report lists. All are counted.
const maxProblems = 20

// Report counts what became of the lines of a source: Read = Kept + Malformed + Empty + Duplicate.
type Report struct {
	// Source is the file or the built-in data's name.
	Source string
	// Read counts lines with content; Kept those that became records.
	Read, Kept int
	// Malformed counts lines that are not a record: no JSON, a value of the wrong type, too long.
	Malformed int
	// Empty counts records without a prompt or without a response.
	Empty int
	// Duplicate counts records whose id (or, without ids, prompt) came before. The first is kept.
	Duplicate int
	// UnknownKeys counts keys that no record has, and SystemMessages messages of the role system. Both are ignored: a
	// run's system message is its spec's.
	UnknownKeys, SystemMessages int
	// Problems tells of the first lines that were dropped.
	Problems []Problem
}

// Problem is one line that was dropped.
type Problem struct {
	Source string
	Line   int
	Reason string
}

// String is source:line: reason.
func (p Problem) String() string { return fmt.Sprintf("%s:%d: %s", p.Source, p.Line, p.Reason) }

// String is one line for people, as "1500 records of 1503 lines; dropped: 2 malformed, 1 duplicate".
func (r Report) String() string {
	var dropped, ignored []string
	count := func(list *[]string, n int, what string) {
		if n > 0 {
			*list = append(*list, fmt.Sprintf("%d %s", n, what))
		}
	}
	count(&dropped, r.Malformed, "malformed")
	count(&dropped, r.Empty, "empty")
	count(&dropped, r.Duplicate, "duplicate")
	count(&ignored, r.UnknownKeys, "unknown keys")
	count(&ignored, r.SystemMessages, "system messages")
	text := fmt.Sprintf("%d records of %d lines", r.Kept, r.Read)
	if len(dropped) > 0 {
		text += "; dropped: " + strings.Join(dropped, ", ")
	}
	if len(ignored) > 0 {
		text += "; ignored: " + strings.Join(ignored, ", ")
	}
	return text
}

func (r *Report) drop(count *int, line int, reason string) {
	*count++
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, Problem{r.Source, line, reason})
	}
}
