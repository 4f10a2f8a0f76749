package tokenizer

// Answer turns the tokens of a response into text as they come, and ends the response before the first stop string. It must be
// used by one goroutine at a time, and not after its tokenizer is closed.
type Answer struct {
	stream *Stream
	stop   *StopMatcher
}

// Answer begins a response. Special tokens have no text. The stop strings are those of NewStopMatcher.
func (t *Tokenizer) Answer(stops ...string) (*Answer, error) {
	stop, err := NewStopMatcher(stops...)
	if err != nil {
		return nil, err
	}
	return &Answer{stream: t.Stream(true), stop: stop}, nil
}

// Push takes the next token and returns the text that has become final, often "". stopped reports whether a stop string ended
// the response.
func (a *Answer) Push(id int64) (text string, stopped bool) { return a.stop.Push(a.stream.Push(id)) }

// Flush returns the remaining text after the last token.
func (a *Answer) Flush() string {
	text, _ := a.stop.Push(a.stream.Flush())
	return text + a.stop.Flush()
}
