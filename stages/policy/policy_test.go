package policy_test

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/logprob"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/stages/policy"
	"github.com/ldalign/ldalign/stages/stagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, f *stagetest.Fixture) *policy.Policy {
	t.Helper()
	p := policy.New(f.Spec, f.Checkpoints, f.Engine)
	t.Cleanup(func() {
		if err := p.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return p
}

// logProb is a number that tells which weights are in memory.
func logProb(t *testing.T, f *stagetest.Fixture, m *models.Model) float64 {
	t.Helper()
	logprobs, err := logprob.Tokens(t.Context(), m, []models.Sequence{{IDs: []int64{1, 5, 9, 13}, PromptLen: 1}}, logprob.Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return logprob.Sums(logprobs)[0]
}

// TestHotSwap: a policy is replaced in place, with the numbers of a fresh load and no memory left behind.
func TestHotSwap(t *testing.T) {
	f := stagetest.New(t)
	manifests := []checkpoints.Manifest{f.Policy(0, 1), f.Policy(1, 2)}
	var want [2]float64
	for i, m := range manifests {
		fresh := policy.New(f.Spec, f.Checkpoints, f.Engine)
		if err := fresh.Use(t.Context(), m.Iteration, m.Digest); err != nil {
			t.Fatal(err)
		}
		want[i] = logProb(t, f, fresh.Model)
		if err := fresh.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if want[0] == want[1] {
		t.Fatal("both policies give the same numbers: the test shows nothing")
	}
	p := open(t, f)
	if p.Tokenizer() != nil {
		t.Error("there is a tokenizer before the first Use")
	}
	live := 0
	for round, i := range []int{0, 0, 1, 0, 1, 1} {
		if err := p.Use(t.Context(), manifests[i].Iteration, manifests[i].Digest); err != nil {
			t.Fatal(err)
		}
		if p.Digest != manifests[i].Digest {
			t.Errorf("round %d: the holder says %.12s", round, p.Digest)
		}
		if got := logProb(t, f, p.Model); got != want[i] {
			t.Errorf("round %d: log-prob %v by policy %d, want %v", round, got, i, want[i])
		}
		if round == 0 {
			live = f.Engine.Live()
		}
		if f.Engine.Live() != live {
			t.Errorf("round %d: %d tensors live, %d after the first load", round, f.Engine.Live(), live)
		}
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f.Engine.Live() != 0 {
		t.Errorf("%d tensors live after Close", f.Engine.Live())
	}
	if err := p.Close(t.Context()); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

func TestUseFails(t *testing.T) {
	f := stagetest.New(t)
	good, guide := f.Policy(0, 1), f.Guide(5)
	bare := f.Commit(checkpoints.Draft{Kind: checkpoints.Policy, Iteration: 1, Files: []checkpoints.Source{
		checkpoints.FromBytes("notes.txt", []byte("no weights")),
	}})
	corrupt := f.Policy(2, 3)
	blob := f.Blob(corrupt, "model.safetensors")
	data, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1] ^= 1
	if err := errors.Join(os.Chmod(blob, 0o600), os.WriteFile(blob, data, 0o600)); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, digest, says string
		iteration          uint32
		is                 error
		unavailable        bool
	}{
		{name: "another than the iteration's", digest: strings.Repeat("ab", 32), says: good.Digest[:12], is: checkpoints.ErrNoCheckpoint},
		{
			name: "not in the store", digest: strings.Repeat("ab", 32), iteration: 9, says: "abababababab",
			is: checkpoints.ErrNoCheckpoint, unavailable: true,
		},
		{name: "wrong kind", digest: guide.Digest, says: "kind guide"},
		{name: "no weights", digest: bare.Digest, unavailable: true},
		{name: "corrupt", digest: corrupt.Digest, says: filepath.Base(blob), is: checkpoints.ErrCorrupt, unavailable: true},
	}
	for _, loaded := range []bool{false, true} {
		for _, test := range tests {
			p := open(t, f)
			if loaded {
				if err := p.Use(t.Context(), good.Iteration, good.Digest); err != nil {
					t.Fatal(err)
				}
			}
			err := p.Use(t.Context(), test.iteration, test.digest)
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s, loaded %v: got %v, want an error with %q", test.name, loaded, err, test.says)
			}
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("%s, loaded %v: %v is not %v", test.name, loaded, err, test.is)
			}
			if u := new(schemas.Unavailable); errors.As(err, &u) != test.unavailable {
				t.Errorf("%s, loaded %v: %v: the worker's inability is %v, want %v", test.name, loaded, err, !test.unavailable, test.unavailable)
			}
			if err := p.Use(t.Context(), 0, ""); !errors.Is(err, checkpoints.ErrNoCheckpoint) {
				t.Errorf("%s, loaded %v: no digest: got %v, want ErrNoCheckpoint: the weights in memory are none's", test.name, loaded, err)
			}
			if err := p.Use(t.Context(), good.Iteration, good.Digest); err != nil {
				t.Errorf("%s, loaded %v: the holder is of no use afterwards: %v", test.name, loaded, err)
			}
		}
	}
}

func TestTokenise(t *testing.T) {
	for _, overlong := range []string{"truncate", "reject"} {
		f := stagetest.New(t, func(s *schemas.Spec) {
			s.Data.Overlong, s.Data.MaxPromptTokens, s.Data.MaxResponseTokens = overlong, 12, 6
		})
		p := open(t, f)
		if err := p.Use(t.Context(), 0, f.Policy(0, 1).Digest); err != nil {
			t.Fatal(err)
		}
		tokens, err := p.Tokenise("How many?", "Two.")
		if err != nil || tokens.Cut != 0 {
			t.Errorf("short: %+v, %v", tokens, err)
		}
		long := strings.Repeat("word ", 30)
		for _, texts := range [][2]string{{long, "Two."}, {"How many?", long}, {long, long}} {
			tokens, err := p.Tokenise(texts[0], texts[1])
			if overlong == "truncate" {
				if err != nil || len(tokens.Prompt) > 12 || len(tokens.Response) > 6 || tokens.Cut == 0 {
					t.Errorf("truncate: %d prompt and %d response tokens, %d cut, %v",
						len(tokens.Prompt), len(tokens.Response), tokens.Cut, err)
				}
				continue
			}
			wantReject(t, err, schemas.ReasonTooLong)
		}
		_, err = p.Tokenise("", "Two.")
		wantReject(t, err, schemas.ReasonEmpty)
		_, err = p.Tokenise("How many?", "")
		wantReject(t, err, schemas.ReasonEmpty)
		_, err = p.Tokenise("How many?", "Two<eos> and more")
		wantReject(t, err, schemas.ReasonInvalid)
	}
}

func wantReject(t *testing.T, err error, reason string) {
	t.Helper()
	var reject *schemas.Reject
	if !errors.As(err, &reject) || reject.Reason != reason {
		t.Errorf("got %v, want it rejected as %s", err, reason)
	}
}

// A policy whose weights do not compute what the manifest says is refused for good, a damaged blob until it is whole.
func TestUnavailable(t *testing.T) {
	f := stagetest.New(t)
	m := f.Policy(0, 1)
	model := f.Model(1)
	canary, err := model.Canary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := model.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	var files []checkpoints.Source
	for _, file := range m.Files {
		files = append(files, checkpoints.Carry(file))
	}
	noted := func(value float64) checkpoints.Manifest {
		return f.Commit(checkpoints.Draft{
			Kind: checkpoints.Policy, Iteration: 1, Files: files,
			Metrics: []checkpoints.Metric{{Name: checkpoints.CanaryMetric, Value: value}},
		})
	}
	right, wrong := noted(canary), noted(canary*1.01)
	p := open(t, f)
	var unable *schemas.Unavailable
	if err := p.Use(t.Context(), wrong.Iteration, wrong.Digest); !errors.As(err, &unable) || !unable.Permanent || !strings.Contains(err.Error(), wrong.Key) {
		t.Errorf("another canary: %v", err)
	}
	if p.Digest != "" {
		t.Errorf("the holder says %.12s after it was refused", p.Digest)
	}
	if err := p.Use(t.Context(), right.Iteration, right.Digest); err != nil { // by packed weights, the manifest's is by plain ones
		t.Error(err)
	}

	blob := f.Blob(m, "model.safetensors")
	whole, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(blob, 0o644), os.WriteFile(blob, whole[:len(whole)/2], 0o644)); err != nil {
		t.Fatal(err)
	}
	fresh := open(t, f)
	if err := fresh.Use(t.Context(), m.Iteration, m.Digest); !errors.As(err, &unable) || unable.Permanent || !errors.Is(err, checkpoints.ErrCorrupt) {
		t.Errorf("half a blob: %v", err)
	}
	if err := os.WriteFile(blob, whole, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := fresh.Use(t.Context(), m.Iteration, m.Digest); err != nil {
		t.Errorf("the blob is whole again: %v", err)
	}
}

// Weights in bfloat16 pass the canary that the trainer computed in float32, when they are loaded and when others replace them.
func TestRoundedWeights(t *testing.T) {
	exact := stagetest.New(t)
	f := stagetest.New(t, func(s *schemas.Spec) { s.Compute.Weights = "bfloat16" })
	noted := func(iteration uint32, seed uint64) checkpoints.Manifest {
		model := f.Model(seed)
		canary, err := model.Canary(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var files []checkpoints.Source
		for _, file := range f.CommitPolicy(iteration, model).Files {
			files = append(files, checkpoints.Carry(file))
		}
		return f.Commit(checkpoints.Draft{
			Kind: checkpoints.Policy, Iteration: iteration, Files: files,
			Metrics: []checkpoints.Metric{{Name: checkpoints.CanaryMetric, Value: canary}},
		})
	}
	rounded, whole := open(t, f), open(t, exact)
	for i, seed := range []uint64{1, 2} {
		m, same := noted(uint32(i), seed), exact.Policy(uint32(i), seed)
		if err := rounded.Use(t.Context(), m.Iteration, m.Digest); err != nil {
			t.Fatal(err)
		}
		if err := whole.Use(t.Context(), same.Iteration, same.Digest); err != nil {
			t.Fatal(err)
		}
		got, want := logProb(t, f, rounded.Model), logProb(t, exact, whole.Model)
		if d := math.Abs(got-want) / math.Abs(want); d == 0 || d > 0.01 {
			t.Errorf("policy %d: log-prob %g, with whole weights %g: want it rounded, and near", i, got, want)
		}
	}
}

// A GPU that has failed is no message's fault.
func TestFailedDevice(t *testing.T) {
	failure := &tensor.DeviceFailure{Device: tensor.CUDA(0)}
	err := policy.OfMachine(&tensor.OpError{Op: "Matmul", Message: "CUDA error: x", Err: failure}, "")
	if unable := new(schemas.Unavailable); !errors.As(err, &unable) || !unable.Permanent || !strings.Contains(err.Error(), "again") {
		t.Errorf("got %v, want a permanent Unavailable that says what to do", err)
	}
}
