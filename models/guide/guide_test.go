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
	"github.com/ldalign/ldalign/models/guide"
	"github.com/ldalign/ldalign/models/tensor"
)

var config = guide.Config{
	LatentDim: 6, Pooling: guide.PoolMean, PrefixTokens: 2, WordDropout: 0.5, Reduction: guide.ReduceMean,
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
func newGuide(t testing.TB, eng *tensor.Engine, encoder, decoder string, cfg guide.Config, dtype tensor.DType) *guide.Guide {
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

// What a row gives is the same bits alone, among other neighbours, at another position and in a part-filled batch.
func TestGuideIsBatchInvariant(t *testing.T) {
	pad := models.PadRule{Rows: 8, Length: 24}
	rows, all := randomRows(1, pad.Rows, pad.Length), []int{0, 1, 2, 3, 4, 5, 6, 7}
	for _, threads := range []int{1, 2} {
		eng := newEngine(t, threads)
		for _, way := range [][2]string{
			{guide.PoolMean, guide.InjectPrefix}, {guide.PoolLast, guide.InjectMemory}, {guide.PoolAttention, guide.InjectEmbedding},
		} {
			pooling, cfg := way[0], config
			cfg.Pooling, cfg.Injection = way[0], way[1]
			g := newGuide(t, eng, "llama", "gpt2", cfg, tensor.Float32)
			compute := func(order []int) (latents, losses []float32) {
				var batch []models.Sequence
				var drop []uint64
				for _, i := range order {
					batch, drop = append(batch, rows[i]), append(drop, uint64(i))
				}
				do(t, eng, func(s *tensor.Scope) error {
					h := g.Encode(s, batch, pad)
					latents = h.Float32s()[:len(order)*cfg.LatentDim]
					losses = g.Reconstruct(s, batch, pad, h, drop).Float32s()[:len(order)]
					return nil
				})
				return latents, losses
			}
			latents, losses := compute(all)
			for _, order := range [][]int{{0}, {6}, {5, 2}, {7, 3, 3, 1}, {1, 1, 1, 1, 1, 1, 1, 1}, {4, 6, 2, 0, 7, 5, 3, 1}} {
				var wantLatents, wantLosses []float32
				for _, i := range order {
					wantLatents = append(wantLatents, latents[i*cfg.LatentDim:][:cfg.LatentDim]...)
					wantLosses = append(wantLosses, losses[i])
				}
				gotLatents, gotLosses := compute(order)
				if diff := cmp.Diff(wantLatents, gotLatents); diff != "" {
					t.Errorf("%d threads, %s, latents of rows %v (-among all +here):\n%s", threads, pooling, order, diff)
				}
				if diff := cmp.Diff(wantLosses, gotLosses); diff != "" {
					t.Errorf("%d threads, %s, losses of rows %v (-among all +here):\n%s", threads, pooling, order, diff)
				}
			}
		}
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
		{"llama", "gpt2", guide.PoolMean, "", guide.ReduceMean},
		{"gpt2", "mistral", guide.PoolLast, guide.InjectPrefix, guide.ReduceSum},
		{"llama", "gpt2", guide.PoolAttention, guide.InjectEmbedding, guide.ReduceMean},
		{"gpt2", "llama", guide.PoolMean, guide.InjectMemory, guide.ReduceSum},
		{"llama", "gpt2", guide.PoolMean, guide.InjectMemory, guide.ReduceSum},
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
				states := encoder.Hidden(s, encoder.Embed(s, ids)).Narrow(1, 3, 4).MeanDims(false, 1)
				if test.pooling == guide.PoolLast {
					states = encoder.Hidden(s, encoder.Embed(s, ids)).Select(1, 6)
				}
				if test.pooling == guide.PoolAttention {
					w := own["pooling.weight"] // 0 at first, which is the mean: here not
					for i := range w.Size(0) {
						w.Narrow(0, i, 1).Fill_(float64(i%5) - 2)
					}
					all := encoder.Hidden(s, encoder.Embed(s, ids)).Narrow(1, 3, 4)
					states = all.Mul(all.Matmul(w.Reshape(-1, 1)).Gelu().Softmax(1)).SumDims(false, 1)
				}
				h := states.Linear(own["latent.weight"], own["latent.bias"])
				pad := models.PadRule{Rows: 2, Length: 9}
				latents := g.Encode(s, []models.Sequence{row}, pad)
				compare(t, "latent", h.Float64s(), latents.Float64s()[:cfg.LatentDim])

				text := decoder.Embed(s, ids)
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
				case guide.InjectMemory:
					memory := own["memory.weight"].Matmul(h.Reshape(-1, 1)).Reshape(1, int64(decoder.Config().Layers), -1)
					seen = decoder.HiddenWith(s, in, memory)
				case guide.InjectEmbedding:
					seen = decoder.Hidden(s, in.Add(own["embedding.weight"].Matmul(h.Reshape(-1, 1)).Reshape(1, 1, -1)))
				default:
					offset = 2
					prefix := h.Linear(own["prefix.weight"], own["prefix.bias"]).Reshape(1, 2, -1)
					seen = decoder.Hidden(s, s.Cat(1, prefix, in))
				}
				logp := decoder.Logits(s, seen.Squeeze(0)).LogSoftmax(-1).Float64s()
				want := 0.0
				for i := 3; i < 7; i++ {
					want -= logp[(offset+i-1)*64+int(row.IDs[i])]
				}
				if test.reduction == guide.ReduceMean {
					want /= 4
				}
				got := g.Reconstruct(s, []models.Sequence{row}, pad, latents, drop)
				compare(t, "loss", []float64{want, 0}, got.Float64s())
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
		{"llama", "gpt2", guide.PoolMean, guide.InjectPrefix, guide.ReduceMean},
		{"gpt2", "llama-tied", guide.PoolLast, guide.InjectPrefix, guide.ReduceSum},
		{"llama-tied", "llama", guide.PoolAttention, guide.InjectMemory, guide.ReduceMean},
		{"gpt2", "gpt2", guide.PoolLast, guide.InjectMemory, guide.ReduceSum},
		{"gpt2", "llama", guide.PoolAttention, guide.InjectEmbedding, guide.ReduceMean},
	} {
		t.Run(test.encoder+" "+test.decoder+" "+test.pooling+" "+test.injection, func(t *testing.T) {
			eng := newEngine(t, 1)
			cfg := config
			cfg.Pooling, cfg.Injection, cfg.Reduction = test.pooling, test.injection, test.reduction
			g := newGuide(t, eng, test.encoder, test.decoder, cfg, tensor.Float64)
			if err := g.SetTrainable(context.Background(), true); err != nil {
				t.Fatal(err)
			}
			rows, pad := randomRows(5, 3, 12), models.PadRule{Rows: 4, Length: 12}
			loss := func(s *tensor.Scope) *tensor.Tensor { return g.Loss(s, rows, pad, 9).Sum() }
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
						element.AddScalar_(step)
						up := loss(s).Item()
						element.AddScalar_(-2 * step)
						down := loss(s).Item()
						element.AddScalar_(step)
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
		{guide.PoolMean, guide.InjectPrefix}, {guide.PoolAttention, guide.InjectMemory}, {guide.PoolLast, guide.InjectEmbedding},
	} {
		t.Run(way[0]+" "+way[1], func(t *testing.T) {
			cfg := config
			cfg.Pooling, cfg.Injection = way[0], way[1]
			trainingUsesTheLatent(t, cfg)
		})
	}
}

func trainingUsesTheLatent(t *testing.T, config guide.Config) {
	t.Helper()
	eng := newEngine(t, 1)
	ctx := context.Background()
	var parts []*models.Model
	for seed := range uint64(2) {
		m, err := models.Scratch(ctx, eng, models.Config{
			Family: models.Llama, Vocab: 16, Hidden: 32, Layers: 1, Heads: 2, Intermediate: 48, MaxPositions: 16, TieEmbeddings: true,
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
	pad := models.PadRule{Rows: 4, Length: 8}
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
				g.Loss(s, rows, pad, uint64(step*100)).Mean().Backward()
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
			own, shuffled := g.ShuffledLoss(s, rows, pad)
			mine, other := own.Mean().Item(), shuffled.Mean().Item()
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
	if err := os.WriteFile(filepath.Join(dir, guide.ConfigFile), data, 0o644); err != nil {
		t.Fatal(err)
	}
	var weights bytes.Buffer
	if err := g.WriteWeights(context.Background(), &weights); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, guide.WeightsFile), weights.Bytes(), 0o644); err != nil {
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
	for _, change := range []func(*guide.Config){
		func(c *guide.Config) { c.WordDropout = 0 },
		func(c *guide.Config) { c.Injection = guide.InjectPrefix },
		func(c *guide.Config) { c.Injection, c.Pooling = guide.InjectMemory, guide.PoolAttention },
		func(c *guide.Config) { c.Injection, c.PrefixTokens = guide.InjectEmbedding, 0 },
	} {
		cfg, dir := config, t.TempDir()
		change(&cfg)
		g := newGuide(t, eng, "llama", "gpt2", cfg, tensor.Float32)
		save(t, g, dir)
		again, err := guide.Load(ctx, eng, dir)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(g.Config(), again.Config()); diff != "" {
			t.Errorf("config (-saved +loaded):\n%s", diff)
		}
		if diff := cmp.Diff(weightsOf(t, g), weightsOf(t, again)); diff != "" {
			t.Errorf("weights (-saved +loaded):\n%s", diff)
		}
		other := newGuide(t, eng, "llama", "gpt2", cfg, tensor.Float32)
		do(t, eng, func(*tensor.Scope) error {
			for _, p := range other.Params() {
				p.Tensor.Fill_(1)
			}
			return nil
		})
		if err := other.LoadWeights(ctx, filepath.Join(dir, guide.WeightsFile)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(weightsOf(t, g), weightsOf(t, other)); diff != "" {
			t.Errorf("weights (-saved +replaced):\n%s", diff)
		}
		if err := errors.Join(g.Close(ctx), again.Close(ctx), other.Close(ctx)); err != nil {
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
		path := filepath.Join(dir, guide.ConfigFile)
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
		{"unknown key", func(f map[string]map[string]any) { f["guide"]["latents"] = 3 }, guide.ErrConfig, "latents"},
		{"pooling", func(f map[string]map[string]any) { f["guide"]["pooling"] = "max" }, guide.ErrConfig, "max"},
		{"latent size", func(f map[string]map[string]any) { f["guide"]["latent_dim"] = 7 }, models.ErrWeights, "latent.weight"},
		{"encoder's family", func(f map[string]map[string]any) { f["encoder"]["model_type"] = "bert" }, models.ErrConfig, "bert"},
		{"encoder's size", func(f map[string]map[string]any) {
			f["encoder"]["num_hidden_layers"] = 1
		}, models.ErrWeights, "encoder"},
		{"decoder's size", func(f map[string]map[string]any) { f["decoder"]["n_layer"] = 3 }, models.ErrWeights, "decoder"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := edit(test.change)
			_, err := guide.Load(ctx, eng, dir)
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.tells) || !strings.Contains(err.Error(), dir) {
				t.Errorf("error %v, want %v that tells %q and the folder", err, test.want, test.tells)
			}
			if n := eng.Live(); n != live {
				t.Errorf("%d tensors live afterwards, %d before", n, live)
			}
		})
	}
	if _, err := guide.Load(ctx, eng, t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty folder: error %v, want fs.ErrNotExist", err)
	}
	before := weightsOf(t, g)
	other, dir := newGuide(t, eng, "llama", "llama", config, tensor.Float32), t.TempDir()
	save(t, other, dir)
	if err := g.LoadWeights(ctx, filepath.Join(dir, guide.WeightsFile)); !errors.Is(err, models.ErrWeights) {
		t.Errorf("weights of another guide: error %v, want ErrWeights", err)
	}
	if diff := cmp.Diff(before, weightsOf(t, g)); diff != "" {
		t.Errorf("a refused file changed the guide:\n%s", diff)
	}
}

func TestNewRefuses(t *testing.T) {
	eng, ctx := newEngine(t, 1), context.Background()
	a, b := load(t, eng, "llama"), load(t, eng, "gpt2")
	for name, change := range map[string]func(c *guide.Config){
		"no latent":     func(c *guide.Config) { c.LatentDim = 0 },
		"injection":     func(c *guide.Config) { c.Injection = "drip" },
		"no prefix":     func(c *guide.Config) { c.PrefixTokens = 0 },
		"long prefix":   func(c *guide.Config) { c.PrefixTokens = 128 },
		"pooling":       func(c *guide.Config) { c.Pooling = "" },
		"reduction":     func(c *guide.Config) { c.Reduction = "max" },
		"full dropout":  func(c *guide.Config) { c.WordDropout = 1 },
		"dropout below": func(c *guide.Config) { c.WordDropout = -0.1 },
	} {
		cfg := config
		change(&cfg)
		if _, err := guide.New(ctx, a, b, cfg, 1); !errors.Is(err, guide.ErrConfig) {
			t.Errorf("%s: error %v, want ErrConfig", name, err)
		}
	}
	if _, err := guide.New(ctx, a, a, config, 1); !errors.Is(err, guide.ErrConfig) {
		t.Errorf("one model twice: error %v, want ErrConfig", err)
	}
	if _, err := guide.New(ctx, a, load(t, newEngine(t, 1), "gpt2"), config, 1); !errors.Is(err, guide.ErrConfig) {
		t.Errorf("two engines: error %v, want ErrConfig", err)
	}
}

func TestRowsThatDoNotFit(t *testing.T) {
	eng := newEngine(t, 1)
	g := newGuide(t, eng, "llama", "gpt2", config, tensor.Float32)
	pad := models.PadRule{Rows: 2, Length: 4}
	for name, rows := range map[string][]models.Sequence{
		"no response":   {{IDs: []int64{1, 2}, PromptLen: 2}},
		"no prompt":     {{IDs: []int64{1, 2}}},
		"too long":      {{IDs: []int64{1, 2, 3, 4, 5}, PromptLen: 2}},
		"too many rows": randomRows(1, 3, 4),
	} {
		err := eng.Do(context.Background(), func(s *tensor.Scope) error {
			g.Loss(s, rows, pad, 1)
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
	cfg.Injection = guide.InjectMemory
	if got := newGuide(t, eng, "llama", "gpt2", cfg, tensor.Float32).MaxLength(); got != 128 {
		t.Errorf("MaxLength with a memory is %d, want all 128 of the decoder's", got)
	}
	err := eng.Do(context.Background(), func(s *tensor.Scope) error {
		g.Loss(s, randomRows(1, 1, 4), models.PadRule{Rows: 1, Length: g.MaxLength() + 1}, 1)
		return nil
	})
	if err == nil {
		t.Error("a batch longer than MaxLength has a loss")
	}
}
