// Package curves defines what the trainer records: each optimizer step, and probes of the guide. Both are stored as JSON in
// checkpoints, and `ldalign report` shows them. It needs no tensors.
package curves

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/ldalign/ldalign/checkpoints"
)

// File is the name of the file with the records of the steps that made a policy or guide, as JSON lines. A state may have it
// in segments, see checkpoints.Manifest.Segments.
const File = "records.jsonl"

// Step is the record of one optimizer step.
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
	// Tokens is the number of tokens that went through the model, without padding; ResponseTokens of them are in the loss.
	Tokens         int `json:"tokens"`
	ResponseTokens int `json:"response_tokens"`
	// Pairs is absent for objectives without pairs.
	Pairs *Pairs `json:"pairs,omitempty"`
	// Guide is a probe of the guide after this step; absent for most steps.
	Guide *Probe `json:"guide,omitempty"`
}

// Pairs contains means over a step's pairs.
type Pairs struct {
	// Pairs is the number of pairs.
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
	// Distance is s; 0 if the pairs have none.
	Distance float64 `json:"distance"`
	// KL is log ref(y'|x) - log p(y'|x) over the pairs whose y' was sampled from the reference: an estimate of KL(ref || p)
	// in nats per response. Absent if there is no such pair.
	KL *float64 `json:"kl,omitempty"`
}

// Metrics returns the step's metrics in a fixed order, under TRL's names where TRL has the metric. beta is the objective's: a
// reward is β(log p - log ref).
func (r Step) Metrics(beta float64) []checkpoints.Metric {
	m := []checkpoints.Metric{
		{Name: "loss", Value: r.Loss}, {Name: "grad_norm", Value: r.GradNorm}, {Name: "learning_rate", Value: r.LR},
	}
	if p := r.Pairs; p != nil {
		m = append(m,
			checkpoints.Metric{Name: "rewards/chosen", Value: beta * p.ChosenChange},
			checkpoints.Metric{Name: "rewards/rejected", Value: beta * p.RejectedChange},
			// TRL counts over all pairs, and a pair of equal responses counts as wrong
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
