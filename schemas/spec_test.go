package schemas_test

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/schemas"
)

var update = flag.Bool("update", false, "rewrite golden files")

// minimal is the shortest valid spec.
const minimal = "run: demo\nmodel:\n  from: models/smollm2\ndata:\n  train: train.jsonl\n"

func parse(t *testing.T, text string) schemas.Spec {
	t.Helper()
	specs, err := schemas.ParseSpecs("run.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(specs) != 1 {
		t.Fatalf("%d specs, want 1", len(specs))
	}
	return specs[0]
}

func TestDefaults(t *testing.T) {
	want := schemas.Default()
	want.Run, want.Model.From, want.Data.Train = "demo", "models/smollm2", "train.jsonl"
	if diff := cmp.Diff(want, parse(t, minimal)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestGivenKeysWinOverDefaults(t *testing.T) {
	got := parse(t, `
run: demo
seed: 18446744073709551615
model:
  from: scratch
  template: |
    Q: {prompt}
    A:
  scratch: {family: gpt2, tokenizer: "builtin:demo"}
data:
  train: &file 'a: b.jsonl'
  eval: *file
generation:
  temperature: 0   # greedy
optimizer: &optimizer
  clip: 0
  lr: 5e-5
guide:
  optimizer: *optimizer
evaluation:
#  scorer: none
`[1:])
	want := schemas.Default()
	want.Run, want.Seed = "demo", 1<<64-1
	want.Model.From, want.Model.Template = "scratch", "Q: {prompt}\nA:\n"
	want.Model.Scratch = &schemas.ScratchSpec{
		Family: "gpt2", Hidden: 128, Layers: 4, Heads: 4, MaxPositions: 1024, Tokenizer: "builtin:demo",
	}
	want.Data.Train, want.Data.Eval = "a: b.jsonl", "a: b.jsonl"
	want.Generation.Temperature = 0
	want.Optimizer.Clip, want.Optimizer.LR = 0, 5e-5
	want.Guide.Optimizer.Clip, want.Guide.Optimizer.LR = 0, 5e-5 // kind stays adamw: a section has its own defaults
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestLoRASection: without the section there is no adapter, an empty section has the defaults, and targets are names or a
// pattern.
func TestLoRASection(t *testing.T) {
	if parse(t, minimal+"training:\n  batch: 4\n").Training.LoRA != nil {
		t.Error("a spec without the section has one")
	}
	for _, c := range []struct {
		text    string
		want    schemas.LoRASpec
		names   []string
		pattern string
	}{
		{"{}", schemas.LoRASpec{Rank: 16, Alpha: 32, Targets: "all-linear", Scaling: "lora"}, nil, "all-linear"},
		{
			"{rank: 4, targets: 'q_proj, self_attn.v_proj', scaling: rslora}",
			schemas.LoRASpec{Rank: 4, Alpha: 32, Targets: "q_proj, self_attn.v_proj", Scaling: "rslora"},
			[]string{"q_proj", "self_attn.v_proj"},
			"",
		},
		{
			`{alpha: 0.5, targets: '.*\.(q|v)_proj'}`,
			schemas.LoRASpec{Rank: 16, Alpha: 0.5, Targets: `.*\.(q|v)_proj`, Scaling: "lora"},
			nil, `.*\.(q|v)_proj`,
		},
	} {
		got := parse(t, minimal+"training:\n  lora: "+c.text+"\n").Training.LoRA
		if diff := cmp.Diff(&c.want, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", c.text, diff)
			continue
		}
		names, pattern := got.Modules()
		if diff := cmp.Diff(c.names, names); diff != "" || pattern != c.pattern {
			t.Errorf("%s: pattern %q, names -want +got:\n%s", c.text, pattern, diff)
		}
	}
}

func TestSeveralRuns(t *testing.T) {
	text := "# two runs\n--- # the first\n" + minimal + "---\n\n# nothing\n---\n" +
		strings.Replace(minimal, "demo", "second", 1) + "iterations: 1\n...\n"
	specs, err := schemas.ParseSpecs("run.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(specs) != 2 || specs[0].Run != "demo" || specs[1].Run != "second" || specs[1].Iterations != 1 {
		t.Errorf("got %+v", specs)
	}
	if specs[0].Iterations != schemas.Default().Iterations {
		t.Error("a key of one document reached another")
	}
}

// TestBadFiles compares the messages for each file of testdata/bad with the .txt beside it.
func TestBadFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			_, err := schemas.LoadSpecs(file)
			var bad *schemas.SpecError
			if !errors.As(err, &bad) {
				t.Fatalf("got %v, want a SpecError", err)
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".txt"
			got := strings.ReplaceAll(bad.Error(), filepath.Dir(file)+"/", "") + "\n"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestProblemsOfTheWholeText(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "f: declares no run; a spec needs at least run, model.from and data.train"},
		{"comments alone", "# run: demo\n---\n", "f: declares no run; a spec needs at least run, model.from and data.train"},
		{"not text", "run: \xff\n", "f: is not UTF-8 text"},
		{"huge", strings.Repeat("# a\n", 20_000), "f: is longer than 65536 bytes, which no run spec is"},
	} {
		_, err := schemas.ParseSpecs("f", []byte(c.text))
		var bad *schemas.SpecError
		if !errors.As(err, &bad) || err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
}

func TestLoadMissingFile(t *testing.T) {
	if _, err := schemas.LoadSpecs(filepath.Join(t.TempDir(), "run.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, err := schemas.LoadSpecs(t.TempDir()); err == nil {
		t.Error("a folder was read as a spec")
	}
}

func TestByteOrderMarkAndWindowsLines(t *testing.T) {
	got := parse(t, "\uFEFF"+strings.ReplaceAll(minimal, "\n", "\r\n"))
	if diff := cmp.Diff(parse(t, minimal), got); diff != "" {
		t.Error(diff)
	}
}

func TestResolve(t *testing.T) {
	spec := parse(t, minimal)
	spec.Model.From = "scratch"
	spec.Model.Scratch = &schemas.ScratchSpec{
		Family: "llama", Hidden: 80, Layers: 3, Heads: 4, MaxPositions: 768, Tokenizer: "builtin:demo",
	}
	got := schemas.Resolve(spec, 2)
	if spec.Model.Scratch.KVHeads != 0 {
		t.Error("Resolve changed its argument")
	}
	want := spec
	scratch := *spec.Model.Scratch
	want.Model.Scratch = &scratch
	want.Model.Scratch.KVHeads, want.Model.Scratch.Intermediate = 4, 224
	want.Generation.MaxNewTokens, want.Training.MicroBatch, want.Compute.Threads = 256, 8, 2
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff(got, schemas.Resolve(got, 7)); diff != "" {
		t.Errorf("resolving again changes:\n%s", diff)
	}
	if err := got.Validate(); err != nil {
		t.Error(err)
	}
}

// TestDigestIsStable: runs that an older build started must keep their digests.
func TestDigestIsStable(t *testing.T) {
	const want = "08afeaf8c15ef8753136d82843d4f19cc30d057375d38840602cd99a05e14395"
	if got := schemas.Resolve(parse(t, minimal), 2).Digest(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestDigestHoldsWhatChangesAResult(t *testing.T) {
	base := schemas.Resolve(parse(t, minimal), 2)
	for _, c := range []struct {
		assignment string
		changes    bool
	}{
		{"run=other", false},
		{"streams.max_age=1h", false},
		{"retention.messages=1", false},
		{"retention.policies=1", false},
		{"servers.nats=nats://host:4222", false},
		{"training.checkpoint_every=7", false},
		{"training.keep_states=7", false},
		{"training.gradient_checkpointing=true", false},
		{"training.micro_tokens=7", true},
		{"training.precision=bfloat16", true},
		{"compute.threads=1", false},
		{"seed=2", true},
		{"objective.beta=0.2", true},
		{"objective.loss=sigmoid", false}, // what a spec meant before the key
		{"objective.loss=ipo", true},
		{"objective.weight_power=2", true},
		{"optimizer.warmup_start=zero", true},
		{"generation.slots=16", true},
		{"guide.optimizer.lr=1e-3", true},
		{"model.system=Be brief.", true},
		{"model.scratch.hidden=128", true},
		{"training.lora.rank=16", true},
	} {
		spec := base
		if err := schemas.Set(&spec, c.assignment); err != nil {
			t.Fatal(err)
		}
		if changed := spec.Digest() != base.Digest(); changed != c.changes {
			t.Errorf("%s: digest changes: %v, want %v", c.assignment, changed, c.changes)
		}
	}
}

func TestSet(t *testing.T) {
	spec := parse(t, minimal)
	for _, assignment := range []string{
		"training.batch=32", "objective.weight_clip=4", "run=2024", "model.system= a=b ", "seed=7",
		"generation.temperature=0", "model.scratch.tokenizer=builtin:demo", "guide.optimizer={kind: rmsprop, lr: 1e-3}",
	} {
		if err := schemas.Set(&spec, assignment); err != nil {
			t.Error(err)
		}
	}
	want := parse(t, minimal)
	want.Training.Batch, want.Objective.WeightClip, want.Run, want.Model.System, want.Seed = 32, 4, "2024", " a=b ", 7
	want.Generation.Temperature = 0
	want.Guide.Optimizer.Kind, want.Guide.Optimizer.LR = "rmsprop", 1e-3
	want.Model.Scratch = &schemas.ScratchSpec{
		Family: "llama", Hidden: 128, Layers: 4, Heads: 4, MaxPositions: 1024, Tokenizer: "builtin:demo",
	}
	if diff := cmp.Diff(want, spec); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestSetErrors(t *testing.T) {
	for _, c := range []struct{ assignment, want string }{
		{"training.batch", `--set: "training.batch" is not key=value, such as training.batch=32`},
		{"training.bacth=3", "--set: training.bacth: unknown key; did you mean batch?"},
		{"trainer.beta=3", "--set: trainer.beta: unknown key; did you mean objective.beta?"},
		{"training.batch.size=3", "--set: training.batch.size: training.batch has a value and no keys below it"},
		{"training.batch=many", `--set: training.batch: found the text "many", expected a whole number such as 64`},
		{"training.batch=", "--set: training.batch: found no value after =, expected one such as 64"},
		{"optimizer.lr=[1]", "--set: optimizer.lr: found a list, expected a number such as 5e-7"},
		{"training=5", "--set: training: found 5, expected keys: schedule, epochs, batch, micro_batch, micro_tokens, " +
			"gradient_checkpointing, precision, checkpoint_every, keep_states, lora"},
		{"training.batch={", "--set: training.batch: invalid YAML: could not find flow mapping end token '}'"},
		{"=5", "--set: unknown key; expected one of " +
			"run, seed, iterations, model, data, objective, guide, generation, optimizer, training, evaluation, compute, " +
			"source, retention, streams, servers"},
	} {
		spec := parse(t, minimal)
		err := schemas.Set(&spec, c.assignment)
		var bad *schemas.SpecError
		if !errors.As(err, &bad) || err.Error() != c.want {
			t.Errorf("%s: got  %v\nwant %s", c.assignment, err, c.want)
		}
		if diff := cmp.Diff(parse(t, minimal), spec); diff != "" {
			t.Errorf("%s: the spec changed:\n%s", c.assignment, diff)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"2GB": 2e9, "512MiB": 512 << 20, "0B": 0, "1 TiB": 1 << 40, "9223372036GB": 9223372036e9,
	} {
		if got, err := schemas.ParseSize(text); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "GB", "2", "-1GB", "2gb", "1.5GB", "2GBB", "9223372037GB", "2 G B"} {
		if got, err := schemas.ParseSize(text); err == nil {
			t.Errorf("%q: got %d, want an error", text, got)
		}
	}
}

func TestParseRunReference(t *testing.T) {
	for _, c := range []struct {
		text, run string
		iteration int
		ok        bool
	}{
		{"run:demo", "demo", -1, true},
		{"run:demo@0", "demo", 0, true},
		{"run:demo@12", "demo", 12, true},
		{"demo", "", 0, false},
		{"run:", "", 0, false},
		{"run:Demo", "", 0, false},
		{"run:demo@", "", 0, false},
		{"run:demo@-1", "", 0, false},
		{"run:demo@last", "", 0, false},
	} {
		ref, err := schemas.ParseRunReference(c.text)
		if ref.Run != c.run || ref.Iteration != c.iteration || (err == nil) != c.ok {
			t.Errorf("%s: got %+v, %v", c.text, ref, err)
		}
		if c.ok && ref.Reference() != c.text {
			t.Errorf("%s: written as %s", c.text, ref.Reference())
		}
	}
}

// drawSpec draws a valid spec with texts and numbers that are hard to write down.
func drawSpec(t *rapid.T) schemas.Spec {
	s := schemas.Default()
	hard := []rune("{}[]:#&*!|>'\"%@`-?,\n\t\r ~\\\u2028\u0085\uFEFF\x00\x7f")
	text := rapid.StringOf(rapid.OneOf(rapid.Rune(), rapid.SampledFrom(hard)))
	number := rapid.Float64Range(1e-300, 1e300)
	s.Run = rapid.StringMatching(`[a-z0-9][a-z0-9_-]{0,10}`).Draw(t, "run")
	s.Seed = rapid.Uint64().Draw(t, "seed")
	s.Iterations = rapid.IntRange(1, 1<<31-1).Draw(t, "iterations")
	s.Model.From = "x" + text.Draw(t, "from")
	s.Model.System = text.Draw(t, "system")
	s.Data.Train = "x" + text.Draw(t, "train")
	s.Data.Eval = text.Draw(t, "eval")
	s.Objective.Beta = number.Draw(t, "beta")
	s.Optimizer.LR = number.Draw(t, "lr")
	s.Guide.Optimizer.Clip = rapid.OneOf(rapid.Just(0.0), number).Draw(t, "clip")
	s.Guide.WordDropout = rapid.Float64Range(0, 0.999).Draw(t, "word dropout")
	s.Generation.MaxNewTokens = rapid.IntRange(0, 256).Draw(t, "max_new_tokens")
	if rapid.Bool().Draw(t, "scratch") {
		s.Model.From = "scratch"
		s.Model.Scratch = &schemas.ScratchSpec{
			Family: "llama", Hidden: 64, Layers: 1, Heads: 4, KVHeads: rapid.SampledFrom([]int{0, 2, 4}).Draw(t, "kv heads"),
			MaxPositions: 768, Tokenizer: "x" + text.Draw(t, "tokenizer"),
		}
	}
	if rapid.Bool().Draw(t, "lora") {
		s.Training.LoRA = &schemas.LoRASpec{
			Rank: rapid.IntRange(1, 1<<16).Draw(t, "rank"), Alpha: number.Draw(t, "alpha"),
			Targets: rapid.SampledFrom([]string{"all-linear", "q_proj, v_proj", `.*\.(q|v)_proj`}).Draw(t, "targets"),
			Scaling: rapid.SampledFrom([]string{"lora", "rslora"}).Draw(t, "scaling"),
		}
	}
	return s
}

func TestYAMLReadsBackTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := schemas.Resolve(drawSpec(t), rapid.IntRange(1, 64).Draw(t, "threads"))
		text, err := spec.YAML()
		if err != nil {
			t.Fatal(err)
		}
		got, err := schemas.ParseSpecs("f", text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if diff := cmp.Diff([]schemas.Spec{spec}, got); diff != "" {
			t.Fatalf("-want +got:\n%s\n%s", diff, text)
		}
		object, err := spec.JSON()
		if err != nil || !json.Valid(object) {
			t.Fatalf("%v\n%s", err, object)
		}
		if got, err = schemas.ParseSpecs("f", object); err != nil {
			t.Fatalf("%v\n%s", err, object)
		}
		if diff := cmp.Diff([]schemas.Spec{spec}, got); diff != "" {
			t.Fatalf("-want +got:\n%s\n%s", diff, object)
		}
		if got[0].Digest() != spec.Digest() || schemas.Resolve(got[0], 99).Digest() != spec.Digest() {
			t.Fatal("the digest changed")
		}
	})
}

func TestYAMLRefusesBrokenText(t *testing.T) {
	spec := parse(t, minimal)
	spec.Model.System = "a\xffb"
	want := `schemas: run spec: model.system: "a\xffb" is not UTF-8 text`
	if _, err := spec.YAML(); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func FuzzParseSpecs(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte("a: &x [1, {b: *x}]\n---\n? k\n: !!str v\n...\n<<: {a: |\n  t\n}"))
	if files, err := filepath.Glob("testdata/bad/*.yaml"); err == nil {
		for _, file := range files {
			if data, err := os.ReadFile(file); err == nil {
				f.Add(data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		specs, err := schemas.ParseSpecs("f", data)
		var bad *schemas.SpecError
		if err != nil {
			if !errors.As(err, &bad) || len(bad.Problems) == 0 || specs != nil {
				t.Fatalf("got %v, %v", specs, err)
			}
			return
		}
		for _, spec := range specs {
			text, err := spec.YAML()
			if err != nil {
				t.Fatal(err)
			}
			again, err := schemas.ParseSpecs("f", text)
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			if diff := cmp.Diff([]schemas.Spec{spec}, again); diff != "" {
				t.Fatalf("-want +got:\n%s\n%s", diff, text)
			}
		}
	})
}
