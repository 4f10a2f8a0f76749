package trainer

import (
	"math"
	"strings"
	"testing"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/curves"
)

// TestProbe: the figures are those of the rows, whatever their number, and a guide that does not tell rows apart is seen.
func TestProbe(t *testing.T) {
	engine := newEngine(t)
	g := newGuideModel(t, engine, architecture.ReduceMean)
	task := &guideTask{guide: g, chosen: examples(40, 0), rejected: examples(40, 2)}
	copy(task.rejected[:10], task.chosen[:10])
	p, err := task.probe(t.Context(), engine, 64)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for i, d := range p.Distances {
		sum += d
		if (i < 10) != (d == 0) {
			t.Errorf("pair %d: distance %v", i, d)
		}
	}
	within(t, "mean distance", p.Distance, sum/30, 1e-12)
	if p.Pairs != 40 || p.Identical != 0.25 || !(p.Norm > 0) || !(p.True > 0) {
		t.Errorf("probe %+v", p)
	}
	if first, err := task.probe(t.Context(), engine, 12); err != nil || first.Pairs != 12 || len(first.Distances) != 12 {
		t.Errorf("of 12: %+v, %v", first, err)
	}
	text, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	again, err := curves.ReadProbe(text)
	if err != nil || again.Distance != p.Distance || len(again.Distances) != 40 {
		t.Errorf("read back: %+v, %v", again, err)
	}

	// a latent layer of zeros: all latents are equal, and the decoder cannot use them
	do(t, engine, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			for _, w := range g.Params() {
				if w.Name == "latent.weight" {
					w.Tensor.Fill_(0)
				}
			}
			return s.Err()
		})
	})
	if p, err = task.probe(t.Context(), engine, 64); err != nil || !strings.Contains(p.Collapsed(), "ignores the latent") {
		t.Errorf("a guide with equal latents: %+v, %v", p, err)
	}
	for want, p := range map[string]curves.Probe{
		"":              {Pairs: 2, True: 1, Shuffled: 1.1, Distance: 0.5, Norm: 2},
		"all but equal": {Pairs: 2, True: 1, Shuffled: 1.1, Distance: 1e-4, Norm: 2},
		"ignores":       {Pairs: 2, True: 1.1, Shuffled: 1.1, Distance: 0.5, Norm: 2},
	} {
		if got := p.Collapsed(); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%+v: %q, want %q", p, got, want)
		}
	}
	if nan := (curves.Probe{Pairs: 2, Shuffled: 1, Distance: math.NaN(), Norm: 1}); nan.Collapsed() == "" {
		t.Error("a distance that is no number is not seen")
	}
}

// TestGuideVariants: each way to pool and to inject trains in a run, tells how it did, and is loaded by the encoder stage. A
// run that ends with its guide goes on later.
func TestGuideVariants(t *testing.T) {
	w := newWorld(t)
	for _, way := range [][2]string{
		{architecture.PoolAttention, architecture.InjectMemory}, {architecture.PoolLast, architecture.InjectEmbedding},
	} {
		spec := testSpec(way[1], func(s *schemas.Spec) {
			s.Iterations = 1
			s.Guide.Pooling, s.Guide.Injection = way[0], way[1]
		})
		w.finish(spec)
		m := w.latest(spec.Run, checkpoints.Guide)
		for _, name := range []string{"reconstruction", "reconstruction_shuffled", "distance_mean", "distance_p50", "latent_norm"} {
			if x, ok := metric(m, name); !ok || !(x > 0) {
				t.Errorf("%s: metric %s is %v", way, name, x)
			}
		}
		records := w.records(m)
		if last := records[len(records)-1]; last.Guide == nil || last.Guide.Pairs != 12 || last.Guide.Distances != nil {
			t.Errorf("%s: the last record is %+v", way, last)
		}
		if got := len(w.collect(schemas.Scored, spec.Run, 0)); got != 12 {
			t.Errorf("%s: %d pairs were scored", way, got)
		}
	}
}
