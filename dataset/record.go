package dataset

import (
	"cmp"
	"container/heap"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/ldalign/ldalign/schemas"
)

// maxText is the most bytes that the texts of a record may have together. They travel in messages of under 256 KiB, with
// token ids and latents.
const maxText = 128 << 10

// value is the value of a column in a row.
type value struct {
	kind     valueKind
	text     string // of a text, or of a number as it is written
	texts    []string
	messages []message
}

type valueKind int

const (
	noValue valueKind = iota // absent or null
	textValue
	numberValue
	textsValue
	messagesValue
	otherValue
)

// message is one turn of a conversation.
type message struct{ role, content string }

// row holds the values of the known columns that a row has.
type row map[string]value

// column is a part of a record, with the names that its column may have in a file.
type column struct {
	// key is the column's key in data.columns.
	key   string
	names []string
}

// columns are all columns that a record may be made of.
type columns struct{ id, prompt, response, rejected, messages, contains, distance, refChosen, refRejected column }

func newColumns(spec schemas.ColumnsSpec) columns {
	named := func(key, own string, usual ...string) column {
		if own != "" {
			return column{key, []string{own}}
		}
		return column{key, usual}
	}
	return columns{
		id:          named("id", spec.ID, "id", "prompt_id"),
		prompt:      named("prompt", spec.Prompt, "prompt"),
		response:    named("response", spec.Response, "response", "chosen", "real"),
		rejected:    named("rejected", spec.Rejected, "rejected", "generated"),
		messages:    named("messages", spec.Messages, "messages", "conversations"),
		contains:    named("contains", "", "contains"),
		distance:    named("distance", spec.Distance, "distance"),
		refChosen:   named("ref_chosen_logp", spec.RefChosen, "ref_chosen_logp", "ref_chosen_logps"),
		refRejected: named("ref_rejected_logp", spec.RefRejected, "ref_rejected_logp", "ref_rejected_logps"),
	}
}

func (c columns) all() []column {
	return []column{c.id, c.prompt, c.response, c.rejected, c.messages, c.contains, c.distance, c.refChosen, c.refRejected}
}

// known reports whether records use a column.
func (c columns) known(name string) bool {
	return slices.ContainsFunc(c.all(), func(col column) bool { return slices.Contains(col.names, name) })
}

// find returns the row's value for the first of a column's names that has one, and that name.
func (r row) find(c column) (value, string) {
	for _, name := range c.names {
		if v := r[name]; v.kind != noValue {
			return v, name
		}
	}
	return value{}, c.names[0]
}

// dropped is the error of a row that becomes no record.
type dropped struct {
	why  reason
	text string
}

func (d dropped) Error() string { return d.text }

func drop(why reason, format string, args ...any) error {
	return dropped{why, fmt.Sprintf(format, args...)}
}

// made is a record, with what the report says about it.
type made struct {
	Record
	from           string
	system         int
	later, unnamed bool
}

// record makes a record of a row. The error is a dropped.
func (c columns) record(r row, o Options) (m made, err error) {
	if m.ID, err = r.id(c.id); err != nil {
		return m, err
	}
	prompt, promptName := r.find(c.prompt)
	asked, err := conversation(prompt, promptName)
	if err != nil {
		return m, err
	}
	answer, answerName := r.find(c.response)
	if answer.kind == noValue {
		answer, answerName = r.find(c.messages)
		if answer.kind == noValue {
			answerName = c.response.names[0]
		} else if answer.kind == textValue {
			answer.kind = otherValue // only a conversation is prompt and response
		}
	}
	chosen, err := conversation(answer, answerName)
	if err != nil {
		return m, err
	}
	worse, worseName := r.find(c.rejected)
	rejected, err := conversation(worse, worseName)
	if err != nil {
		return m, err
	}
	// The prompt is the user's turn of the chosen conversation, or the prompt column if the conversation has no such turn.
	m.Prompt, m.from = asked.asked(), promptName
	if chosen.prompt != "" {
		m.Prompt, m.from = chosen.prompt, answerName
	}
	m.Response, m.Rejected = chosen.response, rejected.response
	m.from = fmt.Sprintf("prompt from %s, response from %s", m.from, answerName)
	m.system, m.later = asked.system+chosen.system, asked.later || chosen.later || rejected.later
	switch {
	case strings.TrimSpace(m.Prompt) == "":
		return m, drop(noPrompt, "no %q", promptName)
	case answer.kind == messagesValue && !chosen.answered:
		return m, drop(noAnswer, "no assistant turn in %q", answerName)
	case strings.TrimSpace(m.Response) == "":
		return m, drop(noResponse, "no %q: every record needs a human response", answerName)
	case rejected.prompt != "" && chosen.prompt != "" && rejected.prompt != chosen.prompt:
		return m, drop(otherPrompt, "%q and %q answer different prompts", answerName, worseName)
	case !utf8.ValidString(m.ID + m.Prompt + m.Response + m.Rejected):
		return m, drop(notText, "not UTF-8 text")
	case len(m.Prompt)+len(m.Response)+len(m.Rejected) > maxText:
		return m, drop(tooLong, "its texts are longer than %d KiB together", maxText>>10)
	}
	if worse.kind != noValue {
		m.from += ", rejected from " + worseName
	}
	if m.Contains, err = r.words(c.contains); err != nil {
		return m, err
	}
	if m.ID == "" {
		m.ID, m.unnamed = promptID(m.Prompt), true
	}
	if o.Pairs {
		err = m.given(r, c)
	}
	return m, err
}

// given reads the distance and the reference log-probs of a row.
func (m *made) given(r row, c columns) error {
	var err error
	if m.Distance, err = r.number(c.distance); err != nil {
		return err
	}
	if m.Distance != nil && *m.Distance < 0 {
		return drop(badNumber, "%q is %g, less than 0", c.distance.names[0], *m.Distance)
	}
	chosen, err := r.number(c.refChosen)
	if err != nil {
		return err
	}
	rejected, err := r.number(c.refRejected)
	if err != nil {
		return err
	}
	if chosen != nil && rejected != nil {
		m.Reference = &[2]float64{*chosen, *rejected}
	}
	return nil
}

// fits returns why a record lacks what the options ask for, or nil.
func (o Options) fits(r Record) error {
	switch {
	case o.Pairs && strings.TrimSpace(r.Rejected) == "":
		return drop(noRejected, `no "rejected": every pair needs a rejected response`)
	case o.Pairs && r.Rejected == r.Response:
		return drop(equalResponses, "the response and the rejected response are equal")
	case o.Distances && r.Distance == nil:
		return drop(badNumber, `no "distance", which objective.distance: given needs`)
	}
	return nil
}

// id is a text or a whole number; empty where there is none.
func (r row) id(c column) (string, error) {
	v, name := r.find(c)
	switch {
	case v.kind == noValue, v.kind == textValue, v.kind == numberValue && !strings.ContainsAny(v.text, ".eE"):
		return v.text, nil
	}
	return "", drop(malformed, "%q is not a text or a whole number", name)
}

// words is a list of texts; nil where there is none.
func (r row) words(c column) ([]string, error) {
	v, name := r.find(c)
	if v.kind != noValue && v.kind != textsValue {
		return nil, drop(malformed, "%q is not a list of texts", name)
	}
	if len(v.texts) == 0 {
		return nil, nil
	}
	return v.texts, nil
}

// number is nil where there is none.
func (r row) number(c column) (*float64, error) {
	v, name := r.find(c)
	if v.kind == noValue {
		return nil, nil
	}
	x, err := strconv.ParseFloat(v.text, 64)
	if v.kind != numberValue || err != nil || math.IsNaN(x) || math.IsInf(x, 0) {
		return nil, drop(badNumber, "%q is not a finite number", name)
	}
	return &x, nil
}

// turn is the first exchange of a conversation: the first user message, and the first assistant message after it (or, where
// no user speaks, the first).
type turn struct {
	prompt, response string
	text             bool // not a conversation: response is the text
	answered, later  bool
	system           int
}

// asked is the prompt in a prompt column.
func (t turn) asked() string {
	if t.text {
		return t.response
	}
	return t.prompt
}

// conversation reads a column that is a text or a conversation. The error is a dropped.
func conversation(v value, name string) (turn, error) {
	var t turn
	switch {
	case v.kind == noValue || v.kind == textsValue && len(v.texts) == 0:
		return t, nil
	case v.kind == textValue:
		return turn{response: v.text, text: true}, nil
	case v.kind != messagesValue:
		return t, drop(malformed, `%q is not a text or a list of {"role", "content"}`, name)
	}
	asked := !slices.ContainsFunc(v.messages, func(m message) bool { return speaker(m.role) == "user" })
	for _, m := range v.messages {
		switch speaker(m.role) {
		case "system":
			t.system++
		case "user":
			if !asked {
				t.prompt, asked = m.content, true
			} else {
				t.later = t.later || t.answered
			}
		case "assistant":
			if asked && !t.answered {
				t.response, t.answered = m.content, true
			}
		case "tool":
		default:
			return t, drop(badRole, "%q has a message of the role %.40q", name, m.role)
		}
	}
	return t, nil
}

// speaker is the usual name of a role; empty for an unknown role.
func speaker(role string) string {
	switch strings.ToLower(role) {
	case "user", "human":
		return "user"
	case "assistant", "gpt", "model", "bot":
		return "assistant"
	case "system":
		return "system"
	case "tool", "function", "ipython":
		return "tool"
	}
	return ""
}

// place is the file and line of a record.
type place struct {
	file string
	line int
}

// chosen is a record of a subset, with the random number that chose it.
type chosen struct {
	rank   uint64
	serial int
	record Record
}

// draw is a heap of the records with the smallest ranks, the greatest of them on top.
type draw []chosen

func (d draw) Len() int { return len(d) }
func (d draw) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(d[i].rank, d[j].rank), cmp.Compare(d[i].serial, d[j].serial)) > 0
}
func (d draw) Swap(i, j int) { d[i], d[j] = d[j], d[i] }
func (d *draw) Push(x any)   { *d = append(*d, x.(chosen)) }
func (d *draw) Pop() any {
	last := len(*d) - 1
	x := (*d)[last]
	*d = (*d)[:last]
	return x
}

// collector turns rows into records.
type collector struct {
	o       Options
	columns columns
	report  Report
	dropped [reasons]int
	// name and container are the name and the format of the file that is being read.
	name, container string
	// first is the place of each id.
	first   map[string]place
	records []Record
	drawn   draw
	// stopped is the error of Progress.
	stopped error
}

func newCollector(source string, o Options) *collector {
	return &collector{o: o, columns: newColumns(o.Columns), report: Report{Source: source}, first: map[string]place{}}
}

// source begins a file.
func (c *collector) source(name string) {
	c.name = name
	c.report.Files = append(c.report.Files, name)
}

func (c *collector) ignore(name string) {
	if len(c.report.Ignored) < maxIgnored && !slices.Contains(c.report.Ignored, name) {
		c.report.Ignored = append(c.report.Ignored, name)
	}
}

// row takes one row, or drops it. It reports whether more are wanted.
func (c *collector) row(r row, at place) (more bool) {
	if c.o.Progress != nil && c.report.Read%1000 == 0 {
		if c.stopped = c.o.Progress(c.report.Read); c.stopped != nil {
			return false
		}
	}
	m, err := c.columns.record(r, c.o)
	if err != nil {
		return c.drop(at, err)
	}
	if len(c.records)+len(c.drawn) == 0 && c.report.Format == "" {
		c.report.Format = c.container + ", " + m.from
	}
	if before, ok := c.first[m.ID]; ok && m.unnamed {
		return c.drop(at, drop(duplicate, `same prompt as %s; give each an "id" to keep both`, before.seen(at)))
	}
	m.Line = at.line
	kept := len(c.first)
	more = c.take(m.Record, at)
	if len(c.first) > kept {
		c.report.SystemMessages += m.system
		if m.later {
			c.report.LaterTurns++
		}
	}
	return more
}

// seen names a place for a message about another.
func (p place) seen(from place) string {
	if p.file != from.file {
		return fmt.Sprintf("%s:%d", p.file, p.line)
	}
	return fmt.Sprintf("line %d", p.line)
}

func (c *collector) drop(at place, err error) (more bool) {
	why := malformed
	if d, ok := err.(dropped); ok { //nolint:errorlint // it is made in this file and never wrapped
		why = d.why
	}
	c.dropped[why]++
	if len(c.report.Problems) < maxProblems {
		c.report.Problems = append(c.report.Problems, Problem{at.file, at.line, err.Error()})
	}
	return true
}

// take adds a complete record.
func (c *collector) take(r Record, at place) (more bool) {
	if err := c.o.fits(r); err != nil {
		return c.drop(at, err)
	}
	if before, ok := c.first[r.ID]; ok {
		return c.drop(at, drop(duplicate, "same id %q as %s", r.ID, before.seen(at)))
	}
	c.first[r.ID] = at
	if c.o.Subset == 0 {
		c.records = append(c.records, r)
		c.report.Limited = c.o.Limit > 0 && len(c.records) >= c.o.Limit
		return !c.report.Limited
	}
	heap.Push(&c.drawn, chosen{schemas.SubSeed(c.o.Seed, "subset/"+r.ID, 0), len(c.first), r})
	if len(c.drawn) > c.o.Subset {
		heap.Pop(&c.drawn)
	}
	return true
}

// finish returns what was collected.
func (c *collector) finish() (Set, error) {
	if c.stopped != nil {
		return Set{}, fmt.Errorf("dataset: %s: %w", c.report.Source, c.stopped)
	}
	if c.o.Subset > 0 {
		slices.SortFunc(c.drawn, func(a, b chosen) int { return cmp.Compare(a.serial, b.serial) })
		for _, d := range c.drawn {
			c.records = append(c.records, d.record)
		}
		c.report.Left = len(c.first) - len(c.records)
	}
	c.report.Kept = len(c.records)
	for why, n := range c.dropped {
		if n > 0 {
			c.report.Dropped = append(c.report.Dropped, Dropped{reasonNames[why], n})
		}
	}
	if c.report.Kept == 0 {
		err := fmt.Errorf("%w in %s: %s", ErrNoRecords, c.report.Source, c.report)
		for _, p := range c.report.Problems[:min(3, len(c.report.Problems))] {
			err = fmt.Errorf("%w\n%s", err, p)
		}
		if len(c.report.Ignored) > 0 {
			err = fmt.Errorf("%w\nif an ignored column contains what is missing, name it by data.columns in the spec, or by --columns of "+
				"`ldalign data inspect` (docs/data.md)", err)
		}
		return Set{}, err
	}
	return Set{Records: c.records, Report: c.report}, nil
}
