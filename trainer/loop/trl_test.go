package loop

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"testing"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/objective"
	"github.com/ldalign/ldalign/trainer/task"
)

// trlGolden is testdata/trl.json; see testdata/make_trl_goldens.py.
type trlGolden struct {
	Pairs []struct {
		Prompt   []int64 `json:"prompt_ids"`
		Chosen   []int64 `json:"chosen_ids"`
		Rejected []int64 `json:"rejected_ids"`
	}
	Runs []trlRun
}

type trlRun struct {
	Name      string
	Smoothing float64 `json:"label_smoothing"`
	Beta      float64
	Optimizer string
	LR        float64
	Steps     []map[string]float64
	Weights   map[string]struct {
		Sum, Norm float64
		First     []float64
	}
}

func readTRL(t *testing.T) trlGolden {
	t.Helper()
	data, err := os.ReadFile("testdata/trl.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden trlGolden
	if err := json.Unmarshal(data, &golden); err != nil {
		t.Fatal(err)
	}
	return golden
}

// TestTrainerIsTRLs takes 20 steps beside DPOTrainer and SFTTrainer from the same weights over the same tokens, in float32:
// every loss, with AdamW and RMSprop, warm-up, linear decay and clipping.
func TestTrainerIsTRLs(t *testing.T) {
	golden := readTRL(t)
	if len(golden.Runs) == 0 {
		t.Fatal("testdata/trl.json holds no run")
	}
	for _, run := range golden.Runs {
		t.Run(run.Name+"/"+run.Optimizer, func(t *testing.T) {
			engine := newEngine(t)
			model, err := models.Load(t.Context(), engine, "../../models/testdata/llama", models.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := model.SetTrainable(t.Context(), true); err != nil {
				t.Fatal(err)
			}
			n := len(golden.Pairs)
			p := newPhase(t, engine, model, func(c *Config) {
				c.Task = golden.task(t, engine, model, run)
				c.Plan.Optimizer = schemas.Default().Optimizer
				c.Plan.Optimizer.LR, c.Plan.Optimizer.WarmupStart = run.LR, "zero"
				if run.Optimizer == "adamw_torch" {
					c.Plan.Optimizer.Kind = "adamw"
				}
				c.Plan.Epochs, c.Plan.Batch, c.Plan.Micro = len(run.Steps), n, 1
			})
			if err := p.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			for i, want := range run.Steps {
				got := map[string]float64{}
				for _, m := range p.records[i].Metrics(run.Beta) {
					got[m.Name] = m.Value
				}
				// the loss to 1e-5 of itself, or of 1 where it comes near 0; the rest is a difference of large sums, or its norm
				for name, w := range want {
					tolerance := 1e-4 * (1 + math.Abs(w))
					switch name {
					case "loss":
						tolerance = 1e-5 * max(math.Abs(w), 0.1)
					case "learning_rate":
						tolerance = 1e-12 * run.LR
					}
					g, ok := got[name]
					if !ok {
						t.Errorf("step %d has no %s", i+1, name)
					}
					within(t, fmt.Sprintf("step %d, %s", i+1, name), g, w, tolerance)
				}
			}
			run.compareWeights(t, engine, model)
		})
	}
}

// task makes TRL's pairs an example each, with the reference log-probs that the model has as it starts.
func (g trlGolden) task(t *testing.T, engine *tensor.Engine, model *models.Model, run trlRun) task.Task {
	t.Helper()
	var rows []models.Sequence
	for _, p := range g.Pairs {
		rows = append(rows, models.Join(p.Prompt, p.Chosen))
	}
	if run.Name == "sft" {
		return &task.Sequences{Model: model, Rows: rows}
	}
	o := objective.Preference{Kind: run.Name, Beta: run.Beta, Smoothing: run.Smoothing}
	if run.Name == "cdpo" {
		o.Kind = "sigmoid"
	}
	out := &task.Pairs{Model: model, Objective: o}
	for _, p := range g.Pairs {
		rows = append(rows, models.Join(p.Prompt, p.Rejected))
	}
	do(t, engine, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			n := len(g.Pairs)
			for i := range n { // each by itself, as the steps have them: then margins are exactly 0 at first, as TRL's are
				both := []models.Sequence{rows[i], rows[n+i]}
				ref := models.TrainLogProbs(s, model, both, models.Compute{}).Float32s()
				out.Pairs = append(out.Pairs, task.Pair{
					Chosen: both[0], Rejected: both[1], RefChosen: float64(ref[0]), RefRejected: float64(ref[1]), Weight: 1,
				})
			}
			return s.Err()
		})
	})
	return out
}

// compareWeights holds the final weights to 1e-5, where the steps of a weight sum up to as much as 1e-2.
func (run trlRun) compareWeights(t *testing.T, engine *tensor.Engine, model *models.Model) {
	t.Helper()
	do(t, engine, func(s *tensor.Scope) error {
		for _, p := range model.Params() {
			want, ok := run.Weights[p.Name]
			if !ok {
				t.Errorf("TRL has no %s", p.Name)
				continue
			}
			var sum, squares float64
			values := p.Tensor.Float32s()
			for _, v := range values {
				sum += float64(v)
				squares += float64(v) * float64(v)
			}
			n := float64(len(values))
			within(t, p.Name+", sum", sum, want.Sum, 1e-5*math.Sqrt(n))
			within(t, p.Name+", norm", math.Sqrt(squares), want.Norm, 1e-5)
			for i, w := range want.First {
				within(t, fmt.Sprintf("%s[%d]", p.Name, i), float64(values[i]), w, 1e-5)
			}
		}
		return s.Err()
	})
}
