package trainer

import (
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// TestResultsThatCannotBeStored: when the stream takes no more, the rest of a run's results is not piled up in memory.
func TestResultsThatCannotBeStored(t *testing.T) {
	conn, err := streams.Open(t.Context(), streams.Options{
		Dir: t.TempDir(), Log: zerolog.Nop(), Name: "test", Limits: streams.Limits{Sync: time.Minute},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := conn.Declare(t.Context(), "r", streams.Limits{}); err != nil {
		t.Fatal(err)
	}
	r := results{conn: conn, wake: make(chan struct{}, 1)}
	r.publish(&events.Result{Schema: events.Version, Run: "no run's name"})
	if err := r.run(t.Context()); err == nil {
		t.Fatal("a result of no run was stored")
	}
	r.publish(&events.Result{Schema: events.Version, Run: "r"})
	if left := r.take(); len(left) > 0 {
		t.Errorf("%d results wait, and nobody will store them", len(left))
	}
}
