package plan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/dataset"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/stages/prompter"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/fit"
	"github.com/ldalign/ldalign/trainer/metrics"
)

// ErrReplay reports that a spec is that of a replay, which a Planner cannot estimate.
var ErrReplay = errors.New("a replay reads its pairs from a log: `ldalign sweep --dry-run` estimates replays")

// Planner reads the sizes of the data and models that specs name. It reads the data, the models' configurations and tokenizers,
// but no weights.
type Planner struct {
	// Dir is the data folder.
	Dir string
	// Store opens the checkpoint store of a spec's servers.
	Store func(context.Context, schemas.ServersSpec) (*checkpoints.Repository, error)
	// Tokenizer opens the tokenizer of a model from its files. If it is nil, lengths are estimated from bytes.
	Tokenizer func(files fs.FS, s schemas.Spec) (Tokenizer, error)

	// The models of the planned runs, and the numbers of parameters of their guides.
	models map[string]model
	guides map[string]int64
	// folders are temporary folders, which Close removes.
	folders []string
}

// model is the configuration of a model and the files of its tokenizer.
type model struct {
	config architecture.Config
	files  fs.FS
}

// Close removes the Planner's temporary files.
func (p *Planner) Close() error {
	var err error
	for _, dir := range p.folders {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// Inputs reads the inputs of runs that are made one after the other. An error names the run. For a replay it is ErrReplay.
func (p *Planner) Inputs(ctx context.Context, specs []schemas.Spec) ([]Input, error) {
	p.models, p.guides = map[string]model{}, map[string]int64{}
	inputs := make([]Input, len(specs))
	for i, s := range specs {
		var err error
		if inputs[i], err = p.input(ctx, s); err != nil {
			return nil, fmt.Errorf("run %s: %w", s.Run, err)
		}
	}
	return inputs, nil
}

func (p *Planner) input(ctx context.Context, s schemas.Spec) (in Input, err error) {
	if s.Replays() {
		return in, ErrReplay
	}
	in.Spec = s
	if in.Limits, err = streams.ParseLimits(s.Streams); err != nil {
		return in, err
	}
	m, err := p.policy(ctx, s)
	if err != nil {
		return in, err
	}
	p.models[s.Run] = m
	if in.Policy, err = m.sizes(s); err != nil {
		return in, err
	}
	if in.Guide, err = p.guide(ctx, s, m); err != nil {
		return in, err
	}
	set, err := prompter.Load(s)
	if err != nil {
		return in, fmt.Errorf("data.train: %w", err)
	}
	if in.Train, err = p.measure(ctx, s, m, set); err != nil {
		return in, err
	}
	if s.Data.Eval != "" {
		held, err := prompter.LoadEval(s)
		if err != nil {
			return in, fmt.Errorf("data.eval: %w", err)
		}
		in.Held = Data{Report: held.Report.String(), Records: len(held.Records), Bytes: textBytes(held)}
	}
	in.Earlier, err = p.earlier(ctx, s, in.Policy.Parameters())
	return in, err
}

// policy returns the model that a run starts from.
func (p *Planner) policy(ctx context.Context, s schemas.Spec) (m model, err error) {
	ref, isRun := schemas.FromRun(s.Model.From)
	if s.Source != nil {
		ref, isRun = schemas.PolicyRef{Run: s.Source.Run, Iteration: s.Source.Iteration}, true
	}
	switch {
	case isRun:
		if m, ok := p.models[ref.Run]; ok {
			return m, nil
		}
		return p.stored(ctx, s, ref)
	case s.Model.From == "scratch":
		return p.scratch(s)
	}
	m.files = os.DirFS(s.Model.From)
	if m.config, err = architecture.ReadConfig(m.files); err != nil {
		return m, fit.ModelError(s.Model.From, err)
	}
	return m, nil
}

// scratch returns the model that model.scratch describes.
func (p *Planner) scratch(s schemas.Spec) (m model, err error) {
	scratch := s.Model.Scratch
	if m.files, err = dataset.TokenizerFolder(scratch.Tokenizer); err != nil {
		return m, err
	}
	vocabulary, err := p.vocabulary(m.files, s)
	if err != nil {
		return m, err
	}
	m.config = architecture.Config{
		Family: scratch.Family, Hidden: scratch.Hidden, Layers: scratch.Layers, Heads: scratch.Heads, KVHeads: scratch.KVHeads,
		Intermediate: scratch.Intermediate, MaxPositions: scratch.MaxPositions, Vocab: vocabulary, TieEmbeddings: true,
	}.WithDefaults()
	return m, m.config.Validate()
}

// stored returns the policy of a run in the store: its small files, copied into a folder that Close removes.
func (p *Planner) stored(ctx context.Context, s schemas.Spec, ref schemas.PolicyRef) (m model, err error) {
	store, err := p.Store(ctx, s.Servers)
	if err != nil {
		return m, fmt.Errorf("model.from: %s: %w", ref.Reference(), err)
	}
	manifest, err := store.PolicyOf(ctx, ref)
	if err != nil {
		return m, fmt.Errorf("model.from: %s: %w", ref.Reference(), err)
	}
	dir, err := os.MkdirTemp("", "ldalign-plan-")
	if err != nil {
		return m, err
	}
	p.folders = append(p.folders, dir)
	for _, f := range manifest.Files {
		if strings.Contains(f.Name, "/") || f.Name == checkpoints.WeightsFile || strings.HasSuffix(f.Name, ".jsonl") {
			continue
		}
		data, err := store.ReadFile(ctx, manifest.Run, f)
		if err != nil {
			return m, err
		}
		if err := os.WriteFile(filepath.Join(dir, f.Name), data, 0o600); err != nil {
			return m, err
		}
	}
	m.files = os.DirFS(dir)
	m.config, err = architecture.ReadConfig(m.files)
	return m, err
}

// sizes returns the sizes of the model as a run uses it. Like the trainer, it returns an error if the run's greatest lengths
// exceed the model's positions.
func (m model) sizes(s schemas.Spec) (Model, error) {
	out := Model{Config: m.config}
	if err := fit.Context(s, m.config); err != nil {
		return out, err
	}
	length := min(m.config.MaxLength(), s.Data.MaxPromptTokens+s.Generation.MaxNewTokens)
	dtype := safetensors.F32
	if s.Compute.Weights == "bfloat16" && s.Compute.Device != "cpu" { // the CPU computes in float32
		dtype = safetensors.BF16
	}
	out.Cache = m.config.CacheBytes(dtype, architecture.CacheSize{
		Slots: s.Generation.Slots, Length: length, Burst: min(architecture.Prefill, length),
	})
	l, ok := fit.LoRA(s.Training)
	if !ok {
		return out, nil
	}
	var err error
	if out.Adapter, err = l.Parameters(m.config); err != nil {
		return out, fmt.Errorf("training.lora: %w", err)
	}
	return out, nil
}

// guide returns the guide that a run trains, or takes from another run to measure distances.
func (p *Planner) guide(ctx context.Context, s schemas.Spec, policy model) (g Guide, err error) {
	from := s.Evaluation.Guide
	if s.NeedsGuide() {
		from = s.Guide.From
	}
	other, another := schemas.FromRun(from)
	switch {
	case another:
		g.Parameters, err = p.foreignGuide(ctx, s, other.Run)
		return g, err
	case !s.NeedsGuide():
		return g, nil
	}
	trained, err := fit.PlanGuide(s.Guide, policy.config)
	if err != nil {
		return g, err
	}
	g.Trained, g.Parameters = &trained, trained.Parameters()
	p.guides[s.Run] = g.Parameters
	return g, nil
}

// foreignGuide returns the number of parameters of another run's guide.
func (p *Planner) foreignGuide(ctx context.Context, s schemas.Spec, run string) (int64, error) {
	if n, ok := p.guides[run]; ok {
		return n, nil
	}
	store, err := p.Store(ctx, s.Servers)
	if err != nil {
		return 0, fmt.Errorf("the guide of run %s: %w", run, err)
	}
	manifest, err := store.Latest(ctx, run, checkpoints.Guide)
	if err != nil {
		return 0, fmt.Errorf("the guide of run %s: %w", run, err)
	}
	var bytes int64
	for _, f := range manifest.Files {
		if strings.HasSuffix(f.Name, ".safetensors") {
			bytes += f.Bytes
		}
	}
	return bytes / 4, nil
}

// earlier returns the speed of an earlier start of this run, or of another run in the folder that trained the same number of
// parameters in the same way with the same number of threads; nil if there is none.
func (p *Planner) earlier(ctx context.Context, s schemas.Spec, parameters int64) (*Rate, error) {
	if _, err := os.Stat(filepath.Join(p.Dir, "runs")); s.Servers.S3 != "" || errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // there is none
	}
	store, err := p.Store(ctx, s.Servers)
	if err != nil {
		return nil, err
	}
	runs, err := store.Runs(ctx)
	if err != nil {
		return nil, err
	}
	if slices.Contains(runs, s.Run) {
		runs = append(runs, s.Run) // last, because the last run with a speed counts
	}
	var found *Rate
	for _, run := range runs {
		same, err := trainedAlike(ctx, store, run, s, parameters)
		if err != nil {
			return nil, err
		}
		if !same {
			continue
		}
		speed, err := metrics.Speed(filepath.Join(p.Dir, "runs", run), "policy")
		if err != nil {
			return nil, err
		}
		if speed > 0 {
			found = &Rate{Run: run, TokensPerSecond: speed}
		}
	}
	return found, nil
}

// trainedAlike reports whether a run's newest policy has this number of parameters, and was trained as this spec would train it.
func trainedAlike(
	ctx context.Context, store *checkpoints.Repository, run string, s schemas.Spec, parameters int64,
) (bool, error) {
	manifest, err := store.Latest(ctx, run, checkpoints.Policy)
	if errors.Is(err, checkpoints.ErrNoCheckpoint) || err == nil && manifest.Step == 0 {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	machine, noted, err := store.Machine(ctx, manifest)
	if err != nil || !noted || machine.Threads != s.Compute.Threads {
		return false, err
	}
	adapted := slices.ContainsFunc(manifest.Files, func(f checkpoints.File) bool { return strings.HasPrefix(f.Name, "adapter/") })
	file, ok := manifest.File("config.json")
	if !ok || adapted != (s.Training.LoRA != nil) {
		return false, nil
	}
	data, err := store.ReadFile(ctx, run, file)
	if err != nil {
		return false, err
	}
	config, err := architecture.ParseConfig(data)
	return err == nil && config.Parameters() == parameters, nil // a configuration that this build cannot read does not count
}
