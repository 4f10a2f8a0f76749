package trainer

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
)

// ProbeFile holds the guide's Probe at the end of its training, as JSON.
const ProbeFile = "probe.json"

// How many pairs a probe looks at: while the guide is trained, and at the end.
const (
	probeWhile = 64
	probeAtEnd = 256
)

// Probe says whether a guide is of use, by the first pairs that it is trained from.
type Probe struct {
	// Pairs is how many were looked at.
	Pairs int `json:"pairs"`
	// True and Shuffled are the mean reconstruction losses of y' by its own latent and by that of another prompt's y', without
	// word dropout, in nats (a token, or a sequence with guide.reduction: sum). Without a gap between them the decoder
	// ignores the latent, and distances mean nothing.
	True     float64 `json:"reconstruction"`
	Shuffled float64 `json:"reconstruction_shuffled"`
	// Distance is the mean of ||h - h'|| over pairs whose responses differ, and Norm the mean of ||h||.
	Distance float64 `json:"distance_mean"`
	Norm     float64 `json:"latent_norm"`
	// Identical is the share of pairs whose responses are the same.
	Identical float64 `json:"identical_share"`
	// Distances are ||h - h'|| of the pairs, in their order; only of a probe at the end.
	Distances []float64 `json:"distances,omitempty"`
}

// Gap is how much worse another prompt's latent is than the own.
func (p Probe) Gap() float64 { return p.Shuffled - p.True }

// Collapsed says what is wrong with the guide; empty when nothing is seen.
func (p Probe) Collapsed() string {
	switch {
	case p.Pairs > 1 && p.Gap() <= 0:
		return fmt.Sprintf("its decoder ignores the latent (reconstruction %.4f by the own latent, %.4f by another's): train it "+
			"longer or at a higher guide.optimizer.lr, raise guide.word_dropout, or start from a fresh decoder (scratch:2)",
			p.True, p.Shuffled)
	case p.Identical < 1 && !(p.Distance > 1e-3*p.Norm):
		return fmt.Sprintf("its latents are all but equal (mean distance %.3g of latents with norm %.3g): train it longer or at "+
			"a higher guide.optimizer.lr", p.Distance, p.Norm)
	}
	return ""
}

// metrics are the probe's figures in the guide's manifest.
func (p Probe) metrics() []checkpoints.Metric {
	list := []checkpoints.Metric{
		{Name: "reconstruction", Value: p.True},
		{Name: "reconstruction_shuffled", Value: p.Shuffled},
		{Name: "distance_mean", Value: p.Distance},
	}
	sorted := slices.Sorted(slices.Values(p.Distances))
	for _, q := range []struct {
		name  string
		share float64
	}{{"distance_p10", 0.1}, {"distance_p50", 0.5}, {"distance_p90", 0.9}} {
		if n := len(sorted); n > 0 {
			list = append(list, checkpoints.Metric{Name: q.name, Value: sorted[int(q.share*float64(n-1)+0.5)]})
		}
	}
	return append(list, checkpoints.Metric{Name: "latent_norm", Value: p.Norm},
		checkpoints.Metric{Name: "identical_share", Value: p.Identical},
		checkpoints.Metric{Name: "probe_pairs", Value: float64(p.Pairs)})
}

// ReadProbe reads what ProbeFile holds.
func ReadProbe(data []byte) (Probe, error) {
	var p Probe
	if err := json.Unmarshal(data, &p); err != nil {
		return p, fmt.Errorf("trainer: %s: %w", ProbeFile, err)
	}
	return p, nil
}

func (p Probe) source() (checkpoints.Source, error) {
	data, err := json.Marshal(p)
	return checkpoints.FromBytes(ProbeFile, append(data, '\n')), err
}

// probe looks at up to most pairs.
func (t *guideTask) probe(ctx context.Context, engine *tensor.Engine, most int) (p Probe, err error) {
	p.Pairs = min(len(t.chosen), most)
	if p.True, p.Shuffled, err = t.reconstruction(ctx, engine, p.Pairs); err != nil {
		return p, err
	}
	chosen, err := t.latents(ctx, engine, t.chosen[:p.Pairs])
	if err != nil {
		return p, err
	}
	rejected, err := t.latents(ctx, engine, t.rejected[:p.Pairs])
	if err != nil {
		return p, err
	}
	differing := 0
	for i, h := range chosen {
		var squares, norm float64
		for k, x := range h {
			d := float64(x) - float64(rejected[i][k])
			squares += d * d
			norm += float64(x) * float64(x)
		}
		p.Distances = append(p.Distances, math.Sqrt(squares))
		p.Norm += math.Sqrt(norm)
		if !slices.Equal(t.chosen[i].IDs, t.rejected[i].IDs) {
			differing++
			p.Distance += math.Sqrt(squares)
		}
	}
	p.Norm /= float64(max(p.Pairs, 1))
	p.Distance /= float64(max(differing, 1))
	p.Identical = 1 - float64(differing)/float64(max(p.Pairs, 1))
	return p, nil
}

// latents of rows, [K] each.
func (t *guideTask) latents(ctx context.Context, engine *tensor.Engine, rows []models.Sequence) ([][]float32, error) {
	var out [][]float32
	for batch := range slices.Chunk(rows, probePart) {
		err := engine.Do(ctx, func(s *tensor.Scope) error {
			return s.NoGrad(func(s *tensor.Scope) error {
				values := t.guide.Encode(s, batch, models.PadFor(batch, t.step, t.most)).Float32s()
				if err := s.Err(); err != nil {
					return err
				}
				for h := range slices.Chunk(values, t.guide.Config().LatentDim) {
					out = append(out, h)
				}
				return nil
			})
		})
		if err != nil {
			return nil, fmt.Errorf("trainer: latents of the guide: %w", err)
		}
	}
	return out, nil
}

// probePart is how many rows a probe computes at once.
const probePart = 32

// reconstruction is the mean loss of the first n examples' y' by their true latents and by those of their neighbours.
func (t *guideTask) reconstruction(ctx context.Context, engine *tensor.Engine, n int) (byTrue, byShuffled float64, err error) {
	for batch := range slices.Chunk(t.rejected[:n], probePart) {
		err := engine.Do(ctx, func(s *tensor.Scope) error {
			return s.NoGrad(func(s *tensor.Scope) error {
				a, b := t.guide.ShuffledLoss(s, batch, models.PadFor(batch, t.step, t.most))
				byTrue += a.Sum().Item()
				byShuffled += b.Sum().Item()
				return s.Err()
			})
		})
		if err != nil {
			return 0, 0, fmt.Errorf("trainer: reconstruction by the guide: %w", err)
		}
	}
	all := float64(cmp.Or(n, 1))
	return byTrue / all, byShuffled / all, nil
}

// watch probes the guide now and then while a phase trains it, notes what it sees in the phase's records, and shows it. What goes
// wrong stands in failed.
func (t *guideTask) watch(
	ctx context.Context, engine *tensor.Engine, p *phase, show func(done, total int, last *Record), failed *error,
) func(done, total int, last *Record) {
	const times = 5
	return func(done, total int, last *Record) {
		if last != nil && *failed == nil && (done == total || done%max(1, total/times) == 0) {
			probe, err := t.probe(context.WithoutCancel(ctx), engine, probeWhile)
			if err != nil {
				*failed = err
			} else {
				probe.Distances = nil
				last = &p.records[len(p.records)-1]
				last.Guide = &probe
			}
		}
		show(done, total, last)
	}
}
