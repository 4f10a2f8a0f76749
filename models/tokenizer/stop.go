package tokenizer

import (
	"errors"
	"strings"
)

// StopMatcher finds the first stop string in a text that comes in pieces (of a Stream, say), also where it lies over
// several of them. What it finds does not depend on how the text was cut. It belongs to one goroutine.
type StopMatcher struct {
	stops   []string
	held    string // the end of the text, which may be the beginning of a stop string
	stopped string
}

// NewStopMatcher takes the stop strings: any number of them, none empty.
func NewStopMatcher(stops ...string) (*StopMatcher, error) {
	for _, stop := range stops {
		if stop == "" {
			return nil, errors.New("tokenizer: a stop string is empty")
		}
	}
	return &StopMatcher{stops: stops}, nil
}

// Push takes the next piece and gives what of the text can be shown: all before the stop string where there is one
// (stopped is true), else all but an end with which a stop string may begin. The stop string is the one that is
// complete first; of several that end at the same place, the longest. After it Push gives nothing more.
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

// Flush gives what was held back of a text that ended without a stop string.
func (m *StopMatcher) Flush() string {
	rest := m.held
	m.held = ""
	return rest
}

// Stopped is the stop string that was found, "" for none.
func (m *StopMatcher) Stopped() string { return m.stopped }
