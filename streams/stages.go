package streams

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ldalign/ldalign/schemas"
)

// StageState is what the server and the workers say of one stage of a run.
type StageState struct {
	Stage string
	// In is the kind that it reads; empty for one that reads by itself, as the trainer does.
	In schemas.Kind
	// Unread and Unanswered count the messages that no worker has had and that some worker has in hand.
	Unread, Unanswered int
	Workers            []Worker
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
func (c *Conn) Stages(ctx context.Context, run string) ([]StageState, error) {
	workers, err := c.Workers(ctx, run)
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
	for _, kind := range append([]schemas.Kind{schemas.Checkpoints}, pairKinds()...) {
		infos, err := c.consumers(ctx, kind, run)
		if err != nil {
			return nil, fmt.Errorf("streams: stages of run %s: %w", run, err)
		}
		for _, info := range infos {
			name, _, _ := strings.Cut(info.Name, "_")
			s := stage(name)
			s.In, s.Unread, s.Unanswered = kind, int(info.NumPending), info.NumAckPending
		}
	}
	for _, w := range workers {
		s := stage(w.Stage)
		s.Workers = append(s.Workers, w)
	}
	order := append([]schemas.Kind{schemas.Checkpoints}, pairKinds()...)
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
