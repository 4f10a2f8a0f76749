package plan

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
)

const spec = `run: tiny
iterations: 2
model:
  from: scratch
  scratch: {family: llama, hidden: 16, layers: 2, heads: 2, intermediate: 32, max_positions: 128, tokenizer: builtin:demo}
data: {train: data.jsonl, max_prompt_tokens: 16, max_response_tokens: 16}
objective: {kind: dpo}
training: {batch: 2, micro_batch: 2}
compute: {threads: 1}
`

func resolved(t *testing.T, set ...string) schemas.Spec {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "run.yaml")
	data := `{"prompt": "12345678", "chosen": "1234", "rejected": "123456789012"}
{"prompt": "1234", "chosen": "12345678", "rejected": "1234"}
{"prompt": "abcd", "chosen": "12", "rejected": "` + strings.Repeat("long ", 40) + `"}
`
	if err := errors.Join(os.WriteFile(path, []byte(spec), 0o644), os.WriteFile(filepath.Join(dir, "data.jsonl"), []byte(data), 0o644)); err != nil {
		t.Fatal(err)
	}
	specs, err := schemas.LoadSpecs(path)
	if err != nil {
		t.Fatal(err)
	}
	s := specs[0]
	for _, key := range append(set, "data.train="+filepath.Join(dir, "data.jsonl")) {
		if err := schemas.Set(&s, key); err != nil {
			t.Fatal(err)
		}
	}
	return schemas.Resolve(s, 1)
}

// letters is a tokenizer with a token a byte; it refuses responses of more than 16.
type letters struct{ closed *int }

func (letters) Vocab() int { return 300 }

func (letters) Lengths(prompt, response string) (promptTokens, responseTokens int, err error) {
	if len(response) > 16 {
		return 0, 0, errors.New("too long")
	}
	return len(prompt), len(response), nil
}

func (l letters) Close() error {
	*l.closed++
	return nil
}

func inputs(t *testing.T, p *Planner, specs ...schemas.Spec) []Input {
	t.Helper()
	p.Dir = t.TempDir()
	in, err := p.Inputs(t.Context(), specs)
	if err := errors.Join(err, p.Close()); err != nil {
		t.Fatal(err)
	}
	return in
}

func TestLengthsByTheTokenizer(t *testing.T) {
	opened, closed := 0, 0
	in := inputs(t, &Planner{Tokenizer: func(fs.FS, schemas.Spec) (Tokenizer, error) {
		opened++
		return letters{&closed}, nil
	}}, resolved(t))[0]
	d := in.Train
	if d.Records != 3 || d.PromptTokens != 6 || d.ChosenTokens != 6 || d.RejectedTokens != 8 || d.Refused != 1.0/3 || d.Estimated {
		t.Errorf("%+v", d)
	}
	if in.Policy.Vocab != 300 || opened != 2 || closed != opened {
		t.Errorf("a vocabulary of %d; %d tokenizers opened, %d closed", in.Policy.Vocab, opened, closed)
	}
}

// Without a tokenizer lengths are estimated from bytes, within the length rule, and the plan says so.
func TestLengthsFromBytes(t *testing.T) {
	in := inputs(t, &Planner{}, resolved(t))
	d := in[0].Train
	// prompts of 8, 4 and 4 bytes, responses of 4, 8 and 2, rejected ones of 12, 4 and 200, of which 16 tokens are left
	if !d.Estimated || d.PromptTokens != 7.0/3 || d.ChosenTokens != 2 || d.RejectedTokens != 22.0/3 || d.Refused != 0 {
		t.Errorf("%+v", d)
	}
	if in[0].Policy.Vocab != 512 {
		t.Errorf("the demo's tokenizer has %d tokens, want 512", in[0].Policy.Vocab)
	}
	run := Estimate(in, Machine{})[0]
	if len(run.Warnings) != 1 || !strings.Contains(run.Warnings[0], "estimated from bytes") {
		t.Errorf("warnings %q", run.Warnings)
	}
	d = inputs(t, &Planner{}, resolved(t, "data.overlong=reject"))[0].Train
	if d.Refused != 1.0/3 || d.RejectedTokens != 3 {
		t.Errorf("with overlong: reject %+v", d)
	}
}

func TestPlanOfAReplay(t *testing.T) {
	s := resolved(t)
	s.Source = &schemas.SourceSpec{Run: "other", From: string(schemas.Pairs)}
	if _, err := (&Planner{}).Inputs(t.Context(), []schemas.Spec{s}); !errors.Is(err, ErrReplay) || !strings.Contains(err.Error(), "run tiny") {
		t.Errorf("the error is %v", err)
	}
}

// A run that starts from one before it in the plan has its model; from another it reads the store.
func TestPlanFromARun(t *testing.T) {
	first, second := resolved(t), resolved(t)
	second.Run, second.Model = "second", schemas.ModelSpec{From: "run:tiny"}
	in := inputs(t, &Planner{}, first, second)
	if in[1].Policy.Parameters() != in[0].Policy.Parameters() || in[0].Policy.Parameters() == 0 {
		t.Errorf("%d parameters, and %d", in[0].Policy.Parameters(), in[1].Policy.Parameters())
	}
	away := errors.New("no store")
	p := &Planner{Store: func(context.Context, schemas.ServersSpec) (*checkpoints.Repository, error) { return nil, away }}
	if _, err := p.Inputs(t.Context(), []schemas.Spec{second}); !errors.Is(err, away) || !strings.Contains(err.Error(), "run second: model.from: run:tiny") {
		t.Errorf("the error is %v", err)
	}
}
