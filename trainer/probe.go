package trainer

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/trainer/curves"
)

// How many pairs a probe looks at: while the guide is trained, no more than training has time for, and at the end.
const (
	probeLeast = 8
	probeWhile = 64
	probeShare = 16 // of the pairs that training computes
	probeAtEnd = 256
)

// probe looks at up to most pairs.
func (t *guideTask) probe(ctx context.Context, engine *tensor.Engine, most int) (p curves.Probe, err error) {
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
			all := slices.Collect(slices.Chunk(values, t.guide.Config().Config.LatentDim))
			out.chosen, out.rejected = all[:n], all[n:]
			return nil
		})
	})
	return out, err
}

// watch probes the guide five times while a phase trains it, notes what it sees in the phase's records, and shows it. What goes
// wrong stands in failed.
func (t *guideTask) watch(
	ctx context.Context, engine *tensor.Engine, p *phase, show func(done, total int, last *curves.Step), failed *error,
) func(done, total int, last *curves.Step) {
	const times = 5
	ctx = context.WithoutCancel(ctx)
	return func(done, total int, last *curves.Step) {
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
