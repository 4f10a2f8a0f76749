package tensor_test

import (
	stdcmp "cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
)

// onEngine runs f on an engine of its own and fails the test on an error.
func onEngine(t *testing.T, threads int, f func(s *tensor.Scope) error) {
	t.Helper()
	e, err := tensor.NewEngine(tensor.Options{Threads: threads})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if err := e.Do(context.Background(), f); err != nil {
		t.Fatal(err)
	}
}

func alike(t *testing.T, what string, want, got *tensor.Tensor, tolerance float64) {
	t.Helper()
	if diff := cmp.Diff(want.Shape(), got.Shape()); diff != "" {
		t.Errorf("%s: shape (-want +got):\n%s", what, diff)
		return
	}
	w, g := want.Float64s(), got.Float64s()
	for i := range w {
		if !(math.Abs(w[i]-g[i]) <= tolerance*(1+math.Abs(w[i]))) {
			t.Errorf("%s: element %d is %g, want %g", what, i, g[i], w[i])
			return
		}
	}
}

func TestPackedLinear(t *testing.T) {
	for _, threads := range []int{1, 2} {
		onEngine(t, threads, func(s *tensor.Scope) error {
			random := normals(1)
			for _, shape := range [][2]int64{{1, 1}, {16, 8}, {17, 7}, {80, 224}, {96, 193}, {500, 576}, {576, 1536}} {
				out, in := shape[0], shape[1]
				w, b := random.draw(s, tensor.Float32, out, in), random.draw(s, tensor.Float32, out)
				p := w.Pack()
				x := random.draw(s, tensor.Float32, 41, in).MulScalar(1 / math.Sqrt(float64(in)))
				whole := x.PackedLinear(p, b)
				alike(t, fmt.Sprint(shape), x.To(tensor.Float64).Linear(w.To(tensor.Float64), b.To(tensor.Float64)), whole, 2e-6)
				alike(t, fmt.Sprint(shape, " transposed"), whole, x.PackedLinear(w.Transpose(0, 1).Contiguous().Transpose(0, 1).Pack(), b), 0)
				// Any rows, anywhere: the same bits.
				for _, part := range [][2]int64{{0, 1}, {40, 1}, {7, 2}, {3, 5}, {0, 8}, {9, 31}} {
					alike(t, fmt.Sprint(shape, " rows ", part), whole.Narrow(0, part[0], part[1]),
						x.Narrow(0, part[0], part[1]).PackedLinear(p, b), 0)
				}
				ids := s.FromInt64([]int64{0, out - 1, out / 2}, 3, 1)
				alike(t, "rows", w.Embedding(ids), p.Rows(ids), 0)

				half := w.To(tensor.BFloat16)
				if got := half.Pack(); got.Bytes() != (out+15)/16*16*in*2 {
					t.Errorf("a packed bfloat16 matrix takes %d bytes", got.Bytes())
				}
				alike(t, fmt.Sprint(shape, " bfloat16"), x.PackedLinear(half.To(tensor.Float32).Pack(), nil),
					x.PackedLinear(half.Pack(), nil), 0)
				alike(t, "bfloat16 rows", half.To(tensor.Float32).Embedding(ids), half.Pack().Rows(ids), 0)
			}
			return nil
		})
	}
}

// Two engines with another number of threads give the same bits.
func TestPackedLinearDoesNotDependOnThreads(t *testing.T) {
	var results [][]float32
	for _, threads := range []int{1, 2} {
		onEngine(t, threads, func(s *tensor.Scope) error {
			rng := rand.New(rand.NewPCG(1, 2))
			data := make([]float32, 600*200+9*200)
			for i := range data {
				data[i] = float32(rng.NormFloat64())
			}
			w, x := s.FromFloat32(data[:600*200], 600, 200), s.FromFloat32(data[600*200:], 9, 200)
			results = append(results, x.PackedLinear(w.Pack(), nil).Float32s())
			return nil
		})
	}
	if diff := cmp.Diff(results[0], results[1]); diff != "" {
		t.Errorf("1 and 2 threads (-1 +2):\n%s", diff)
	}
}

func TestTokenFunctionsEqualTheGeneralOnes(t *testing.T) {
	onEngine(t, 2, func(s *tensor.Scope) error {
		random := normals(1)
		for _, d := range []int64{1, 5, 16, 20, 576} {
			x, w := random.draw(s, tensor.Float32, 7, 1, d), random.draw(s, tensor.Float32, d)
			alike(t, "rms norm", x.RMSNorm(w, 1e-5), x.TokenRMSNorm(w, 0, 1e-5), 1e-5)
			alike(t, "rms norm with an offset", x.RMSNorm(w.AddScalar(1), 1e-6), x.TokenRMSNorm(w, 1, 1e-6), 1e-5)
			a, b := random.draw(s, tensor.Float32, 3, d).MulScalar(20), random.draw(s, tensor.Float32, 3, d)
			alike(t, "SiLU", a.Silu().Mul(b), a.TokenSiluMul(b), 1e-5)
			alike(t, "GELU", a.GeluTanh().Mul(b), a.TokenGeluTanhMul(b), 1e-5)
		}
		x := random.draw(s, tensor.Float32, 3, 1, 2, 6)
		cos, sin := random.draw(s, tensor.Float32, 9, 6), random.draw(s, tensor.Float32, 9, 6)
		at := s.FromInt64([]int64{8, 0, 3}, 3)
		pick := func(table *tensor.Tensor) *tensor.Tensor { return table.IndexSelect(0, at).Reshape(3, 1, 1, 6) }
		alike(t, "rotate", x.Mul(pick(cos)).Add(x.Roll(3, -1).Mul(pick(sin))), x.TokenRotate(cos, sin, at), 1e-6)
		return nil
	})
}

// A cache gives what attention over the whole sequence gives, at any place of a ring, in steps of any size, by the
// kernel (Float32), by libtorch's operations (Float64), and in the form for GPUs.
func TestTokenCache(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		length := rapid.Int64Range(1, 90).Draw(rt, "length")
		window := rapid.SampledFrom([]int64{0, 0, 1, 5, 33}).Draw(rt, "window")
		heads := rapid.Int64Range(1, 2).Draw(rt, "heads")
		groups := rapid.Int64Range(1, 7).Draw(rt, "groups")
		dim := rapid.SampledFrom([]int64{2, 8, 20, 64}).Draw(rt, "dim")
		burst := rapid.Int64Range(1, 40).Draw(rt, "burst")
		dtype := rapid.SampledFrom([]tensor.DType{tensor.Float32, tensor.Float32, tensor.Float64}).Draw(rt, "type")
		fused := rapid.Bool().Draw(rt, "in the form for GPUs")
		onEngine(t, 2, func(s *tensor.Scope) error {
			random := normals(1)
			q := random.draw(s, dtype, length, heads*groups, 1, dim)
			k, v := random.draw(s, dtype, length, heads, 1, dim), random.draw(s, dtype, length, heads, 1, dim)
			columns := length
			if window > 0 {
				columns = min(length, window+burst-1)
			}
			c := s.NewTokenCache(dtype, 3, heads, dim, columns)
			if fused {
				c = s.FusedTokenCache(dtype, 3, heads, dim, columns)
			}
			defer c.Free()
			var parts []*tensor.Tensor
			for at := int64(0); at < length; at += burst {
				n := min(burst, length-at)
				slots, positions := make([]int64, n), make([]int64, n)
				for i := range n {
					slots[i], positions[i] = 1, at+i
				}
				rows := s.TokenRows(slots, positions)
				c.Store(k.Narrow(0, at, n), v.Narrow(0, at, n), rows)
				parts = append(parts, c.Attend(q.Narrow(0, at, n), rows, window, 0.3))
			}
			mask := s.Ones(tensor.Float64, length, length).Tril(0)
			if window > 0 {
				mask = mask.Triu(1 - window)
			}
			whole := func(x *tensor.Tensor) *tensor.Tensor {
				x = x.To(tensor.Float64).Squeeze(2).Transpose(0, 1).Unsqueeze(0) // [1, heads, T, D]
				return x.RepeatInterleave(heads*groups/x.Size(1), 1)
			}
			scores := whole(q).Matmul(whole(k).Transpose(2, 3)).MulScalar(0.3)
			scores = scores.MaskedFill(mask.EqScalar(0), math.Inf(-1))
			want := scores.Softmax(-1).Matmul(whole(v)).Squeeze(0).Transpose(0, 1).Unsqueeze(2)
			alike(t, "attention", want, s.Cat(0, parts...), 1e-5)
			return nil
		})
	})
}

// What a token attends to does not change its bits when others attend beside it.
func TestTokenCacheIsBatchInvariant(t *testing.T) {
	onEngine(t, 2, func(s *tensor.Scope) error {
		random := normals(1)
		const rows, length = 5, 70
		c := s.NewTokenCache(tensor.Float32, rows, 2, 20, length)
		defer c.Free()
		at := func(slot, position int64) tensor.TokenRows { return s.TokenRows([]int64{slot}, []int64{position}) }
		for slot := range int64(rows) {
			for p := range int64(length) {
				c.Store(random.draw(s, tensor.Float32, 1, 2, 1, 20), random.draw(s, tensor.Float32, 1, 2, 1, 20), at(slot, p))
			}
		}
		q := random.draw(s, tensor.Float32, rows, 6, 1, 20)
		slots, positions := []int64{4, 0, 2, 1, 3}, []int64{69, 3, 31, 32, 64}
		together := c.Attend(q, s.TokenRows(slots, positions), 0, 0.2)
		for i := range int64(rows) {
			alike(t, "alone", together.Narrow(0, i, 1), c.Attend(q.Narrow(0, i, 1), at(slots[i], positions[i]), 0, 0.2), 0)
		}
		return nil
	})
}

// The form for GPUs, where a step has rows in any order, runs of some, single tokens and unused ones: it gives what the kernel gives.
func TestFusedTokenCache(t *testing.T) {
	const slots, length = 6, 40
	onEngine(t, 2, func(s *tensor.Scope) error {
		random := normals(1)
		kernel := s.NewTokenCache(tensor.Float32, slots, 2, 20, length)
		fused := s.FusedTokenCache(tensor.Float32, slots, 2, 20, length)
		defer kernel.Free()
		defer fused.Free()
		next := make([]int64, slots)
		for step, counts := range [][]int64{ // the slot and how many of its tokens
			{2, 5, 0, 1, 4, 7}, {2, 1, 0, 1, 4, 1}, {0, 1, 1, 1, 2, 1, 3, 1, 4, 1}, {1, 3, 5, 1, 5, 1, 5, 1}, {4, 20, 3, 1},
		} {
			var at, positions []int64
			for i := 0; i < len(counts); i += 2 {
				for range counts[i+1] {
					if counts[i] == 5 { // unused, as in a step that is filled up
						next[5] = 0
					}
					at, positions = append(at, counts[i]), append(positions, next[counts[i]])
					next[counts[i]]++
				}
			}
			m := int64(len(at))
			rows := s.TokenRows(at, positions)
			q := random.draw(s, tensor.Float32, m, 6, 1, 20)
			k, v := random.draw(s, tensor.Float32, m, 2, 1, 20), random.draw(s, tensor.Float32, m, 2, 1, 20)
			kernel.Store(k, v, rows)
			fused.Store(k, v, rows)
			used := m
			if step == 3 {
				used -= 3
			}
			want, got := kernel.Attend(q, rows, 0, 0.2), fused.Attend(q, rows, 0, 0.2)
			alike(t, fmt.Sprint("step ", step), want.Narrow(0, 0, used), got.Narrow(0, 0, used), 1e-5)
		}
		return nil
	})
}

func TestLogSoftmaxAt(t *testing.T) {
	onEngine(t, 2, func(s *tensor.Scope) error {
		random := normals(1)
		for _, v := range []int64{1, 3, 8, 515, 49152} {
			x := random.draw(s, tensor.Float32, 4, v).MulScalar(30)
			at := s.FromInt64([]int64{0, v - 1, v / 2, v / 3}, 4)
			want := x.To(tensor.Float64).LogSoftmax(-1).Gather(1, at.Unsqueeze(1)).Squeeze(1)
			alike(t, "float32", want, x.LogSoftmaxAt(at), 1e-6)
			alike(t, "float64", want, x.To(tensor.Float64).LogSoftmaxAt(at), 1e-12)
		}
		bad := s.FromFloat32([]float32{1, float32(math.NaN()), float32(math.Inf(1)), 2, 3, 4}, 3, 2)
		got := bad.LogSoftmaxAt(s.FromInt64([]int64{0, 0, 0}, 3)).Float64s()
		if !math.IsNaN(got[0]) || !math.IsNaN(got[1]) || math.IsNaN(got[2]) {
			t.Errorf("rows with NaN, Inf and finite numbers: %v", got)
		}
		return nil
	})
}

// kept are the tokens, most probable first, with their probabilities, that the settings leave of a row: the definition,
// in float64 and without any haste.
func kept(logits []float32, o tensor.Draw) (tokens []int, p []float64) {
	x := make([]float64, len(logits))
	for i, l := range logits {
		x[i] = float64(l)
		if slices.Contains(o.Seen, int64(i)) {
			if x[i] < 0 {
				x[i] *= o.RepetitionPenalty
			} else {
				x[i] /= o.RepetitionPenalty
			}
		}
		for _, b := range o.Bias {
			if b.Token == int64(i) {
				x[i] += float64(b.Value)
			}
		}
		x[i] /= o.Temperature
		tokens = append(tokens, i)
	}
	slices.SortStableFunc(tokens, func(a, b int) int {
		switch {
		case x[a] > x[b]:
			return -1
		case x[a] < x[b]:
			return 1
		}
		return 0
	})
	most := x[tokens[0]]
	if o.TopK > 0 && o.TopK < len(tokens) {
		tokens = tokens[:o.TopK]
	}
	total := 0.0
	for _, i := range tokens {
		total += math.Exp(x[i] - most)
	}
	before := 0.0
	for n, i := range tokens {
		w := math.Exp(x[i] - most)
		if (n > 0 && before >= o.TopP*total) || w < o.MinP {
			tokens = tokens[:n]
			break
		}
		before += w
		p = append(p, w)
	}
	for i := range p {
		p[i] /= before
	}
	return tokens, p
}

// evenly are draws by the same settings, spread evenly over [0, 1).
func evenly(o tensor.Draw, n int) []tensor.Draw {
	draws := slices.Repeat([]tensor.Draw{o}, n)
	for i := range draws {
		draws[i].U = (float64(i) + 0.5) / float64(n)
	}
	return draws
}

// With many draws spread evenly over [0, 1), the share of each token is its probability, and no other token appears.
func TestSampleFollowsTheDefinition(t *testing.T) {
	const draws = 4000
	rapid.Check(t, func(rt *rapid.T) {
		v := rapid.IntRange(2, 70).Draw(rt, "vocabulary")
		o := tensor.Draw{
			Temperature:       rapid.SampledFrom([]float64{0.3, 1, 2}).Draw(rt, "temperature"),
			TopK:              rapid.SampledFrom([]int{0, 0, 1, 3, 1000}).Draw(rt, "top-k"),
			TopP:              rapid.SampledFrom([]float64{1, 1, 0.9, 0.5, 1e-9}).Draw(rt, "top-p"),
			MinP:              rapid.SampledFrom([]float64{0, 0, 0.1, 1}).Draw(rt, "min-p"),
			RepetitionPenalty: rapid.SampledFrom([]float64{1, 1.3}).Draw(rt, "penalty"),
			Seen:              []int64{0, int64(v - 1), 0},
		}
		for range rapid.IntRange(0, 2).Draw(rt, "biases") {
			o.Bias = append(o.Bias, tensor.Scored{
				Token: rapid.Int64Range(0, int64(v-1)).Draw(rt, "biased"), Value: rapid.SampledFrom([]float32{-100, -1.5, 2}).Draw(rt, "bias"),
			})
		}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		logits := make([]float32, v)
		for i := range logits {
			logits[i] = float32(3 * rng.NormFloat64())
		}
		tokens, p := kept(logits, o)
		onEngine(t, 2, func(s *tensor.Scope) error {
			x := s.FromFloat32(logits, 1, int64(v))
			count := make([]int, v)
			plain := x.To(tensor.Float64).LogSoftmax(-1).Float64s()
			for _, got := range x.RepeatInterleave(draws, 0).Sample(evenly(o, draws)) {
				count[got.Token]++
				if math.Abs(float64(got.LogProb)-plain[got.Token]) > 1e-4 {
					rt.Fatalf("token %d: log-probability %g, want %g", got.Token, got.LogProb, plain[got.Token])
				}
			}
			for n, token := range tokens {
				if d := math.Abs(float64(count[token])/draws - p[n]); d > 2.0/draws+1e-5 {
					rt.Fatalf("%+v: token %d was drawn %d times of %d, its probability is %g", o, token, count[token], draws, p[n])
				}
				count[token] = 0
			}
			for token, n := range count {
				if n > 1 { // one: a weight at the very edge of a cut
					rt.Fatalf("%+v: token %d was drawn %d times and is cut off", o, token, n)
				}
			}
			o.Temperature = 0
			best := x.Sample([]tensor.Draw{o})[0].Token
			o.Temperature = 1
			if want, _ := kept(logits, o); int(best) != want[0] {
				rt.Fatalf("greedy: %d, want %d", best, want[0])
			}
			return nil
		})
	})
}

// What the settings leave of a distribution is what the processors of transformers leave (testdata/make_sampling.py).
func TestSampleIsThatOfTransformers(t *testing.T) {
	const draws = 20000
	data, err := os.ReadFile("testdata/sampling.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Seen  []int64
		Cases []struct {
			Temperature       float64
			TopK              int     `json:"top_k"`
			TopP              float64 `json:"top_p"`
			MinP              float64 `json:"min_p"`
			RepetitionPenalty float64 `json:"repetition_penalty"`
			Logits            []float32
			P                 []float64
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	onEngine(t, 2, func(s *tensor.Scope) error {
		for i, c := range file.Cases {
			o := tensor.Draw{
				Temperature: stdcmp.Or(c.Temperature, 1), TopK: c.TopK, TopP: stdcmp.Or(c.TopP, 1), MinP: c.MinP,
				RepetitionPenalty: stdcmp.Or(c.RepetitionPenalty, 1), Seen: file.Seen,
			}
			x := s.FromFloat32(c.Logits, 1, int64(len(c.Logits))).RepeatInterleave(draws, 0)
			share := make([]float64, len(c.P))
			for _, got := range x.Sample(evenly(o, draws)) {
				share[got.Token] += 1.0 / draws
			}
			for token, p := range c.P {
				if math.Abs(share[token]-p) > 1.5/draws || (p == 0 && share[token] > 0) {
					t.Errorf("case %d, %+v: token %d has a share of %g, transformers leaves it %g", i, o, token, share[token], p)
				}
			}
		}
		return nil
	})
}

func TestSampleTellsOfNumbersThatAreNotFinite(t *testing.T) {
	onEngine(t, 1, func(s *tensor.Scope) error {
		x := s.FromFloat32([]float32{1, float32(math.NaN()), 2, float32(math.Inf(-1)), 5, 6}, 3, 2)
		plain := tensor.Draw{TopP: 1, RepetitionPenalty: 1, Top: 2}
		got := x.Sample([]tensor.Draw{plain, plain, plain})
		if got[0].Token != -1 || got[1].Token != -1 || got[2].Token != 1 || got[0].LogProb == got[0].LogProb || got[0].Top != nil {
			t.Errorf("drawn %v", got)
		}
		overflow := tensor.Draw{TopP: 1, RepetitionPenalty: 1e-38, Seen: []int64{1}}
		if got := s.FromFloat32([]float32{1, 2e9}, 1, 2).Sample([]tensor.Draw{overflow}); got[0].Token != -1 {
			t.Errorf("a penalty that overflows: drawn %v", got)
		}
		return nil
	})
}

// Rows with settings of their own are what each is alone, and list the most probable tokens of the untouched logits.
func TestSampleTakesSettingsByRow(t *testing.T) {
	onEngine(t, 2, func(s *tensor.Scope) error {
		const rows, v = 6, 50
		x := normals(1).draw(s, tensor.Float32, rows, v)
		x.Narrow(1, 7, 1).Copy_(x.Narrow(1, 3, 1)) // equal ones, for the order of the list
		draws := []tensor.Draw{
			{TopP: 1, RepetitionPenalty: 1, Top: 3},
			{Temperature: 1, TopP: 0.9, RepetitionPenalty: 1.5, Seen: []int64{1, 2, 2}, U: 0.3},
			{Temperature: 2, TopK: 5, TopP: 1, RepetitionPenalty: 1, Bias: []tensor.Scored{{Token: 4, Value: 9}, {Token: 4, Value: 1}}, U: 0.5, Top: 60},
			{TopP: 1, RepetitionPenalty: 1, Bias: []tensor.Scored{{Token: 9, Value: 100}}},
			{Temperature: 0.5, TopP: 1, MinP: 0.2, RepetitionPenalty: 1, U: 0.99, Top: 1},
			{Temperature: 1, TopP: 1, RepetitionPenalty: 0.5, Seen: []int64{0}, Bias: []tensor.Scored{{Token: 0, Value: -100}}, U: 0},
		}
		together := x.Sample(draws)
		for i := range draws {
			if diff := cmp.Diff(x.Narrow(0, int64(i), 1).Sample(draws[i : i+1])[0], together[i]); diff != "" {
				t.Errorf("row %d (-alone +together):\n%s", i, diff)
			}
			logps := x.Narrow(0, int64(i), 1).LogSoftmaxAt(s.FromInt64([]int64{together[i].Token}, 1)).Float32s()
			if together[i].LogProb != logps[0] {
				t.Errorf("row %d: log-probability %g, want %g", i, together[i].LogProb, logps[0])
			}
		}
		if together[3].Token != 9 || together[5].Token == 0 {
			t.Errorf("biased rows drew %d and %d, want 9 and not 0", together[3].Token, together[5].Token)
		}
		if len(together[0].Top) != 3 || len(together[1].Top) != 0 || len(together[2].Top) != v || together[0].Top[0].Token != together[0].Token {
			t.Errorf("lists of %d, %d and %d tokens", len(together[0].Top), len(together[1].Top), len(together[2].Top))
		}
		row := x.Narrow(0, 2, 1).Float32s()
		if !slices.IsSortedFunc(together[2].Top, func(a, b tensor.Scored) int {
			return stdcmp.Or(stdcmp.Compare(row[b.Token], row[a.Token]), stdcmp.Compare(a.Token, b.Token))
		}) {
			t.Errorf("the list is not in order: %v", together[2].Top)
		}
		return nil
	})
}

func TestByTokenRefusesWhatDoesNotFit(t *testing.T) {
	for name, f := range map[string]func(s *tensor.Scope){
		"a vector is no matrix": func(s *tensor.Scope) { s.Ones(tensor.Float32, 3).Pack() },
		"another width": func(s *tensor.Scope) {
			s.Ones(tensor.Float32, 2, 5).PackedLinear(s.Ones(tensor.Float32, 4, 6).Pack(), nil)
		},
		"another type": func(s *tensor.Scope) {
			s.Ones(tensor.Float64, 2, 6).PackedLinear(s.Ones(tensor.Float32, 4, 6).Pack(), nil)
		},
		"an id behind the end": func(s *tensor.Scope) {
			s.Ones(tensor.Float32, 4, 6).Pack().Rows(s.FromInt64([]int64{4}, 1))
		},
		"a slot that is not there": func(s *tensor.Scope) {
			c := s.NewTokenCache(tensor.Float32, 1, 1, 4, 8)
			defer c.Free()
			k := s.Ones(tensor.Float32, 1, 1, 1, 4)
			c.Store(k, k, s.TokenRows([]int64{1}, []int64{0}))
		},
		"a target behind the vocabulary": func(s *tensor.Scope) {
			s.Ones(tensor.Float32, 1, 4).LogSoftmaxAt(s.FromInt64([]int64{4}, 1))
		},
		"a seen token behind the vocabulary": func(s *tensor.Scope) {
			s.Ones(tensor.Float32, 1, 4).Sample([]tensor.Draw{{TopP: 1, RepetitionPenalty: 2, Seen: []int64{4}}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t, 1)
			err := e.Do(context.Background(), func(s *tensor.Scope) error {
				f(s)
				return nil
			})
			if err == nil {
				t.Error("no error")
			}
		})
	}
}

// A configuration knows the memory of a cache, as it is: columns and widths rounded up to what the kernels read.
func TestCacheBytesAreThoseOfTheCache(t *testing.T) {
	onEngine(t, 1, func(s *tensor.Scope) error {
		for file, d := range map[safetensors.DType]tensor.DType{safetensors.F32: tensor.Float32, safetensors.BF16: tensor.BFloat16} {
			for _, dim := range []int{2, 8, 20, 64} {
				for _, length := range []int{1, 31, 32, 33, 128} {
					c := s.NewTokenCache(d, 4, 3, int64(dim), int64(length))
					config := architecture.Config{Layers: 1, KVHeads: 3, HeadDim: dim}
					want := config.CacheBytes(file, architecture.CacheSize{Slots: 3, Length: length, Burst: 1})
					if got := c.Bytes(); got != want {
						t.Errorf("%d positions of width %d in %v: %d bytes, the configuration says %d", length, dim, d, got, want)
					}
					c.Free()
				}
			}
		}
		return nil
	})
}
