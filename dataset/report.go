package dataset

import (
	"fmt"
	"strings"
)

// The most entries that the lists of a report have. Every dropped row is counted, also beyond them.
const (
	maxProblems = 20
	maxIgnored  = 40
)

// reason is why a row is dropped.
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

// Dropped is how many rows were dropped for a reason.
type Dropped struct {
	Reason string `json:"reason"`
	Count  int    `json:"count"`
}

// Report says what became of the rows of a source: Read = Kept + Left + the sum of Dropped.
type Report struct {
	// Source is the source as it was given to Load.
	Source string `json:"source"`
	// Format names the files' format and the columns of the first record.
	Format string `json:"format"`
	// Files are the files that were read.
	Files []string `json:"files,omitempty"`
	// Read counts the rows, and the lines with content; Kept counts those that became records.
	Read int `json:"read"`
	Kept int `json:"kept"`
	// Left counts usable records that are not in the subset.
	Left int `json:"left,omitempty"`
	// Limited says that reading ended at Options.Limit.
	Limited bool `json:"limited,omitempty"`
	// Dropped are the reasons that occurred, in a fixed order.
	Dropped []Dropped `json:"dropped,omitempty"`
	// Ignored names columns that are not used.
	Ignored []string `json:"ignored,omitempty"`
	// SystemMessages counts messages of the role system, which are ignored: a run takes its system message from the spec.
	// LaterTurns counts conversations that were cut after the first answer.
	SystemMessages int `json:"system_messages,omitempty"`
	LaterTurns     int `json:"later_turns,omitempty"`
	// Problems describes the first rows that were dropped.
	Problems []Problem `json:"problems,omitempty"`
}

// Problem is one row that was dropped.
type Problem struct {
	Source string `json:"source"`
	Line   int    `json:"line"`
	Reason string `json:"reason"`
}

// String returns source:line: reason.
func (p Problem) String() string { return fmt.Sprintf("%s:%d: %s", p.Source, p.Line, p.Reason) }

// String returns one line such as "1500 records of 1503 rows; dropped: 2 malformed, 1 duplicate".
func (r Report) String() string {
	text := fmt.Sprintf("%d records of %d rows", r.Kept, r.Read)
	if r.Limited {
		text = fmt.Sprintf("the first %d records, of %d rows", r.Kept, r.Read)
	}
	if len(r.Files) > 1 {
		text += fmt.Sprintf(" in %d files", len(r.Files))
	}
	if r.Left > 0 {
		text += fmt.Sprintf(", chosen at random from %d", r.Kept+r.Left)
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
