package models_test

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/logprob"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
)

func tokenLogProbs(t *testing.T, m *models.Model, rows []models.Sequence, step int) [][]float32 {
	t.Helper()
	got, err := logprob.Tokens(context.Background(), m, rows, logprob.Options{Step: step}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// Rounded weights give nearly what transformers computes with the weights of the file: packed, as on the CPU, and in bfloat16
// altogether, as on a GPU. Rounding what is bfloat16 already changes nothing, and a packed model's numbers depend on no batch.
func TestRoundedWeights(t *testing.T) {
	ctx := context.Background()
	for _, name := range goldens {
		t.Run(name, func(t *testing.T) {
			folder, g, eng := filepath.Join("testdata", name), readGolden(t, name), newEngine(t, 2)
			plain := loadGolden(t, eng, name, tensor.Float32)
			exact, err := plain.Canary(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, packed := range []bool{true, false} {
				m, err := models.Load(ctx, eng, folder, models.Options{Packed: packed, Rounded: true})
				if err != nil {
					t.Fatal(err)
				}
				allowed := 0.3 // for a token; measured were 0.26 and, packed, 0.08
				switch half := dtypeOf(name) == tensor.BFloat16; {
				case packed && half:
					allowed = 1e-4
				case packed:
					allowed = 0.1
				}
				got := tokenLogProbs(t, m, g.rows(), 0)
				for i, want := range g.TokenLogProbs {
					sum, of := 0.0, 0.0
					for j, logp := range want {
						if d := math.Abs(float64(got[i][j]) - logp); !(d <= allowed) {
							t.Errorf("packed %t, row %d: the log-prob of token %d differs by %g, allowed are %g", packed, i, j, d, allowed)
						}
						sum += float64(got[i][j])
						of += logp
					}
					if d := math.Abs(sum-of) / math.Abs(of); !(d <= 0.01) {
						t.Errorf("packed %t, row %d: log-prob %g, want %g", packed, i, sum, of)
					}
				}
				canary, err := m.Canary(ctx)
				if err != nil {
					t.Fatal(err)
				}
				d, tolerance := math.Abs(canary-exact)/math.Abs(exact), m.CanaryTolerance()
				if !(d <= tolerance) || tolerance <= plain.CanaryTolerance() {
					t.Errorf("packed %t: the canary differs by %g, allowed are %g", packed, d, tolerance)
				}
				if again := tokenLogProbs(t, m, g.rows(), 7); packed && !cmp.Equal(got, again) {
					t.Error("other steps give other bits")
				}
				if packed { // weights that replace others are rounded too
					files, err := safetensors.OpenModel(folder)
					if err != nil {
						t.Fatal(err)
					}
					if err := errors.Join(m.Replace(ctx, files), files.Close()); err != nil {
						t.Fatal(err)
					}
					if again := tokenLogProbs(t, m, g.rows(), 0); !cmp.Equal(got, again) {
						t.Error("the same weights, read in place, give other bits")
					}
				}
			}
		})
	}
}
