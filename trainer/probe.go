package trainer

import (
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

// How many pairs a probe looks at: while the guide is trained, no more than training has time for, and at the end.
const (
	probeLeast = 8
	probeWhile = 64
	probeShare = 16 // of the pairs that training computes
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
	differing, all := 0, float64(max(p.Pairs, 1))
	for from := 0; from < p.Pairs; from += probePart {
		chosen, rejected := t.chosen[from:min(from+probePart, p.Pairs)], t.rejected[from:min(from+probePart, p.Pairs)]
		seen, err := t.look(ctx, engine, chosen, rejected)
		if err != nil {
			return p, fmt.Errorf("trainer: probe of the guide: %w", err)
		}
		p.True += seen.own / all
		p.Shuffled += seen.shuffled / all
		for i, h := range seen.chosen {
			var squares, norm float64
			for k, x := range h {
				d := float64(x) - float64(seen.rejected[i][k])
				squares += d * d
				norm += float64(x) * float64(x)
			}
			if slices.Equal(chosen[i].IDs, rejected[i].IDs) {
				squares = 0 // computed at two places, they may differ in their last bits
			} else {
				differing++
				p.Distance += math.Sqrt(squares)
			}
			p.Distances = append(p.Distances, math.Sqrt(squares))
			p.Norm += math.Sqrt(norm) / all
		}
	}
	p.Distance /= float64(max(differing, 1))
	p.Identical = 1 - float64(differing)/all
	return p, nil
}

// probePart is how many pairs a probe looks at together; a response's neighbour, whose latent it gets, is among them.
const probePart = 32

// seen is what the guide makes of some pairs: the latents of both responses, and the sums of the losses of the rejected ones
// by their own latents and by those of their neighbours.
type seen struct {
	chosen, rejected [][]float32
	own, shuffled    float64
}

func (t *guideTask) look(ctx context.Context, engine *tensor.Engine, chosen, rejected []models.Sequence) (out seen, err error) {
	err = engine.Do(ctx, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			n := int64(len(chosen))
			latents := t.guide.Encode(s, slices.Concat(chosen, rejected), t.compute)
			own, shuffled := t.guide.ShuffledLoss(s, rejected, latents.Narrow(0, n, n), t.compute)
			out.own, out.shuffled = own.Sum().Item(), shuffled.Sum().Item()
			values := latents.Float32s()
			if err := s.Err(); err != nil {
				return err
			}
			all := slices.Collect(slices.Chunk(values, t.guide.Config().LatentDim))
			out.chosen, out.rejected = all[:n], all[n:]
			return nil
		})
	})
	return out, err
}

// watch probes the guide five times while a phase trains it, notes what it sees in the phase's records, and shows it. What goes
// wrong stands in failed.
func (t *guideTask) watch(
	ctx context.Context, engine *tensor.Engine, p *phase, show func(done, total int, last *Record), failed *error,
) func(done, total int, last *Record) {
	const times = 5
	ctx = context.WithoutCancel(ctx)
	return func(done, total int, last *Record) {
		if last != nil && *failed == nil && done*times/total > (done-1)*times/total {
			pairs := min(probeWhile, max(probeLeast, total*p.batch/probeShare))
			if done == total {
				pairs = probeAtEnd
			}
			probe, err := t.probe(ctx, engine, pairs)
			if err != nil {
				*failed = err
			} else {
				if done == total {
					t.final = &probe
				}
				last = &p.records[len(p.records)-1]
				last.Guide = new(probe)
				last.Guide.Distances = nil
			}
		}
		show(done, total, last)
	}
}
