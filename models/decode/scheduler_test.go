package decode_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/decode"
	"github.com/ldalign/ldalign/models/tensor"
)

// open starts a scheduler that the end of the test closes, with its weights.
func open(t testing.TB, opts decode.Options, w decode.Weights) *decode.Scheduler {
	t.Helper()
	s, err := decode.New(opts, w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func submit(t testing.TB, s *decode.Scheduler, r decode.Request) *decode.Reply {
	t.Helper()
	reply, err := s.Submit(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

// hold keeps the scheduler's goroutine at the first token of a request until the returned function is called, so that a test can
// prepare what follows. began is closed when the goroutine waits there.
func hold(r *decode.Request) (began <-chan struct{}, proceed func()) {
	reached, wait := make(chan struct{}), make(chan struct{})
	var once sync.Once
	r.OnToken = func(decode.Token) bool {
		once.Do(func() {
			close(reached)
			<-wait
		})
		return false
	}
	return reached, sync.OnceFunc(func() { close(wait) })
}

// mixed returns requests with different settings.
func mixed(n int) []decode.Request {
	rng := rand.New(rand.NewPCG(3, 4))
	settings := []decode.Request{
		{MaxNew: 9, Sampling: greedy},
		{MaxNew: 12, Sampling: decode.Sampling{Temperature: 1, TopP: 1}, Stop: []int64{1, 2, 3}, Top: 3},
		{MaxNew: 7, Sampling: decode.Sampling{Temperature: 0.7, TopP: 0.8, MinP: 0.01, TopK: 60, RepetitionPenalty: 1.3}},
		{MaxNew: 15, Sampling: decode.Sampling{Temperature: 1.3, TopP: 0.9, PresencePenalty: 1.5, FrequencyPenalty: -0.5}, Top: 1},
		{MaxNew: 5, Sampling: decode.Sampling{TopP: 1, FrequencyPenalty: 2, Bias: map[int64]float64{5: 3, 9: -100, 11: 1}}},
		{MaxNew: 11, Sampling: decode.Sampling{Temperature: 2, TopP: 1, TopK: 5, RepetitionPenalty: 0.8}, Top: 96},
	}
	var out []decode.Request
	for i := range n {
		r := settings[i%len(settings)]
		r.IDs, r.Seed = make([]int64, 1+rng.IntN(20)), rng.Uint64()
		for j := range r.IDs {
			r.IDs[j] = rng.Int64N(96)
		}
		out = append(out, r)
	}
	return out
}

// Requests with mixed settings, submitted and fed at the same time, give the bits of separate runs.
func TestMixedSettingsEqualSeparateRuns(t *testing.T) {
	type setup struct {
		model *models.Model
		opts  decode.Options
		alone []decode.Result
	}
	pool := mixed(18)
	var setups []setup
	for _, threads := range []int{1, 2} {
		for _, m := range []*models.Model{small(t, newEngine(t, threads), architecture.Llama), pack(t, small(t, newEngine(t, threads), architecture.GPT2))} {
			s := setup{model: m, opts: decode.Options{Slots: 4, Prefill: 8, Length: 40}}
			for _, r := range pool {
				s.alone = append(s.alone, generate(t, m, []decode.Request{r}, s.opts)[0])
			}
			setups = append(setups, s)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		c := rapid.SampledFrom(setups).Draw(rt, "setup")
		if c.model.Packed() {
			c.opts.Slots = rapid.IntRange(1, 9).Draw(rt, "slots")
			c.opts.Prefill = rapid.IntRange(1, 30).Draw(rt, "prefill")
		}
		s, err := decode.New(c.opts, decode.Weights{Model: c.model})
		if err != nil {
			rt.Fatal(err)
		}
		order := rapid.Permutation(slices.Collect(func(yield func(int) bool) {
			for i := range pool {
				if !yield(i) {
					return
				}
			}
		})).Draw(rt, "order")
		fed := order[:rapid.IntRange(0, len(order)).Draw(rt, "fed")]
		replies := map[int]*decode.Reply{}
		for _, i := range order[len(fed):] {
			if replies[i], err = s.Submit(t.Context(), pool[i]); err != nil {
				rt.Fatal(err)
			}
		}
		got, taken := make([]decode.Result, len(pool)), 0
		err = s.Feed(t.Context(), func() (decode.Request, bool, error) {
			if taken == len(fed) {
				return decode.Request{}, false, nil
			}
			taken++
			return pool[fed[taken-1]], true, nil
		}, func(i int, r decode.Result) error {
			got[fed[i]] = r
			return nil
		})
		for i, reply := range replies {
			got[i] = reply.Result()
			var tokens []int64
			for token := range reply.Tokens() {
				tokens = append(tokens, token.ID)
			}
			if !slices.Equal(tokens, got[i].IDs) {
				rt.Errorf("request %d: tokens %v came, the result has %v", i, tokens, got[i].IDs)
			}
		}
		if err := errors.Join(err, s.Close(t.Context())); err != nil {
			rt.Fatal(err)
		}
		if diff := gocmp.Diff(c.alone, got); diff != "" {
			rt.Fatalf("%+v (-alone +together):\n%s", c.opts, diff)
		}
	})
}

// A request that cannot be decoded, or whose scores are not finite, ends alone: its neighbours, and the rows that get its slot
// afterwards, have the bits of runs without it.
func TestAnErrorEndsItsRowAlone(t *testing.T) {
	for _, packed := range []bool{false, true} {
		m := damaged(t, newEngine(t, 2))
		if packed {
			pack(t, m)
		}
		opts := decode.Options{Slots: 4, Length: 60, Prefill: 8}
		good := with(decode.Request{MaxNew: 20, Sampling: decode.Sampling{Temperature: 1, TopP: 1, Bias: map[int64]float64{7: -1000}}},
			decode.Request{IDs: []int64{1, 2, 3}, Seed: 1}, decode.Request{IDs: []int64{4}, Seed: 2}, decode.Request{IDs: []int64{5, 6}, Seed: 3})
		want := generate(t, m, good, opts)
		// Its scores are not finite at once, or once token 7 is in the response.
		atOnce := decode.Request{IDs: []int64{1, 7, 9, 9, 9, 9, 9, 9, 9, 9, 9}, MaxNew: 30, Sampling: greedy}
		later := decode.Request{IDs: []int64{1}, MaxNew: 30, Sampling: decode.Sampling{TopP: 1, Bias: map[int64]float64{7: 1000}}}
		s := open(t, opts, decode.Weights{Model: m, Digest: "d"})
		first := good[0]
		began, proceed := hold(&first)
		defer proceed()
		replies := []*decode.Reply{submit(t, s, first)}
		<-began
		bad := []*decode.Reply{submit(t, s, atOnce), submit(t, s, later), submit(t, s, atOnce), submit(t, s, later), submit(t, s, later)}
		for range 4 { // more than there are slots
			for _, r := range good[1:] {
				replies = append(replies, submit(t, s, r))
			}
		}
		if _, err := s.Submit(t.Context(), decode.Request{MaxNew: 1, Sampling: greedy}); !errors.Is(err, decode.ErrRequest) {
			t.Errorf("an empty prompt: %v, want ErrRequest", err)
		}
		proceed()
		for i, reply := range bad {
			r := reply.Result()
			if !errors.Is(r.Err, decode.ErrNotFinite) || r.Reason != decode.Failed || r.Digest != "d" {
				t.Errorf("packed %t, damaged row %d: %+v, want it failed by ErrNotFinite", packed, i, r)
			}
			if n := []int{0, 1, 0, 1, 1}[i]; len(r.IDs) != n {
				t.Errorf("packed %t, damaged row %d: %d tokens, want %d", packed, i, len(r.IDs), n)
			}
		}
		for i, reply := range replies {
			w := want[0]
			if i > 0 {
				w = want[1+(i-1)%2]
			}
			w.Digest = "d"
			if diff := gocmp.Diff(w, reply.Result()); diff != "" {
				t.Errorf("packed %t, row %d (-without a damaged one +beside it):\n%s", packed, i, diff)
			}
		}
	}
}

// A request of a source that cannot be decoded is reported by its number, and the source continues.
func TestFeedGoesOnBehindABadRequest(t *testing.T) {
	m := pack(t, damaged(t, newEngine(t, 1)))
	s := open(t, decode.Options{Slots: 2, Length: 20}, decode.Weights{Model: m})
	requests := with(decode.Request{MaxNew: 3, Sampling: decode.Sampling{TopP: 1, Bias: map[int64]float64{7: -1000}}},
		decode.Request{IDs: []int64{1}}, decode.Request{}, decode.Request{IDs: []int64{7}}, decode.Request{IDs: []int64{2}})
	got, taken := make([]decode.Result, len(requests)), 0
	err := s.Feed(t.Context(), func() (decode.Request, bool, error) {
		if taken == len(requests) {
			return decode.Request{}, false, nil
		}
		taken++
		return requests[taken-1], true, nil
	}, func(i int, r decode.Result) error { got[i] = r; return nil })
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []error{nil, decode.ErrRequest, decode.ErrNotFinite, nil} {
		if !errors.Is(got[i].Err, want) || (want == nil) != (got[i].Reason == decode.Length) {
			t.Errorf("request %d: %+v, want error %v", i, got[i], want)
		}
	}
	wrong := errors.New("wrong")
	none := func() (decode.Request, bool, error) { return decode.Request{}, false, nil }
	one := func() (decode.Request, bool, error) { return requests[0], true, nil }
	for name, feed := range map[string]func() error{
		"of next": func() error {
			return s.Feed(t.Context(), func() (decode.Request, bool, error) { return decode.Request{}, false, wrong },
				func(int, decode.Result) error { return nil })
		},
		"of done": func() error { return s.Feed(t.Context(), one, func(int, decode.Result) error { return wrong }) },
	} {
		if err := feed(); !errors.Is(err, wrong) {
			t.Errorf("an error %s: Feed returned %v", name, err)
		}
	}
	if err := s.Feed(t.Context(), none, nil); err != nil {
		t.Errorf("an empty source: %v", err)
	}
}

// A row whose context ends, and a waiting one, end before the next step, and the slot has its next row in that step. The test
// records tokens as they are sampled, by row.
func TestCancellingFreesTheSlotAtTheNextStep(t *testing.T) {
	m := pack(t, small(t, newEngine(t, 1), architecture.Llama))
	s := open(t, decode.Options{Slots: 2, Length: 60}, decode.Weights{Model: m, Digest: "d"})
	var order []string // on the scheduler's goroutine alone until all results are there
	request := func(name string, most int, onToken func(n int)) decode.Request {
		n := 0
		return decode.Request{IDs: []int64{1, 2}, MaxNew: most, Sampling: greedy, OnToken: func(decode.Token) bool {
			order = append(order, name)
			n++
			onToken(n)
			return false
		}}
	}
	running, cancelRunning := context.WithCancel(t.Context())
	defer cancelRunning()
	waiting, cancelWaiting := context.WithCancel(t.Context())
	defer cancelWaiting()
	began, submitted := make(chan struct{}), make(chan struct{})
	a, err := s.Submit(running, request("a", 50, func(n int) {
		switch n {
		case 1:
			close(began)
			<-submitted
		case 3:
			cancelWaiting()
			cancelRunning()
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	<-began
	neighbour := submit(t, s, request("n", 5, func(int) {}))
	b, err := s.Submit(waiting, request("b", 50, func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	c := submit(t, s, request("c", 2, func(int) {}))
	close(submitted)
	for name, reply := range map[string]*decode.Reply{"a": a, "b": b} {
		if r := reply.Result(); r.Reason != decode.Cancelled || !errors.Is(r.Err, context.Canceled) || r.Digest != "d" {
			t.Errorf("%s: %+v, want it cancelled", name, r)
		}
	}
	for name, reply := range map[string]*decode.Reply{"the neighbour": neighbour, "c": c} {
		if r := reply.Result(); r.Reason != decode.Length || r.Err != nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if got, want := strings.Join(order, ""), "a"+"an"+"an"+"nc"+"cn"+"n"; got != want {
		t.Errorf("tokens of %s, want %s: the slot was not given to c at the step after a was cancelled", got, want)
	}
	if n := len(a.Result().IDs); n != 3 {
		t.Errorf("the cancelled response has %d tokens, want the 3 that it had", n)
	}
}

// Submitted requests go first, in their order. A source gets the remaining slots.
func TestSubmittedRequestsGoFirst(t *testing.T) {
	m := pack(t, small(t, newEngine(t, 1), architecture.Llama))
	s := open(t, decode.Options{Slots: 1, Length: 60}, decode.Weights{Model: m})
	var order []string
	request := func(name string) decode.Request {
		return decode.Request{IDs: []int64{1}, MaxNew: 1, Sampling: greedy, OnToken: func(decode.Token) bool {
			order = append(order, name)
			return false
		}}
	}
	var replies []*decode.Reply
	taken := 0
	err := s.Feed(t.Context(), func() (decode.Request, bool, error) {
		if taken == 3 {
			return decode.Request{}, false, nil
		}
		taken++
		return request(fmt.Sprintf("fed %d", taken)), true, nil
	}, func(i int, _ decode.Result) error {
		if i == 0 { // between two steps: both wait when the slot is given again
			replies = append(replies, submit(t, s, request("first")), submit(t, s, request("second")))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range replies {
		r.Result()
	}
	if want := []string{"fed 1", "first", "second", "fed 2", "fed 3"}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
}

func TestQueueFull(t *testing.T) {
	m := pack(t, small(t, newEngine(t, 1), architecture.Llama))
	s := open(t, decode.Options{Slots: 1, Length: 60, Queue: 2}, decode.Weights{Model: m})
	r := decode.Request{IDs: []int64{1}, MaxNew: 2, Sampling: greedy}
	held := r
	began, proceed := hold(&held)
	defer proceed()
	replies := []*decode.Reply{submit(t, s, held)}
	<-began // it has the slot
	replies = append(replies, submit(t, s, r), submit(t, s, r))
	if _, err := s.Submit(t.Context(), r); !errors.Is(err, decode.ErrQueueFull) {
		t.Errorf("the fourth request: %v, want ErrQueueFull", err)
	}
	proceed()
	for i, reply := range replies {
		if got := reply.Result(); got.Reason != decode.Length {
			t.Errorf("request %d: %+v", i, got)
		}
	}
	if got := submit(t, s, r).Result(); got.Reason != decode.Length {
		t.Errorf("when the queue is empty again: %+v", got)
	}
}

// Weights are swapped while requests run and wait. No request is lost, and each reply has the bits of the weights that were
// current when its request was made. The old weights are released when their last request has ended, and no earlier.
func TestSwapUnderLoad(t *testing.T) {
	eng := newEngine(t, 2)
	opts := decode.Options{Slots: 4, Length: 40, Prefill: 8}
	pool := mixed(12)
	const versions = 4
	want := map[string][]decode.Result{}
	released := make(chan string, versions)
	var weights []decode.Weights
	for v := range versions {
		m, err := models.Scratch(t.Context(), eng, architecture.Config{
			Family: architecture.Llama, Vocab: 96, Hidden: 80, Layers: 2, Heads: 4, KVHeads: 2, Intermediate: 112, MaxPositions: 96,
			TieEmbeddings: true, InitializerRange: 0.15,
		}, uint64(100+v))
		if err != nil {
			t.Fatal(err)
		}
		pack(t, m)
		digest := fmt.Sprintf("version %d", v)
		want[digest] = generate(t, m, pool, opts)
		for i := range want[digest] {
			want[digest][i].Digest = digest
		}
		weights = append(weights, decode.Weights{Model: m, Digest: digest, Release: func(ctx context.Context) error {
			released <- digest
			return m.Close(ctx)
		}})
	}
	s := open(t, opts, weights[0])
	type sent struct {
		request int
		digest  string
		reply   *decode.Reply
	}
	var all []sent
	send := func() {
		digest := s.Digest()
		for i, r := range pool {
			all = append(all, sent{i, digest, submit(t, s, r)})
		}
	}
	for _, next := range weights[1:] {
		send()                                                                           // more than there are slots: some run, some wait
		all[len(all)-len(pool)].reply.Tokens()(func(decode.Token) bool { return false }) // the first has its first token
		if err := s.Swap(next); err != nil {
			t.Fatal(err)
		}
		if got := s.Digest(); got != next.Digest {
			t.Errorf("after the swap to %q the digest is %q", next.Digest, got)
		}
	}
	send()
	for _, a := range all {
		got := a.reply.Result()
		if a.reply.Digest() != a.digest {
			t.Errorf("request %d came to %q and was given to %q", a.request, a.digest, a.reply.Digest())
		}
		if diff := gocmp.Diff(want[a.digest][a.request], got); diff != "" {
			t.Errorf("request %d (-alone by %s +under load):\n%s", a.request, a.digest, diff)
		}
	}
	for v := range versions - 1 { // requests end by age, but not in order: so do the weights
		seen := <-released
		if seen == weights[versions-1].Digest {
			t.Errorf("release %d is that of the current weights", v)
		}
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if last := <-released; last != weights[versions-1].Digest {
		t.Errorf("Close released %q", last)
	}
	if n := eng.Live(); n != 0 {
		t.Errorf("%d tensors live after Close", n)
	}
}

// The old weights stay while one of their requests is running, and are released as soon as it has ended.
func TestSwapReleasesBehindTheLastRequest(t *testing.T) {
	eng := newEngine(t, 1)
	a, b := pack(t, small(t, eng, architecture.Llama)), pack(t, small(t, eng, architecture.GPT2))
	r := decode.Request{IDs: []int64{1}, MaxNew: 5, Sampling: greedy}
	released := make(chan struct{})
	s := open(t, decode.Options{Slots: 2, Length: 40}, decode.Weights{Model: a, Digest: "a", Release: func(context.Context) error {
		close(released)
		return nil
	}})
	held := r
	began, proceed := hold(&held)
	defer proceed()
	old := submit(t, s, held)
	<-began
	if err := s.Swap(decode.Weights{Model: b, Digest: "b"}); err != nil {
		t.Fatal(err)
	}
	fresh := submit(t, s, r)
	select {
	case <-released:
		t.Error("the old weights were released while a request of theirs ran")
	default:
	}
	proceed()
	if got := old.Result().Digest; got != "a" {
		t.Errorf("the old request has tokens of %q", got)
	}
	if got := fresh.Result().Digest; got != "b" {
		t.Errorf("the new request has tokens of %q", got)
	}
	<-released
	if err := s.Swap(decode.Weights{Digest: "none"}); !errors.Is(err, decode.ErrRequest) {
		t.Errorf("a swap to no model: %v", err)
	}
	if err := s.Swap(decode.Weights{Model: small(t, newEngine(t, 1), architecture.Llama)}); !errors.Is(err, decode.ErrRequest) {
		t.Errorf("a swap to another engine: %v", err)
	}
	if got := s.Digest(); got != "b" {
		t.Errorf("after swaps that failed %q serves", got)
	}
}

// Close waits for the requests, or cancels them when its context has ended. Later requests are refused.
func TestClose(t *testing.T) {
	eng := newEngine(t, 1)
	m := pack(t, small(t, eng, architecture.Llama))
	live := eng.Live()
	r := decode.Request{IDs: []int64{1}, MaxNew: 30, Sampling: greedy}
	for _, drain := range []bool{true, false} {
		s, err := decode.New(decode.Options{Slots: 2, Length: 40}, decode.Weights{Model: m})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		held := r
		began, proceed := hold(&held)
		replies := []*decode.Reply{submit(t, s, held)}
		<-began
		for range 5 {
			replies = append(replies, submit(t, s, r))
		}
		fed := make(chan error)
		asked := 0
		go func() {
			fed <- s.Feed(t.Context(), func() (decode.Request, bool, error) { asked++; return r, true, nil },
				func(int, decode.Result) error { return nil })
		}()
		closed := make(chan error)
		go func() { closed <- s.Close(ctx) }()
		if !drain {
			cancel()
		}
		for { // until Close has begun
			if _, err := s.Submit(t.Context(), r); errors.Is(err, decode.ErrClosed) {
				break
			}
			runtime.Gosched()
		}
		proceed()
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if err := <-fed; !errors.Is(err, decode.ErrClosed) {
			t.Errorf("drain %t: Feed returned %v, want ErrClosed", drain, err)
		}
		for i, reply := range replies {
			got := reply.Result()
			if drain && (got.Reason != decode.Length || len(got.IDs) != 30) {
				t.Errorf("request %d after a close that waits: %+v", i, got)
			}
			if !drain && (got.Reason != decode.Cancelled || !errors.Is(got.Err, decode.ErrClosed)) {
				t.Errorf("request %d after a close that cancels: %+v", i, got)
			}
		}
		if err := s.Swap(decode.Weights{Model: m}); !errors.Is(err, decode.ErrClosed) {
			t.Errorf("Swap after Close: %v", err)
		}
		if err := s.Feed(t.Context(), nil, nil); !errors.Is(err, decode.ErrClosed) {
			t.Errorf("Feed after Close: %v", err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Errorf("a second Close: %v", err)
		}
		if got := eng.Live(); got != live {
			t.Errorf("%d tensors live afterwards, %d before", got, live)
		}
		cancel()
	}
}

// When the engine is closed, requests end with that error, and Close still returns.
func TestTheEngineIsClosed(t *testing.T) {
	eng, err := tensor.NewEngine(tensor.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	m := pack(t, small(t, eng, architecture.Llama))
	s := open(t, decode.Options{Slots: 2, Length: 40}, decode.Weights{Model: m, Release: m.Close})
	r := decode.Request{IDs: []int64{1}, MaxNew: 30, Sampling: greedy}
	held := r
	began, proceed := hold(&held)
	reply := submit(t, s, held)
	<-began
	if err := eng.Close(); err != nil {
		t.Fatal(err)
	}
	proceed()
	for _, got := range []decode.Result{reply.Result(), submit(t, s, r).Result()} {
		if got.Reason != decode.Failed || !errors.Is(got.Err, tensor.ErrClosed) {
			t.Errorf("%+v, want it failed by ErrClosed", got)
		}
	}
	// A source is not asked for what would fail as well.
	asked := 0
	err = s.Feed(t.Context(), func() (decode.Request, bool, error) { asked++; return r, true, nil },
		func(int, decode.Result) error { return errors.New("there is no result") })
	if !errors.Is(err, tensor.ErrClosed) || asked != 2 {
		t.Errorf("Feed returned %v after %d requests, want ErrClosed after those of the 2 slots", err, asked)
	}
}

// A step for a submitted request comes before other work of the engine, and a source's step does not: work that waits in Do
// while a submitted request runs is done after it.
func TestServingGoesFirst(t *testing.T) {
	eng := newEngine(t, 1)
	m := pack(t, small(t, eng, architecture.Llama))
	s := open(t, decode.Options{Slots: 2, Length: 40}, decode.Weights{Model: m})
	var events []string // on the engine's thread and the scheduler's goroutine, which wait for each other
	var wg sync.WaitGroup
	waiting := make(chan struct{})
	n := 0
	reply := submit(t, s, decode.Request{IDs: []int64{1}, MaxNew: 20, Sampling: greedy, OnToken: func(decode.Token) bool {
		events = append(events, "token")
		if n++; n == 1 {
			wg.Go(func() {
				close(waiting)
				if err := eng.Do(t.Context(), func(*tensor.Scope) error { events = append(events, "other"); return nil }); err != nil {
					t.Error(err)
				}
			})
			<-waiting
		}
		return false
	}})
	reply.Result()
	wg.Wait()
	if at := slices.Index(events, "other"); at != 20 {
		t.Errorf("other work was done behind %d tokens, want 20", at)
	}
}

// A source's requests are background work: they do not keep the engine from others between two steps.
func TestAFedRowDoesNotReserveTheEngine(t *testing.T) {
	eng := newEngine(t, 1)
	m := pack(t, small(t, eng, architecture.Llama))
	s := open(t, decode.Options{Slots: 2, Length: 40}, decode.Weights{Model: m})
	taken, others := false, 0
	err := s.Feed(t.Context(), func() (decode.Request, bool, error) {
		first := !taken
		taken = true
		return decode.Request{IDs: []int64{1}, MaxNew: 3, Sampling: greedy, OnToken: func(decode.Token) bool {
			// On a reserved engine this would wait for good: nothing calls DoFirst meanwhile.
			if err := eng.Do(t.Context(), func(*tensor.Scope) error { others++; return nil }); err != nil {
				t.Error(err)
			}
			return false
		}}, first, nil
	}, func(_ int, r decode.Result) error { return r.Err })
	if err != nil || others != 3 {
		t.Errorf("Feed returned %v, other work was done %d times, want 3", err, others)
	}
}

// A panic in a user's function is an error of the request or of the source, and the scheduler continues.
func TestPanicsAreErrors(t *testing.T) {
	m := pack(t, small(t, newEngine(t, 1), architecture.Llama))
	s := open(t, decode.Options{Slots: 2, Length: 40}, decode.Weights{Model: m})
	ok := decode.Request{IDs: []int64{1}, MaxNew: 3, Sampling: greedy}
	bad := ok
	bad.OnToken = func(decode.Token) bool { panic("of a token") }
	replies := []*decode.Reply{submit(t, s, ok), submit(t, s, bad), submit(t, s, ok)}
	for i, reply := range replies {
		got := reply.Result()
		if wrong := i == 1; wrong != (got.Reason == decode.Failed && strings.Contains(got.Err.Error(), "of a token")) {
			t.Errorf("request %d: %+v", i, got)
		}
	}
	for _, where := range []string{"next", "done"} {
		err := s.Feed(t.Context(), func() (decode.Request, bool, error) {
			if where == "next" {
				panic("of next")
			}
			return ok, true, nil
		}, func(int, decode.Result) error { panic("of done") })
		if err == nil || !strings.Contains(err.Error(), "of "+where) || !strings.Contains(err.Error(), "scheduler_test.go") {
			t.Errorf("Feed returned %v, want the panic of %s and its stack", err, where)
		}
	}
}

// The log-probabilities of the most probable tokens are the model's own.
func TestTopLogProbs(t *testing.T) {
	m := pack(t, small(t, newEngine(t, 1), architecture.Llama))
	r := decode.Request{IDs: []int64{3, 4}, MaxNew: 8, Top: 96, Seed: 5, Sampling: decode.Sampling{Temperature: 2, TopP: 0.9}}
	got := generate(t, m, []decode.Request{r}, decode.Options{Slots: 4})[0]
	for i, top := range got.Top {
		if len(top) != 96 || !slices.IsSortedFunc(top, func(a, b decode.TopToken) int {
			if a.LogProb > b.LogProb {
				return -1
			}
			return 1
		}) {
			t.Fatalf("token %d: %d of 96 most probable tokens, in order of probability: %v", i, len(top), top)
		}
		at := slices.IndexFunc(top, func(x decode.TopToken) bool { return x.ID == got.IDs[i] })
		if at < 0 || top[at].LogProb != got.LogProbs[i] {
			t.Errorf("token %d has log-probability %g, which its list does not say", i, got.LogProbs[i])
		}
	}
	if len(got.Top) != len(got.IDs) {
		t.Errorf("%d lists for %d tokens", len(got.Top), len(got.IDs))
	}
	r.Top = 0
	if plain := generate(t, m, []decode.Request{r}, decode.Options{Slots: 4})[0]; plain.Top != nil || !slices.Equal(plain.IDs, got.IDs) {
		t.Errorf("without lists: %+v", plain)
	}
}
