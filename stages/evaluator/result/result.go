// Package result defines the results of an evaluation: the answers to each held-out prompt, which are stored in the result's
// details blob, and the metrics that the result carries. It needs no tensors.
package result

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Sample is one answer to a held-out prompt.
type Sample struct {
	Text string `json:"text"`
	// Tokens counts the answer's tokens with its end token.
	Tokens int     `json:"tokens"`
	Exact  bool    `json:"exact"`
	Graded float64 `json:"graded"`
	// Distance is s between the human response and this answer; absent without a guide.
	Distance *float64 `json:"distance,omitempty"`
}

// Detail is a checkpoint's answers to one held-out prompt: one line of the result's details blob.
type Detail struct {
	ID       string   `json:"id"`
	Prompt   string   `json:"prompt"`
	Response string   `json:"response"`
	Greedy   Sample   `json:"greedy"`
	Samples  []Sample `json:"samples"`
}

// Write returns the details blob.
func Write(details []Detail) ([]byte, error) {
	var lines bytes.Buffer
	encode := json.NewEncoder(&lines)
	encode.SetEscapeHTML(false)
	for _, d := range details {
		if err := encode.Encode(d); err != nil {
			return nil, fmt.Errorf("details of held-out prompt %q: %w", d.ID, err)
		}
	}
	return lines.Bytes(), nil
}

// Read is the inverse of Write.
func Read(data []byte) ([]Detail, error) {
	var details []Detail
	decode := json.NewDecoder(bytes.NewReader(data))
	for decode.More() {
		var d Detail
		if err := decode.Decode(&d); err != nil {
			return nil, fmt.Errorf("details, line %d: %w", len(details)+1, err)
		}
		details = append(details, d)
	}
	return details, nil
}
