package trainer_test

import (
	"testing"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/schemas"
)

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
