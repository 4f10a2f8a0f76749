package tokenizer

// Answer makes the text of a response from its tokens as they come, and ends it before the first stop string. It belongs to
// one goroutine and ends before its tokenizer is closed.
type Answer struct {
	stream *Stream
	stop   *StopMatcher
}

// Answer begins a response without special tokens. The stop strings are those of NewStopMatcher.
func (t *Tokenizer) Answer(stops ...string) (*Answer, error) {
	stop, err := NewStopMatcher(stops...)
	if err != nil {
		return nil, err
	}
	return &Answer{stream: t.Stream(true), stop: stop}, nil
}

// Push takes the next token and returns the text that is final with it, often ""; stopped says that a stop string ended the
// response.
func (a *Answer) Push(id int64) (text string, stopped bool) { return a.stop.Push(a.stream.Push(id)) }

// Flush returns the rest of a response whose tokens have ended.
func (a *Answer) Flush() string {
	text, _ := a.stop.Push(a.stream.Flush())
	return text + a.stop.Flush()
}
