package trainer

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// Record is one optimizer step, as the learning curves show it.
type Record struct {
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
	// Pairs is absent for objectives without pairs.
	Pairs *PairRecord `json:"pairs,omitempty"`
}

// PairRecord are the means over a step's pairs.
type PairRecord struct {
	Margin float64 `json:"margin"`
	// Accuracy is the share of differing pairs whose chosen reward is strictly larger; 0 when no pair differs.
	Accuracy  float64 `json:"accuracy"`
	Differing int     `json:"differing"`
	// ChosenChange and RejectedChange are logp - reference logp.
	ChosenChange   float64 `json:"chosen_change"`
	RejectedChange float64 `json:"rejected_change"`
}

// record turns sums into means.
func (p PairStats) record() *PairRecord {
	if p.Pairs == 0 {
		return nil
	}
	n := float64(p.Pairs)
	r := &PairRecord{
		Margin: p.Margin / n, Differing: p.Differing, ChosenChange: p.ChosenChange / n, RejectedChange: p.RejectedChange / n,
	}
	if p.Differing > 0 {
		r.Accuracy = float64(p.Correct) / float64(p.Differing)
	}
	return r
}

// WriteRecords writes records as JSON lines.
func WriteRecords(w io.Writer, records []Record) error {
	out := bufio.NewWriter(w)
	encode := json.NewEncoder(out)
	for _, r := range records {
		if err := encode.Encode(r); err != nil {
			return fmt.Errorf("trainer: record of step %d: %w", r.Step, err)
		}
	}
	return out.Flush()
}

// ReadRecords is the inverse of WriteRecords.
func ReadRecords(data []byte) ([]Record, error) {
	var records []Record
	decode := json.NewDecoder(bytes.NewReader(data))
	for decode.More() {
		var r Record
		if err := decode.Decode(&r); err != nil {
			return nil, fmt.Errorf("trainer: record %d: %w", len(records)+1, err)
		}
		records = append(records, r)
	}
	return records, nil
}
