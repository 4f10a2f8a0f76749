package tensor_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/models/tensor"
)

// goldens is testdata/optimizers.json, written by make_goldens.py.
type goldens struct {
	Torch string       `json:"torch"`
	Cases []goldenCase `json:"cases"`
}

type goldenCase struct {
	Kind    string   `json:"kind"`
	DType   string   `json:"dtype"`
	Clip    *float64 `json:"clip"`
	Options struct {
		Betas       []float64 `json:"betas"`
		Alpha       float64   `json:"alpha"`
		Eps         float64   `json:"eps"`
		WeightDecay float64   `json:"weight_decay"`
	} `json:"options"`
	Names  []string     `json:"names"`
	Shapes [][]int64    `json:"shapes"`
	Start  [][]float64  `json:"start"`
	Steps  []goldenStep `json:"steps"`
}

type goldenStep struct {
	LR      float64              `json:"lr"`
	Grads   [][]float64          `json:"grads"`
	Norm    *float64             `json:"norm"`
	Clipped [][]float64          `json:"clipped"`
	Params  [][]float64          `json:"params"`
	State   map[string][]float64 `json:"state"`
}

func (c goldenCase) dtype() tensor.DType {
	if c.DType == "float64" {
		return tensor.Float64
	}
	return tensor.Float32
}

// tolerance is a few units in the last place.
func (c goldenCase) tolerance() float64 {
	if c.DType == "float64" {
		return 1e-14
	}
	return 5e-7
}

func (c goldenCase) tensors(s *tensor.Scope, values [][]float64) []*tensor.Tensor {
	var ts []*tensor.Tensor
	for i, v := range values {
		ts = append(ts, s.FromFloat64(v, c.Shapes[i]...).To(c.dtype()))
	}
	return ts
}

func (c goldenCase) optimizer(s *tensor.Scope, params []*tensor.Tensor) (tensor.Optimizer, error) {
	o := c.Options
	if c.Kind == "adamw" {
		return tensor.NewAdamW(s, c.named(params), tensor.AdamWOptions{
			Beta1: o.Betas[0], Beta2: o.Betas[1], Eps: o.Eps, WeightDecay: o.WeightDecay,
		})
	}
	return tensor.NewRMSprop(s, c.named(params), tensor.RMSpropOptions{
		Alpha: o.Alpha, Eps: o.Eps, WeightDecay: o.WeightDecay,
	})
}

func (c goldenCase) named(params []*tensor.Tensor) []tensor.Named {
	var named []tensor.Named
	for i, p := range params {
		named = append(named, tensor.Named{Name: c.Names[i], Tensor: p})
	}
	return named
}

func (c goldenCase) name() string {
	return fmt.Sprintf("%s/%s/eps %g, clip %v", c.Kind, c.DType, c.Options.Eps, c.Clip != nil)
}

func loadGoldens(t *testing.T) goldens {
	t.Helper()
	data, err := os.ReadFile("testdata/optimizers.json")
	if err != nil {
		t.Fatal(err)
	}
	var g goldens
	if err := json.Unmarshal(data, &g); err != nil {
		t.Fatal(err)
	}
	if len(g.Cases) == 0 {
		t.Fatal("no cases in testdata/optimizers.json")
	}
	return g
}

func near(t *testing.T, what string, got, want []float64, tolerance float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d numbers, want %d", what, len(got), len(want))
		return
	}
	for i := range got {
		if d := math.Abs(got[i] - want[i]); !(d <= tolerance*(1+math.Abs(want[i]))) {
			t.Errorf("%s[%d] = %.17g, want %.17g", what, i, got[i], want[i])
		}
	}
}

func TestOptimizersEqualPyTorch(t *testing.T) {
	for _, c := range loadGoldens(t).Cases {
		t.Run(c.name(), func(t *testing.T) {
			do(t, func(s *tensor.Scope) error {
				params := c.tensors(s, c.Start)
				for _, p := range params {
					p.RequiresGrad_(true)
				}
				o, err := c.optimizer(s, params)
				if err != nil {
					return err
				}
				for n, step := range c.Steps {
					grads := c.tensors(s, step.Grads)
					if c.Clip != nil {
						norm := tensor.ClipGradNorm(s, grads, *c.Clip)
						near(t, "norm before clipping", []float64{norm}, []float64{*step.Norm}, c.tolerance())
					}
					for i, g := range grads {
						near(t, fmt.Sprintf("step %d: gradient %s", n, c.Names[i]), g.Float64s(), step.Clipped[i], c.tolerance())
					}
					if err := o.Step(s, params, grads, step.LR); err != nil {
						return err
					}
					for i, p := range params {
						near(t, fmt.Sprintf("step %d: %s", n, c.Names[i]), p.Float64s(), step.Params[i], c.tolerance())
					}
					state := o.State()
					if state[0].Name != "step" || state[0].Tensor.Item() != float64(n+1) {
						t.Errorf("step %d: state starts with %s = %v", n, state[0].Name, state[0].Tensor.Item())
					}
					if len(state)-1 != len(step.State) {
						t.Errorf("step %d: %d averages, want %d", n, len(state)-1, len(step.State))
					}
					for _, a := range state[1:] {
						near(t, fmt.Sprintf("step %d: %s", n, a.Name), a.Tensor.Float64s(), step.State[a.Name], c.tolerance())
					}
				}
				return nil
			})
		})
	}
}

// An optimizer that is made anew and given the state continues to the last bit.
func TestOptimizerStateContinues(t *testing.T) {
	for _, c := range loadGoldens(t).Cases {
		t.Run(c.name(), func(t *testing.T) {
			run := func(interrupted bool) (bits [][]byte) {
				do(t, func(s *tensor.Scope) error {
					params := c.tensors(s, c.Start)
					o, err := c.optimizer(s, params)
					if err != nil {
						return err
					}
					for n, step := range c.Steps {
						if interrupted && n == 2 {
							var saved []tensor.Named
							for _, a := range o.State() {
								saved = append(saved, tensor.Named{Name: a.Name, Tensor: a.Tensor.Clone()})
							}
							o.Free()
							if o, err = c.optimizer(s, params); err != nil {
								return err
							}
							if err := o.LoadState(s, saved); err != nil {
								return err
							}
						}
						if err := o.Step(s, params, c.tensors(s, step.Grads), step.LR); err != nil {
							return err
						}
					}
					for _, p := range params {
						bits = append(bits, p.Bytes())
					}
					return nil
				})
				return bits
			}
			if diff := cmp.Diff(run(false), run(true)); diff != "" {
				t.Errorf("parameters differ after a restart (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOptimizerStateOrder(t *testing.T) {
	do(t, func(s *tensor.Scope) error {
		params := []tensor.Named{
			{Name: "b", Tensor: s.Ones(tensor.Float32, 2)},
			{Name: "a", Tensor: s.Ones(tensor.Float32, 3)},
		}
		o, err := tensor.NewAdamW(s, params, tensor.AdamWOptions{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8})
		if err != nil {
			return err
		}
		var names []string
		for _, n := range o.State() {
			names = append(names, n.Name)
		}
		want := []string{"step", "exp_avg.b", "exp_avg.a", "exp_avg_sq.b", "exp_avg_sq.a"}
		if diff := cmp.Diff(want, names); diff != "" {
			t.Errorf("state (-want +got):\n%s", diff)
		}
		return nil
	})
}

func TestOptimizerRefusesWrongArguments(t *testing.T) {
	do(t, func(s *tensor.Scope) error {
		p, q := s.Ones(tensor.Float32, 2), s.Ones(tensor.Float32, 3)
		params := []tensor.Named{{Name: "p", Tensor: p}, {Name: "q", Tensor: q}}
		if _, err := tensor.NewRMSprop(s, nil, tensor.RMSpropOptions{}); err == nil {
			t.Error("an optimizer without parameters was made")
		}
		o, err := tensor.NewRMSprop(s, params, tensor.RMSpropOptions{Alpha: 0.99, Eps: 1e-8})
		if err != nil {
			return err
		}
		g, h := s.Ones(tensor.Float32, 2), s.Ones(tensor.Float32, 3)
		for name, args := range map[string][2][]*tensor.Tensor{
			"a gradient missing":     {{p, q}, {g}},
			"gradients in disorder":  {{p, q}, {h, g}},
			"parameters in disorder": {{q, p}, {h, g}},
			"a nil gradient":         {{p, q}, {g, nil}},
		} {
			err := s.Scope(func(s *tensor.Scope) error { return o.Step(s, args[0], args[1], 0.1) })
			if err == nil {
				t.Errorf("%s: no error", name)
			}
		}
		state := o.State()
		renamed := slices.Clone(state)
		renamed[1].Name = "square_avg.r"
		reshaped := slices.Clone(state)
		reshaped[1].Tensor = h
		for name, bad := range map[string][]tensor.Named{
			"short": state[:2], "renamed": renamed, "reshaped": reshaped, "disordered": {state[0], state[2], state[1]},
		} {
			if err := o.LoadState(s, bad); err == nil {
				t.Errorf("state %s: no error", name)
			}
		}
		if got := append(p.Float32s(), q.Float32s()...); !slices.Equal(got, []float32{1, 1, 1, 1, 1}) {
			t.Errorf("a refused step changed the parameters to %v", got)
		}
		if got := state[0].Tensor.Item(); got != 0 {
			t.Errorf("a refused step was counted: %v", got)
		}
		return nil
	})
}
