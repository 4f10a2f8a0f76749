package task

import (
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/trainer/objective/loss"
)

// Sequences is supervised fine-tuning: it minimises the negative log-likelihood of responses.
type Sequences struct {
	Model   *models.Model
	Rows    []models.Sequence
	Compute models.Compute
}

// Len is part of Task.
func (t *Sequences) Len() int { return len(t.Rows) }

// Size is part of Task.
func (t *Sequences) Size(i int) int { return models.PackedTokens(t.Rows[i : i+1]) }

// Accumulate is part of Task.
func (t *Sequences) Accumulate(s *tensor.Scope, part, whole []int, _ int) (Sums, error) {
	tokens := 0
	for _, i := range whole {
		tokens += len(t.Rows[i].IDs) - t.Rows[i].PromptLen
	}
	rows := make([]models.Sequence, len(part))
	var out Sums
	for k, i := range part {
		rows[k] = t.Rows[i]
		out.Tokens += len(rows[k].IDs)
		out.ResponseTokens += len(rows[k].IDs) - rows[k].PromptLen
	}
	l := loss.Sequences(models.TrainLogProbs(s, t.Model, rows, t.Compute), tokens)
	l.Backward()
	out.Loss = l.Item()
	return out, s.Err()
}
