package runs

import (
	"context"
	"fmt"
	"slices"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
)

// Liveness says which workers work on a run, and what the run waits for.
type Liveness struct {
	// Stages are the run's stages in the order in which data flows, with the trainer last.
	Stages []StageLiveness  `json:"stages"`
	Pauses []streams.Paused `json:"pauses,omitempty"`
	// Full are the streams that are nearly full.
	Full []ledger.Use `json:"full,omitempty"`
	// Blocking is the stage that the run waits for; empty if it is unknown.
	Blocking string `json:"blocking,omitempty"`
	// Because says in words what the run waits for.
	Because string `json:"because"`
}

// StageLiveness is the state of one stage as the server and its workers report it.
type StageLiveness struct {
	Stage string `json:"stage"`
	// Reads is the kind of message that the stage reads; empty for the trainer.
	Reads schemas.Kind `json:"reads,omitempty"`
	// Lag is the number of messages that the stage has not finished, including those that a worker holds.
	Lag int `json:"lag"`
	// Rate is in messages per second (for the trainer, steps), ETA in seconds; 0 if unknown.
	Rate    float64          `json:"rate"`
	ETA     float64          `json:"eta"`
	Paused  bool             `json:"paused"`
	Workers []streams.Worker `json:"workers"`

	// feeds is Stage.Feeds of a stage, and true for the trainer.
	feeds bool
}

// Liveness asks the server what the stages of a run are doing.
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

// NearlyFull says in words how full a log is, and which key to raise.
func NearlyFull(u ledger.Use) string {
	return fmt.Sprintf("log %s holds %d of %d bytes: raise streams.max_bytes", u.Log, u.Bytes, u.Limit)
}

// fill sets the fields that come from the server's states and pauses.
func (s *StageLiveness) fill(states []ledger.StageState, pauses []streams.Paused) {
	for _, state := range states {
		if state.Stage == s.Stage {
			s.Reads, s.Lag, s.Rate, s.ETA, s.Workers = state.In, state.Lag(), state.Rate(), state.ETA().Seconds(), state.Workers
		}
	}
	s.Paused = slices.ContainsFunc(pauses, func(p streams.Paused) bool { return p.Stage == "" || p.Stage == s.Stage })
}

// Paused reports whether the run or one of its stages is paused.
func (l Liveness) Paused() bool { return len(l.Pauses) > 0 }

// blocking finds the stage that the run waits for. That is the trainer, unless the trainer waits for pairs. Then it is the first
// stage, going upstream, that has input or cannot take any.
func (l Liveness) blocking() (stage, because string) {
	for _, s := range slices.Backward(l.Stages) {
		if !s.feeds {
			continue
		}
		i, stuck := slices.IndexFunc(s.Workers, busy), slices.IndexFunc(s.Workers, stuck)
		switch {
		case slices.ContainsFunc(s.Workers, pressed): // the stage waits for the trainer
		case s.Paused && len(s.Workers) > 0:
			return s.Stage, s.Stage + " is paused (`ldalign resume`)"
		case len(s.Workers) == 0 && (s.Lag > 0 || s.Stage == Trainer):
			if s.Lag == 0 {
				return s.Stage, "no " + s.Stage + " is running (run the command that started the run again)"
			}
			return s.Stage, fmt.Sprintf("no %s is running, and %d messages wait for one", s.Stage, s.Lag)
		case i < 0 && s.Lag > 0 && stuck >= 0:
			return s.Stage, s.Stage + ": " + saying(s.Workers[stuck])
		case i < 0 && s.Lag > 0:
			return s.Stage, fmt.Sprintf("%s has %d waiting messages", s.Stage, s.Lag)
		case i < 0:
		case s.Stage == Trainer && s.Workers[i].State == streams.StateWaiting: // the trainer waits for an earlier stage
		default:
			return s.Stage, s.Stage + ": " + saying(s.Workers[i])
		}
	}
	if trainer := l.Stages[len(l.Stages)-1]; len(trainer.Workers) > 0 {
		return Trainer, "no stage has input; " + Trainer + ": " + saying(trainer.Workers[0])
	}
	return "", "no stage has input"
}

// saying formats the state that a worker reports.
func saying(w streams.Worker) string {
	if w.Detail == "" {
		return w.State
	}
	return w.State + ", " + w.Detail
}

// press marks idle workers as back-pressured if their output is waiting for a later stage. They get more work with the next
// policy, or after the trainer has taken more pairs.
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

// busy reports whether a worker is in any state other than idle and stuck.
func busy(w streams.Worker) bool { return w.State != streams.StateIdle && !stuck(w) }

func stuck(w streams.Worker) bool { return w.State == streams.StateStuck }
