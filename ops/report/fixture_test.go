package report

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/ldalign/ldalign/trainer/curves"
)

// demoInput looks like the demo's: three seeds, three methods. Its numbers are made up, and the same every time.
func demoInput() Input {
	rng := rand.New(rand.NewPCG(1, 2))
	in := Input{
		Title:       "LD-Align demo",
		GeneratedBy: "ldalign test",
		Created:     time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
		WallSeconds: 291.4,
		TensorShare: new(0.87),
		HeldOut:     300,
		Subject:     "LD-Align 2",
		Against:     []string{"SFT", "SPIN 2", "Continual SFT"},
		Stages: []Stage{
			{"generator", 4500, "prompts", 12.5},
			{"encoder", 4500, "pairs", 6.1},
			{"distance", 4500, "pairs", 0.2},
			{"trainer", 141, "steps", 21.4},
		},
		Guides: []Guide{{"demo-ldalign", 1, 1.59, 1.81}, {"demo-ldalign-2", 2, 1.61, 1.83}},
		Notes:  []string{"One sample per prompt; a toy: what holds here need not hold for a 7B model."},
		Runs: []Run{
			{"demo-ldalign", "LD-Align", "run: demo-ldalign\nobjective:\n  kind: ldalign\n  beta: 0.5\n", ""},
			{"demo-spin", "SPIN", "run: demo-spin\nobjective:\n  kind: spin\n", ""},
		},
	}
	row := func(method string, iteration int, greedy, sampled, distance float64) {
		r := Row{Method: method, Run: "demo", Iteration: iteration}
		for seed := range uint64(3) {
			jitter := func() float64 { return 0.02 * (rng.Float64() - 0.5) }
			r.Seeds = append(r.Seeds, Scores{
				Seed: seed + 1, GreedyExact: new(greedy + jitter()), GreedyGraded: new(greedy + 0.03 + jitter()),
				SampledExact: new(sampled + jitter()), SampledGraded: new(sampled + 0.12 + jitter()),
				Distance: new(distance + jitter()), AnswerTokens: new(10 + 10*jitter()),
			})
		}
		in.Rows = append(in.Rows, r)
	}
	row("SFT", 0, 0.94, 0.60, 2.1)
	for i := range 3 {
		row(fmt.Sprintf("LD-Align %d", i), i, 0.94, 0.74+0.03*float64(i), 1.3-0.15*float64(i))
	}
	for i := range 3 {
		row(fmt.Sprintf("SPIN %d", i), i, 0.94, 0.75+0.03*float64(i), 1.3-0.15*float64(i))
	}
	row("Continual SFT", 0, 0.95, 0.87, 0.9)
	in.Rows[7].Seeds[1].Distance = nil

	for _, method := range []string{"LD-Align", "SPIN"} {
		c := Curve{Method: method, Run: "demo", Seed: 1, Objective: map[string]string{"LD-Align": "ldalign", "SPIN": "spin"}[method]}
		for step := range 141 {
			t := float64(step%47) / 47
			noise := func() float64 { return rng.NormFloat64() }
			c.Steps = append(c.Steps, curves.Step{
				Iteration: uint32(step / 47), Loss: 0.69 - 0.25*t + 0.05*noise(),
				LR: 2e-4 / math.Pow(2, float64(step/47)) * (1 - t),
				Pairs: &curves.Pairs{
					Margin: 1.2*t + 0.2*noise(), Differing: 1, Accuracy: min(1, 0.5+0.4*t+0.08*noise()), ChosenChange: 0.4*t + 0.1*noise(),
					RejectedChange: -2*t + 0.4*noise(), KL: new(math.Abs(0.5*t + 0.05*noise())),
				},
				GradNorm: 4 + noise(),
			})
		}
		in.Curves = append(in.Curves, c)
		for i := range 3 {
			d := Distances{Method: method, Run: "demo", Seed: 1, Iteration: i}
			sum := 0.0
			for range 500 {
				p := PairDistance{Identical: rng.Float64() < 0.55+0.1*float64(i)}
				if !p.Identical {
					p.Distance = (4 - 0.5*float64(i)) * math.Sqrt(rng.Float64()*rng.Float64())
				}
				sum += p.Distance / 500
				d.Pairs = append(d.Pairs, p)
			}
			for j := range d.Pairs {
				d.Pairs[j].Weight = d.Pairs[j].Distance / sum
			}
			in.Distances = append(in.Distances, d)
			a := Agreement{Method: method, Run: "demo", Seed: 1, Iteration: i}
			for range 300 {
				p := SamplePair{ScoreA: rng.Float64(), ScoreB: rng.Float64(), ExactA: rng.Float64() < 0.5}
				p.DistanceA, p.DistanceB = 1-p.ScoreA+0.4*rng.NormFloat64(), 1-p.ScoreB+0.4*rng.NormFloat64()
				a.Pairs = append(a.Pairs, p)
			}
			in.Agreement = append(in.Agreement, a)
		}
	}
	sft := Curve{Method: "SFT", Run: "demo-sft", Seed: 1, Objective: "sft"}
	for step := range 47 {
		sft.Steps = append(sft.Steps, curves.Step{
			Loss: 1.4*math.Exp(-float64(step)/15) + 0.5 + 0.05*rng.NormFloat64(), LR: 1e-4,
		})
	}
	in.Curves = append(in.Curves, sft)
	for i := range 12 {
		in.Examples = append(in.Examples, Example{
			Method: "LD-Align", Iteration: 0, Prompt: fmt.Sprintf("Name the first word: plum, <b>tree</b>, %d", i),
			Chosen: "The first word is plum.", Rejected: fmt.Sprintf("tree & %d", i), Distance: float64(i) / 3, Weight: float64(i) / 6,
		})
	}
	in.Examples = append(in.Examples, Example{Prompt: "same", Chosen: "equal", Rejected: "equal"})
	return in
}
