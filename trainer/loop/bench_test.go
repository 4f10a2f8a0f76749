package loop

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/logprob"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/objective"
	"github.com/ldalign/ldalign/trainer/schedule"
	"github.com/ldalign/ldalign/trainer/task"
)

// benchReport is what BenchmarkPairs prints for bench/train/bench.py.
type benchReport struct {
	Tokens           int       `json:"tokens"`  // of prompt and response on both sides, without those of the first step
	Seconds          float64   `json:"seconds"` // without the first step
	CPU              float64   `json:"cpu"`     // seconds of all threads meanwhile
	ReferenceSeconds float64   `json:"reference_seconds"`
	Losses           []float64 `json:"losses"`
	Norms            []float64 `json:"norms"`
}

// BenchmarkPairs trains DPO once over pairs of token ids, in their order, by the trainer's own loop. Without settings
// it is a tiny model; bench/train/bench.py names a real one:
//
//	LDALIGN_BENCH_MODEL    a model folder
//	LDALIGN_BENCH_PAIRS    lines of {"prompt_ids", "chosen_ids", "rejected_ids"}
//	LDALIGN_BENCH_TRAINING the keys of the spec's training section, as JSON
//	LDALIGN_BENCH_THREADS  of the engine
//	LDALIGN_BENCH_REPORT   the file that the report is written to
func BenchmarkPairs(b *testing.B) {
	spec := schemas.Default()
	spec.Optimizer = schemas.OptimizerSpec{
		Kind: "rmsprop", LR: 1e-5, LRDecay: 1, Schedule: "constant", Clip: 1, Alpha: 0.99, Eps: 1e-8,
	}
	spec.Training.Batch = 4
	if text := os.Getenv("LDALIGN_BENCH_TRAINING"); text != "" {
		if err := json.Unmarshal([]byte(text), &spec.Training); err != nil {
			b.Fatal(err)
		}
	}
	threads, err := strconv.Atoi(or(os.Getenv("LDALIGN_BENCH_THREADS"), "2"))
	if err != nil {
		b.Fatal(err)
	}
	spec = schemas.Resolve(spec, threads)
	engine, err := tensor.NewEngine(tensor.Options{Threads: threads})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = engine.Close() }()
	folder := or(os.Getenv("LDALIGN_BENCH_MODEL"), "../../models/testdata/llama")
	pairs := benchPairs(b)
	started := time.Now()
	benchReference(b, engine, folder, pairs)
	report := benchReport{ReferenceSeconds: time.Since(started).Seconds()}
	for b.Loop() {
		benchTrain(b, engine, folder, pairs, spec, &report)
	}
	b.ReportMetric(float64(report.Tokens)/report.Seconds, "tokens/s")
	if path := os.Getenv("LDALIGN_BENCH_REPORT"); path != "" {
		data, err := json.Marshal(report)
		if err == nil {
			err = os.WriteFile(path, data, 0o600)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

func or(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

func benchPairs(b *testing.B) []task.Pair {
	b.Helper()
	path := os.Getenv("LDALIGN_BENCH_PAIRS")
	if path == "" {
		return somePairs(12)
	}
	file, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	var pairs []task.Pair
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var line struct {
			Prompt   []int64 `json:"prompt_ids"`
			Chosen   []int64 `json:"chosen_ids"`
			Rejected []int64 `json:"rejected_ids"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			b.Fatal(err)
		}
		pairs = append(pairs, task.Pair{
			Chosen: models.Join(line.Prompt, line.Chosen), Rejected: models.Join(line.Prompt, line.Rejected), Weight: 1,
		})
	}
	if err := lines.Err(); err != nil {
		b.Fatal(err)
	}
	return pairs
}

// benchReference fills in the reference log-probs as a generator does: by the packed model.
func benchReference(b *testing.B, engine *tensor.Engine, folder string, pairs []task.Pair) {
	b.Helper()
	m, err := models.Load(b.Context(), engine, folder, models.Options{Packed: true})
	if err != nil {
		b.Fatal(err)
	}
	var rows []models.Sequence
	for _, p := range pairs {
		rows = append(rows, p.Chosen, p.Rejected)
	}
	found, err := logprob.Tokens(b.Context(), m, rows, logprob.Options{}, nil)
	if err != nil {
		b.Fatal(err)
	}
	sums := logprob.Sums(found)
	for i := range pairs {
		pairs[i].RefChosen, pairs[i].RefRejected = sums[2*i], sums[2*i+1]
	}
	if err := m.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// benchTrain trains from the folder's weights.
func benchTrain(
	b *testing.B, engine *tensor.Engine, folder string, pairs []task.Pair, spec schemas.Spec, report *benchReport,
) {
	b.Helper()
	ctx := b.Context()
	m, err := models.Load(ctx, engine, folder, models.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = m.Close(context.WithoutCancel(ctx)) }()
	if err := m.SetTrainable(ctx, true); err != nil {
		b.Fatal(err)
	}
	// The loop visits the pairs by a permutation; given in its inverse they come in their order.
	visited := make([]task.Pair, len(pairs))
	for k, i := range schedule.Permutation(len(pairs), spec.Seed, schedule.Policy, 0, 0) {
		visited[i] = pairs[k]
	}
	var ends []time.Time
	var used []float64
	plan := schedule.PolicyPlan(spec, 0)
	plan.Epochs, plan.Every, plan.InOrder = 1, 0, false
	p, err := New(ctx, Config{
		Plan: plan, Engine: engine, Params: m.Trainable(),
		Batches: checkpoints.Batches{Pairs: make([]string, len(pairs))},
		Task: &task.Pairs{
			Model: m, Pairs: visited, Objective: objective.Preference{Kind: "sigmoid", Beta: spec.Objective.Beta},
			Compute: task.Compute(spec.Training),
		},
		Saver:    saver(saveNothing),
		Observer: observer(func(int, int) { ends, used = append(ends, time.Now()), append(used, cpuSeconds(b)) }),
	})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = p.Close(context.WithoutCancel(ctx)) }()
	if err := p.Run(ctx); err != nil {
		b.Fatal(err)
	}
	report.Tokens, report.Losses, report.Norms = 0, nil, nil
	for _, pair := range pairs[min(spec.Training.Batch, len(pairs)):] {
		report.Tokens += len(pair.Chosen.IDs) + len(pair.Rejected.IDs)
	}
	report.Seconds = ends[len(ends)-1].Sub(ends[1]).Seconds()
	report.CPU = used[len(used)-1] - used[1]
	for _, r := range p.records {
		report.Losses, report.Norms = append(report.Losses, r.Loss), append(report.Norms, r.GradNorm)
	}
}

// cpuSeconds is the processor time that the process has taken.
func cpuSeconds(b *testing.B) float64 {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}
