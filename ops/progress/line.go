package progress

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// state is the content of a task's line at one time.
type state struct {
	Time    string            `json:"time"` // RFC 3339, UTC
	Task    string            `json:"task"`
	Done    int64             `json:"done"`
	Total   int64             `json:"total,omitempty"`
	Unit    string            `json:"unit,omitempty"`
	Elapsed float64           `json:"elapsed_seconds"`
	Rate    float64           `json:"rate"`      // recent items per second
	Mean    float64           `json:"mean_rate"` // items per second since the start
	ETA     *float64          `json:"eta_seconds,omitempty"`
	Notes   map[string]string `json:"notes,omitempty"`
	Final   bool              `json:"final,omitempty"`
	Stopped bool              `json:"stopped,omitempty"` // final, and not by Done

	notes []note
}

// text returns the plain line: progress, or the summary of a final state.
func (s state) text() string {
	var b strings.Builder
	b.WriteString(s.Task + ":")
	switch {
	case s.Stopped:
		fmt.Fprintf(&b, " stopped at %s after %s", s.count(), duration(s.Elapsed))
	case s.Final:
		fmt.Fprintf(&b, " %s in %s, %s", s.items(s.Done), duration(s.Elapsed), perSecond(s.Mean))
	default:
		fmt.Fprintf(&b, " %s%s, %s", s.count(), s.percent(", "), perSecond(s.Rate))
		if s.ETA != nil {
			b.WriteString(", eta " + duration(*s.ETA))
		}
	}
	for _, n := range s.notes {
		fmt.Fprintf(&b, ", %s %s", n.key, n.value)
	}
	return b.String()
}

const barCells = 20

// bar returns the live line, at most width cells wide, with a bar if there is room. The name is padded to pad cells.
func (s state) bar(pad, width int, color bool) string {
	name := s.Task + strings.Repeat(" ", max(0, pad-runes(s.Task))) + "  "
	var rest strings.Builder
	if p := s.percent(""); p != "" {
		fmt.Fprintf(&rest, "%4s  ", p)
	}
	rest.WriteString(s.count() + "  " + perSecond(s.Rate))
	if s.ETA != nil {
		rest.WriteString("  eta " + duration(*s.ETA))
	} else {
		rest.WriteString("  " + duration(s.Elapsed))
	}
	for _, n := range s.notes {
		rest.WriteString("  " + n.key + " " + n.value)
	}
	cells := ""
	if s.Total > 0 && runes(name)+barCells+2+runes(rest.String()) <= width {
		full := int(min(max(s.Done, 0), s.Total) * barCells / s.Total)
		cells = strings.Repeat("━", full) + strings.Repeat("╌", barCells-full) + "  "
	}
	line := truncate(name+cells+rest.String(), width)
	if color && runes(line) > runes(s.Task) {
		return "\x1b[1m" + s.Task + "\x1b[0m" + line[len(s.Task):]
	}
	return line
}

func (s state) count() string {
	if s.Total > 0 {
		return s.items(s.Done, s.Total)
	}
	return s.items(s.Done)
}

// items returns "12 prompts" or "12/40 prompts".
func (s state) items(counts ...int64) string {
	last := len(counts) - 1
	out := ""
	for _, n := range counts[:last] {
		out += fmt.Sprint(n) + "/"
	}
	return out + Count(counts[last], s.Unit)
}

// Count formats a number with its unit, which is given as a plural: "1 policy", "2 policies", and "3" without a unit.
func Count(n int64, unit string) string {
	if n == 1 {
		if stem, ok := strings.CutSuffix(unit, "ies"); ok {
			unit = stem + "y"
		} else {
			unit = strings.TrimSuffix(unit, "s")
		}
	}
	return strings.TrimSuffix(fmt.Sprintf("%d %s", n, unit), " ")
}

func (s state) percent(before string) string {
	if s.Total <= 0 {
		return ""
	}
	share := float64(min(max(s.Done, 0), s.Total)) / float64(s.Total)
	return fmt.Sprintf("%s%d%%", before, int(100*share)) // rounded down, so that 100% means done
}

func perSecond(r float64) string {
	switch {
	case r >= 100:
		return fmt.Sprintf("%.0f/s", r)
	case r >= 1 || r == 0:
		return fmt.Sprintf("%.1f/s", r)
	default: // slow work: show the time for one item
		return duration(1/r) + " each"
	}
}

// duration formats seconds as 0.8s, 14.2s, 3m05s or 2h07m.
func duration(seconds float64) string {
	if seconds < 59.95 {
		return fmt.Sprintf("%.1fs", max(0, seconds))
	}
	if seconds >= 1000*3600 {
		return "over 1000h"
	}
	d := time.Duration(seconds * float64(time.Second)).Round(time.Second)
	if d < time.Hour {
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

// clean replaces control characters by spaces, so that a name or value cannot move the cursor.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

// truncate cuts s to width cells, one per rune.
func truncate(s string, width int) string {
	if width < 1 {
		return ""
	}
	if runes(s) <= width {
		return s
	}
	return string([]rune(s)[:width-1]) + "…"
}

func runes(s string) int { return utf8.RuneCountInString(s) }
