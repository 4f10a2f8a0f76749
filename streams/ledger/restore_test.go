package ledger

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
)

// moveRun saves the logs of a run and restores them elsewhere.
func moveRun(t *testing.T, from, to *streams.Conn, run string) {
	t.Helper()
	declared(t, to, run)
	for _, log := range streams.Logs() {
		var file bytes.Buffer
		if _, err := Save(testContext(t), from, log, run, &file, func() {}); err != nil {
			t.Fatal(err)
		}
		for range 2 { // loaded again it stores nothing
			if err := Load(testContext(t), to, log, run, bytes.NewReader(file.Bytes()), func() {}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A restored log has every message at its old position, also when retention has removed messages at the beginning or in between.
// So a source that was chosen before the backup names the same messages, and a stage continues where it was.
func TestRestoreKeepsPlaces(t *testing.T) {
	ctx := testContext(t)
	const n = 5
	log := openQuick(t)
	publish(t, log, schemas.Prompts, promptList("r", 0, n)...)
	publish(t, log, schemas.Prompts, promptList("r", 1, n)...)
	publish(t, log, schemas.Prompts, promptList("r", 2, n)...)
	publish(t, log, schemas.Prompts, prompt("r", 1, n)) // as one that was redriven
	publish(t, log, schemas.Prompts, promptList("r", 3, n)...)
	for i := range uint32(4) {
		publish(t, log, schemas.Control, closedAt("r", i, n))
	}
	for _, i := range []uint32{0, 2} {
		if _, err := Expire(ctx, log, "r", i, []schemas.Kind{schemas.Prompts}, "a test"); err != nil {
			t.Fatal(err)
		}
	}
	places := func(c *streams.Conn) map[schemas.Kind][]streams.Received {
		out := map[schemas.Kind][]streams.Received{}
		for _, kind := range schemas.Kinds() {
			for _, r := range stored(t, c, kind, "r") {
				r.Time = r.Time.Truncate(0).UTC()
				out[kind] = append(out[kind], streams.Received{Message: r.Message, Seq: r.Seq, Subject: r.Subject})
			}
		}
		return out
	}
	want := places(log)
	next := openQuick(t)
	if err := next.SettleUpTo(ctx, "generator", schemas.Prompts, "r", want[schemas.Prompts][n].Seq); err != nil {
		t.Fatal(err)
	}
	moveRun(t, log, next, "r")
	if diff := cmp.Diff(want, places(next), protocmp()); diff != "" {
		t.Errorf("(-stored +restored):\n%s", diff)
	}
	var worked []string
	s := generator("r", 1)
	start(t, next, s, answer)
	settled(t, next, s)
	for _, r := range await(t, next, schemas.Pairs, "r", n) {
		worked = append(worked, r.Message.ID())
	}
	if diff := cmp.Diff(idsOf(want[schemas.Prompts][n+1:]), worked); diff != "" {
		t.Errorf("the stage worked on (-want +got):\n%s", diff)
	}
}

// Each run has its own limits: it fills only its own log, and the declaration of another run does not change it.
func TestRunsAreApart(t *testing.T) {
	ctx := testContext(t)
	c := openQuick(t)
	declare(t, c, "small", streams.Limits{MaxBytes: 1 << 20})
	declare(t, c, "large", streams.Limits{MaxBytes: 1 << 30})
	limit := func(run string) uint64 {
		t.Helper()
		uses, err := Uses(ctx, c, run)
		if err != nil {
			t.Fatal(err)
		}
		return uses[0].Limit
	}
	if small, large := limit("small"), limit("large"); small != 1<<20 || large != 1<<30 {
		t.Errorf("limits %d and %d", small, large)
	}
	var err error
	for i := 0; err == nil; i++ {
		p := prompt("small", 0, i)
		p.Response = string(bytes.Repeat([]byte("word "), 20<<10))
		err = c.Publish(ctx, schemas.Prompts, p)
	}
	publish(t, c, schemas.Prompts, promptList("large", 0, 10)...)
	if got := stored(t, c, schemas.Prompts, "large"); len(got) != 10 {
		t.Errorf("beside a full run: %d prompts", len(got))
	}
}
