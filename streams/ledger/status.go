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

// StageState is what the server and the workers say of one stage of a run.
type StageState struct {
	Stage string
	// In is the kind that it reads; empty for one that reads by itself, as the trainer does.
	In schemas.Kind
	// Unread and Unanswered count the messages that no worker has had and that some worker has in hand.
	Unread, Unanswered int
	Workers            []streams.Worker
}

// Lag is how many messages the stage has before it.
func (s StageState) Lag() int { return s.Unread + s.Unanswered }

// Rate is how many messages a second its workers settle of late.
func (s StageState) Rate() float64 {
	var rate float64
	for _, w := range s.Workers {
		rate += w.Rate
	}
	return rate
}

// ETA is how long the stage takes for what is before it at its rate; 0 when that is not known, or nothing is.
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
	// Bytes are stored; Limit is streams.max_bytes, past which the log refuses what is more.
	Bytes uint64 `json:"bytes"`
	Limit uint64 `json:"limit"`
}

// nearlyFull is the share of its limit from which a stream is worth a warning.
const nearlyFull = 0.8

// NearlyFull tells that four fifths of the limit are used.
func (u Use) NearlyFull() bool { return u.Limit > 0 && float64(u.Bytes) >= nearlyFull*float64(u.Limit) }

// Uses tells of every log of a run how full it is, in the order in which data flows.
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

// RunSize is what the streams hold of a run.
type RunSize struct {
	Kind     schemas.Kind
	Messages uint64
}

// SizeOf counts the messages of a run on each stream, in the order in which data flows. Streams without any are left out.
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
