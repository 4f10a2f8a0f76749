package loop

import (
	"testing"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/trainer/task"
)

// loadModel loads a tiny model of models/testdata, in float64 so that differences are exact enough to compare with.
func loadModel(t *testing.T, engine *tensor.Engine, name string) *models.Model {
	t.Helper()
	m, err := models.Load(t.Context(), engine, "../../models/testdata/"+name, models.Options{DType: tensor.Float64})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.SetTrainable(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	return m
}

// examples are sequences of different lengths over the 64 tokens of the tiny models.
func examples(n, offset int) []models.Sequence {
	rows := make([]models.Sequence, n)
	for i := range rows {
		for k := range 6 + (3*i+offset)%7 {
			rows[i].IDs = append(rows[i].IDs, int64(3+(7*k*k+11*i+5*offset)%61))
		}
		rows[i].PromptLen = 2 + i%3
	}
	return rows
}

// somePairs have reference log-probs away from the policy's and weights of mean 1.
func somePairs(n int) []task.Pair {
	chosen, rejected := examples(n, 0), examples(n, 2)
	pairs := make([]task.Pair, n)
	for i := range pairs {
		pairs[i] = task.Pair{
			Chosen: chosen[i], Rejected: rejected[i], RefChosen: -20 - float64(i), RefRejected: -19 + 2*float64(i),
			Weight: 2 * float64(i+1) / float64(n+1),
		}
	}
	return pairs
}
