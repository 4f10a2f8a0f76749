package decode

import (
	"iter"
	"sync"
)

// Reply is the response to a submitted request while it is being decoded. Its methods may be called from any goroutine, but not
// from Request.OnToken.
type Reply struct {
	digest string

	mu      sync.Mutex
	changed sync.Cond // a token came, or the end
	tokens  []Token
	result  Result
	ended   bool
}

func newReply(digest string) *Reply {
	r := &Reply{digest: digest}
	r.changed.L = &r.mu
	return r
}

// Digest returns the digest of the weights that decode the response.
func (r *Reply) Digest() string { return r.digest }

// Tokens yields the response's tokens from the first one on, each as soon as it is sampled, until the response ends. To end it
// early, cancel the request's context. A caller may stop reading at any time: no token is lost, and decoding continues.
func (r *Reply) Tokens() iter.Seq[Token] {
	return func(yield func(Token) bool) {
		for i := 0; ; i++ {
			t, ok := r.token(i)
			if !ok || !yield(t) {
				return
			}
		}
	}
}

// token waits for the i-th token. It returns false if the response ended before it.
func (r *Reply) token(i int) (Token, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i >= len(r.tokens) && !r.ended {
		r.changed.Wait()
	}
	if i >= len(r.tokens) {
		return Token{}, false
	}
	return r.tokens[i], true
}

// Result waits until the response has ended, and returns it.
func (r *Reply) Result() Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	for !r.ended {
		r.changed.Wait()
	}
	return r.result
}

func (r *Reply) push(t Token) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tokens = append(r.tokens, t)
	r.changed.Broadcast()
}

func (r *Reply) end(result Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result, r.ended = result, true
	r.changed.Broadcast()
}
