package streams

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// recorder is an Observer that counts.
type recorder struct {
	mu      sync.Mutex
	batches []int
	fates   map[string]int
	silent  int
	of      map[StageID]bool
}

func (r *recorder) Batch(e BatchDone) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batches = append(r.batches, e.Messages)
	r.of = map[StageID]bool{e.StageID: true}
}

func (r *recorder) Settled(e MessageSettled) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fates == nil {
		r.fates = map[string]int{}
	}
	r.fates[e.Outcome]++
	r.of[e.StageID] = true
}

func (r *recorder) Silent(StageID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.silent++
}

func (r *recorder) read() ([]int, map[string]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.batches), r.fates
}

func TestStageAnswersEveryMessageOnce(t *testing.T) {
	c := openQuick(t)
	const n = 50
	publish(t, c, schemas.Prompts, promptList("r", 0, n)...)
	seen := &recorder{}
	s := generator("r", 8)
	s.Observer = seen
	start(t, c, s, answer)
	got := await(t, c, schemas.Pairs, "r", n)
	var want []string
	for _, m := range promptList("r", 0, n) {
		want = append(want, m.ID())
	}
	if diff := cmp.Diff(want, idsOf(got)); diff != "" {
		t.Errorf("pairs (-want +got):\n%s", diff)
	}
	settled(t, c, s)
	batches, fates := seen.read()
	if slices.Max(batches) != 8 {
		t.Errorf("batches of %v, want at most and often 8", batches)
	}
	if diff := cmp.Diff(map[string]int{Done: n}, fates); diff != "" {
		t.Errorf("fates (-want +got):\n%s", diff)
	}
}

// A batch that takes several times AckWait is not delivered to another worker meanwhile.
func TestSlowBatchIsNotRedelivered(t *testing.T) {
	c := openIn(t, t.TempDir(), Limits{AckWait: time.Second, MaxDeliver: 3, Retry: time.Millisecond})
	const n = 6
	publish(t, c, schemas.Prompts, promptList("r", 0, n)...)
	var mu sync.Mutex
	tries := map[string]int{}
	slow := func(ctx context.Context, in []events.Message) []Outcome {
		mu.Lock()
		for _, m := range in {
			tries[m.ID()]++
		}
		mu.Unlock()
		pause(ctx, 3500*time.Millisecond) // the test is about work that takes time
		return answer(ctx, in)
	}
	start(t, c, generator("r", 3), slow)
	start(t, c, generator("r", 3), slow)
	await(t, c, schemas.Pairs, "r", n)
	settled(t, c, generator("r", 3))
	if got := len(stored(t, c, schemas.Pairs, "r")); got != n {
		t.Errorf("%d pairs, want %d", got, n)
	}
	for id, k := range tries {
		if k != 1 {
			t.Errorf("%s was processed %d times", id, k)
		}
	}
}

// Workers get full batches, however many messages all workers then hold.
func TestFullBatchesInManyHands(t *testing.T) {
	c := openQuick(t)
	const workers, batch = 3, 500
	publish(t, c, schemas.Prompts, promptList("r", 0, workers*batch)...)
	var held atomic.Int64
	all := make(chan struct{})
	for range workers {
		start(t, c, generator("r", batch), func(ctx context.Context, in []events.Message) []Outcome {
			if held.Add(int64(len(in))) == workers*batch {
				close(all)
			}
			select {
			case <-all:
			case <-ctx.Done():
			}
			return answer(ctx, in)
		})
	}
	await(t, c, schemas.Pairs, "r", workers*batch)
}

func TestLingerFillsABatch(t *testing.T) {
	c := openQuick(t)
	s := generator("r", 4)
	s.Linger = 10 * time.Second
	seen := &recorder{}
	s.Observer = seen
	start(t, c, s, answer)
	for i := range 4 {
		publish(t, c, schemas.Prompts, prompt("r", 0, i))
		if i < 3 { // the stage holds them and waits
			consumerIs(t, c, s, func(_, unanswered int) bool { return unanswered == i+1 })
		}
	}
	await(t, c, schemas.Pairs, "r", 4)
	if batches, _ := seen.read(); !slices.Equal(batches, []int{4}) {
		t.Errorf("batches of %v, want one of 4", batches)
	}
}

func TestFailuresAreTriedAgain(t *testing.T) {
	c := openQuick(t)
	const n = 12
	publish(t, c, schemas.Prompts, promptList("r", 0, n)...)
	tries := map[string]int{}
	s := generator("r", 4)
	seen := &recorder{}
	s.Observer = seen
	start(t, c, s, func(ctx context.Context, in []events.Message) []Outcome {
		out := answer(ctx, in)
		for i, m := range in {
			// Every third message fails, as often as it may.
			if tries[m.ID()]++; m.(*events.Prompt).GetPosition()%3 == 0 && tries[m.ID()] < quick.MaxDeliver {
				out[i].Err = errFlaky
			}
		}
		return out
	})
	await(t, c, schemas.Pairs, "r", n)
	settled(t, c, s)
	if letters := stored(t, c, schemas.DeadLetters, "r"); len(letters) != 0 {
		t.Errorf("%d dead letters, want none", len(letters))
	}
	if _, fates := seen.read(); fates[Done] != n || fates[Retried] == 0 {
		t.Errorf("fates %v, want %d done, some of them tried again", fates, n)
	}
	if len(seen.of) != 1 || !seen.of[StageID{"r", s.Name}] {
		t.Errorf("the observer was told of %v", seen.of)
	}
}

func TestRejectIsADeadLetterAtOnce(t *testing.T) {
	c := openQuick(t)
	publish(t, c, schemas.Prompts, promptList("r", 3, 5)...)
	tries := 0
	start(t, c, generator("r", 1), func(ctx context.Context, in []events.Message) []Outcome {
		if in[0].(*events.Prompt).GetPosition() == 2 {
			tries++
			return []Outcome{{Err: fmt.Errorf("stage: %w",
				&schemas.Reject{Reason: schemas.ReasonTooLong, Err: errors.New("900 tokens")})}}
		}
		return answer(ctx, in)
	})
	letter := await(t, c, schemas.DeadLetters, "r", 1)[0].Message.(*events.DeadLetter)
	await(t, c, schemas.Pairs, "r", 4)
	original := prompt("r", 3, 2)
	want := &events.DeadLetter{
		Schema: 1, Run: "r", Iteration: 3, Stage: "generator", Reason: "too_long", Error: "900 tokens",
		Stream: "LDALIGN_r_PROMPTS", Sequence: 3, Subject: "ldalign.prompts.r.3", PairId: original.GetPairId(),
		Deliveries: 1, Tries: 1, Worker: thisWorker(), Original: marshal(t, original),
	}
	if diff := cmp.Diff(want, letter, protocmp()); diff != "" {
		t.Errorf("letter (-want +got):\n%s", diff)
	}
	if tries != 1 {
		t.Errorf("a rejected message was tried %d times", tries)
	}
}

// One message makes each of its batches panic. The other messages are processed, and that one becomes a dead letter as poison.
func TestPoisonIsFoundSingly(t *testing.T) {
	c := openQuick(t)
	const n = 10
	publish(t, c, schemas.Prompts, promptList("r", 0, n)...)
	s := generator("r", 4)
	alone := 0
	start(t, c, s, func(ctx context.Context, in []events.Message) []Outcome {
		for _, m := range in {
			if m.(*events.Prompt).GetPosition() == 5 {
				if len(in) == 1 {
					alone++
				}
				panic("cannot digest")
			}
		}
		return answer(ctx, in)
	})
	letter := await(t, c, schemas.DeadLetters, "r", 1)[0].Message.(*events.DeadLetter)
	await(t, c, schemas.Pairs, "r", n-1)
	settled(t, c, s)
	if letter.GetReason() != schemas.ReasonPoison || letter.GetPairId() != prompt("r", 0, 5).GetPairId() {
		t.Errorf("letter %s for %s", letter.GetReason(), letter.GetPairId())
	}
	if len(letter.GetError()) < 20 || letter.GetError()[:20] != "panic: cannot digest" {
		t.Errorf("the letter does not tell of the panic: %.40q", letter.GetError())
	}
	if alone != quick.MaxDeliver {
		t.Errorf("processed %d times alone, want %d", alone, quick.MaxDeliver)
	}
}

// A message that fails in its batch is processed alone in its last try.
func TestLastTryIsAlone(t *testing.T) {
	c := openQuick(t)
	publish(t, c, schemas.Prompts, promptList("r", 0, 4)...)
	s := generator("r", 4)
	s.Linger = 50 * time.Millisecond
	var sizes []int
	start(t, c, s, func(ctx context.Context, in []events.Message) []Outcome {
		out := answer(ctx, in)
		for i, m := range in {
			if m.(*events.Prompt).GetPosition() == 1 {
				sizes = append(sizes, len(in))
				out[i].Err = errFlaky
			}
		}
		return out
	})
	letter := await(t, c, schemas.DeadLetters, "r", 1)[0].Message.(*events.DeadLetter)
	settled(t, c, s)
	if letter.GetError() != errFlaky.Error() {
		t.Errorf("letter says %q", letter.GetError())
	}
	if last := sizes[len(sizes)-1]; last != 1 {
		t.Errorf("batch sizes of the tries %v, want the last to be 1", sizes)
	}
}

func TestWhatCannotBeReadIsADeadLetter(t *testing.T) {
	c := openQuick(t)
	stranger := prompt("other", 0, 2)
	for id, data := range map[string][]byte{
		"prompts:garbage":  []byte("\xff\xff not protobuf"),
		"prompts:empty":    nil,
		"prompts:stranger": marshal(t, stranger),
	} {
		if err := c.send(testContext(t), schemas.Prompts, sealedAs("ldalign.prompts.r.0", id, data)); err != nil {
			t.Fatal(err)
		}
	}
	s := generator("r", 2)
	start(t, c, s, func(context.Context, []events.Message) []Outcome { panic("nothing here can be processed") })
	got := map[string]string{}
	for _, r := range await(t, c, schemas.DeadLetters, "r", 3) {
		d := r.Message.(*events.DeadLetter)
		got[d.GetPairId()] = d.GetReason()
		if d.GetPairId() == "garbage" && string(d.GetOriginal()) != "\xff\xff not protobuf" {
			t.Errorf("original bytes are %q", d.GetOriginal())
		}
	}
	want := map[string]string{"garbage": "decode", "empty": "decode", "stranger": "decode"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
}

func TestOutputsAreChecked(t *testing.T) {
	c := openQuick(t)
	publish(t, c, schemas.Prompts, promptList("r", 0, 3)...)
	s := generator("r", 1)
	start(t, c, s, func(_ context.Context, in []events.Message) []Outcome {
		p := in[0].(*events.Prompt)
		pair := pairOf(p)
		switch p.GetPosition() {
		case 0:
			pair.Rejected = string(make([]byte, MaxMessage))
		case 1:
			pair.Schema = 0
		case 2:
			return nil
		}
		return []Outcome{{Out: []Emit{{schemas.Pairs, pair}}}}
	})
	got := map[uint64]string{}
	for _, r := range await(t, c, schemas.DeadLetters, "r", 3) {
		d := r.Message.(*events.DeadLetter)
		got[d.GetSequence()] = d.GetReason()
	}
	want := map[uint64]string{1: schemas.ReasonTooLarge, 2: schemas.ReasonPoison, 3: schemas.ReasonPoison}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reasons by position (-want +got):\n%s", diff)
	}
}

// Outputs of several kinds are stored kind after kind: the message that closes an iteration comes after the iteration's messages.
func TestOutputsKeepTheirOrder(t *testing.T) {
	c := openQuick(t)
	const n = 600 // more than one window
	checkpoint := &events.Checkpoint{Schema: 1, Run: "r", Iteration: 1, Kind: "policy", Digest: "d"}
	publish(t, c, schemas.Checkpoints, checkpoint)
	start(t, c, Stage{Name: "prompter", In: schemas.Checkpoints, Run: "r"},
		func(context.Context, []events.Message) []Outcome {
			var out []Emit
			for _, m := range promptList("r", 1, n) {
				out = append(out, Emit{schemas.Prompts, m})
			}
			return []Outcome{{Out: append(out, Emit{schemas.Control, closedAt("r", 1, n)})}}
		})
	closing := await(t, c, schemas.Control, "r", 1)[0]
	prompts := stored(t, c, schemas.Prompts, "r")
	if len(prompts) != n {
		t.Fatalf("%d prompts are stored when the iteration is closed, want %d", len(prompts), n)
	}
	for i, r := range prompts {
		if r.Message.(*events.Prompt).GetPosition() != uint64(i) {
			t.Fatalf("place %d holds prompt %d", i, r.Message.(*events.Prompt).GetPosition())
		}
		if r.Time.After(closing.Time) {
			t.Errorf("prompt %d was stored after the iteration was closed", i)
		}
	}
}

// Two processes share a stage and one is stopped in the middle. No message is lost or processed twice.
func TestTwoRunnersShareAndOneStops(t *testing.T) {
	dir := t.TempDir()
	c := openIn(t, dir, quick)
	other, err := Attach(testContext(t), dir, Options{Limits: quick, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	const n = 60
	publish(t, c, schemas.Prompts, promptList("r", 0, n)...)
	var mu sync.Mutex
	share := map[string]int{}
	half := make(chan struct{})
	counted := func(name string) Process {
		return func(ctx context.Context, in []events.Message) []Outcome {
			mu.Lock()
			before := share[name]
			share[name] += len(in)
			mu.Unlock()
			if name == "a" && before < n/6 && before+len(in) >= n/6 {
				close(half)
			}
			pause(ctx, time.Millisecond)
			return answer(ctx, in)
		}
	}
	stop := start(t, c, generator("r", 4), counted("a"))
	start(t, other, generator("r", 4), counted("b"))
	<-half
	if err := stop(); err != nil {
		t.Error(err)
	}
	got := idsOf(await(t, c, schemas.Pairs, "r", n))
	settled(t, c, generator("r", 4))
	if again := stored(t, c, schemas.Pairs, "r"); len(again) != n {
		t.Errorf("%d pairs, want %d", len(again), n)
	}
	slices.Sort(got)
	if unique := len(slices.Compact(got)); unique != n {
		t.Errorf("%d different pairs, want %d", unique, n)
	}
	mu.Lock()
	defer mu.Unlock()
	if share["a"] == 0 || share["b"] == 0 || share["a"]+share["b"] != n {
		t.Errorf("shares %v, want both to work and %d in all", share, n)
	}
}

// A stage that is told to end while it works finishes the batch, publishes its outputs and acknowledges it.
func TestStopFinishesTheBatch(t *testing.T) {
	c := openQuick(t)
	publish(t, c, schemas.Prompts, promptList("r", 0, 8)...)
	working, goOn := make(chan struct{}), make(chan struct{})
	s := generator("r", 4)
	stop := start(t, c, s, func(ctx context.Context, in []events.Message) []Outcome {
		close(working) // a second batch would panic
		<-goOn
		if ctx.Err() != nil {
			t.Error("the work's context ended before its grace")
		}
		return answer(ctx, in)
	})
	<-working
	ended := make(chan error)
	go func() { ended <- stop() }()
	close(goOn)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if got := len(stored(t, c, schemas.Pairs, "r")); got != 4 {
		t.Errorf("%d pairs, want the 4 of the batch under way", got)
	}
	consumer, err := c.js.Consumer(testContext(t), StreamName(s.In, s.Run), "generator")
	if err != nil {
		t.Fatal(err)
	}
	if info := consumer.CachedInfo(); info.NumAckPending != 0 || info.NumPending != 4 {
		t.Errorf("%d unanswered, %d unread, want 0 and 4", info.NumAckPending, info.NumPending)
	}
}

// Work that outlasts its grace is given back at once. It never counts as a try.
func TestStopGivesBackWhatTakesTooLong(t *testing.T) {
	c := openIn(t, t.TempDir(), Limits{AckWait: time.Hour, MaxDeliver: 1})
	publish(t, c, schemas.Prompts, promptList("r", 0, 4)...)
	s := generator("r", 4)
	s.Grace = time.Millisecond
	for range deadlyFactor + 2 {
		working := make(chan struct{})
		stop := start(t, c, s, func(ctx context.Context, in []events.Message) []Outcome {
			close(working)
			<-ctx.Done()
			out := make([]Outcome, len(in))
			for i := range out {
				out[i].Err = ctx.Err()
			}
			return out
		})
		<-working
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	// AckWait is an hour: only messages that were given back can be delivered again.
	start(t, c, generator("r", 4), answer)
	await(t, c, schemas.Pairs, "r", 4)
	if letters := stored(t, c, schemas.DeadLetters, "r"); len(letters) != 0 {
		t.Errorf("%d dead letters, want none", len(letters))
	}
}

func TestDeletedConsumerComesBack(t *testing.T) {
	c := openQuick(t)
	s := generator("r", 2)
	start(t, c, s, answer)
	publish(t, c, schemas.Prompts, promptList("r", 0, 3)...)
	await(t, c, schemas.Pairs, "r", 3)
	if err := c.js.DeleteConsumer(testContext(t), StreamName(s.In, s.Run), "generator"); err != nil {
		t.Fatal(err)
	}
	publish(t, c, schemas.Prompts, promptList("r", 0, 6)...)
	await(t, c, schemas.Pairs, "r", 6) // the new consumer reads from the start; existing outputs are not stored again
	settled(t, c, s)
	if got := len(stored(t, c, schemas.Pairs, "r")); got != 6 {
		t.Errorf("%d pairs, want 6", got)
	}
}

// A full output stream ends the stage with a clear error. Nothing is lost, and with more room the stage continues.
func TestFullStreamEndsTheStage(t *testing.T) {
	dir := t.TempDir()
	const n, room = 20, 4 * MaxMessage
	small := quick
	small.MaxBytes = room
	fat := func(_ context.Context, in []events.Message) []Outcome {
		out := make([]Outcome, len(in))
		for i, m := range in {
			pair := pairOf(m.(*events.Prompt))
			pair.Rejected = string(make([]byte, room/10))
			out[i].Out = []Emit{{schemas.Pairs, pair}}
		}
		return out
	}
	c, err := Open(testContext(t), Options{Dir: dir, Limits: small, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Declare(testContext(t), "r", c.limits); err != nil {
		t.Fatal(err)
	}
	publish(t, c, schemas.Prompts, promptList("r", 0, n)...)
	err = c.RunStage(testContext(t), generator("r", 4), fat)
	if !errors.Is(err, ErrFull) {
		t.Fatalf("got %v, want ErrFull", err)
	}
	t.Log(err)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = openIn(t, dir, quick)
	start(t, c, generator("r", 4), fat)
	await(t, c, schemas.Pairs, "r", n)
	if letters := stored(t, c, schemas.DeadLetters, "r"); len(letters) != 0 {
		t.Errorf("%d dead letters, want none", len(letters))
	}
}

func TestBadStagesAreRefused(t *testing.T) {
	c := openQuick(t)
	for name, s := range map[string]Stage{
		"no name":        {In: schemas.Prompts, Run: "r"},
		"underscore":     {Name: "a_b", In: schemas.Prompts, Run: "r"},
		"no run":         {Name: "a", In: schemas.Prompts},
		"no such kind":   {Name: "a", In: "guesses", Run: "r"},
		"negative batch": {Name: "a", In: schemas.Prompts, Run: "r", Batch: -1},
	} {
		if err := c.RunStage(testContext(t), s, answer); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := c.js.DeleteStream(testContext(t), StreamName(schemas.Encoded, "r")); err != nil {
		t.Fatal(err)
	}
	err := c.RunStage(testContext(t), Stage{Name: "a", In: schemas.Encoded, Run: "r"}, answer)
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("missing stream: got %v, want ErrNotFound", err)
	}
}

// A stage that is unable to work keeps its messages and makes no dead letters, however often it fails. When the cause is
// permanent, it gives its messages back and ends.
func TestUnavailableStageLosesNothing(t *testing.T) {
	c := openIn(t, t.TempDir(), Limits{MaxDeliver: 2, Retry: time.Millisecond})
	const n, failing = 6, 12
	publish(t, c, schemas.Prompts, promptList("r", 0, n)...)
	calls := 0
	outage := func(ctx context.Context, in []events.Message) []Outcome {
		if calls++; calls > failing {
			return answer(ctx, in)
		}
		out := answer(ctx, in[:len(in)-1])
		return append(out, Outcome{Err: fmt.Errorf("stage: %w", &schemas.Unavailable{Err: errors.New("the store is away")})})
	}
	start(t, c, generator("r", 3), outage)
	await(t, c, schemas.Pairs, "r", n)
	settled(t, c, generator("r", 3))
	if got := len(stored(t, c, schemas.DeadLetters, "r")); got != 0 {
		t.Errorf("%d dead letters", got)
	}

	publish(t, c, schemas.Prompts, promptList("r", 1, 3)...)
	err := c.RunStage(t.Context(), Stage{Name: "evaluator", In: schemas.Prompts, Run: "r", Batch: 3},
		func(_ context.Context, in []events.Message) []Outcome {
			out := make([]Outcome, len(in))
			out[0].Err = &schemas.Unavailable{Err: errors.New("wrong weights"), Permanent: true}
			return out
		})
	if err == nil || !strings.Contains(err.Error(), "wrong weights") {
		t.Errorf("a stage that stays unable ended with %v", err)
	}
	if got := len(stored(t, c, schemas.DeadLetters, "r")); got != 0 {
		t.Errorf("%d dead letters", got)
	}
}

// A Refilling takes available messages while it works, up to Refill. Each message has its own outcome, and messages that it does
// not take go to other workers.
func TestRefilling(t *testing.T) {
	c := openQuick(t)
	const n = 12
	publish(t, c, schemas.Prompts, promptList("r", 0, n)...)
	if err := c.send(testContext(t), schemas.Prompts, sealedAs(schemas.Subject(schemas.Prompts, "r", 0), "garbage", []byte{0xff})); err != nil {
		t.Fatal(err)
	}
	publish(t, c, schemas.Prompts, promptList("r", 1, 3)...)
	var sizes []int
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	s := generator("r", 2)
	s.Refill = 4
	go func() {
		ended <- c.RunRefilling(ctx, s, func(ctx context.Context, in []events.Message, more func(int) []events.Message) []Outcome {
			all := slices.Clone(in)
			for got := more(1); len(got) > 0; got = more(1) {
				all = append(all, got...)
			}
			sizes = append(sizes, len(all))
			out := answer(ctx, all)
			if len(sizes) == 2 {
				out[len(out)-1] = Outcome{Err: &schemas.Reject{Reason: schemas.ReasonInvalid, Err: errFlaky}}
			}
			if len(sizes) == 1 {
				return out[:1] // the batch and its refill have failed: they are processed one by one
			}
			return out
		})
	}()
	await(t, c, schemas.Pairs, "r", n+2)
	settled(t, c, s)
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if len(sizes) < 8 || sizes[0] != 6 || slices.Max(sizes) > 6 || sizes[1] != 1 {
		t.Errorf("batches of %v, want 6, then its messages alone, then at most 6", sizes)
	}
	if got := len(stored(t, c, schemas.DeadLetters, "r")); got != 2 {
		t.Errorf("%d dead letters, want the rejected one and the garbage", got)
	}
}

// Limits that do not affect results may change between two starts.
func TestAckWaitChangesBetweenStarts(t *testing.T) {
	dir := t.TempDir()
	for i, wait := range []time.Duration{300 * time.Millisecond, 700 * time.Millisecond, 200 * time.Millisecond} {
		limits := quick
		limits.AckWait = wait
		c, err := Open(testContext(t), Options{Dir: dir, Limits: limits, Log: testLog(t)})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Declare(testContext(t), "r", c.limits); err != nil {
			t.Fatal(err)
		}
		publish(t, c, schemas.Prompts, promptList("r", uint32(i), 2)...)
		stop := start(t, c, generator("r", 2), answer)
		await(t, c, schemas.Pairs, "r", 2*(i+1))
		if err := errors.Join(stop(), c.Close()); err != nil {
			t.Fatalf("ack wait %v: %v", wait, err)
		}
	}
}
