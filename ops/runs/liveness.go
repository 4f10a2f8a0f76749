package runs

import (
	"context"
	"fmt"
	"slices"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
)

// Liveness is who works on a run, and what it waits for.
type Liveness struct {
	// Stages are those of the run in the order in which data flows, the trainer last.
	Stages []StageLiveness  `json:"stages"`
	Pauses []streams.Paused `json:"pauses,omitempty"`
	// Full are the streams that are nearly full.
	Full []ledger.Use `json:"full,omitempty"`
	// Blocking is the stage that the run waits for; empty when that cannot be told.
	Blocking string `json:"blocking,omitempty"`
	// Because is a sentence about it.
	Because string `json:"because"`
}

// StageLiveness is what the server and the workers say of one stage.
type StageLiveness struct {
	Stage string `json:"stage"`
	// Reads is the kind that it reads; empty for the trainer.
	Reads schemas.Kind `json:"reads,omitempty"`
	// Lag is how many messages it has before it, those that a worker holds included.
	Lag int `json:"lag"`
	// Rate is in messages a second (steps for the trainer), ETA in seconds; 0 where it is not known.
	Rate    float64          `json:"rate"`
	ETA     float64          `json:"eta"`
	Paused  bool             `json:"paused"`
	Workers []streams.Worker `json:"workers"`

	// feeds: see Stage.Feeds; true of the trainer.
	feeds bool
}

// Liveness asks the server what the stages of a run do.
func (s *Session) Liveness(ctx context.Context, spec schemas.Spec, p Pipeline) (Liveness, error) {
	states, err := ledger.Stages(ctx, s.Streams, spec.Run)
	if err != nil {
		return Liveness{}, err
	}
	pauses, err := s.Streams.Pauses(ctx, spec.Run)
	if err != nil {
		return Liveness{}, err
	}
	l := Liveness{Pauses: pauses}
	uses, err := ledger.Uses(ctx, s.Streams, spec.Run)
	if err != nil {
		return l, err
	}
	for _, u := range uses {
		if u.NearlyFull() {
			l.Full = append(l.Full, u)
		}
	}
	for _, stage := range p.Of(spec) {
		l.Stages = append(l.Stages, StageLiveness{Stage: stage.Name, feeds: stage.Feeds()})
	}
	l.Stages = append(l.Stages, StageLiveness{Stage: Trainer, feeds: true})
	for i := range l.Stages {
		l.Stages[i].fill(states, pauses)
	}
	l.Blocking, l.Because = l.blocking()
	l.press()
	return l, nil
}

// NearlyFull says how full a stream is, and what to do about it.
func NearlyFull(u ledger.Use) string {
	return fmt.Sprintf("log %s holds %d of %d bytes: raise streams.max_bytes", u.Log, u.Bytes, u.Limit)
}

// fill adds what the server says.
func (s *StageLiveness) fill(states []ledger.StageState, pauses []streams.Paused) {
	for _, state := range states {
		if state.Stage == s.Stage {
			s.Reads, s.Lag, s.Rate, s.ETA, s.Workers = state.In, state.Lag(), state.Rate(), state.ETA().Seconds(), state.Workers
		}
	}
	s.Paused = slices.ContainsFunc(pauses, func(p streams.Paused) bool { return p.Stage == "" || p.Stage == s.Stage })
}

// Paused tells that somebody has paused the run or a stage of it.
func (l Liveness) Paused() bool { return len(l.Pauses) > 0 }

// blocking finds the stage that the run waits for: the trainer, unless that waits for pairs; then, going upstream, the
// first stage that has input or cannot take any.
func (l Liveness) blocking() (stage, because string) {
	for _, s := range slices.Backward(l.Stages) {
		if !s.feeds {
			continue
		}
		i := slices.IndexFunc(s.Workers, busy)
		switch {
		case slices.ContainsFunc(s.Workers, pressed): // it waits for the trainer
		case s.Paused && len(s.Workers) > 0:
			return s.Stage, s.Stage + " is paused (`ldalign resume`)"
		case len(s.Workers) == 0 && (s.Lag > 0 || s.Stage == Trainer):
			if s.Lag == 0 {
				return s.Stage, "a " + s.Stage + ", and none is running (the command that started the run goes on with it)"
			}
			return s.Stage, fmt.Sprintf("no %s is running, %d messages wait for one", s.Stage, s.Lag)
		case i < 0 && s.Lag > 0:
			return s.Stage, fmt.Sprintf("%s has %d messages before it", s.Stage, s.Lag)
		case i < 0:
		case s.Stage == Trainer && s.Workers[i].State == streams.StateWaiting: // for what the stages before it make
		default:
			return s.Stage, s.Stage + ": " + saying(s.Workers[i])
		}
	}
	if trainer := l.Stages[len(l.Stages)-1]; len(trainer.Workers) > 0 {
		return Trainer, "every stage is without input; " + Trainer + ": " + saying(trainer.Workers[0])
	}
	return "", "every stage is without input"
}

// saying is what a worker says of itself.
func saying(w streams.Worker) string {
	if w.Detail == "" {
		return w.State
	}
	return w.State + ", " + w.Detail
}

// press marks idle workers as back-pressured when their output is waiting for a later stage: the next prompts come with the
// next policy, or when the trainer has taken more pairs.
func (l Liveness) press() {
	behind := slices.IndexFunc(l.Stages, func(s StageLiveness) bool { return s.Stage == l.Blocking })
	if behind < 0 || slices.ContainsFunc(l.Stages[behind].Workers, waits) {
		return
	}
	for _, s := range l.Stages[:behind] {
		for k := range s.Workers {
			if w := &s.Workers[k]; s.feeds && w.State == streams.StateIdle {
				w.State, w.Detail = streams.StateBackPressure, l.Because
			}
		}
	}
}

func pressed(w streams.Worker) bool { return w.State == streams.StateBackPressure }

func waits(w streams.Worker) bool {
	return w.State == streams.StateWaiting || w.State == streams.StateStarting
}

// busy tells that a worker is not simply without input.
func busy(w streams.Worker) bool { return w.State != streams.StateIdle }
