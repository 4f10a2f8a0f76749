package guide_test

import (
	"bytes"
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
	"github.com/ldalign/ldalign/models/guide"
	"github.com/ldalign/ldalign/models/tensor"
)

var config = architecture.GuideConfig{
	LatentDim: 6, Pooling: architecture.PoolMean, PrefixTokens: 2, WordDropout: 0.5, Reduction: architecture.ReduceMean,
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

func do(t testing.TB, eng *tensor.Engine, f func(s *tensor.Scope) error) {
	t.Helper()
	if err := eng.Do(context.Background(), f); err != nil {
		t.Fatal(err)
	}
}

// newGuide makes a guide of two goldens, both with a vocabulary of 64.
func newGuide(t testing.TB, eng *tensor.Engine, encoder, decoder string, cfg architecture.GuideConfig, dtype tensor.DType) *guide.Guide {
	t.Helper()
	ctx := context.Background()
	var parts []*models.Model
	for _, name := range []string{encoder, decoder} {
		m, err := models.Load(ctx, eng, filepath.Join("../testdata", name), models.Options{DType: dtype})
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, m)
	}
	g, err := guide.New(ctx, parts[0], parts[1], cfg, 1)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// randomRows are sequences of 2 to length tokens.
func randomRows(seed uint64, n, length int) []models.Sequence {
	rng := rand.New(rand.NewPCG(seed, 0))
	rows := make([]models.Sequence, n)
	for i := range rows {
		ids := make([]int64, 2+rng.IntN(length-1))
		for j := range ids {
			ids[j] = rng.Int64N(64)
		}
		rows[i] = models.Sequence{IDs: ids, PromptLen: 1 + rng.IntN(len(ids)-1)}
	}
	return rows
}

// What the encoder of a saved guide gives for a row is the same bits alone, among other neighbours and on any number of
// threads, and what the guide itself gives, to the precision of Float32.
func TestLatentsDependOnTheirRowAlone(t *testing.T) {
	rows, ctx := randomRows(1, 40, 24), context.Background()
	for _, pooling := range []string{architecture.PoolMean, architecture.PoolLast, architecture.PoolAttention} {
		cfg := config
		cfg.Pooling = pooling
		dir, first := t.TempDir(), newEngine(t, 1)
		g := newGuide(t, first, "llama", "gpt2", cfg, tensor.Float32)
		setPooling(t, g)
		save(t, g, dir)
		var want [][]float32
		for _, threads := range []int{1, 2} {
			e, err := guide.LoadEncoder(ctx, newEngine(t, threads), dir)
			if err != nil {
				t.Fatal(err)
			}
			if e.MaxLength() != g.MaxLength() {
				t.Errorf("the encoder takes %d tokens, the guide %d", e.MaxLength(), g.MaxLength())
			}
			latents := func(order []int) [][]float32 {
				batch := make([]models.Sequence, len(order))
				for k, i := range order {
					batch[k] = rows[i]
				}
				out, err := e.Latents(ctx, batch)
				if err != nil {
					t.Fatal(err)
				}
				return out
			}
			all := make([]int, len(rows))
			for i := range all {
				all[i] = i
			}
			if want == nil {
				want = latents(all)
			}
			for _, order := range [][]int{all, {0}, {6}, {5, 2}, {17, 3, 3, 31}, {39, 38, 37, 36, 4, 6, 2, 0, 7, 5, 3, 1}} {
				for k, got := range latents(order) {
					if diff := cmp.Diff(want[order[k]], got); diff != "" {
						t.Errorf("%d threads, %s, row %d among %v (-first +here):\n%s", threads, pooling, order[k], order, diff)
					}
				}
			}
			if err := e.Close(ctx); err != nil {
				t.Fatal(err)
			}
		}
		do(t, first, func(s *tensor.Scope) error {
			for k, x := range g.Encode(s, rows, models.Compute{}).Float32s() {
				if y := want[k/cfg.LatentDim][k%cfg.LatentDim]; math.Abs(float64(x-y)) > 1e-5 {
					t.Errorf("%s: latent %d of row %d is %g by the guide, %g by its encoder", pooling, k%cfg.LatentDim, k/cfg.LatentDim, x, y)
				}
			}
			return nil
		})
	}
}

// setPooling gives the weights of attention pooling, which are 0 at first, values that tell tokens apart.
func setPooling(t *testing.T, g *guide.Guide) {
	t.Helper()
	do(t, g.Engine(), func(*tensor.Scope) error {
		for _, p := range g.Params() {
			for i := range p.Tensor.Size(0) {
				if p.Name == "pooling.weight" {
					p.Tensor.Narrow(0, i, 1).Fill_(float64(i%5) - 2)
				}
			}
		}
		return nil
	})
}

// Rows that follow each other without padding, whose prompts the encoder shares, have the losses that each has alone.
func TestRowsDoNotSeeEachOther(t *testing.T) {
	for _, way := range [][2]string{
		{architecture.PoolMean, architecture.InjectPrefix}, {architecture.PoolLast, architecture.InjectMemory}, {architecture.PoolAttention, architecture.InjectEmbedding},
	} {
		cfg := config
		cfg.Pooling, cfg.Injection = way[0], way[1]
		eng := newEngine(t, 1)
		g := newGuide(t, eng, "mistral", "llama", cfg, tensor.Float64)
		setPooling(t, g)
		rows := randomRows(3, 6, 20)
		rows = append(rows, models.Join(rows[2].IDs[:rows[2].PromptLen], []int64{4, 4, 9}), models.Join(rows[0].IDs[:1], []int64{8}))
		do(t, eng, func(s *tensor.Scope) error {
			together := g.Loss(s, rows, 5, models.Compute{}).Float64s()
			for i := range rows {
				compare(t, fmt.Sprintf("%v, row %d", way, i), together[i:i+1], g.Loss(s, rows[i:i+1], 5+uint64(i), models.Compute{}).Float64s())
			}
			// computed again in parts on the way back, or in bfloat16, they are the same but for the precision
			again := g.Loss(s, rows, 5, models.Compute{Recompute: true}).Float64s()
			compare(t, "computed again", together, again)
			rough := g.Loss(s, rows, 5, models.Compute{BFloat16: true}).Float64s()
			for i, x := range rough {
				if math.Abs(x-together[i]) > 0.03*together[i] {
					t.Errorf("%v, row %d: loss %g in bfloat16, %g in float64", way, i, x, together[i])
				}
			}
			return nil
		})
	}
}

// The latent is the pooled hidden state through the latent layer, and the loss is the cross entropy of the response
// behind prefix, prompt and the response's earlier tokens: computed here once more, plainly, from the parts.
func TestEncodeAndReconstructByHand(t *testing.T) {
	for _, test := range []struct {
		encoder, decoder string
		pooling          string
		injection        string
		reduction        string
	}{
		{"llama", "gpt2", architecture.PoolMean, "", architecture.ReduceMean},
		{"gpt2", "mistral", architecture.PoolLast, architecture.InjectPrefix, architecture.ReduceSum},
		{"llama", "gpt2", architecture.PoolAttention, architecture.InjectEmbedding, architecture.ReduceMean},
		{"gpt2", "llama", architecture.PoolMean, architecture.InjectMemory, architecture.ReduceSum},
		{"llama", "gpt2", architecture.PoolMean, architecture.InjectMemory, architecture.ReduceSum},
	} {
		t.Run(test.encoder+" "+test.decoder+" "+test.pooling+" "+test.injection, func(t *testing.T) {
			eng := newEngine(t, 1)
			cfg := config
			cfg.Pooling, cfg.Injection, cfg.Reduction = test.pooling, test.injection, test.reduction
			g := newGuide(t, eng, test.encoder, test.decoder, cfg, tensor.Float64)
			encoder, decoder := load(t, eng, test.encoder), load(t, eng, test.decoder)
			own := map[string]*tensor.Tensor{}
			for _, p := range g.Params() {
				own[p.Name] = p.Tensor
			}
			row := models.Sequence{IDs: []int64{7, 20, 33, 5, 60, 41, 2}, PromptLen: 3}
			drop := []uint64{11}
			do(t, eng, func(s *tensor.Scope) error {
				ids := s.FromInt64(row.IDs, 1, 7)
				states := encoder.Hidden(s, encoder.Embed(ids)).Narrow(1, 3, 4).SumDims(false, 1).DivScalar(4)
				if test.pooling == architecture.PoolLast {
					states = encoder.Hidden(s, encoder.Embed(ids)).Select(1, 6)
				}
				if test.pooling == architecture.PoolAttention {
					w := own["pooling.weight"] // 0 at first, which is the mean: here not
					for i := range w.Size(0) {
						w.Narrow(0, i, 1).Fill_(float64(i%5) - 2)
					}
					all := encoder.Hidden(s, encoder.Embed(ids)).Narrow(1, 3, 4)
					states = all.Mul(all.Matmul(w.Reshape(-1, 1)).Gelu().Softmax(1)).SumDims(false, 1)
				}
				h := states.Linear(own["latent.weight"], own["latent.bias"])
				latents := g.Encode(s, []models.Sequence{row}, models.Compute{})
				compare(t, "latent", h.Float64s(), latents.Float64s())

				text := decoder.Embed(ids)
				var columns []*tensor.Tensor
				hiddenTokens := 0
				for i := range int64(7) {
					column := text.Narrow(1, i, 1)
					if i >= 3 && models.Uniform(drop[0], int(i-3)) < cfg.WordDropout {
						column = own["hidden_token"].Reshape(1, 1, -1)
						hiddenTokens++
					}
					columns = append(columns, column)
				}
				if hiddenTokens == 0 || hiddenTokens == 4 {
					return fmt.Errorf("%d of 4 tokens are hidden: choose a seed that says more", hiddenTokens)
				}
				in, offset := s.Cat(1, columns...), 0
				var seen *tensor.Tensor
				switch test.injection {
				case architecture.InjectMemory: // models.TestLayoutWithMemory tells what that is
					l, err := decoder.PackBatch([]models.Sequence{row}, models.PackingOptions{Whole: true, Memory: true})
					if err != nil {
						return err
					}
					memory := own["memory.weight"].Matmul(h.Reshape(-1, 1)).Reshape(1, int64(decoder.Config().Layers), -1)
					seen = l.Hidden(s, in.Squeeze(0), memory).Unsqueeze(0)
				case architecture.InjectEmbedding:
					seen = decoder.Hidden(s, in.Add(own["embedding.weight"].Matmul(h.Reshape(-1, 1)).Reshape(1, 1, -1)))
				default:
					offset = 2
					prefix := h.Linear(own["prefix.weight"], own["prefix.bias"]).Reshape(1, 2, -1)
					seen = decoder.Hidden(s, s.Cat(1, prefix, in))
				}
				logp := decoder.Logits(seen.Squeeze(0)).LogSoftmax(-1).Float64s()
				want := 0.0
				for i := 3; i < 7; i++ {
					want -= logp[(offset+i-1)*64+int(row.IDs[i])]
				}
				if test.reduction == architecture.ReduceMean {
					want /= 4
				}
				got := g.Reconstruct(s, []models.Sequence{row}, latents, drop, models.Compute{})
				compare(t, "loss", []float64{want}, got.Float64s())
				return nil
			})
		})
	}
}

func load(t *testing.T, eng *tensor.Engine, name string) *models.Model {
	t.Helper()
	m, err := models.Load(context.Background(), eng, filepath.Join("../testdata", name), models.Options{DType: tensor.Float64})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func compare(t *testing.T, what string, want, got []float64) {
	t.Helper()
	if len(want) != len(got) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i := range want {
		if !(math.Abs(want[i]-got[i]) < 1e-9) {
			t.Errorf("%s: value %d is %g, want %g", what, i, got[i], want[i])
		}
	}
}

// The gradients of equation (2) that Backward leaves equal central differences, for an element of every weight.
func TestLossGradients(t *testing.T) {
	for _, test := range []struct{ encoder, decoder, pooling, injection, reduction string }{
		{"llama", "gpt2", architecture.PoolMean, architecture.InjectPrefix, architecture.ReduceMean},
		{"gpt2", "llama-tied", architecture.PoolLast, architecture.InjectPrefix, architecture.ReduceSum},
		{"llama-tied", "llama", architecture.PoolAttention, architecture.InjectMemory, architecture.ReduceMean},
		{"gpt2", "gpt2", architecture.PoolLast, architecture.InjectMemory, architecture.ReduceSum},
		{"gpt2", "llama", architecture.PoolAttention, architecture.InjectEmbedding, architecture.ReduceMean},
	} {
		t.Run(test.encoder+" "+test.decoder+" "+test.pooling+" "+test.injection, func(t *testing.T) {
			eng := newEngine(t, 1)
			cfg := config
			cfg.Pooling, cfg.Injection, cfg.Reduction = test.pooling, test.injection, test.reduction
			g := newGuide(t, eng, test.encoder, test.decoder, cfg, tensor.Float64)
			if err := g.SetTrainable(context.Background(), true); err != nil {
				t.Fatal(err)
			}
			rows := randomRows(5, 3, 12)
			rows = append(rows, models.Join(rows[0].IDs[:rows[0].PromptLen], []int64{3, 9, 27}))
			loss := func(s *tensor.Scope) *tensor.Tensor { return g.Loss(s, rows, 9, models.Compute{}).Sum() }
			params := g.Params()
			tensors := make([]*tensor.Tensor, len(params))
			for i, p := range params {
				tensors[i] = p.Tensor
			}
			var grads [][]float64
			do(t, eng, func(s *tensor.Scope) error {
				loss(s).Backward()
				for _, x := range tensors {
					grads = append(grads, x.Grad().Float64s())
				}
				tensor.FreeGrads(s, tensors)
				return s.Err()
			})
			for i, p := range params {
				at := 0 // the element with the greatest gradient
				for j, g := range grads[i] {
					if math.Abs(g) > math.Abs(grads[i][at]) {
						at = j
					}
				}
				do(t, eng, func(s *tensor.Scope) error {
					return s.NoGrad(func(s *tensor.Scope) error {
						const step = 1e-5
						element := p.Tensor.Detach().Reshape(-1).Narrow(0, int64(at), 1)
						was := element.Item()
						element.Fill_(was + step)
						up := loss(s).Item()
						element.Fill_(was - step)
						down := loss(s).Item()
						element.Fill_(was)
						want, got := (up-down)/(2*step), grads[i][at]
						if math.Abs(want-got) > 1e-6*max(1, math.Abs(want)) || got == 0 {
							return fmt.Errorf("%s, element %d: gradient %g, by differences %g", p.Name, at, got, want)
						}
						return nil
					})
				})
			}
		})
	}
}

// A guide learns to pass on through the latent what the prompt does not tell.
func TestTrainingUsesTheLatent(t *testing.T) {
	for _, way := range [][2]string{
		{architecture.PoolMean, architecture.InjectPrefix}, {architecture.PoolAttention, architecture.InjectMemory}, {architecture.PoolLast, architecture.InjectEmbedding},
	} {
		t.Run(way[0]+" "+way[1], func(t *testing.T) {
			cfg := config
			cfg.Pooling, cfg.Injection = way[0], way[1]
			trainingUsesTheLatent(t, cfg)
		})
	}
}

func trainingUsesTheLatent(t *testing.T, config architecture.GuideConfig) {
	t.Helper()
	eng := newEngine(t, 1)
	ctx := context.Background()
	var parts []*models.Model
	for seed := range uint64(2) {
		m, err := models.Scratch(ctx, eng, architecture.Config{
			Family: architecture.Llama, Vocab: 16, Hidden: 32, Layers: 1, Heads: 2, Intermediate: 48, MaxPositions: 16, TieEmbeddings: true,
		}, seed)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, m)
	}
	g, err := guide.New(ctx, parts[0], parts[1], config, 1)
	if err != nil {
		t.Fatal(err)
	}
	// One prompt, four responses: only the latent can tell which.
	var rows []models.Sequence
	for r := range int64(4) {
		rows = append(rows, models.Join([]int64{1, 2}, []int64{3 + r, 7 + r, 3 + r, 11 + r}))
	}
	if err := g.SetTrainable(ctx, true); err != nil {
		t.Fatal(err)
	}
	params := g.Params()
	tensors := make([]*tensor.Tensor, len(params))
	for i, p := range params {
		tensors[i] = p.Tensor
	}
	do(t, eng, func(s *tensor.Scope) error {
		optimizer, err := tensor.NewAdamW(s, params, tensor.AdamWOptions{Beta1: 0.9, Beta2: 0.98, Eps: 1e-8})
		if err != nil {
			return err
		}
		for step := range 120 {
			err := s.Scope(func(s *tensor.Scope) error {
				g.Loss(s, rows, uint64(step*100), models.Compute{}).Sum().DivScalar(float64(len(rows))).Backward()
				grads := make([]*tensor.Tensor, len(tensors))
				for i, x := range tensors {
					grads[i] = x.Grad()
				}
				defer tensor.FreeGrads(s, tensors)
				return optimizer.Step(s, tensors, grads, 5e-3)
			})
			if err != nil {
				return err
			}
		}
		return s.NoGrad(func(s *tensor.Scope) error {
			own, shuffled := g.ShuffledLoss(s, rows, g.Encode(s, rows, models.Compute{}), models.Compute{})
			mine, other := own.Sum().Item()/float64(len(rows)), shuffled.Sum().Item()/float64(len(rows))
			t.Logf("reconstruction by the own latent %.3f, by another %.3f", mine, other)
			if mine > 0.3 || other < mine+0.5 {
				t.Errorf("reconstruction by the own latent %.3f, by another %.3f: the latent is not used", mine, other)
			}
			return nil
		})
	})
}

// save writes a guide's folder.
func save(t *testing.T, g *guide.Guide, dir string) {
	t.Helper()
	data, err := g.ConfigJSON()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, architecture.GuideConfigFile), data, 0o644); err != nil {
		t.Fatal(err)
	}
	var weights bytes.Buffer
	if err := g.WriteWeights(context.Background(), &weights); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, architecture.GuideWeightsFile), weights.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func weightsOf(t *testing.T, g *guide.Guide) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	do(t, g.Engine(), func(*tensor.Scope) error {
		for _, p := range g.Params() {
			all[p.Name] = p.Tensor.Bytes()
		}
		return nil
	})
	return all
}

func TestSaveAndLoad(t *testing.T) {
	eng, ctx := newEngine(t, 1), context.Background()
	for _, change := range []func(*architecture.GuideConfig){
		func(c *architecture.GuideConfig) { c.WordDropout = 0 },
		func(c *architecture.GuideConfig) { c.Injection = architecture.InjectPrefix },
		func(c *architecture.GuideConfig) {
			c.Injection, c.Pooling = architecture.InjectMemory, architecture.PoolAttention
		},
		func(c *architecture.GuideConfig) { c.Injection, c.PrefixTokens = architecture.InjectEmbedding, 0 },
	} {
		cfg, dir := config, t.TempDir()
		change(&cfg)
		g := newGuide(t, eng, "llama", "gpt2", cfg, tensor.Float32)
		save(t, g, dir)
		other := newGuide(t, eng, "llama", "gpt2", cfg, tensor.Float32)
		do(t, eng, func(*tensor.Scope) error {
			for _, p := range other.Params() {
				p.Tensor.Fill_(1)
			}
			return nil
		})
		if err := other.LoadWeights(ctx, filepath.Join(dir, architecture.GuideWeightsFile)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(weightsOf(t, g), weightsOf(t, other)); diff != "" {
			t.Errorf("weights (-saved +replaced):\n%s", diff)
		}
		if err := errors.Join(g.Close(ctx), other.Close(ctx)); err != nil {
			t.Fatal(err)
		}
		if n := eng.Live(); n != 0 {
			t.Errorf("%d tensors are left", n)
		}
	}
}

func TestLoadTellsWhatDoesNotFit(t *testing.T) {
	eng, ctx := newEngine(t, 1), context.Background()
	good := t.TempDir()
	g := newGuide(t, eng, "llama", "gpt2", config, tensor.Float32)
	save(t, g, good)
	live := eng.Live()
	edit := func(change func(file map[string]map[string]any)) string {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, architecture.GuideConfigFile)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var file map[string]map[string]any
		if err := json.Unmarshal(data, &file); err != nil {
			t.Fatal(err)
		}
		change(file)
		if data, err = json.Marshal(file); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for _, test := range []struct {
		name   string
		change func(file map[string]map[string]any)
		want   error
		tells  string
	}{
		{"unknown key", func(f map[string]map[string]any) { f["guide"]["latents"] = 3 }, architecture.ErrGuide, "latents"},
		{"pooling", func(f map[string]map[string]any) { f["guide"]["pooling"] = "max" }, architecture.ErrGuide, "max"},
		{"latent size", func(f map[string]map[string]any) { f["guide"]["latent_dim"] = 7 }, architecture.ErrWeights, "latent.weight"},
		{"encoder's family", func(f map[string]map[string]any) { f["encoder"]["model_type"] = "bert" }, architecture.ErrConfig, "bert"},
		{"encoder's size", func(f map[string]map[string]any) {
			f["encoder"]["num_hidden_layers"] = 1
		}, architecture.ErrWeights, "encoder"},
		{"decoder's family", func(f map[string]map[string]any) { f["decoder"]["model_type"] = "bert" }, architecture.ErrConfig, "decoder"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := edit(test.change)
			_, err := guide.LoadEncoder(ctx, eng, dir)
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.tells) || !strings.Contains(err.Error(), dir) {
				t.Errorf("error %v, want %v that tells %q and the folder", err, test.want, test.tells)
			}
			if n := eng.Live(); n != live {
				t.Errorf("%d tensors live afterwards, %d before", n, live)
			}
		})
	}
	if _, err := guide.LoadEncoder(ctx, eng, t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty folder: error %v, want fs.ErrNotExist", err)
	}
	before := weightsOf(t, g)
	other, dir := newGuide(t, eng, "llama", "llama", config, tensor.Float32), t.TempDir()
	save(t, other, dir)
	if err := g.LoadWeights(ctx, filepath.Join(dir, architecture.GuideWeightsFile)); !errors.Is(err, architecture.ErrWeights) {
		t.Errorf("weights of another guide: error %v, want ErrWeights", err)
	}
	if diff := cmp.Diff(before, weightsOf(t, g)); diff != "" {
		t.Errorf("a refused file changed the guide:\n%s", diff)
	}
}

func TestNewRefuses(t *testing.T) {
	eng, ctx := newEngine(t, 1), context.Background()
	a, b := load(t, eng, "llama"), load(t, eng, "gpt2")
	for name, change := range map[string]func(c *architecture.GuideConfig){
		"no latent":     func(c *architecture.GuideConfig) { c.LatentDim = 0 },
		"injection":     func(c *architecture.GuideConfig) { c.Injection = "drip" },
		"no prefix":     func(c *architecture.GuideConfig) { c.PrefixTokens = 0 },
		"long prefix":   func(c *architecture.GuideConfig) { c.PrefixTokens = 128 },
		"pooling":       func(c *architecture.GuideConfig) { c.Pooling = "" },
		"reduction":     func(c *architecture.GuideConfig) { c.Reduction = "max" },
		"full dropout":  func(c *architecture.GuideConfig) { c.WordDropout = 1 },
		"dropout below": func(c *architecture.GuideConfig) { c.WordDropout = -0.1 },
	} {
		cfg := config
		change(&cfg)
		if _, err := guide.New(ctx, a, b, cfg, 1); !errors.Is(err, architecture.ErrGuide) {
			t.Errorf("%s: error %v, want ErrConfig", name, err)
		}
	}
	if _, err := guide.New(ctx, a, a, config, 1); !errors.Is(err, architecture.ErrGuide) {
		t.Errorf("one model twice: error %v, want ErrConfig", err)
	}
	if _, err := guide.New(ctx, a, load(t, newEngine(t, 1), "gpt2"), config, 1); !errors.Is(err, architecture.ErrGuide) {
		t.Errorf("two engines: error %v, want ErrConfig", err)
	}
}

func TestRowsThatDoNotFit(t *testing.T) {
	eng := newEngine(t, 1)
	g := newGuide(t, eng, "llama", "gpt2", config, tensor.Float32)
	for name, rows := range map[string][]models.Sequence{
		"no response":   {{IDs: []int64{1, 2}, PromptLen: 2}},
		"no prompt":     {{IDs: []int64{1, 2}}},
		"too long":      {{IDs: make([]int64, g.MaxLength()+1), PromptLen: 2}},
		"token outside": {{IDs: []int64{1, 64}, PromptLen: 1}},
	} {
		err := eng.Do(context.Background(), func(s *tensor.Scope) error {
			g.Loss(s, rows, 1, models.Compute{})
			return nil
		})
		if !errors.Is(err, models.ErrSequence) {
			t.Errorf("%s: error %v, want ErrSequence", name, err)
		}
	}
	// Prefix and text together must fit the decoder.
	if got, want := g.MaxLength(), 128-config.PrefixTokens; got != want {
		t.Errorf("MaxLength is %d, want %d", got, want)
	}
	cfg := config
	cfg.Injection = architecture.InjectMemory
	if got := newGuide(t, eng, "llama", "gpt2", cfg, tensor.Float32).MaxLength(); got != 128 {
		t.Errorf("MaxLength with a memory is %d, want all 128 of the decoder's", got)
	}
}

// A description of a guide counts the numbers of the guide that it describes, and its guide.json reads as it was written.
func TestParametersAreThoseOfTheGuide(t *testing.T) {
	eng := newEngine(t, 1)
	for _, families := range [][2]string{{"llama", "gpt2"}, {"gpt2", "llama"}, {"llama", "llama"}} {
		for _, injection := range []string{"", architecture.InjectPrefix, architecture.InjectMemory, architecture.InjectEmbedding} {
			for _, pooling := range []string{architecture.PoolMean, architecture.PoolLast, architecture.PoolAttention} {
				for _, dropout := range []float64{0, 0.25} {
					cfg := config
					cfg.Injection, cfg.Pooling, cfg.WordDropout = injection, pooling, dropout
					g := newGuide(t, eng, families[0], families[1], cfg, tensor.Float32)
					var want int64
					do(t, eng, func(*tensor.Scope) error {
						for _, w := range g.Weights() {
							want += w.Tensor.Numel()
						}
						return nil
					})
					if got := g.Config().Parameters(); got != want {
						t.Errorf("%v, %+v: %d parameters, the guide has %d", families, cfg, got, want)
					}
					data, err := g.ConfigJSON()
					if err != nil {
						t.Fatal(err)
					}
					read, err := architecture.ParseGuide(data)
					if diff := cmp.Diff(g.Config(), read); diff != "" || err != nil {
						t.Errorf("%v, %+v: %v\n%s", families, cfg, err, diff)
					}
					if err := g.Close(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
}
