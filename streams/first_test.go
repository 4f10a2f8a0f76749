package streams

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// Of several processes that declare a run with different specs, at once or long after one another, one succeeds. All get its
// declaration.
func TestPublishFirst(t *testing.T) {
	limits := quick
	limits.DedupWindow = 100 * time.Millisecond
	c := openIn(t, t.TempDir(), limits)
	ctx := testContext(t)
	spec := func(i int) *events.Control {
		return &events.Control{Schema: events.Version, Run: "r", Kind: events.ControlSpec, SpecDigest: fmt.Sprint("digest ", i)}
	}
	publish(t, c, schemas.Control, closedAt("r", 0, 3)) // shares the subject
	const processes = 8
	got := make([]Received, processes)
	group, publishing := errgroup.WithContext(ctx)
	for i := range processes {
		group.Go(func() (err error) {
			got[i], err = c.PublishFirst(publishing, schemas.Control, spec(i))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	const later = "digest of a later day"
	again, err := EntryOf(schemas.Control, &events.Control{
		Schema: events.Version, Run: "r", Kind: events.ControlSpec, SpecDigest: later,
	}, "outside of the window")
	if err == nil {
		err = c.Store(ctx, schemas.Control, again) // by a program that does not use PublishFirst
	}
	if err != nil {
		t.Fatal(err)
	}
	found, err := c.Find(ctx, schemas.Control, "r", again.ID())
	if err != nil {
		t.Fatal(err)
	}
	last, err := c.PublishFirst(ctx, schemas.Control, spec(processes))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range append(got, found, last) {
		if r.Seq != 2 || r.Message.(*events.Control).GetSpecDigest() != got[0].Message.(*events.Control).GetSpecDigest() {
			t.Errorf("%v at %d, want the first declaration", r.Message, r.Seq)
		}
	}
	if n := len(stored(t, c, schemas.Control, "r")); n != 3 {
		t.Errorf("%d control messages, want 3: nobody but the other program has stored a second declaration", n)
	}
}
