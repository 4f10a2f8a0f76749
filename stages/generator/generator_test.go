package generator_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/dataset"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/decode"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/stages/generator"
	"github.com/ldalign/ldalign/stages/stagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, f *stagetest.Fixture) *generator.Stage {
	t.Helper()
	s := generator.New(f.Spec, f.Checkpoints, f.Engine)
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// answer processes prompts of which none may fail.
func answer(t *testing.T, s *generator.Stage, prompts []*events.Prompt) []*events.Pair {
	t.Helper()
	pairs, errs := s.Process(t.Context(), prompts, nil)
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return pairs
}

// TestPair holds the pairs of an iteration against the model that made them.
func TestPair(t *testing.T) {
	f := stagetest.New(t)
	manifest := f.Policy(0, 1)
	prompts := f.Prompts(manifest)
	pairs := answer(t, open(t, f), prompts)
	model := f.Model(1)
	defer func() {
		if err := model.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	reasons := map[string]int{}
	for i, p := range pairs {
		if !proto.Equal(p.GetPrompt(), prompts[i]) || p.GetPolicyDigest() != manifest.Digest || p.GetSchema() != events.Version {
			t.Errorf("pair %d is of prompt %v and weights %.12s", i, p.GetPrompt(), p.GetPolicyDigest())
		}
		if n := len(p.GetRejectedIds()); n < 1 || n > 12 || (p.GetFinishReason() == "length") != (n == 12 && p.GetRejectedIds()[11] != 2) {
			t.Errorf("pair %d has %d sampled tokens and ended by %s", i, n, p.GetFinishReason())
		}
		if p.GetRejected() != strings.TrimSpace(p.GetRejected()) {
			t.Errorf("pair %d: white space around %q", i, p.GetRejected())
		}
		reasons[p.GetFinishReason()]++
		// the reference log-probs are what the model itself says over whole sequences
		rows := []models.Sequence{models.Join(p.GetPromptIds(), p.GetChosenIds()), models.Join(p.GetPromptIds(), p.GetRejectedIds())}
		var want []float64
		err := f.Engine.Do(t.Context(), func(s *tensor.Scope) error {
			want = models.LogProbs(s, model, rows).Float64s()
			return s.Err()
		})
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(p.GetChosenLogp()-want[0]) > 2e-5 || math.Abs(p.GetRejectedLogp()-want[1]) > 2e-5 {
			t.Errorf("pair %d: log-probs %v and %v, want %v", i, p.GetChosenLogp(), p.GetRejectedLogp(), want)
		}
		if !(p.GetChosenLogp() < 0 && p.GetRejectedLogp() < 0) {
			t.Errorf("pair %d: log-probs %v and %v are not below 0", i, p.GetChosenLogp(), p.GetRejectedLogp())
		}
	}
	if reasons["stop"]+reasons["length"] != len(pairs) {
		t.Errorf("finish reasons %v", reasons)
	}
}

// TestInitialReference: a later policy answers, and the run's first gives the log-probs, which are those that it gives to its
// own run's pairs of the same tokens; iteration 0 needs no second model and says nothing of one.
func TestInitialReference(t *testing.T) {
	f := stagetest.New(t, func(s *schemas.Spec) { s.Objective.Reference = "initial" })
	first, later := f.Policy(0, 1), f.Policy(1, 2)
	stage := open(t, f)
	for _, p := range answer(t, stage, f.Prompts(first)) {
		if p.GetReference() != "" || p.ReferenceDigest() != first.Digest {
			t.Errorf("iteration 0: reference %q, want that of the weights", p.GetReference())
		}
	}
	pairs := answer(t, stage, f.Prompts(later))
	model := f.Model(1)
	defer func() {
		if err := model.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	for i, p := range pairs {
		if p.GetPolicyDigest() != later.Digest || p.GetReference() != first.Digest {
			t.Errorf("pair %d is of weights %.12s and reference %.12s", i, p.GetPolicyDigest(), p.GetReference())
		}
		rows := []models.Sequence{models.Join(p.GetPromptIds(), p.GetChosenIds()), models.Join(p.GetPromptIds(), p.GetRejectedIds())}
		err := f.Engine.Do(t.Context(), func(s *tensor.Scope) error {
			want := models.LogProbs(s, model, rows).Float64s()
			if math.Abs(p.GetChosenLogp()-want[0]) > 2e-5 || math.Abs(p.GetRejectedLogp()-want[1]) > 2e-5 {
				t.Errorf("pair %d: log-probs %v and %v, the first policy gives %v", i, p.GetChosenLogp(), p.GetRejectedLogp(), want)
			}
			return s.Err()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestPairDoesNotDependOnItsBatch: alone, in any batch, by another process, again: the same pair to the last bit.
func TestPairDoesNotDependOnItsBatch(t *testing.T) {
	f := stagetest.New(t, func(s *schemas.Spec) { s.Generation.SamplesPerPrompt = 2 })
	prompts := f.Prompts(f.Policy(0, 1))
	whole := answer(t, open(t, f), prompts)
	other := open(t, f)
	check := func(how string, at int, got *events.Pair) {
		t.Helper()
		if !proto.Equal(whole[at], got) {
			t.Errorf("prompt %d %s:\n%v\nin one batch:\n%v", at, how, got, whole[at])
		}
	}
	for i := range prompts {
		check("alone", i, answer(t, other, prompts[i:i+1])[0])
	}
	for from := 0; from < len(prompts); from += 7 {
		part := prompts[from:min(from+7, len(prompts))]
		for k, p := range answer(t, other, part) {
			check("in a batch of 7", from+k, p)
		}
	}
	reversed := slices.Clone(prompts)
	slices.Reverse(reversed)
	for k, p := range answer(t, other, reversed) {
		check("in reverse", len(prompts)-1-k, p)
	}
	if whole[0].GetRejected() == whole[1].GetRejected() {
		t.Error("two samples of a prompt are the same text: the test shows little")
	}
}

// TestCheckpointsInOneBatch: each prompt is answered by the checkpoint that it names; one that is not there fails its own
// prompts and no others, without rejecting them.
func TestCheckpointsInOneBatch(t *testing.T) {
	f := stagetest.New(t)
	first, second := f.Prompts(f.Policy(0, 1)), f.Prompts(f.Policy(1, 2))
	lost := proto.Clone(first[3]).(*events.Prompt)
	lost.Checkpoint = strings.Repeat("ab", 32)
	stage := open(t, f)
	pairs, errs := stage.Process(t.Context(), []*events.Prompt{first[0], second[0], lost, first[1], second[1]}, nil)
	fresh := open(t, f)
	for i, want := range []*events.Prompt{first[0], second[0], nil, first[1], second[1]} {
		if want == nil {
			var reject *schemas.Reject
			if !errors.Is(errs[i], checkpoints.ErrNoCheckpoint) || errors.As(errs[i], &reject) || pairs[i] != nil {
				t.Errorf("the prompt of a missing checkpoint: %v, %v", pairs[i], errs[i])
			}
			continue
		}
		if errs[i] != nil || !proto.Equal(pairs[i], answer(t, fresh, []*events.Prompt{want})[0]) {
			t.Errorf("message %d is not what its own checkpoint says (%v)", i, errs[i])
		}
	}
}

// TestARowFailsAlone: a prompt that the model cannot decode fails, and the others have the pairs that they have without it.
func TestARowFailsAlone(t *testing.T) {
	f := stagetest.New(t)
	cfg := stagetest.Config()
	cfg.Vocab-- // the tokenizer has one token more
	m, err := models.Scratch(t.Context(), f.Engine, cfg, 1)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.FromFS(dataset.DemoTokenizer())
	if err != nil {
		t.Fatal(err)
	}
	unknown := tok.Decode([]int64{int64(cfg.Vocab)}, false)
	if err := tok.Close(); err != nil {
		t.Fatal(err)
	}
	prompts := f.Prompts(f.CommitPolicy(0, m))[:6]
	stage := open(t, f)
	want := answer(t, stage, append(slices.Clone(prompts[:2]), prompts[3:]...))
	prompts[2].Prompt = "zz" + unknown // within a word, as it is in the vocabulary
	pairs, errs := stage.Process(t.Context(), prompts, nil)
	var reject *schemas.Reject
	if !errors.Is(errs[2], decode.ErrRequest) || errors.As(errs[2], &reject) || pairs[2] != nil {
		t.Errorf("the prompt with an unknown token: %v, %v", pairs[2], errs[2])
	}
	if err := errors.Join(slices.Delete(errs, 2, 3)...); err != nil {
		t.Errorf("the others: %v", err)
	}
	for i, p := range slices.Delete(pairs, 2, 3) {
		if !proto.Equal(p, want[i]) {
			t.Errorf("pair %d beside it:\n%v\nwithout it:\n%v", i, p, want[i])
		}
	}
}

func TestLengthRule(t *testing.T) {
	long := strings.Repeat("many words ", 40)
	for _, overlong := range []string{"truncate", "reject"} {
		f := stagetest.New(t, func(s *schemas.Spec) { s.Data.Overlong = overlong })
		prompts := f.Prompts(f.Policy(0, 1))[:4]
		prompts[1].Prompt, prompts[2].Response, prompts[3].Response = long, long, ""
		pairs, errs := open(t, f).Process(t.Context(), prompts, nil)
		if errs[0] != nil || pairs[0].GetTruncated() != 0 {
			t.Errorf("%s: the short one: %v, %v", overlong, pairs[0], errs[0])
		}
		rejected(t, pairs[3], errs[3], schemas.ReasonEmpty)
		for _, i := range []int{1, 2} {
			if overlong == "reject" {
				rejected(t, pairs[i], errs[i], schemas.ReasonTooLong)
				continue
			}
			p := pairs[i]
			if errs[i] != nil || p.GetTruncated() == 0 || len(p.GetPromptIds()) > 64 || len(p.GetChosenIds()) > 12 {
				t.Errorf("truncate: %d prompt and %d response tokens, %d cut, %v",
					len(p.GetPromptIds()), len(p.GetChosenIds()), p.GetTruncated(), errs[i])
			}
		}
	}
}

func rejected(t *testing.T, pair *events.Pair, err error, reason string) {
	t.Helper()
	var reject *schemas.Reject
	if pair != nil || !errors.As(err, &reject) || reject.Reason != reason {
		t.Errorf("got %v, %v; want it rejected as %s", pair, err, reason)
	}
}

// TestAnnotated: with objective dpo nothing is sampled.
func TestAnnotated(t *testing.T) {
	f := stagetest.New(t)
	manifest := f.Policy(0, 1)
	prompts := f.Prompts(manifest)[:3]
	prompts[0].Rejected = "A worse answer."
	prompts[1].Rejected = strings.Repeat("much worse ", 40)
	f.Spec.Objective.Kind = "dpo"
	pairs, errs := open(t, f).Process(t.Context(), prompts, nil)
	rejected(t, pairs[2], errs[2], schemas.ReasonInvalid)
	for i := range 2 {
		p := pairs[i]
		if errs[i] != nil || p.GetFinishReason() != "annotated" || p.GetRejected() != prompts[i].GetRejected() || !(p.GetRejectedLogp() < 0) {
			t.Errorf("pair %d: %v, %v", i, p, errs[i])
		}
	}
	if pairs[0].GetTruncated() != 0 || pairs[1].GetTruncated() == 0 || len(pairs[1].GetRejectedIds()) != 12 {
		t.Errorf("%d and %d tokens cut, want none and some", pairs[0].GetTruncated(), pairs[1].GetTruncated())
	}
}

// TestGivenLogProbs: log-probabilities of the data are taken when the first few agree with these weights, and otherwise the
// stage ends; a response that was cut is scored again.
func TestGivenLogProbs(t *testing.T) {
	f := stagetest.New(t)
	f.Spec.Objective.Kind = "spin"
	manifest := f.Policy(0, 1)
	prompts := f.Prompts(manifest)
	for i, p := range prompts {
		p.Rejected = "A worse answer."
		if i == 1 {
			p.Rejected = strings.Repeat("much worse ", 40)
		}
	}
	f.Spec.Generation.From = "data"
	computed := answer(t, open(t, f), prompts)
	give := func(off float64) []*events.Prompt {
		var out []*events.Prompt
		counted := 0
		for i := range computed {
			p := proto.Clone(prompts[i]).(*events.Prompt)
			chosen, rejected := computed[i].GetChosenLogp()+off, computed[i].GetRejectedLogp()
			if counted == 4 {
				chosen, rejected = -7, -8 // only the first are computed again
			} else if i != 2 && computed[i].GetTruncated() == 0 {
				counted++
			}
			if i != 2 {
				p.ChosenLogp, p.RejectedLogp = &chosen, &rejected
			}
			out = append(out, p)
		}
		return out
	}
	given := give(1e-4)
	for i, p := range answer(t, open(t, f), given) {
		want := [2]float64{given[i].GetChosenLogp(), given[i].GetRejectedLogp()}
		if p.GetTruncated() > 0 || i == 2 {
			want = [2]float64{computed[i].GetChosenLogp(), computed[i].GetRejectedLogp()}
		}
		if got := [2]float64{p.GetChosenLogp(), p.GetRejectedLogp()}; got != want {
			t.Errorf("pair %d: log-probs %v, want %v", i, got, want)
		}
	}
	pairs, errs := open(t, f).Process(t.Context(), give(0.01), nil)
	for i := range pairs {
		if computed[i].GetTruncated() > 0 || i == 2 {
			if errs[i] != nil {
				t.Errorf("pair %d has no given log-probs that count: %v", i, errs[i])
			}
			continue
		}
		var unable *schemas.Unavailable
		if !errors.As(errs[i], &unable) || !unable.Permanent || pairs[i] != nil {
			t.Errorf("pair %d: got %v, want the end of the stage", i, errs[i])
		}
	}
}

// TestGivenLogProbsBehindOthers: the first log-probabilities that the data gives are looked at, wherever they come in a batch.
func TestGivenLogProbsBehindOthers(t *testing.T) {
	f := stagetest.New(t)
	prompts := f.Prompts(f.Policy(0, 1))[:6]
	f.Spec.Objective.Kind = "dpo"
	for _, p := range prompts {
		p.Rejected = "A worse answer."
	}
	chosen, rejected := -7.0, -8.0
	prompts[5].ChosenLogp, prompts[5].RejectedLogp = &chosen, &rejected
	_, errs := open(t, f).Process(t.Context(), prompts, nil)
	if err := errors.Join(errs[:5]...); err != nil {
		t.Error(err)
	}
	var unable *schemas.Unavailable
	if !errors.As(errs[5], &unable) || !unable.Permanent {
		t.Errorf("wrong log-probs behind five pairs without: got %v, want the end of the stage", errs[5])
	}
}

func TestStops(t *testing.T) {
	f := stagetest.New(t)
	prompts := f.Prompts(f.Policy(0, 1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	pairs, errs := open(t, f).Process(ctx, prompts, nil)
	for i := range prompts {
		if !errors.Is(errs[i], context.Canceled) {
			t.Errorf("prompt %d: %v, %v; want the context's error", i, pairs[i], errs[i])
		}
	}
}

// refillable gives prompts one by one, as a log does, and tells how many were taken at each time.
type refillable struct{ left []*events.Prompt }

func (r *refillable) more(n int) []*events.Prompt {
	n = min(n, len(r.left))
	got := r.left[:n]
	r.left = r.left[n:]
	return got
}

// TestRefill: prompts that come while the stage decodes give the pairs that they give alone, in the order in which they
// came, also those that want another checkpoint or are refused.
func TestRefill(t *testing.T) {
	f := stagetest.New(t)
	first, second := f.Prompts(f.Policy(0, 1)), f.Prompts(f.Policy(1, 2))
	bad := proto.CloneOf(first[9])
	bad.Response = ""
	prompts := []*events.Prompt{first[0], first[1], second[0], bad, first[2], second[1], first[3], first[4], first[5], first[6]}
	want, _ := open(t, f).Process(t.Context(), prompts, nil)
	for _, held := range []int{1, 2, 5, len(prompts)} {
		source := &refillable{left: prompts[held:]}
		got, errs := open(t, f).Process(t.Context(), prompts[:held], source.more)
		if len(got)+len(source.left) != len(prompts) || len(errs) != len(got) {
			t.Fatalf("%d held: %d pairs, %d errors, %d not taken of %d", held, len(got), len(errs), len(source.left), len(prompts))
		}
		if len(source.left) > 0 {
			t.Errorf("%d held: %d prompts were not asked for", held, len(source.left))
		}
		for i := range got {
			if refused := prompts[i] == bad; refused != (errs[i] != nil) {
				t.Errorf("%d held: prompt %d: %v", held, i, errs[i])
			} else if !refused && !proto.Equal(got[i], want[i]) {
				t.Errorf("%d held: prompt %d gave\n%v\nwant\n%v", held, i, got[i], want[i])
			}
		}
	}
}
