package task

import (
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/trainer/objective"
	"github.com/ldalign/ldalign/trainer/objective/loss"
)

// Pair is an example of LD-Align, SPIN and DPO.
type Pair struct {
	Chosen, Rejected models.Sequence
	// RefChosen and RefRejected are the responses' log-probs under the reference.
	RefChosen, RefRejected float64
	Weight                 float64
	// Distance is s; 0 if there is none.
	Distance float64
	// Sampled says that y' was sampled from the reference, and Same that both responses have the same tokens.
	Sampled, Same bool
}

// tokens are the lengths of both responses.
func (p *Pair) tokens() (chosen, rejected int) {
	return len(p.Chosen.IDs) - p.Chosen.PromptLen, len(p.Rejected.IDs) - p.Rejected.PromptLen
}

// values returns the pair's numbers, given the log-probs under the policy.
func (p *Pair) values(chosen, rejected float64) objective.Values {
	v := objective.Values{
		Chosen: chosen, Rejected: rejected, RefChosen: p.RefChosen, RefRejected: p.RefRejected, Weight: p.Weight,
		Same: p.Same, Distance: p.Distance, Sampled: p.Sampled,
	}
	v.ChosenTokens, v.RejectedTokens = p.tokens()
	return v
}

// Pairs minimises a preference objective.
type Pairs struct {
	Model     *models.Model
	Pairs     []Pair
	Objective objective.Preference
	Compute   models.Compute
}

// Len is part of Task.
func (t *Pairs) Len() int { return len(t.Pairs) }

// Size is part of Task.
func (t *Pairs) Size(i int) int {
	return models.PackedTokens([]models.Sequence{t.Pairs[i].Chosen, t.Pairs[i].Rejected})
}

// Accumulate is part of Task.
func (t *Pairs) Accumulate(s *tensor.Scope, part, whole []int, _ int) (Sums, error) {
	n := int64(len(part))
	rows := make([]models.Sequence, 2*n)
	var refChosen, refRejected, weights, chosenTokens, rejectedTokens []float32
	var out Sums
	for k, i := range part {
		p := &t.Pairs[i]
		rows[k], rows[int(n)+k] = p.Chosen, p.Rejected
		refChosen = append(refChosen, float32(p.RefChosen))
		refRejected = append(refRejected, float32(p.RefRejected))
		weights = append(weights, float32(p.Weight))
		chosen, rejected := p.tokens()
		chosenTokens, rejectedTokens = append(chosenTokens, float32(chosen)), append(rejectedTokens, float32(rejected))
		out.ResponseTokens += chosen + rejected
		out.Tokens += len(p.Chosen.IDs) + len(p.Rejected.IDs)
	}
	logp := models.TrainLogProbs(s, t.Model, rows, t.Compute)
	l := loss.Preference(t.Objective, loss.Pairs{
		Chosen: logp.Narrow(0, 0, n), Rejected: logp.Narrow(0, n, n),
		RefChosen: s.FromFloat32(refChosen, n), RefRejected: s.FromFloat32(refRejected, n), Weights: s.FromFloat32(weights, n),
		ChosenTokens: s.FromFloat32(chosenTokens, n), RejectedTokens: s.FromFloat32(rejectedTokens, n),
	}, len(whole))
	l.Backward()
	values := logp.Float32s()
	if err := s.Err(); err != nil {
		return Sums{}, err
	}
	for k, i := range part {
		out.Pairs.Add(t.Objective, t.Pairs[i].values(float64(values[k]), float64(values[int(n)+k])))
	}
	out.Loss = out.Pairs.Loss / float64(len(whole))
	return out, nil
}
