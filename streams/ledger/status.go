package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
)

// StageState is the state of one stage of a run, from the server and the workers' heartbeats.
type StageState struct {
	Stage string
	// In is the kind that the stage reads; empty for one without a consumer, such as the trainer.
	In schemas.Kind
	// Unread counts the messages that no worker has received, Unanswered those that a worker has received and not settled.
	Unread, Unanswered int
	Workers            []streams.Worker
}

// Lag returns how many messages the stage has not settled.
func (s StageState) Lag() int { return s.Unread + s.Unanswered }

// Rate returns how many messages per second the stage's workers have settled recently.
func (s StageState) Rate() float64 {
	var rate float64
	for _, w := range s.Workers {
		rate += w.Rate
	}
	return rate
}

// ETA returns the time that the stage needs for its Lag at its Rate; 0 when the Rate or the Lag is 0.
func (s StageState) ETA() time.Duration {
	if rate := s.Rate(); rate > 0 {
		return time.Duration(float64(s.Lag()) / rate * float64(time.Second))
	}
	return 0
}

// Stages lists the stages of a run that have a consumer or a worker, by the kind that they read, then by name.
func Stages(ctx context.Context, conn *streams.Conn, run string) ([]StageState, error) {
	workers, err := conn.Workers(ctx, run)
	if err != nil {
		return nil, err
	}
	var stages []StageState
	at := map[string]int{}
	stage := func(name string) *StageState {
		i, known := at[name]
		if !known {
			i = len(stages)
			at[name], stages = i, append(stages, StageState{Stage: name})
		}
		return &stages[i]
	}
	for _, kind := range append([]schemas.Kind{schemas.Checkpoints}, schemas.PairKinds()...) {
		readers, err := conn.Readers(ctx, kind, run)
		if err != nil {
			return nil, fmt.Errorf("streams: stages of run %s: %w", run, err)
		}
		for _, r := range readers {
			s := stage(r.Stage)
			s.In, s.Unread, s.Unanswered = kind, s.Unread+r.Unread, s.Unanswered+r.Unanswered
		}
	}
	for _, w := range workers {
		s := stage(w.Stage)
		s.Workers = append(s.Workers, w)
	}
	order := append([]schemas.Kind{schemas.Checkpoints}, schemas.PairKinds()...)
	slices.SortStableFunc(stages, func(a, b StageState) int {
		rank := func(s StageState) int {
			if s.In == "" {
				return len(order)
			}
			return slices.Index(order, s.In)
		}
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(a.Stage, b.Stage)
	})
	return stages, nil
}

// Use is how full a log of a run is.
type Use struct {
	// Log is one of streams.Logs.
	Log schemas.Kind `json:"log"`
	// Bytes is the size of the log. Limit is streams.max_bytes; a log of that size refuses more messages.
	Bytes uint64 `json:"bytes"`
	Limit uint64 `json:"limit"`
}

// nearlyFull is the share of the limit from which a stream deserves a warning.
const nearlyFull = 0.8

// NearlyFull reports whether at least four fifths of the limit are used.
func (u Use) NearlyFull() bool { return u.Limit > 0 && float64(u.Bytes) >= nearlyFull*float64(u.Limit) }

// Uses returns how full each log of a run is, in the order in which data flows.
func Uses(ctx context.Context, conn *streams.Conn, run string) ([]Use, error) {
	var uses []Use
	for _, log := range streams.Logs() {
		state, err := conn.State(ctx, log, run)
		if err != nil {
			return nil, err
		}
		uses = append(uses, Use{log, state.Bytes, state.Limit})
	}
	return uses, nil
}

// RunSize is the number of messages of a kind that the streams hold of a run.
type RunSize struct {
	Kind     schemas.Kind
	Messages uint64
}

// SizeOf counts the messages of a run by kind, in the order in which data flows. It leaves out kinds without messages.
func SizeOf(ctx context.Context, conn *streams.Conn, run string) ([]RunSize, error) {
	var sizes []RunSize
	for _, kind := range schemas.Kinds() {
		state, err := conn.State(ctx, kind, run)
		if errors.Is(err, streams.ErrNotFound) { // deleted in part
			continue
		}
		if err != nil {
			return nil, err
		}
		var n uint64
		for _, count := range state.Messages {
			n += count
		}
		if n > 0 {
			sizes = append(sizes, RunSize{kind, n})
		}
	}
	return sizes, nil
}
