package trainer

import (
	"slices"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/guide"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/curves"
	"github.com/ldalign/ldalign/trainer/objective"
	"github.com/ldalign/ldalign/trainer/objective/loss"
)

// pair is an example of LD-Align, SPIN and DPO.
type pair struct {
	chosen, rejected       models.Sequence
	refChosen, refRejected float64
	weight                 float64
	distance               float64 // s; 0 where there is none
	sampled                bool    // y' was sampled from the reference
	same                   bool    // both responses are the same tokens
}

// tokens are the lengths of both responses.
func (p *pair) tokens() (chosen, rejected int) {
	return len(p.chosen.IDs) - p.chosen.PromptLen, len(p.rejected.IDs) - p.rejected.PromptLen
}

// values are the pair's numbers, given the log-probs under the policy.
func (p *pair) values(chosen, rejected float64) objective.Values {
	v := objective.Values{
		Chosen: chosen, Rejected: rejected, RefChosen: p.refChosen, RefRejected: p.refRejected, Weight: p.weight,
		Same: p.same, Distance: p.distance, Sampled: p.sampled,
	}
	v.ChosenTokens, v.RejectedTokens = p.tokens()
	return v
}

// compute is how the spec has the policy computed in training.
func compute(t schemas.TrainingSpec) models.Compute {
	return models.Compute{BFloat16: t.Precision == "bfloat16", Recompute: t.GradientCheckpointing}
}

// pairTask minimises the loss of pairs.
type pairTask struct {
	model     *models.Model
	pairs     []pair
	objective objective.Preference
	compute   models.Compute
}

func (t *pairTask) examples() int { return len(t.pairs) }

func (t *pairTask) size(i int) int {
	return models.PackedTokens([]models.Sequence{t.pairs[i].chosen, t.pairs[i].rejected})
}

func (t *pairTask) accumulate(s *tensor.Scope, part, whole []int, _ int) (stats, error) {
	n := int64(len(part))
	rows := make([]models.Sequence, 2*n)
	var refChosen, refRejected, weights, chosenTokens, rejectedTokens []float32
	var out stats
	for k, i := range part {
		p := &t.pairs[i]
		rows[k], rows[int(n)+k] = p.chosen, p.rejected
		refChosen = append(refChosen, float32(p.refChosen))
		refRejected = append(refRejected, float32(p.refRejected))
		weights = append(weights, float32(p.weight))
		chosen, rejected := p.tokens()
		chosenTokens, rejectedTokens = append(chosenTokens, float32(chosen)), append(rejectedTokens, float32(rejected))
		out.responseTokens += chosen + rejected
		out.tokens += len(p.chosen.IDs) + len(p.rejected.IDs)
	}
	logp := models.TrainLogProbs(s, t.model, rows, t.compute)
	loss := loss.Preference(t.objective, loss.Pairs{
		Chosen: logp.Narrow(0, 0, n), Rejected: logp.Narrow(0, n, n),
		RefChosen: s.FromFloat32(refChosen, n), RefRejected: s.FromFloat32(refRejected, n), Weights: s.FromFloat32(weights, n),
		ChosenTokens: s.FromFloat32(chosenTokens, n), RejectedTokens: s.FromFloat32(rejectedTokens, n),
	}, len(whole))
	loss.Backward()
	values := logp.Float32s()
	if err := s.Err(); err != nil {
		return stats{}, err
	}
	for k, i := range part {
		out.pairs.Add(t.objective, t.pairs[i].values(float64(values[k]), float64(values[int(n)+k])))
	}
	out.loss = out.pairs.Loss / float64(len(whole))
	return out, nil
}

// sequenceTask is SFT.
type sequenceTask struct {
	model   *models.Model
	rows    []models.Sequence
	compute models.Compute
}

func (t *sequenceTask) examples() int { return len(t.rows) }

func (t *sequenceTask) size(i int) int { return models.PackedTokens(t.rows[i : i+1]) }

func (t *sequenceTask) accumulate(s *tensor.Scope, part, whole []int, _ int) (stats, error) {
	tokens := 0
	for _, i := range whole {
		tokens += len(t.rows[i].IDs) - t.rows[i].PromptLen
	}
	rows := make([]models.Sequence, len(part))
	var out stats
	for k, i := range part {
		rows[k] = t.rows[i]
		out.tokens += len(rows[k].IDs)
		out.responseTokens += len(rows[k].IDs) - rows[k].PromptLen
	}
	loss := loss.Sequences(models.TrainLogProbs(s, t.model, rows, t.compute), tokens)
	loss.Backward()
	out.loss = loss.Item()
	return out, s.Err()
}

// guideTask trains the guide by equation (2).
type guideTask struct {
	guide *guide.Guide
	// chosen and rejected are the same prompt with y and y', as the guide reads them.
	chosen, rejected []models.Sequence
	seed             uint64
	compute          models.Compute
	// final is what a probe saw after the last step; nil where that was taken before this process began.
	final *curves.Probe
}

func (t *guideTask) examples() int { return len(t.chosen) }

func (t *guideTask) size(i int) int {
	return t.guide.PackedTokens([]models.Sequence{t.chosen[i], t.rejected[i]})
}

func (t *guideTask) accumulate(s *tensor.Scope, part, whole []int, step int) (stats, error) {
	rows := make([]models.Sequence, 0, 2*len(part))
	for _, i := range part {
		rows = append(rows, t.chosen[i])
	}
	for _, i := range part {
		rows = append(rows, t.rejected[i])
	}
	seed := dropoutSeed(t.seed, step, slices.Index(whole, part[0]))
	loss := t.guide.Loss(s, rows, seed, t.compute).Sum().MulScalar(1 / float64(len(whole)))
	loss.Backward()
	out := stats{loss: loss.Item()}
	for _, row := range rows {
		out.tokens += len(row.IDs)
		out.responseTokens += len(row.IDs) - row.PromptLen
	}
	return out, s.Err()
}

// dropoutSeed is what the part of a batch that begins at a place in it draws its word dropout from.
func dropoutSeed(seed uint64, step, at int) uint64 {
	return schemas.SubSeed(seed, "dropout", uint64(step)<<20|uint64(at))
}
