package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
	"github.com/ldalign/ldalign/trainer"
	"github.com/ldalign/ldalign/trainer/activity"
)

// roleTrainer is what the trainer calls itself among the stages.
const roleTrainer role = "trainer"

// stageStatus is what status prints of a stage with --json.
type stageStatus struct {
	Stage string `json:"stage"`
	// Reads is the kind that it reads; empty for the trainer.
	Reads string `json:"reads,omitempty"`
	// Lag is how many messages it has before it, those in hand included.
	Lag int `json:"lag"`
	// Rate is in messages a second (steps for the trainer), ETA in seconds; 0 where it is not known.
	Rate    float64          `json:"rate"`
	ETA     float64          `json:"eta"`
	Paused  bool             `json:"paused"`
	Workers []streams.Worker `json:"workers"`
}

// liveness is who works on a run, and what it waits for.
type liveness struct {
	Stages []stageStatus    `json:"stages"`
	Pauses []streams.Paused `json:"pauses,omitempty"`
	// Full are streams that are nearly full, in words.
	Full []string `json:"full,omitempty"`
	// Blocking is the stage that the run waits for; empty when that cannot be told.
	Blocking string `json:"blocking,omitempty"`
	// Because is a sentence about it.
	Because string `json:"because"`
}

// liveness asks the server what the stages of a run do.
func (n *node) liveness(ctx context.Context, spec schemas.Spec) (liveness, error) {
	states, err := ledger.Stages(ctx, n.Streams, spec.Run)
	if err != nil {
		return liveness{}, err
	}
	pauses, err := n.Streams.Pauses(ctx, spec.Run)
	if err != nil {
		return liveness{}, err
	}
	l := liveness{Pauses: pauses}
	uses, err := ledger.Uses(ctx, n.Streams, spec.Run)
	if err != nil {
		return l, err
	}
	for _, u := range uses {
		if u.NearlyFull() {
			l.Full = append(l.Full, fmt.Sprintf("stream %s holds %d of %d bytes: raise streams.max_bytes or delete runs",
				u.Kind, u.Bytes, u.Limit))
		}
	}
	for _, r := range append(roles(spec), roleTrainer) {
		s := stageStatus{Stage: string(r)}
		for _, state := range states {
			if state.Stage == s.Stage {
				s.Reads, s.Lag, s.Rate, s.ETA, s.Workers = string(state.In), state.Lag(), state.Rate(), state.ETA().Seconds(), state.Workers
			}
		}
		s.Paused = slices.ContainsFunc(pauses, func(p streams.Paused) bool { return p.Stage == "" || p.Stage == s.Stage })
		l.Stages = append(l.Stages, s)
	}
	l.Blocking, l.Because = l.blocking()
	l.press()
	return l, nil
}

// press tells the idle workers whose work has piled up before a later stage, so that the next prompts come with the next
// policy or when the trainer has taken more pairs, from those who were sent none yet.
func (l liveness) press() {
	behind := slices.IndexFunc(l.Stages, func(s stageStatus) bool { return s.Stage == l.Blocking })
	if behind < 0 || slices.ContainsFunc(l.Stages[behind].Workers, waits) {
		return
	}
	for _, s := range l.Stages[:behind] {
		for k := range s.Workers {
			if w := &s.Workers[k]; s.Stage != string(roleEvaluator) && w.State == streams.StateIdle {
				w.State, w.Detail = streams.StateBackPressure, l.Because
			}
		}
	}
}

func pressed(w streams.Worker) bool { return w.State == streams.StateBackPressure }

func waits(w streams.Worker) bool { return w.State == streams.StateWaiting }

// busy are the states in which a worker is not simply without input.
func busy(w streams.Worker) bool { return w.State != streams.StateIdle }

// blocking finds the stage that the run waits for: the trainer, unless that waits for pairs; then, going upstream, the
// first stage that is not without input.
func (l liveness) blocking() (stage, because string) {
	for _, s := range slices.Backward(l.Stages) {
		if s.Stage == string(roleEvaluator) {
			continue // nothing waits for it but the end of the run
		}
		i := slices.IndexFunc(s.Workers, busy)
		switch {
		case slices.ContainsFunc(s.Workers, pressed): // it waits for the trainer
		case s.Paused && len(s.Workers) > 0:
			return s.Stage, s.Stage + " is paused (`ldalign resume`)"
		case len(s.Workers) == 0 && (s.Lag > 0 || s.Stage == string(roleTrainer)):
			if s.Lag == 0 {
				return s.Stage, "a " + s.Stage + ", and none is running (the command that started the run goes on with it)"
			}
			return s.Stage, fmt.Sprintf("no %s is running, %d messages wait for one", s.Stage, s.Lag)
		case i < 0 && s.Lag > 0:
			return s.Stage, fmt.Sprintf("%s has %d messages before it", s.Stage, s.Lag)
		case i < 0:
		case s.Stage == string(roleTrainer) && s.Workers[i].State == streams.StateWaiting && s.Workers[i].Detail != starting:
		default:
			return s.Stage, fmt.Sprintf("%s: %s, %s", s.Stage, s.Workers[i].State, s.Workers[i].Detail)
		}
	}
	for _, s := range l.Stages {
		if s.Stage == string(roleTrainer) && len(s.Workers) > 0 {
			return s.Stage, "every stage is without input; " + s.Stage + ": " + s.Workers[0].State + ", " + s.Workers[0].Detail
		}
	}
	return "", "every stage is without input"
}

// starting is the detail of a worker that has said nothing yet.
const starting = "starting"

// paused tells that something of the run rests because somebody said so.
func (l liveness) paused() bool { return len(l.Pauses) > 0 }

// moves is a number that changes with every sign of progress of any worker. The evaluator gives none within a policy, and
// is taken at its word that it works.
func (l liveness) moves(tick int) string {
	var b strings.Builder
	for _, s := range l.Stages {
		fmt.Fprintf(&b, "%s %d ", s.Stage, s.Lag)
		for _, w := range s.Workers {
			fmt.Fprintf(&b, "%s %d ", w.Worker, w.Moves)
			if s.Stage == string(roleEvaluator) && w.State == streams.StateWorking {
				fmt.Fprintf(&b, "at %d ", tick)
			}
		}
	}
	return b.String()
}

// errStalled says that a run made no progress for longer than its spec allows.
var errStalled = errors.New("no progress")

// watchStall returns errStalled, with what the run was waiting for, when it made no progress for streams.stall_after; nil
// when ctx ends before.
func (n *node) watchStall(ctx context.Context, spec schemas.Spec) error {
	limits, err := streams.ParseLimits(spec.Streams)
	if err != nil || limits.StallAfter == 0 {
		return err
	}
	tick := time.NewTicker(min(max(limits.StallAfter/20, 100*time.Millisecond), 15*time.Second))
	defer tick.Stop()
	last, since := "", time.Now()
	warned := map[string]bool{}
	for ticks := 0; ; ticks++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		l, err := n.liveness(ctx, spec)
		if err != nil {
			continue // the server is away: who needs it says so
		}
		for i := range l.Full {
			if kind := strings.Fields(l.Full[i])[1]; !warned[kind] {
				warned[kind] = true
				n.Log.Warn().Str("run", spec.Run).Msg(l.Full[i])
			}
		}
		if moves := l.moves(ticks); moves != last || l.paused() {
			last, since = moves, time.Now()
		}
		if time.Since(since) >= limits.StallAfter {
			return fmt.Errorf("%w of run %s for %v (streams.stall_after): %s. `ldalign status %s` shows every stage; "+
				"when the cause is gone the same command goes on", errStalled, spec.Run, limits.StallAfter, l.Because, spec.Run)
		}
	}
}

// present tells the trainer's heartbeat what its meter is told.
type present struct {
	trainer.Meter
	heartbeat *streams.Heartbeat
}

// Observe is part of trainer.Meter.
func (p present) Observe(e activity.Event) {
	work, state := e.Progress(), streams.StateWorking
	switch e.(type) {
	case activity.Waiting, activity.Reading:
		if !work.Ended() {
			state = streams.StateWaiting
		}
	}
	p.heartbeat.Say(state, fmt.Sprintf("%s: %d of %d %s", e, work.Done, work.Total, e.Unit()))
	if step, ok := e.(activity.Training); ok && step.Last != nil {
		p.heartbeat.Did(1)
	} else {
		p.heartbeat.Move()
	}
	p.Meter.Observe(e)
}

type pauseCommand struct {
	Name  string `arg:"" name:"run" help:"Name of the run."`
	Stage string `help:"Pause this stage only: prompter, generator, encoder, distance, evaluator or trainer." enum:",prompter,generator,encoder,distance,evaluator,trainer" default:""`
	serverFlags
}

func (pauseCommand) Help() string {
	return `Example:

    ldalign pause my-run
    ldalign pause my-run --stage generator
    ldalign resume my-run

Workers finish what they have in hand and rest, the trainer between two steps. The pause holds for workers that start
later and over restarts, until it is resumed.`
}

func (c *pauseCommand) Run(ctx context.Context, e *env) error {
	return e.pausing(ctx, c.serverFlags, c.Name, c.Stage, "paused", func(s *runs.Session) error {
		return s.Streams.Pause(ctx, c.Name, c.Stage, person())
	})
}

type resumeCommand struct {
	Name  string `arg:"" name:"run" help:"Name of the run."`
	Stage string `help:"Resume this stage only." enum:",prompter,generator,encoder,distance,evaluator,trainer" default:""`
	serverFlags
}

func (resumeCommand) Help() string {
	return "Example:\n\n    ldalign resume my-run\n    ldalign resume my-run --stage generator\n\n" +
		"A stage that was paused by itself is resumed by itself."
}

func (c *resumeCommand) Run(ctx context.Context, e *env) error {
	return e.pausing(ctx, c.serverFlags, c.Name, c.Stage, "resumed", func(s *runs.Session) error {
		return s.Streams.Resume(ctx, c.Name, c.Stage)
	})
}

// pausing is what pause and resume have in common.
func (e *env) pausing(ctx context.Context, f serverFlags, run, stage, done string, do func(*runs.Session) error) error {
	err := e.attached(ctx, f.servers(), func(s *runs.Session) error {
		if _, err := e.node(s).specsOf(ctx, []string{run}); err != nil {
			return err
		}
		return do(s)
	})
	if err != nil {
		return err
	}
	what := "run " + run
	if stage != "" {
		what = stage + " of run " + run
	}
	if e.json {
		return printJSON(e.stdout, []map[string]string{{"run": run, "stage": stage, "state": done}})
	}
	_, err = fmt.Fprintf(e.stdout, "%s is %s\n", what, done)
	return err
}
