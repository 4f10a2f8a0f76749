package runs

import (
	"context"
	"errors"
	"fmt"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
	"github.com/ldalign/ldalign/trainer/lineage"
)

// Status is the progress of a run.
type Status struct {
	Run        string         `json:"run"`
	Objective  string         `json:"objective"`
	Iterations []ledger.Count `json:"iterations"`
	// Policy is the newest policy's iteration; -1 before the first.
	Policy int `json:"policy"`
	// Of is the run's number of iterations.
	Of          int   `json:"of"`
	Guide       bool  `json:"guide"`
	Evaluated   int   `json:"evaluated"`
	Checkpoints int   `json:"checkpoints"`
	State       State `json:"state"`
	// Missing says why the store has no checkpoints although the run has made some; empty otherwise.
	Missing string `json:"missing,omitempty"`
	// Data says how many records the run trains on, and which were dropped; empty before the run begins.
	Data string `json:"data,omitempty"`
	// Source is the log or policy that a replay or fork starts from; Lineage says it in words.
	Source  *schemas.SourceSpec `json:"source,omitempty"`
	Lineage string              `json:"lineage,omitempty"`
	// Live says what the run's workers are doing now; nil in a list of runs.
	Live *Liveness `json:"live,omitempty"`
}

// State is the state of a run, in words.
type State string

// The states of a run.
const (
	StateUndeclared State = "not declared"
	StateGoing      State = "in progress"
	StatePaused     State = "in progress, paused"
	StateEvaluating State = "trained, being evaluated"
	StateComplete   State = "complete"
)

// Status reads the progress of a run. It returns ErrNoSuchRun if the run is not declared.
func (s *Session) Status(ctx context.Context, run string) (Status, error) {
	spec, err := Spec(ctx, s, run)
	if err != nil {
		return Status{}, err
	}
	st := Status{
		Run: run, Objective: spec.Objective.Kind, Of: spec.Iterations, Policy: -1, Source: spec.Source, Lineage: lineage.Describe(spec),
	}
	counts, err := ledger.Counts(ctx, s.Streams, run)
	if err != nil {
		return st, err
	}
	for _, c := range counts {
		if i := withGiven(c, spec); !spec.Replays() || i.Prompts > 0 {
			st.Iterations = append(st.Iterations, i)
		}
	}
	if err := s.addCheckpoints(ctx, &st); err != nil {
		return st, err
	}
	results, err := s.Results(ctx, run)
	if err != nil {
		return st, err
	}
	st.Evaluated = len(results)
	records, err := s.Streams.Find(ctx, schemas.Control, run, (&events.Control{Kind: events.ControlRecords}).ID())
	if err != nil && !errors.Is(err, streams.ErrNotFound) {
		return st, err
	}
	if c, ok := records.Message.(*events.Control); ok {
		st.Data = c.GetMessage()
	}
	switch {
	case st.Policy < st.Of:
		st.State = StateGoing
	case st.Evaluated < ExpectedResults(spec):
		st.State = StateEvaluating
	default:
		st.State = StateComplete
	}
	return st, nil
}

// LiveStatus is Status with Live filled in.
func (s *Session) LiveStatus(ctx context.Context, run string, p Pipeline) (Status, error) {
	st, err := s.Status(ctx, run)
	if err != nil {
		return st, err
	}
	spec, err := Spec(ctx, s, run)
	if err != nil {
		return st, err
	}
	l, err := s.Liveness(ctx, spec, p)
	st.Live = &l
	if st.State == StateComplete {
		l.Blocking, l.Because = "", "nothing: the run is complete"
	}
	if st.State == StateGoing && l.Paused() {
		st.State = StatePaused
	}
	return st, err
}

// withGiven adds to the counts of a replay the messages that it reads from its source's log.
func withGiven(c ledger.Count, spec schemas.Spec) ledger.Count {
	for _, of := range []struct {
		kind schemas.Kind
		n    *int
	}{{schemas.Prompts, &c.Prompts}, {schemas.Pairs, &c.Pairs}, {schemas.Encoded, &c.Encoded}, {schemas.Scored, &c.Scored}} {
		if _, given := spec.ReadsFrom(of.kind); given {
			*of.n = c.Total
		}
	}
	return c
}

// addCheckpoints fills in what the store says about the run.
func (s *Session) addCheckpoints(ctx context.Context, st *Status) error {
	manifests, err := s.Checkpoints.List(ctx, st.Run)
	if err != nil {
		return err
	}
	st.Checkpoints = len(manifests)
	for _, m := range manifests {
		switch m.Kind {
		case checkpoints.Policy:
			st.Policy = int(m.Iteration)
		case checkpoints.Guide:
			st.Guide = true
		case checkpoints.State:
		}
	}
	if st.Checkpoints > 0 {
		return nil
	}
	announced, err := s.Announced(ctx, st.Run)
	if err == nil && announced > 0 {
		st.Missing = fmt.Sprintf("the run's log names %s, but this store has none: name the run's store with --s3 "+
			"(LDALIGN_S3); without --s3, ldalign looks in the folder %s", progress.Count(int64(announced), "checkpoints"), s.Dir)
	}
	return err
}
