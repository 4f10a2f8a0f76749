package checkpoints

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// BatchesFile is the file of a policy, a guide or a state that lists the pairs of each optimizer step. An audit compares it
// with the log. Repository.Batches reads it.
//
// It is JSON lines of three kinds:
//
//	{"pair":ID}                          a pair that is trained on; the first such line is pair 0, the next pair 1, and so on.
//	                                     "earlier":true marks a pair of the previous iteration that is trained on once more
//	{"skipped":ID,"reason":REASON}       a pair that was read from the log and is not trained on
//	{"step":N,"epoch":E,"pairs":[4,0,7]} an optimizer step, with the numbers of its pairs, each from a line above it
//
// A state may keep the file in segments (Manifest.Segments), pairs before steps.
//
// Steps count from 1 within the iteration (for a policy, or a state of the policy phase) or within the guide's training.
// The file describes one iteration: Iteration-1 of a policy's manifest, because that iteration made the policy, or the
// iteration of a state's cursor. The ids are those of the messages, so they also tell pairs of an earlier iteration or of
// another run from the run's own.
const BatchesFile = "batches.jsonl"

// ErrBatches says that a record of batches is unreadable, or that a pair was trained twice or left out.
var ErrBatches = errors.New("checkpoints: bad record of batches")

// Batches is the content of BatchesFile.
type Batches struct {
	// Pairs are the ids of all pairs that are trained on. Batch.Pairs are indices in it.
	Pairs []string
	// Earlier is how many pairs at the end of Pairs belong to the previous iteration and are trained on once more.
	Earlier int
	// Skipped are the pairs that were read from the log and are not trained on.
	Skipped []Skipped
	Steps   []Batch
}

// Batch is one optimizer step.
type Batch struct {
	// Step counts from 1.
	Step  int
	Epoch int
	// Pairs are indices in Batches.Pairs, in the order of training.
	Pairs []int
}

// Skipped is a pair that is not trained on.
type Skipped struct {
	ID string
	// Reason is one of the Reason constants of schemas.
	Reason string
}

// Batches reads and verifies the BatchesFile of a checkpoint. The error wraps ErrBatches if the checkpoint has no such file
// (policy 0 has none, because no training made it) or the file does not verify, and ErrCorrupt as for Open. The record of a
// policy or a guide has all epochs; that of a state may end within one.
func (r *Repository) Batches(ctx context.Context, m Manifest) (Batches, error) {
	if _, ok := m.File(BatchesFile); !ok {
		return Batches{}, fmt.Errorf("%w: checkpoint %s has no %s", ErrBatches, m.Key, BatchesFile)
	}
	data, err := r.ReadLines(ctx, m, BatchesFile)
	if err != nil {
		return Batches{}, err
	}
	b, err := ReadBatches(data)
	if err == nil {
		err = b.Verify(m.Kind != State)
	}
	if err != nil {
		return b, fmt.Errorf("checkpoint %s: %w", m.Key, err)
	}
	return b, nil
}

// Verify checks that steps count from 1, epochs count from 0, and each epoch trains on each pair exactly once. The last
// epoch may lack pairs only if complete is false. The error wraps ErrBatches and names the pair.
func (b Batches) Verify(complete bool) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrBatches}, args...)...)
	}
	ids := make(map[string]bool, len(b.Pairs))
	for _, id := range b.Pairs {
		if ids[id] {
			return bad("pair %s is listed twice", id)
		}
		ids[id] = true
	}
	for _, s := range b.Skipped {
		if ids[s.ID] {
			return bad("pair %s is both trained on and skipped", s.ID)
		}
	}
	at := make([]int, len(b.Pairs)) // by pair: the step of this epoch that trains on it; 0 for none
	whole := func(epoch int) error {
		for i, step := range at {
			if step == 0 {
				return bad("epoch %d leaves out pair %s", epoch, b.Pairs[i])
			}
		}
		return nil
	}
	epoch := 0
	for i, s := range b.Steps {
		if s.Step != i+1 {
			return bad("step %d follows step %d", s.Step, i)
		}
		if s.Epoch == epoch+1 {
			if err := whole(epoch); err != nil {
				return err
			}
			clear(at)
			epoch++
		}
		if s.Epoch != epoch {
			return bad("step %d is of epoch %d, the one before it of epoch %d", s.Step, s.Epoch, epoch)
		}
		for _, pair := range s.Pairs {
			switch {
			case pair < 0 || pair >= len(at):
				return bad("step %d trains pair number %d of %d", s.Step, pair, len(at))
			case at[pair] != 0:
				return bad("epoch %d trains pair %s twice, at steps %d and %d", epoch, b.Pairs[pair], at[pair], s.Step)
			}
			at[pair] = s.Step
		}
	}
	if !complete {
		return nil
	}
	return whole(epoch)
}

// batchLine is one line of the file.
type batchLine struct {
	Pair    string `json:"pair,omitempty"`
	Earlier bool   `json:"earlier,omitempty"`
	Skipped string `json:"skipped,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Step    int    `json:"step,omitempty"`
	Epoch   *int   `json:"epoch,omitempty"`
	Pairs   []int  `json:"pairs,omitempty"`
}

// Write writes the file that ReadBatches reads.
func (b Batches) Write(w io.Writer) error {
	out := bufio.NewWriter(w)
	encode := json.NewEncoder(out)
	var err error
	line := func(l batchLine) {
		if err == nil {
			err = encode.Encode(l)
		}
	}
	for i, id := range b.Pairs {
		line(batchLine{Pair: id, Earlier: i >= len(b.Pairs)-b.Earlier})
	}
	for _, s := range b.Skipped {
		line(batchLine{Skipped: s.ID, Reason: s.Reason})
	}
	for _, s := range b.Steps {
		line(batchLine{Step: s.Step, Epoch: &s.Epoch, Pairs: s.Pairs})
	}
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		return fmt.Errorf("checkpoints: write %s: %w", BatchesFile, err)
	}
	return nil
}

// ReadBatches parses what Write writes. It checks the form of each line; use Verify to check the content.
func ReadBatches(data []byte) (Batches, error) {
	var b Batches
	decode := json.NewDecoder(bytes.NewReader(data))
	decode.DisallowUnknownFields()
	for n := 1; ; n++ {
		var line batchLine
		if err := decode.Decode(&line); errors.Is(err, io.EOF) {
			return b, nil
		} else if err != nil {
			return b, fmt.Errorf("%w: line %d: %w", ErrBatches, n, err)
		}
		switch kinds := line; {
		case kinds.Pair != "" && kinds.Skipped == "" && kinds.Step == 0:
			if b.Earlier > 0 && !line.Earlier {
				return b, fmt.Errorf("%w: line %d: a pair of this iteration follows pairs of the previous one", ErrBatches, n)
			}
			b.Pairs = append(b.Pairs, line.Pair)
			if line.Earlier {
				b.Earlier++
			}
		case kinds.Skipped != "" && kinds.Pair == "" && kinds.Step == 0:
			b.Skipped = append(b.Skipped, Skipped{line.Skipped, line.Reason})
		case kinds.Step > 0 && kinds.Epoch != nil && kinds.Pair == "" && kinds.Skipped == "":
			b.Steps = append(b.Steps, Batch{Step: line.Step, Epoch: *line.Epoch, Pairs: line.Pairs})
		default:
			return b, fmt.Errorf("%w: line %d is neither a pair, a skipped pair nor a step", ErrBatches, n)
		}
	}
}
