package task

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/guide"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/curves"
)

// Guide trains the guide by equation (2) of the paper.
type Guide struct {
	Model *guide.Guide
	// Chosen and Rejected are the same prompts with y and with y', in the guide's tokens.
	Chosen, Rejected []models.Sequence
	Seed             uint64
	Compute          models.Compute
}

// Len is part of Task.
func (t *Guide) Len() int { return len(t.Chosen) }

// Size is part of Task.
func (t *Guide) Size(i int) int {
	return t.Model.PackedTokens([]models.Sequence{t.Chosen[i], t.Rejected[i]})
}

// Accumulate is part of Task.
func (t *Guide) Accumulate(s *tensor.Scope, part, whole []int, step int) (Sums, error) {
	rows := make([]models.Sequence, 0, 2*len(part))
	for _, i := range part {
		rows = append(rows, t.Chosen[i])
	}
	for _, i := range part {
		rows = append(rows, t.Rejected[i])
	}
	seed := dropoutSeed(t.Seed, step, slices.Index(whole, part[0]))
	l := t.Model.Loss(s, rows, seed, t.Compute).Sum().MulScalar(1 / float64(len(whole)))
	l.Backward()
	out := Sums{Loss: l.Item()}
	for _, row := range rows {
		out.Tokens += len(row.IDs)
		out.ResponseTokens += len(row.IDs) - row.PromptLen
	}
	return out, s.Err()
}

// dropoutSeed is the seed of word dropout for the part of a step's batch that begins at index at.
func dropoutSeed(seed uint64, step, at int) uint64 {
	return schemas.SubSeed(seed, "dropout", uint64(step)<<20|uint64(at))
}

// Probe probes the guide with the first pairs, at most most of them.
func (t *Guide) Probe(ctx context.Context, engine *tensor.Engine, most int) (p curves.Probe, err error) {
	p.Pairs = min(len(t.Chosen), most)
	differing, all := 0, float64(max(p.Pairs, 1))
	for from := 0; from < p.Pairs; from += probePart {
		chosen, rejected := t.Chosen[from:min(from+probePart, p.Pairs)], t.Rejected[from:min(from+probePart, p.Pairs)]
		seen, err := t.look(ctx, engine, chosen, rejected)
		if err != nil {
			return p, fmt.Errorf("probe of the guide: %w", err)
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
				squares = 0 // equal responses may differ in the last bits, because they are computed in two rows
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

// probePart is how many pairs a probe computes together. The shuffled latent of a response is that of its neighbour among them.
const probePart = 32

// seen contains the guide's results for some pairs: the latents of both responses, and the sums of the losses of the rejected
// ones given their own latents and given those of their neighbours.
type seen struct {
	chosen, rejected [][]float32
	own, shuffled    float64
}

func (t *Guide) look(ctx context.Context, engine *tensor.Engine, chosen, rejected []models.Sequence) (out seen, err error) {
	err = engine.Do(ctx, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			n := int64(len(chosen))
			latents := t.Model.Encode(s, slices.Concat(chosen, rejected), t.Compute)
			own, shuffled := t.Model.ShuffledLoss(s, rejected, latents.Narrow(0, n, n), t.Compute)
			out.own, out.shuffled = own.Sum().Item(), shuffled.Sum().Item()
			values := latents.Float32s()
			if err := s.Err(); err != nil {
				return err
			}
			all := slices.Collect(slices.Chunk(values, t.Model.Config().Config.LatentDim))
			out.chosen, out.rejected = all[:n], all[n:]
			return nil
		})
	})
	return out, err
}
