package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/dataset"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/ops/plan"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/fit"
	"github.com/ldalign/ldalign/trainer/metrics"
)

// planner finds the sizes of what specs name.
type planner struct {
	env *env
	// models of the runs that were planned, and the parameters of their guides.
	models map[string]plannedModel
	guides map[string]int64
	// folders are temporary.
	folders []string
}

// plannedModel is a model by its configuration and the files of its tokenizer.
type plannedModel struct {
	config architecture.Config
	files  fs.FS
}

func (p *planner) close() error {
	var err error
	for _, dir := range p.folders {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// policy is the model that a run starts from.
func (p *planner) policy(ctx context.Context, s schemas.Spec) (plannedModel, error) {
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
		return scratchModel(s.Model.Scratch)
	}
	files := os.DirFS(s.Model.From)
	config, err := architecture.ReadConfig(files)
	if err != nil {
		return plannedModel{}, fit.ModelError(s.Model.From, err)
	}
	return plannedModel{config, files}, nil
}

func scratchModel(s *schemas.ScratchSpec) (m plannedModel, err error) {
	if m.files, err = dataset.TokenizerFolder(s.Tokenizer); err != nil {
		return m, err
	}
	tok, err := tokenizer.FromFS(m.files)
	if err != nil {
		return m, err
	}
	m.config = architecture.Config{
		Family: s.Family, Hidden: s.Hidden, Layers: s.Layers, Heads: s.Heads, KVHeads: s.KVHeads, Intermediate: s.Intermediate,
		MaxPositions: s.MaxPositions, Vocab: tok.Vocab(), TieEmbeddings: true,
	}.WithDefaults()
	return m, errors.Join(tok.Close(), m.config.Validate())
}

// stored is the policy of a run in the store: its small files, copied into a folder that close removes.
func (p *planner) stored(ctx context.Context, s schemas.Spec, ref schemas.PolicyRef) (m plannedModel, err error) {
	n, err := p.env.store(ctx, s.Servers)
	if err != nil {
		return m, fmt.Errorf("model.from: %s: %w", ref.Reference(), err)
	}
	manifest, err := n.Checkpoints.PolicyOf(ctx, ref)
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
		data, err := n.Checkpoints.ReadFile(ctx, manifest.Run, f)
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

// sizes are the model's as a run uses it. Lengths that the model has no positions for are refused, as the trainer does.
func (m plannedModel) sizes(s schemas.Spec) (plan.Model, error) {
	out := modelSizes(m.config)
	longest := s.Data.MaxPromptTokens + max(s.Data.MaxResponseTokens, s.Generation.MaxNewTokens)
	if limit := m.config.MaxLength(); longest > limit {
		return out, fmt.Errorf("data.max_prompt_tokens and max_response_tokens allow %d tokens, but the model has %d positions: "+
			"lower them", longest, limit)
	}
	length := min(m.config.MaxLength(), s.Data.MaxPromptTokens+s.Generation.MaxNewTokens)
	out.Cache = m.config.CacheBytes(safetensors.F32, architecture.CacheSize{
		Slots: s.Generation.Slots, Length: length, Burst: min(decodeBurst, length),
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

func modelSizes(c architecture.Config) plan.Model {
	return plan.Model{
		Parameters: c.Parameters(), Vocabulary: int64(c.Vocab), Hidden: int64(c.Hidden), Layers: int64(c.Layers),
		Heads: int64(c.Heads), KVHeads: int64(c.KVHeads), HeadDim: int64(c.HeadDim), FeedInner: int64(c.Intermediate),
	}
}

// guide is the guide that a run trains, or takes from another to measure distances with.
func (p *planner) guide(ctx context.Context, s schemas.Spec, policy plannedModel) (g plan.Guide, err error) {
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
	planned, err := fit.PlanGuide(s.Guide, policy.config)
	if err != nil {
		return g, err
	}
	g.Encoder, g.Decoder, g.Parameters = modelSizes(planned.Encoder), modelSizes(planned.Decoder), planned.Parameters()
	p.guides[s.Run] = g.Parameters
	return g, nil
}

// foreignGuide is the number of parameters of another run's guide.
func (p *planner) foreignGuide(ctx context.Context, s schemas.Spec, run string) (int64, error) {
	if n, ok := p.guides[run]; ok {
		return n, nil
	}
	n, err := p.env.store(ctx, s.Servers)
	if err != nil {
		return 0, fmt.Errorf("the guide of run %s: %w", run, err)
	}
	manifest, err := n.Checkpoints.Latest(ctx, run, checkpoints.Guide)
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

// measured is how many records are tokenised for their lengths.
const measured = 500

// measure counts records and their lengths.
func (m plannedModel) measure(ctx context.Context, s schemas.Spec, set dataset.Set) (d plan.Data, err error) {
	d = plan.Data{Report: set.Report.String(), Records: len(set.Records), Bytes: textBytes(set)}
	for _, r := range set.Records {
		d.IDBytes += float64(len(r.ID))
		d.PromptBytes += float64(len(r.Prompt))
		d.ChosenBytes += float64(len(r.Response))
		d.RejectedBytes += float64(len(r.Rejected))
	}
	for _, sum := range []*float64{&d.IDBytes, &d.PromptBytes, &d.ChosenBytes, &d.RejectedBytes} {
		*sum /= float64(len(set.Records))
	}
	tok, err := tokenizer.FromFS(m.files)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, tok.Close()) }()
	format, err := tokenizer.NewFormat(tok, tokenizer.FormatOptions{Template: s.Model.Template, System: s.Model.System})
	if err != nil {
		return d, err
	}
	limits := tokenizer.Limits{
		Prompt: s.Data.MaxPromptTokens, Response: s.Data.MaxResponseTokens, Reject: s.Data.Overlong == "reject",
	}
	n, refused := 0, 0
	every := (len(set.Records) + measured - 1) / measured
	for i := 0; i < len(set.Records); i += every {
		if err := ctx.Err(); err != nil {
			return d, err
		}
		r := set.Records[i]
		tokens, err := format.Fit(r.Prompt, r.Response, limits)
		rejected := tokens
		if err == nil && s.GivenPairs() {
			rejected, err = format.Fit(r.Prompt, r.Rejected, limits)
		}
		if err != nil {
			refused++
			continue
		}
		n++
		d.PromptTokens += float64(len(tokens.Prompt))
		d.ChosenTokens += float64(len(tokens.Response))
		d.RejectedTokens += float64(len(rejected.Response))
	}
	d.Refused = float64(refused) / float64(n+refused)
	for _, sum := range []*float64{&d.PromptTokens, &d.ChosenTokens, &d.RejectedTokens} {
		*sum /= float64(max(n, 1))
	}
	return d, nil
}

// earlier is the speed of this run's earlier start, or of another run's in the folder that trained as many parameters in
// the same way on as many threads; nil where there is none.
func (p *planner) earlier(ctx context.Context, s schemas.Spec, parameters int64) (*plan.Rate, error) {
	if _, err := os.Stat(filepath.Join(p.env.dir, "runs")); s.Servers.S3 != "" || errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // there is none
	}
	n, err := p.env.store(ctx, s.Servers)
	if err != nil {
		return nil, err
	}
	runs, err := n.Checkpoints.Runs(ctx)
	if err != nil {
		return nil, err
	}
	if slices.Contains(runs, s.Run) {
		runs = append(runs, s.Run) // it tells best, and the last counts
	}
	var found *plan.Rate
	for _, run := range runs {
		same, err := p.trainedAlike(ctx, n, run, s, parameters)
		if err != nil {
			return nil, err
		}
		if !same {
			continue
		}
		speed, err := metrics.Speed(filepath.Join(p.env.dir, "runs", run), "policy")
		if err != nil {
			return nil, err
		}
		if speed > 0 {
			found = &plan.Rate{Run: run, TokensPerSecond: speed}
		}
	}
	return found, nil
}

// trainedAlike tells whether a run's newest policy was trained as this spec would train one of so many parameters.
func (*planner) trainedAlike(ctx context.Context, n *runs.Session, run string, s schemas.Spec, parameters int64) (bool, error) {
	manifest, err := n.Checkpoints.Latest(ctx, run, checkpoints.Policy)
	if errors.Is(err, checkpoints.ErrNoCheckpoint) || err == nil && manifest.Step == 0 {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	machine, noted, err := n.Checkpoints.Machine(ctx, manifest)
	if err != nil || !noted || machine.Threads != s.Compute.Threads || max(machine.Ranks, 1) != max(s.Training.Ranks, 1) {
		return false, err
	}
	adapted := slices.ContainsFunc(manifest.Files, func(f checkpoints.File) bool { return strings.HasPrefix(f.Name, "adapter/") })
	file, ok := manifest.File("config.json")
	if !ok || adapted != (s.Training.LoRA != nil) {
		return false, nil
	}
	data, err := n.Checkpoints.ReadFile(ctx, run, file)
	if err != nil {
		return false, err
	}
	config, err := architecture.ParseConfig(data)
	return err == nil && config.Parameters() == parameters, nil // one of a build that knew more tells nothing
}

// machine is what this machine has.
func (e *env) machine() (m plan.Machine, err error) {
	m.Folder, m.Memory = e.dir, memoryOf("/proc/meminfo", "/sys/fs/cgroup/memory.max")
	if e.cache != "" {
		if m.Cache, err = schemas.ParseSize(e.cache); err != nil {
			return m, fmt.Errorf("%w: --cache: %w", errUsage, err)
		}
	}
	m.Free, err = freeOn(e.dir)
	return m, err
}

// memoryOf is the machine's memory, or what a container may have of it; 0 where the system does not tell.
func memoryOf(meminfo, limit string) int64 {
	var total int64
	if file, err := os.Open(meminfo); err == nil {
		defer file.Close()
		for lines := bufio.NewScanner(file); lines.Scan(); {
			fields := strings.Fields(lines.Text())
			if len(fields) < 2 || fields[0] != "MemTotal:" {
				continue
			}
			if kib, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
				total = kib << 10
			}
			break
		}
	}
	text, err := os.ReadFile(limit)
	if err != nil {
		return total
	}
	if most, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && (total == 0 || most < total) {
		return most
	}
	return total
}

// freeOn is the room on the disk of a folder, or of the nearest one above it that exists.
func freeOn(dir string) (int64, error) {
	for {
		var stat syscall.Statfs_t
		err := syscall.Statfs(dir, &stat)
		if errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
			dir = filepath.Dir(dir)
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("how much is free on the disk of %s: %w", dir, err)
		}
		return int64(stat.Bavail) * stat.Bsize, nil
	}
}
