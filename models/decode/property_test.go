package decode_test

import (
	stdcmp "cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/decode"
	"github.com/ldalign/ldalign/models/logprob"
	"github.com/ldalign/ldalign/models/tensor"
)

// small models whose matrix products take the paths of the demo's policy (a head of 20) and of GPT-2.
func small(t testing.TB, eng *tensor.Engine, family string) *models.Model {
	t.Helper()
	cfg := architecture.Config{
		Family: family, Vocab: 96, Hidden: 80, Layers: 2, Heads: 4, KVHeads: 2, Intermediate: 112, MaxPositions: 96,
		TieEmbeddings: true, InitializerRange: 0.15,
	}
	if family == architecture.GPT2 {
		cfg.KVHeads = 0
	}
	m, err := models.Scratch(context.Background(), eng, cfg, 3)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// The result of a request is the same to the last bit alone and with other requests, at one thread and at two. With a packed
// model it is also the same for any slots and any size of a step.
func TestTextDoesNotDependOnTheBatch(t *testing.T) {
	type setup struct {
		name  string
		model *models.Model
		reqs  []decode.Request
		opts  decode.Options
		alone []decode.Result
	}
	rng := rand.New(rand.NewPCG(1, 2))
	pool := make([]decode.Request, 10)
	for i := range pool {
		pool[i] = decode.Request{IDs: make([]int64, 1+rng.IntN(20)), Seed: rng.Uint64(), MaxNew: rng.IntN(12)}
		for j := range pool[i].IDs {
			pool[i].IDs[j] = rng.Int64N(96)
		}
	}
	var setups []setup
	for _, family := range []string{architecture.Llama, architecture.GPT2} {
		for _, threads := range []int{1, 2} {
			plain, packed := small(t, newEngine(t, threads), family), pack(t, small(t, newEngine(t, threads), family))
			for _, m := range []*models.Model{plain, packed} {
				for _, how := range []struct {
					request decode.Request
					opts    decode.Options
				}{
					{
						decode.Request{Sampling: decode.Sampling{Temperature: 1, TopP: 1}, Stop: []int64{1, 2, 3}},
						decode.Options{Slots: 4, Length: 40},
					},
					{
						decode.Request{Sampling: decode.Sampling{Temperature: 0.7, TopP: 0.8, MinP: 0.01, TopK: 60}},
						decode.Options{Slots: 7, Prefill: 6, Length: 40},
					},
					{decode.Request{Sampling: decode.Sampling{TopP: 1, RepetitionPenalty: 1.4}}, decode.Options{Slots: 3}},
					{
						decode.Request{
							Sampling: decode.Sampling{Temperature: 1.3, TopP: 0.9, MinP: 0.02, TopK: 20, RepetitionPenalty: 0.8}, Stop: []int64{4},
						},
						decode.Options{Slots: 4, Prefill: 3, Length: 60},
					},
				} {
					how.request.MaxNew = 9
					s := setup{
						name:  fmt.Sprintf("%s, %d threads, packed %t, %+v", family, threads, m.Packed(), how),
						model: m, reqs: with(how.request, pool...), opts: how.opts,
					}
					for _, r := range s.reqs {
						s.alone = append(s.alone, generate(t, m, []decode.Request{r}, s.opts)[0])
					}
					setups = append(setups, s)
				}
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SampledFrom(setups).Draw(t, "setup")
		var reqs []decode.Request
		var want []decode.Result
		for _, i := range rapid.SliceOfN(rapid.IntRange(0, len(pool)-1), 1, 10).Draw(t, "requests") {
			reqs = append(reqs, s.reqs[i])
			want = append(want, s.alone[i])
		}
		if s.model.Packed() {
			s.opts.Slots = rapid.IntRange(1, 12).Draw(t, "slots")
			s.opts.Prefill = rapid.IntRange(1, 50).Draw(t, "prefill")
		}
		got, err := decode.Generate(context.Background(), s.model, reqs, s.opts, nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%s (-alone +in a batch):\n%s", s.name, diff)
		}
	})
}

// The log-probabilities of sampled tokens are those of teacher forcing, and score gives the same bits.
func TestLogProbsEqualScore(t *testing.T) {
	for _, family := range []string{architecture.Llama, architecture.GPT2} {
		m := pack(t, small(t, newEngine(t, 2), family))
		var reqs []decode.Request
		for i := range 9 {
			reqs = append(reqs, decode.Request{IDs: []int64{9, 3, 7, 1, 50, 60, 70, 80, 90}[:i+1], Seed: uint64(i)})
		}
		results := generate(t, m, with(decode.Request{
			MaxNew: 30, Sampling: decode.Sampling{Temperature: 1.5, TopP: 0.9, RepetitionPenalty: 1.2}, Stop: []int64{4},
		}, reqs...), decode.Options{Slots: 4})
		var rows []models.Sequence
		for i, r := range results {
			rows = append(rows, models.Join(reqs[i].IDs, r.IDs))
		}
		got, err := logprob.Tokens(context.Background(), m, rows, logprob.Options{Step: 16}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range results {
			if diff := cmp.Diff(r.LogProbs, got[i]); diff != "" {
				t.Errorf("%s, request %d (-decode +score):\n%s", family, i, diff)
			}
		}
	}
}

// A slot is refilled as soon as its row has ended. Tokens come in the order in which four workers would make them that take the
// next request from a queue whenever they are free.
func TestSlotsAreRefilled(t *testing.T) {
	m := pack(t, small(t, newEngine(t, 1), architecture.Llama))
	var got, want []int // the request of each token
	var reqs []decode.Request
	limit := func(i int) int { return 1 + i*7%13 }
	for i := range 20 {
		reqs = append(reqs, decode.Request{
			IDs: []int64{int64(i)}, MaxNew: limit(i), Sampling: greedy, OnToken: func(decode.Token) bool {
				got = append(got, i)
				return false
			},
		})
	}
	generate(t, m, reqs, decode.Options{Slots: 4, Length: 20})

	slots, left, next := []int{-1, -1, -1, -1}, make([]int, len(reqs)), 0
	for {
		var old, fresh []int // rows in their responses come in the order of slots, new ones behind them
		for slot, i := range slots {
			if i < 0 && next < len(reqs) {
				slots[slot], left[next] = next, limit(next)
				fresh = append(fresh, next)
				next++
			} else if i >= 0 {
				old = append(old, i)
			}
		}
		if len(old)+len(fresh) == 0 {
			break
		}
		for _, i := range append(old, fresh...) {
			want = append(want, i)
			if left[i]--; left[i] == 0 {
				slots[slices.Index(slots, i)] = -1
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("requests of the tokens (-want +got):\n%s", diff)
	}
}

func TestOnTokenEndsARow(t *testing.T) {
	m := pack(t, small(t, newEngine(t, 1), architecture.Llama))
	var told []int64
	req := decode.Request{
		IDs: []int64{4, 8}, Seed: 3, MaxNew: 10, Sampling: decode.Sampling{Temperature: 1, TopP: 1},
		OnToken: func(token decode.Token) bool {
			if !(token.LogProb <= 0) {
				t.Errorf("log-probability %g", token.LogProb)
			}
			told = append(told, token.ID)
			return len(told) == 3
		},
	}
	got := generate(t, m, []decode.Request{req}, decode.Options{Slots: 2})[0]
	if diff := cmp.Diff(told, got.IDs); diff != "" || got.Reason != decode.Stop || len(told) != 3 {
		t.Errorf("told %v, result %+v", told, got)
	}
}

// Damaged weights are reported by request and token. Generate ends with that error; a scheduler continues with the other rows.
func TestWeightsThatAreNotANumber(t *testing.T) {
	m := pack(t, damaged(t, newEngine(t, 1)))
	_, err := decode.Generate(context.Background(), m, with(decode.Request{MaxNew: 2, Sampling: greedy},
		decode.Request{IDs: []int64{1}}, decode.Request{IDs: []int64{7}}), decode.Options{Slots: 1}, nil)
	if !errors.Is(err, decode.ErrNotFinite) || !strings.Contains(err.Error(), "request 1: ") {
		t.Errorf("error %v, want ErrNotFinite of request 1", err)
	}
}

// damaged is a small model whose embedding of token 7 is not a number. Its output matrix is sound.
func damaged(t testing.TB, eng *tensor.Engine) *models.Model {
	t.Helper()
	m, err := models.Scratch(context.Background(), eng, architecture.Config{
		Family: architecture.Llama, Vocab: 96, Hidden: 80, Layers: 2, Heads: 4, KVHeads: 2, Intermediate: 112, MaxPositions: 96,
		InitializerRange: 0.15,
	}, 3)
	if err != nil {
		t.Fatal(err)
	}
	err = eng.Do(context.Background(), func(s *tensor.Scope) error {
		m.Params()[0].Tensor.Narrow(0, 7, 1).Copy_(s.Full(tensor.Float32, math.NaN(), 1))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A sampled response agrees with teacher forcing: its greedy tokens are the arg max of the model's own logits over the whole
// sequence.
func TestStepsEqualWholeSequences(t *testing.T) {
	for _, family := range []string{architecture.Llama, architecture.GPT2} {
		eng := newEngine(t, 1)
		m := small(t, eng, family)
		for _, n := range []int{1, 7, 8, 9} {
			req := decode.Request{IDs: []int64{9, 3, 7, 1, 50, 60, 70, 80, 90}[:n], MaxNew: 20, Sampling: greedy}
			got := generate(t, m, []decode.Request{req}, decode.Options{Slots: 4})[0]
			err := eng.Do(context.Background(), func(s *tensor.Scope) error {
				ids := append(append([]int64{}, req.IDs...), got.IDs...)
				h := m.Hidden(s, m.Embed(s.FromInt64(ids, 1, int64(len(ids)))))
				logits, vocab := m.Logits(h.Squeeze(0)).Float32s(), m.Config().Vocab
				var want []int64
				for row := range slices.Chunk(logits, vocab) {
					want = append(want, int64(slices.Index(row, slices.Max(row))))
				}
				if diff := cmp.Diff(want[n-1:len(want)-1], got.IDs); diff != "" {
					t.Errorf("%s, prompt of %d (-whole +steps):\n%s", family, n, diff)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Sampled first tokens follow the model's distribution, cut to the nucleus: a chi-squared test with fixed seeds.
func TestSamplesFollowTheDistribution(t *testing.T) {
	const draws = 4000
	eng := newEngine(t, 1)
	m := small(t, eng, architecture.Llama)
	prompt := []int64{5, 9, 20}
	for _, test := range []struct{ temperature, topP float64 }{{1, 1}, {2, 1}, {0.5, 1}, {1, 0.6}, {1, 1e-9}} {
		var p []float64
		err := eng.Do(context.Background(), func(s *tensor.Scope) error {
			h := m.Hidden(s, m.Embed(s.FromInt64(prompt, 1, 3))).Select(1, 2)
			values := m.Logits(h).To(tensor.Float64).DivScalar(test.temperature).Softmax(-1).Float64s()
			ids := make([]int, len(values)) // by descending probability
			for i := range ids {
				ids[i] = i
			}
			slices.SortStableFunc(ids, func(a, b int) int { return stdcmp.Compare(values[b], values[a]) })
			p = make([]float64, len(values))
			before, kept := 0.0, 0.0
			for i, id := range ids {
				if i == 0 || before < test.topP {
					p[id] = values[id]
					kept += values[id]
				}
				before += values[id]
			}
			for i := range p {
				p[i] /= kept
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		reqs := make([]decode.Request, draws)
		for i := range reqs {
			reqs[i] = decode.Request{
				IDs: prompt, Seed: uint64(i), MaxNew: 1, Sampling: decode.Sampling{Temperature: test.temperature, TopP: test.topP},
			}
		}
		counts := make([]float64, len(p))
		for _, r := range generate(t, m, reqs, decode.Options{Slots: 256}) {
			counts[r.IDs[0]]++
		}
		// Tokens expected fewer than 5 times are counted together.
		chi, cells, rest, restExpected := 0.0, 0, 0.0, 0.0
		for i := range p {
			switch expected := p[i] * draws; {
			case p[i] == 0 && counts[i] > 0:
				t.Errorf("temperature %g, top-p %g: token %d of probability 0 was drawn", test.temperature, test.topP, i)
			case expected < 5:
				rest, restExpected = rest+counts[i], restExpected+expected
			default:
				chi += (counts[i] - expected) * (counts[i] - expected) / expected
				cells++
			}
		}
		if restExpected > 0 {
			chi += (rest - restExpected) * (rest - restExpected) / restExpected
			cells++
		}
		// 4 deviations above the mean of the chi-squared distribution; the seeds are fixed, so it passes or not for good.
		freedom := float64(cells - 1)
		if chi > freedom+4*math.Sqrt(2*freedom)+1 {
			t.Errorf("temperature %g, top-p %g: chi-squared is %g with %g degrees of freedom",
				test.temperature, test.topP, chi, freedom)
		}
		if test.topP == 1 && cells < 10 {
			t.Errorf("temperature %g: only %d cells, the test says little", test.temperature, cells)
		}
	}
}

func TestGenerateEnds(t *testing.T) {
	m := small(t, newEngine(t, 1), architecture.Llama)
	req := decode.Request{
		IDs: []int64{4, 8, 15, 16, 23, 42}, Seed: 1, MaxNew: 10, Sampling: decode.Sampling{Temperature: 1, TopP: 1},
	}
	opts := decode.Options{Slots: 4}
	free := generate(t, m, []decode.Request{req}, opts)[0]
	if len(free.IDs) != req.MaxNew || free.Reason != decode.Length {
		t.Fatalf("without end tokens: %d tokens, reason %q", len(free.IDs), free.Reason)
	}
	req.Stop = []int64{1000, free.IDs[4]}
	first := 0
	for free.IDs[first] != free.IDs[4] {
		first++
	}
	want := decode.Result{IDs: free.IDs[:first+1], Reason: decode.Stop}
	if diff := cmp.Diff(want, generate(t, m, []decode.Request{req}, opts)[0], ignoreLogProbs); diff != "" {
		t.Errorf("with an end token (-want +got):\n%s", diff)
	}
	if got := generate(t, m, nil, opts); len(got) != 0 {
		t.Errorf("no requests give %v", got)
	}
}

func TestGenerateRefuses(t *testing.T) {
	m := small(t, newEngine(t, 1), architecture.Llama)
	sampled := decode.Sampling{Temperature: 1, TopP: 1}
	ok := decode.Request{IDs: []int64{1}, MaxNew: 4, Sampling: sampled}
	for name, edit := range map[string]func(o *decode.Options, r *decode.Request){
		"no tokens":                func(_ *decode.Options, r *decode.Request) { r.MaxNew = 0 },
		"no slots":                 func(o *decode.Options, _ *decode.Request) { o.Slots = 0 },
		"no prefill":               func(o *decode.Options, _ *decode.Request) { o.Prefill = -1 },
		"no queue":                 func(o *decode.Options, _ *decode.Request) { o.Queue = -1 },
		"negative top-k":           func(_ *decode.Options, r *decode.Request) { r.TopK = -1 },
		"min-p above 1":            func(_ *decode.Options, r *decode.Request) { r.MinP = 1.1 },
		"negative penalty":         func(_ *decode.Options, r *decode.Request) { r.RepetitionPenalty = -1 },
		"infinite penalty":         func(_ *decode.Options, r *decode.Request) { r.RepetitionPenalty = math.Inf(1) },
		"presence penalty NaN":     func(_ *decode.Options, r *decode.Request) { r.PresencePenalty = math.NaN() },
		"frequency penalty above":  func(_ *decode.Options, r *decode.Request) { r.FrequencyPenalty = 101 },
		"an infinite bias":         func(_ *decode.Options, r *decode.Request) { r.Bias = map[int64]float64{1: math.Inf(-1)} },
		"the bias of no token":     func(_ *decode.Options, r *decode.Request) { r.Bias = map[int64]float64{96: 1} },
		"negative top":             func(_ *decode.Options, r *decode.Request) { r.Top = -1 },
		"top above the vocabulary": func(_ *decode.Options, r *decode.Request) { r.Top = 97 },
		"longer than the model":    func(o *decode.Options, _ *decode.Request) { o.Length = 97 },
		"negative temperature":     func(_ *decode.Options, r *decode.Request) { r.Temperature = -1 },
		"temperature NaN":          func(_ *decode.Options, r *decode.Request) { r.Temperature = math.NaN() },
		"top-p 0":                  func(_ *decode.Options, r *decode.Request) { r.TopP = 0 },
		"top-p above 1":            func(_ *decode.Options, r *decode.Request) { r.TopP = 1.1 },
		"empty prompt":             func(_ *decode.Options, r *decode.Request) { r.IDs = nil },
		"token outside":            func(_ *decode.Options, r *decode.Request) { r.IDs = []int64{96} },
		"negative token":           func(_ *decode.Options, r *decode.Request) { r.IDs = []int64{-1} },
		"too long":                 func(_ *decode.Options, r *decode.Request) { r.IDs = make([]int64, 93) },
		"too long for its rest":    func(_ *decode.Options, r *decode.Request) { r.MaxNew = 96 },
	} {
		t.Run(name, func(t *testing.T) {
			opts, bad := decode.Options{Slots: 4}, ok
			edit(&opts, &bad)
			_, err := decode.Generate(context.Background(), m, []decode.Request{ok, bad}, opts, nil)
			if !errors.Is(err, decode.ErrRequest) {
				t.Errorf("error %v, want ErrRequest", err)
			}
		})
	}
	// The longest that fits.
	longest := decode.Request{IDs: make([]int64, 91), MaxNew: 5, Sampling: greedy}
	got := generate(t, m, []decode.Request{longest}, decode.Options{Slots: 4})
	if len(got[0].IDs) != 5 {
		t.Errorf("the longest request gives %d tokens", len(got[0].IDs))
	}
}

func TestGenerateStopsWithItsContext(t *testing.T) {
	eng := newEngine(t, 1)
	m := small(t, eng, architecture.Llama)
	live := eng.Live()
	ctx, cancel := context.WithCancel(context.Background())
	reqs := make([]decode.Request, 20)
	for i := range reqs {
		reqs[i] = decode.Request{IDs: []int64{1, 2, 3}, MaxNew: 5, Sampling: greedy}
	}
	calls := 0
	results, err := decode.Generate(ctx, m, reqs, decode.Options{Slots: 4}, func(done int) {
		if calls++; done != calls {
			t.Errorf("call %d of onProgress: %d done", calls, done)
		}
		if calls == 3 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || results != nil || calls != 4 { // the four rows of a step end together
		t.Errorf("results %v, error %v after %d calls of onProgress, want nil and context.Canceled after 4", results, err, calls)
	}
	if got := eng.Live(); got != live {
		t.Errorf("%d tensors live afterwards, %d before", got, live)
	}
}
