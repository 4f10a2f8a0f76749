package tokenizer

import (
	"errors"
	"strings"
)

// StopMatcher finds the first stop string in a text that comes in pieces (those of a Stream, for example), even if it spans
// several pieces. The result does not depend on how the text is cut. A StopMatcher must be used by one goroutine at a time.
type StopMatcher struct {
	stops   []string
	held    string // the end of the text, if it may be the beginning of a stop string
	stopped string
}

// NewStopMatcher returns a matcher for any number of stop strings. None may be empty.
func NewStopMatcher(stops ...string) (*StopMatcher, error) {
	for _, stop := range stops {
		if stop == "" {
			return nil, errors.New("tokenizer: a stop string is empty")
		}
	}
	return &StopMatcher{stops: stops}, nil
}

// Push takes the next piece and returns the text that can be shown. If a stop string is complete (stopped is true), that is all
// text before it. Otherwise it is all text except an end that may be the beginning of a stop string. The stop string is the one
// that is complete first; of several that end at the same place, the longest. After a stop string, Push returns no more text.
func (m *StopMatcher) Push(piece string) (show string, stopped bool) {
	if m.stopped != "" {
		return "", true
	}
	text := m.held + piece
	end := len(text) + 1
	for _, stop := range m.stops {
		i := strings.Index(text, stop)
		if i < 0 {
			continue
		}
		if at := i + len(stop); at < end || at == end && len(stop) > len(m.stopped) {
			end, m.stopped = at, stop
		}
	}
	if m.stopped != "" {
		m.held = ""
		return text[:end-len(m.stopped)], true
	}
	hold := 0
	for _, stop := range m.stops {
		for n := min(len(stop)-1, len(text)); n > hold; n-- {
			if strings.HasSuffix(text, stop[:n]) {
				hold = n
			}
		}
	}
	show, m.held = text[:len(text)-hold], text[len(text)-hold:]
	return show, false
}

// Flush returns the text that was held back when the text ended without a stop string.
func (m *StopMatcher) Flush() string {
	rest := m.held
	m.held = ""
	return rest
}
