// Package curves holds what the trainer notes of its work: a record of each optimizer step, and what a probe saw of the
// guide. Both have their form as JSON here, which checkpoints keep and `ldalign report` shows. It needs no tensors.
package curves

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/ldalign/ldalign/checkpoints"
)

// File is the file of a policy or guide that holds the records of the steps that made it, as JSON lines. That of a state
// may be in segments, see checkpoints.Manifest.Segments.
const File = "records.jsonl"

// Step is one optimizer step, as the learning curves show it.
type Step struct {
	// Phase is policy or guide.
	Phase     string `json:"phase"`
	Iteration uint32 `json:"iteration"`
	// Step counts from 1 within phase and iteration.
	Step  int `json:"step"`
	Epoch int `json:"epoch"`
	// Loss is the objective's value over the step's batch.
	Loss float64 `json:"loss"`
	LR   float64 `json:"lr"`
	// GradNorm is the global norm before clipping.
	GradNorm float64 `json:"grad_norm"`
	// Tokens went through the model, without padding; ResponseTokens are those that the loss is about.
	Tokens         int `json:"tokens"`
	ResponseTokens int `json:"response_tokens"`
	// Pairs is absent for objectives without pairs.
	Pairs *Pairs `json:"pairs,omitempty"`
	// Guide is what a look at the guide showed after this step; absent for most steps.
	Guide *Probe `json:"guide,omitempty"`
}

// Pairs are the means over a step's pairs.
type Pairs struct {
	// Pairs is their number.
	Pairs  int     `json:"pairs"`
	Margin float64 `json:"margin"`
	// Accuracy is the share of differing pairs whose chosen reward is strictly larger; 0 when no pair differs.
	Accuracy  float64 `json:"accuracy"`
	Differing int     `json:"differing"`
	// ChosenLogp and RejectedLogp are log p; ChosenChange and RejectedChange are log p - log ref.
	ChosenLogp     float64 `json:"chosen_logp"`
	RejectedLogp   float64 `json:"rejected_logp"`
	ChosenChange   float64 `json:"chosen_change"`
	RejectedChange float64 `json:"rejected_change"`
	// Weight is w, and EffectiveSize that of the step's weights, see objective.EffectiveSampleSize.
	Weight        float64 `json:"weight"`
	EffectiveSize float64 `json:"effective_sample_size"`
	// Distance is s; 0 where pairs have none.
	Distance float64 `json:"distance"`
	// KL is log ref(y'|x) - log p(y'|x) over the pairs whose y' was sampled from the reference: an estimate of KL(ref || p)
	// in nats a response. Absent when there is no such pair.
	KL *float64 `json:"kl,omitempty"`
}

// Metrics are the step's figures by the names that TRL gives them, in a fixed order, and below them those that it has
// not. beta is the objective's: a reward is β(log p - log ref).
func (r Step) Metrics(beta float64) []checkpoints.Metric {
	m := []checkpoints.Metric{
		{Name: "loss", Value: r.Loss}, {Name: "grad_norm", Value: r.GradNorm}, {Name: "learning_rate", Value: r.LR},
	}
	if p := r.Pairs; p != nil {
		m = append(m,
			checkpoints.Metric{Name: "rewards/chosen", Value: beta * p.ChosenChange},
			checkpoints.Metric{Name: "rewards/rejected", Value: beta * p.RejectedChange},
			// TRL counts over all pairs, of which equal ones are never right
			checkpoints.Metric{Name: "rewards/accuracies", Value: p.Accuracy * float64(p.Differing) / float64(p.Pairs)},
			checkpoints.Metric{Name: "rewards/margins", Value: p.Margin},
			checkpoints.Metric{Name: "logps/chosen", Value: p.ChosenLogp},
			checkpoints.Metric{Name: "logps/rejected", Value: p.RejectedLogp},
			checkpoints.Metric{Name: "weight", Value: p.Weight},
			checkpoints.Metric{Name: "effective_sample_size", Value: p.EffectiveSize},
			checkpoints.Metric{Name: "distance", Value: p.Distance},
			checkpoints.Metric{Name: "identical_share", Value: 1 - float64(p.Differing)/float64(p.Pairs)},
		)
		if p.KL != nil {
			m = append(m, checkpoints.Metric{Name: "kl", Value: *p.KL})
		}
	}
	if g := r.Guide; g != nil {
		m = append(m,
			checkpoints.Metric{Name: "guide/reconstruction", Value: g.True},
			checkpoints.Metric{Name: "guide/reconstruction_shuffled", Value: g.Shuffled},
			checkpoints.Metric{Name: "guide/distance", Value: g.Distance},
		)
	}
	if r.Tokens > 0 {
		m = append(m, checkpoints.Metric{Name: "response_token_share", Value: float64(r.ResponseTokens) / float64(r.Tokens)})
	}
	return m
}

// Write writes records as JSON lines.
func Write(w io.Writer, records []Step) error {
	out := bufio.NewWriter(w)
	encode := json.NewEncoder(out)
	for _, r := range records {
		if err := encode.Encode(r); err != nil {
			return fmt.Errorf("trainer: record of step %d: %w", r.Step, err)
		}
	}
	return out.Flush()
}

// Read is the inverse of Write.
func Read(data []byte) ([]Step, error) {
	var records []Step
	decode := json.NewDecoder(bytes.NewReader(data))
	for decode.More() {
		var r Step
		if err := decode.Decode(&r); err != nil {
			return nil, fmt.Errorf("trainer: record %d: %w", len(records)+1, err)
		}
		records = append(records, r)
	}
	return records, nil
}
