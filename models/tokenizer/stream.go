package tokenizer

import "strings"

// Stream turns ids into text one at a time. All pieces of Push and Flush together are what Decode returns for all ids. Each
// piece is valid UTF-8, and none ends within a character. A Stream must be used by one goroutine at a time, and not after its
// tokenizer is closed.
//
// What a token adds to the text depends on its neighbours: the first token may lose its leading space, and a character may span
// several tokens. So a Stream decodes a short window of ids, which begins with the tokens of the last piece as context, and
// returns only the new text.
type Stream struct {
	tokenizer   *Tokenizer
	skipSpecial bool
	ids         []int64 // the window
	context     int     // how many ids at the beginning of the window are context: their text was returned before
	given       string  // the part of the window's text that was returned
}

// The longest character has four bytes, so it is complete four tokens after a boundary at the latest.
const (
	unknown    = "\uFFFD"
	charTokens = 4
)

// Stream begins a text. With skipSpecial, special tokens have no text, as in Decode.
func (t *Tokenizer) Stream(skipSpecial bool) *Stream {
	return &Stream{tokenizer: t, skipSpecial: skipSpecial}
}

// Push returns the text that has become final with id, often "". It holds back
//   - an unfinished character (shown as U+FFFD, so any U+FFFD at the end is held back until the next token);
//   - in a vocabulary with byte fallback, a run of byte tokens until another token follows, because one bad byte turns the
//     whole run into U+FFFD.
//
// The time it takes does not grow with the length of the text.
func (s *Stream) Push(id int64) string {
	if s.skipSpecial && s.tokenizer.library.skip[id] && s.decode([]int64{id}) == "" {
		return "" // skipped, also as a neighbour of other tokens
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
	// The next window begins with the tokens since the last complete text, as context for the next ones. If these tokens have no
	// text (special ones, for example), the earlier context stays: without it, the next token would count as the first of the text.
	if last := s.decode(s.ids[s.context:]); last != "" {
		s.ids = append(s.ids[:0], s.ids[s.context:]...)
		s.given = last
	}
	s.context = len(s.ids)
	return piece
}

// Flush returns the remaining text. The next Push begins another text.
func (s *Stream) Flush() string {
	text, ok := strings.CutPrefix(s.decode(s.ids), s.given)
	s.ids, s.context, s.given = s.ids[:0], 0, ""
	if !ok {
		return ""
	}
	return text
}

func (s *Stream) decode(ids []int64) string { return s.tokenizer.Decode(ids, s.skipSpecial) }

// inBytes reports whether the window ends with a byte token. A token without text behind it does not end the run of byte tokens,
// because decoding may have skipped it.
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

// shorten keeps the window small while its text still ends with U+FFFD. It cuts the window at an old enough boundary whose two
// sides decode to the same text on their own.
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
