package reward_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/reward"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
)

// goldens are the folders that testdata/make_goldens.py has written with transformers.
var goldens = []string{"v3", "v2", "c2p", "p2c", "plain"}

// tolerance is how far logits may be from those of transformers, which are of the size of 1.
const tolerance = 1e-4

type golden struct {
	IDs   [][]int64   `json:"ids"`
	First []int       `json:"first"`
	Alone [][]float64 `json:"alone"`
	Batch [][]float64 `json:"batch"`
}

func (g golden) rows() []models.Sequence {
	rows := make([]models.Sequence, len(g.IDs))
	for i, ids := range g.IDs {
		rows[i] = models.Sequence{IDs: ids, PromptLen: g.First[i]}
	}
	return rows
}

func readGolden(t testing.TB, name string) golden {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name, "expect.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(data, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

func newEngine(t testing.TB, threads int) *tensor.Engine {
	t.Helper()
	e, err := tensor.NewEngine(tensor.Options{Threads: threads})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func load(t testing.TB, eng *tensor.Engine, name string) *reward.Model {
	t.Helper()
	m, err := reward.Load(context.Background(), eng, filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// score is the logits of all rows.
func score(t testing.TB, m *reward.Model, rows []models.Sequence, opts reward.Options) [][]float32 {
	t.Helper()
	out := make([][]float32, len(rows))
	err := m.Outputs(context.Background(), rows, opts, func(i int, logits []float32) error {
		out[i] = logits
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func compare(t *testing.T, want [][]float64, got [][]float32) {
	t.Helper()
	for i := range want {
		if len(got[i]) != len(want[i]) {
			t.Fatalf("row %d has %d logits, transformers gives %d", i, len(got[i]), len(want[i]))
		}
		for j := range want[i] {
			if diff := math.Abs(float64(got[i][j]) - want[i][j]); !(diff <= tolerance) {
				t.Errorf("row %d logit %d is %g, transformers says %g (%.2g apart)", i, j, got[i][j], want[i][j], diff)
			}
		}
	}
}

func TestLogitsAreThoseOfTransformers(t *testing.T) {
	eng := newEngine(t, 2)
	for _, name := range goldens {
		t.Run(name, func(t *testing.T) {
			m, g := load(t, eng, name), readGolden(t, name)
			rows := g.rows()
			for i, row := range rows { // alone, in the row's own length
				err := eng.Do(t.Context(), func(s *tensor.Scope) error {
					return s.NoGrad(func(s *tensor.Scope) error {
						logits := m.Logits(s, []models.Sequence{row}, reward.PadRule{Rows: 1, Length: len(row.IDs)})
						compare(t, g.Alone[i:i+1], [][]float32{logits.Float32s()})
						return nil
					})
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			compare(t, g.Batch, score(t, m, rows, reward.Options{Rows: 8})) // all in one batch, padded
			compare(t, g.Batch, score(t, m, rows, reward.Options{Step: 8})) // in buckets of length
		})
	}
}

// A row's logits are the same bits alone, among other neighbours, and at another place.
func TestLogitsAreBatchInvariant(t *testing.T) {
	for _, threads := range []int{1, 2} {
		eng := newEngine(t, threads)
		for _, name := range []string{"v3", "v2"} {
			t.Run(fmt.Sprintf("%s/%d threads", name, threads), func(t *testing.T) {
				m, rng := load(t, eng, name), rand.New(rand.NewPCG(1, 2))
				rows := make([]models.Sequence, 23)
				for i := range rows {
					ids := make([]int64, 2+rng.IntN(63))
					for j := range ids {
						ids[j] = rng.Int64N(int64(m.Config().Vocab))
					}
					rows[i] = models.Sequence{IDs: ids, PromptLen: 1 + rng.IntN(len(ids))}
				}
				for _, opts := range []reward.Options{{}, {Rows: 8, Step: 16}} {
					all := score(t, m, rows, opts)
					for _, order := range [][]int{{0}, {7}, {22, 3, 3, 9}, rng.Perm(len(rows))} {
						var part []models.Sequence
						var want [][]float32
						for _, i := range order {
							part, want = append(part, rows[i]), append(want, all[i])
						}
						if diff := cmp.Diff(want, score(t, m, part, opts)); diff != "" {
							t.Errorf("%+v: rows %v (-among all +here):\n%s", opts, order, diff)
						}
					}
				}
			})
		}
	}
}

func TestSequencesThatDoNotFit(t *testing.T) {
	eng := newEngine(t, 1)
	m := load(t, eng, "v3")
	for name, row := range map[string]models.Sequence{
		"empty":         {},
		"no prompt":     {IDs: []int64{1, 2}},
		"half a prompt": {IDs: []int64{1}, PromptLen: 2},
		"too long":      {IDs: make([]int64, 65), PromptLen: 1},
		"unknown token": {IDs: []int64{1, 260}, PromptLen: 1},
		"negative":      {IDs: []int64{1, -1}, PromptLen: 1},
	} {
		rows := []models.Sequence{{IDs: []int64{1, 2}, PromptLen: 1}, row}
		err := m.Outputs(t.Context(), rows, reward.Options{}, func(int, []float32) error {
			t.Errorf("%s: a row is scored", name)
			return nil
		})
		if !errors.Is(err, models.ErrSequence) || !strings.Contains(err.Error(), "row 1") {
			t.Errorf("%s: the error is %v", name, err)
		}
		err = eng.Do(t.Context(), func(s *tensor.Scope) error {
			m.Logits(s, rows, reward.PadRule{Rows: 4, Length: 64})
			return nil
		})
		if !errors.Is(err, models.ErrSequence) {
			t.Errorf("%s: the error of Logits is %v", name, err)
		}
	}
	for _, opts := range []reward.Options{{Rows: 3}, {Rows: -4}, {Step: -1}} {
		if err := m.Outputs(t.Context(), nil, opts, nil); err == nil {
			t.Errorf("%+v are taken", opts)
		}
	}
}

// Ending a Score leaves the rows before as they are, and no tensors.
func TestScoreEnds(t *testing.T) {
	eng := newEngine(t, 1)
	m, g := load(t, eng, "v3"), readGolden(t, "v3")
	live := eng.Live()
	stop, emitted := errors.New("stop"), 0
	err := m.Outputs(t.Context(), g.rows(), reward.Options{Step: 8}, func(int, []float32) error {
		emitted++
		return stop
	})
	if !errors.Is(err, stop) || emitted != 1 {
		t.Errorf("after %d rows: %v", emitted, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = m.Outputs(ctx, g.rows(), reward.Options{Step: 8}, func(int, []float32) error {
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if eng.Live() != live {
		t.Errorf("%d tensors before, %d after", live, eng.Live())
	}
	if err := m.Close(t.Context()); err != nil || eng.Live() != 0 {
		t.Errorf("%d tensors after Close, %v", eng.Live(), err)
	}
}

// Weights that do not fit leave nothing on the engine.
func TestWeightsThatDoNotFit(t *testing.T) {
	eng := newEngine(t, 1)
	cfg, err := architecture.ReadReward(os.DirFS("testdata/v3"))
	if err != nil {
		t.Fatal(err)
	}
	files, err := safetensors.OpenModel("testdata/v3")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Vocab++
	if _, err := reward.Read(t.Context(), eng, cfg, files); !errors.Is(err, architecture.ErrWeights) {
		t.Errorf("another vocabulary: %v", err)
	}
	if err := files.Close(); err != nil {
		t.Fatal(err)
	}
	if eng.Live() != 0 {
		t.Errorf("%d tensors are left", eng.Live())
	}
	if _, err := reward.Load(t.Context(), eng, t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty folder: %v", err)
	}
}

// A configuration counts the numbers of the model that it describes.
func TestParametersAreThoseOfTheModel(t *testing.T) {
	for _, name := range goldens {
		m := load(t, newEngine(t, 1), name)
		if got, want := m.Config().Parameters(), m.Numbers(t.Context()); got != want {
			t.Errorf("%s: %d parameters, the model has %d", name, got, want)
		}
	}
}
