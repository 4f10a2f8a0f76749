package tokenizer

import "strings"

// Stream turns ids into text one at a time. The pieces of Push and Flush joined are Decode of all ids, each of them is
// valid UTF-8, and none ends within a character. It belongs to one goroutine and ends before its tokenizer is closed.
//
// What a token adds to the text depends on its neighbours: the first token may lose its leading space, and a character
// may lie over several tokens. So a short window of ids is decoded, beginning with the tokens of the last piece as
// context, and only what is new is given.
type Stream struct {
	tokenizer   *Tokenizer
	skipSpecial bool
	ids         []int64 // the window
	context     int     // ids of the window whose text was given whole
	given       string  // the window's text that was given already
}

// The longest character has four bytes, so four tokens after a boundary it cannot be open any more.
const (
	unknown    = "\uFFFD"
	charTokens = 4
)

// Stream begins a text. With skipSpecial the special tokens have no text, as in Decode.
func (t *Tokenizer) Stream(skipSpecial bool) *Stream {
	return &Stream{tokenizer: t, skipSpecial: skipSpecial}
}

// Push gives the text that is final with id, often "". Held back are
//   - an unfinished character (shown as U+FFFD, so also a U+FFFD at the end, until the next token);
//   - in a vocabulary with byte fallback, a run of byte tokens, until a token of another kind: one bad byte makes
//     U+FFFD of the whole run.
//
// The work does not grow with the length of the text.
func (s *Stream) Push(id int64) string {
	if s.skipSpecial && s.tokenizer.library.skip[id] && s.decode([]int64{id}) == "" {
		return "" // as if it were not there, for its neighbours too
	}
	s.ids = append(s.ids, id)
	if s.inBytes() {
		return ""
	}
	text := s.decode(s.ids)
	final, open := strings.CutSuffix(text, unknown)
	if len(final) < len(s.given) || !strings.HasPrefix(final, s.given) {
		return ""
	}
	piece := final[len(s.given):]
	s.given = final
	if open {
		s.shorten(text)
		return piece
	}
	// The next window begins with the tokens since the last whole text, unless they are silent (special ones, say) and
	// so would not be the context that the real first token is.
	if last := s.decode(s.ids[s.context:]); last != "" {
		s.ids = append(s.ids[:0], s.ids[s.context:]...)
		s.given = last
	}
	s.context = len(s.ids)
	return piece
}

// Flush gives the rest, and the next Push begins another text.
func (s *Stream) Flush() string {
	text, ok := strings.CutPrefix(s.decode(s.ids), s.given)
	s.ids, s.context, s.given = s.ids[:0], 0, ""
	if !ok {
		return ""
	}
	return text
}

func (s *Stream) decode(ids []int64) string { return s.tokenizer.Decode(ids, s.skipSpecial) }

// inBytes says whether the window ends with a byte token. A silent token behind one does not end the run, as it may
// have been left out of the text.
func (s *Stream) inBytes() bool {
	for i := len(s.ids) - 1; i >= s.context && len(s.tokenizer.library.bytes) > 0; i-- {
		if s.tokenizer.library.bytes[s.ids[i]] {
			return true
		}
		if s.decode(s.ids[i:i+1]) != "" {
			return false
		}
	}
	return false
}

// shorten keeps the window small while its text goes on ending with U+FFFD: it cuts at a boundary that is old enough,
// if both sides decode to the same text on their own.
func (s *Stream) shorten(text string) {
	if len(s.ids) < s.context+3*charTokens {
		return
	}
	for cut := len(s.ids) - charTokens; cut > s.context; cut-- {
		head, tail := s.decode(s.ids[:cut]), s.decode(s.ids[cut:])
		if head+tail == text && len(head) <= len(s.given) {
			s.ids = append(s.ids[:0], s.ids[cut:]...)
			s.context, s.given = 0, s.given[len(head):]
			return
		}
	}
}
