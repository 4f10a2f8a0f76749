package streams

import (
	"context"
	"errors"
	"testing"
)

// Hints are coalesced: all that arrive while the function runs cause one more call.
func TestHints(t *testing.T) {
	c := openQuick(t)
	ctx, cancel := context.WithCancel(testContext(t))
	calls := 0
	err := c.OnHint(ctx, "ldalign-bucket.>", func() error {
		switch calls++; calls {
		case 1: // the call at the start
			for range 10 {
				if _, err := c.js.Publish(ctx, "ldalign-bucket.events", []byte("{}")); err != nil {
					return err
				}
			}
		case 2:
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
	if calls < 2 || calls > 4 { // the reader may be anywhere in its ten when the second call comes
		t.Errorf("%d calls for ten hints at once", calls)
	}
	stream, err := c.js.Stream(testContext(t), hintStream)
	if err != nil {
		t.Fatal(err)
	}
	if got := stream.CachedInfo().State.Msgs; got != 10 {
		t.Errorf("the stream took %d hints, want 10", got)
	}
	boom := errors.New("boom")
	if err := c.OnHint(testContext(t), "ldalign-bucket.>", func() error { return boom }); !errors.Is(err, boom) {
		t.Errorf("got %v, want the function's error", err)
	}
}
