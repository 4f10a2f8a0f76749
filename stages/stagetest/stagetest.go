// Package stagetest makes what the tests of stages work on: an engine, a checkpoint store, and tiny random models in it.
package stagetest

import (
	"context"
	"io"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/dataset"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/guide"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/stages/prompter"
)

// Fixture is one run with its store and an engine of one thread.
type Fixture struct {
	Spec        schemas.Spec
	Engine      *tensor.Engine
	Checkpoints *checkpoints.Repository
	// Dir is the folder of the store.
	Dir string

	t *testing.T
}

// New makes a fixture that ends with the test. The run is LD-Align over builtin:demo/align, with prompts of up to 64 and
// responses of up to 12 tokens; change adapts its spec.
func New(t *testing.T, change ...func(*schemas.Spec)) *Fixture {
	t.Helper()
	engine, err := tensor.NewEngine(tensor.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	dir := t.TempDir()
	store, err := checkpoints.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := schemas.Default()
	s.Run, s.Iterations, s.Model.From = "r", 2, "scratch"
	s.Data.Train, s.Data.Limit, s.Data.MaxPromptTokens, s.Data.MaxResponseTokens = "builtin:demo/align", 10, 64, 12
	s.Generation.Slots = 4
	for _, c := range change {
		c(&s)
	}
	return &Fixture{
		Spec: schemas.Resolve(s, 1), Engine: engine, Checkpoints: checkpoints.New(store, t.TempDir(), zerolog.Nop()), Dir: dir, t: t,
	}
}

// Config is the tiny Llama that reads the demo's tokens.
func Config() architecture.Config {
	return architecture.Config{
		Family: architecture.Llama, Vocab: 512, Hidden: 16, Layers: 1, Heads: 2, KVHeads: 2, Intermediate: 32, MaxPositions: 96,
		TieEmbeddings: true, InitializerRange: 0.3,
	}
}

// Model is a random model, a function of the seed; the caller closes it.
func (f *Fixture) Model(seed uint64) *models.Model {
	f.t.Helper()
	m, err := models.Scratch(f.t.Context(), f.Engine, Config(), seed)
	if err != nil {
		f.t.Fatal(err)
	}
	return m
}

// Policy commits a random model with the demo's tokenizer as the policy of an iteration.
func (f *Fixture) Policy(iteration uint32, seed uint64) checkpoints.Manifest {
	f.t.Helper()
	return f.CommitPolicy(iteration, f.Model(seed))
}

// CommitPolicy commits a model with the demo's tokenizer as the policy of an iteration, and closes it.
func (f *Fixture) CommitPolicy(iteration uint32, m *models.Model) checkpoints.Manifest {
	f.t.Helper()
	config, err := m.Config().JSON()
	f.must(err)
	files := []checkpoints.Source{
		checkpoints.FromBytes("config.json", config),
		{Name: "model.safetensors", Write: func(w io.Writer) error { return m.WriteWeights(f.t.Context(), w) }},
	}
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json"} {
		data, err := fs.ReadFile(dataset.DemoTokenizer(), name)
		f.must(err)
		files = append(files, checkpoints.FromBytes(name, data))
	}
	out := f.Commit(checkpoints.Draft{Kind: checkpoints.Policy, Iteration: iteration, Files: files})
	f.must(m.Close(f.t.Context()))
	return out
}

// Guide commits a random guide that reads the policy's tokens.
func (f *Fixture) Guide(seed uint64) checkpoints.Manifest {
	f.t.Helper()
	ctx := f.t.Context()
	g, err := guide.New(ctx, f.Model(seed), f.Model(seed+1), architecture.GuideConfig{
		LatentDim: 4, Pooling: architecture.PoolMean, PrefixTokens: 2, Reduction: architecture.ReduceMean,
	}, seed)
	f.must(err)
	config, err := g.ConfigJSON()
	f.must(err)
	out := f.Commit(checkpoints.Draft{Kind: checkpoints.Guide, Files: []checkpoints.Source{
		checkpoints.FromBytes(architecture.GuideConfigFile, config),
		{Name: architecture.GuideWeightsFile, Write: func(w io.Writer) error { return g.WriteWeights(ctx, w) }},
	}})
	f.must(g.Close(ctx))
	return out
}

// Commit commits a checkpoint of the run.
func (f *Fixture) Commit(d checkpoints.Draft) checkpoints.Manifest {
	f.t.Helper()
	m, err := f.Checkpoints.Commit(f.t.Context(), f.Spec.Run, d)
	f.must(err)
	return m
}

// Blob is the path of a file's bytes in the store.
func (f *Fixture) Blob(m checkpoints.Manifest, name string) string {
	f.t.Helper()
	file, ok := m.File(name)
	if !ok {
		f.t.Fatalf("checkpoint %s has no %s", m.Key, name)
	}
	return filepath.Join(f.Dir, "runs", f.Spec.Run, "blobs", file.SHA256)
}

// Prompts are those of the iteration that a policy starts, as the prompter makes them.
func (f *Fixture) Prompts(m checkpoints.Manifest) []*events.Prompt {
	f.t.Helper()
	set, err := prompter.Load(f.Spec)
	f.must(err)
	out, _ := prompter.New(f.Spec, set.Records).Process(context.Background(), []*events.Checkpoint{checkpoints.Event(m)})
	var prompts []*events.Prompt
	for _, msg := range out[0] {
		if p, ok := msg.(*events.Prompt); ok {
			prompts = append(prompts, p)
		}
	}
	return prompts
}

func (f *Fixture) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}
