package trainer

import (
	"slices"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/guide"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
)

// pair is an example of LD-Align, SPIN and DPO.
type pair struct {
	chosen, rejected       models.Sequence
	refChosen, refRejected float64
	weight                 float64
	same                   bool // both responses are the same tokens
}

// pairTask minimises equation (LD).
type pairTask struct {
	model *models.Model
	pairs []pair
	beta  float64
	// lengths are padded to multiples of step, up to most
	step, most int
}

func (t *pairTask) examples() int { return len(t.pairs) }

func (t *pairTask) accumulate(s *tensor.Scope, part, whole []int, _ int) (stats, error) {
	n := int64(len(part))
	rows := make([]models.Sequence, 2*n)
	var refChosen, refRejected, weights []float32
	for k, i := range part {
		p := t.pairs[i]
		rows[k], rows[int(n)+k] = p.chosen, p.rejected
		refChosen = append(refChosen, float32(p.refChosen))
		refRejected = append(refRejected, float32(p.refRejected))
		weights = append(weights, float32(p.weight))
	}
	logp := models.LogProbs(s, t.model, rows, models.PadFor(rows, t.step, t.most))
	chosen, rejected := logp.Narrow(0, 0, n), logp.Narrow(0, n, n)
	loss := PairLoss(chosen, rejected, s.FromFloat32(refChosen, n), s.FromFloat32(refRejected, n),
		s.FromFloat32(weights, n), t.beta, len(whole))
	loss.Backward()
	values := logp.Float32s()
	if err := s.Err(); err != nil {
		return stats{}, err
	}
	var sum PairStats
	for k, i := range part {
		p := t.pairs[i]
		sum.Add(float64(values[k]), float64(values[int(n)+k]), p.refChosen, p.refRejected, p.weight, t.beta, p.same)
	}
	return stats{loss: sum.Loss / float64(len(whole)), pairs: sum}, nil
}

// sequenceTask is SFT.
type sequenceTask struct {
	model *models.Model
	rows  []models.Sequence
	// as in pairTask
	step, most int
}

func (t *sequenceTask) examples() int { return len(t.rows) }

func (t *sequenceTask) accumulate(s *tensor.Scope, part, whole []int, _ int) (stats, error) {
	tokens := 0
	for _, i := range whole {
		tokens += len(t.rows[i].IDs) - t.rows[i].PromptLen
	}
	rows := make([]models.Sequence, len(part))
	for k, i := range part {
		rows[k] = t.rows[i]
	}
	loss := SequenceLoss(models.LogProbs(s, t.model, rows, models.PadFor(rows, t.step, t.most)), tokens)
	loss.Backward()
	return stats{loss: loss.Item()}, s.Err()
}

// guideTask trains the guide by equation (2).
type guideTask struct {
	guide *guide.Guide
	// chosen and rejected are the same prompt with y and y', as the guide reads them.
	chosen, rejected []models.Sequence
	seed             uint64
	// as in pairTask
	step, most int
}

func (t *guideTask) examples() int { return len(t.chosen) }

func (t *guideTask) accumulate(s *tensor.Scope, part, whole []int, step int) (stats, error) {
	rows := make([]models.Sequence, 0, 2*len(part))
	for _, i := range part {
		rows = append(rows, t.chosen[i])
	}
	for _, i := range part {
		rows = append(rows, t.rejected[i])
	}
	seed := dropoutSeed(t.seed, step, slices.Index(whole, part[0]))
	loss := t.guide.Loss(s, rows, models.PadFor(rows, t.step, t.most), seed).Sum().MulScalar(1 / float64(len(whole)))
	loss.Backward()
	return stats{loss: loss.Item()}, s.Err()
}

// dropoutSeed is what the part of a batch that begins at a place in it draws its word dropout from.
func dropoutSeed(seed uint64, step, at int) uint64 {
	return schemas.SubSeed(seed, "dropout", uint64(step)<<20|uint64(at))
}
