package dataset

import (
	"fmt"
	"strings"
)

// Bounds of the lists in a report. All that is dropped is counted.
const (
	maxProblems = 20
	maxIgnored  = 40
)

// reason is why a record is dropped.
type reason int

// The reasons, in the order of a report.
const (
	malformed reason = iota
	notText
	badRole
	noPrompt
	noResponse
	noAnswer
	noRejected
	equalResponses
	otherPrompt
	badNumber
	tooLong
	duplicate
	reasons
)

var reasonNames = [reasons]string{
	"malformed", "not UTF-8", "unknown role", "empty prompt", "empty response", "no assistant turn", "no rejected response",
	"equal responses", "other prompt in the rejected conversation", "bad number", "too long", "duplicate",
}

// Dropped is how many records were dropped for a reason.
type Dropped struct {
	Reason string `json:"reason"`
	Count  int    `json:"count"`
}

// Report says what became of the rows of a source: Read = Kept + Left + the sum of Dropped.
type Report struct {
	// Source is what was asked for.
	Source string `json:"source"`
	// Format tells what the files are and which columns the first record was made of.
	Format string `json:"format"`
	// Files are those that were read.
	Files []string `json:"files,omitempty"`
	// Read counts rows and lines with content; Kept those that became records.
	Read int `json:"read"`
	Kept int `json:"kept"`
	// Left counts usable records that are not in the subset.
	Left int `json:"left,omitempty"`
	// Limited says that reading ended with the last record that was asked for.
	Limited bool `json:"limited,omitempty"`
	// Dropped are the reasons that occurred, in a fixed order.
	Dropped []Dropped `json:"dropped,omitempty"`
	// Ignored names columns that no record is made of.
	Ignored []string `json:"ignored,omitempty"`
	// SystemMessages counts messages of the role system, which are ignored: a run's system message is its spec's.
	// LaterTurns counts conversations that go on after the first answer, where they are cut.
	SystemMessages int `json:"system_messages,omitempty"`
	LaterTurns     int `json:"later_turns,omitempty"`
	// Problems tells of the first rows that were dropped.
	Problems []Problem `json:"problems,omitempty"`
}

// Problem is one row that was dropped.
type Problem struct {
	Source string `json:"source"`
	Line   int    `json:"line"`
	Reason string `json:"reason"`
}

// String is source:line: reason.
func (p Problem) String() string { return fmt.Sprintf("%s:%d: %s", p.Source, p.Line, p.Reason) }

// String is one line for people, as "1500 records of 1503 rows; dropped: 2 malformed, 1 duplicate".
func (r Report) String() string {
	text := fmt.Sprintf("%d records of %d rows", r.Kept, r.Read)
	if r.Limited {
		text = fmt.Sprintf("the first %d records, of %d rows", r.Kept, r.Read)
	}
	if len(r.Files) > 1 {
		text += fmt.Sprintf(" in %d files", len(r.Files))
	}
	if r.Left > 0 {
		text += fmt.Sprintf(", a subset of %d", r.Kept+r.Left)
	}
	var dropped, ignored []string
	for _, d := range r.Dropped {
		dropped = append(dropped, fmt.Sprintf("%d %s", d.Count, d.Reason))
	}
	if len(dropped) > 0 {
		text += "; dropped: " + strings.Join(dropped, ", ")
	}
	if r.SystemMessages > 0 {
		ignored = append(ignored, fmt.Sprintf("%d system messages", r.SystemMessages))
	}
	if r.LaterTurns > 0 {
		ignored = append(ignored, fmt.Sprintf("later turns of %d conversations", r.LaterTurns))
	}
	if len(r.Ignored) > 0 {
		ignored = append(ignored, "columns "+strings.Join(r.Ignored, " "))
	}
	if len(ignored) > 0 {
		text += "; ignored: " + strings.Join(ignored, ", ")
	}
	return text
}
