package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
	"github.com/ldalign/ldalign/trainer/lineage"
)

type statusCommand struct {
	Name string `arg:"" name:"run" help:"Name of the run."`
	Spec bool   `help:"Print the run's resolved spec instead."`

	Watch bool          `help:"Show it again and again, until the run is complete or Ctrl-C." short:"w"`
	Every time.Duration `help:"Time between two looks." default:"2s"`
	serverFlags
}

func (statusCommand) Help() string {
	return `Example:

    ldalign status my-run
    ldalign status my-run --watch
    ldalign status my-run --json | jq .iterations
    ldalign status my-run --spec > run.yaml

Works while the run is on and after it has ended. For each stage: what is before it (lag), how fast its workers are, how long
that takes, what each worker does or why it does nothing; and which stage the run waits for.`
}

// runStatus is what status prints with --json.
type runStatus struct {
	Run        string            `json:"run"`
	Objective  string            `json:"objective"`
	Iterations []iterationStatus `json:"iterations"`
	// Policy is the newest policy's iteration; -1 before the first.
	Policy int `json:"policy"`
	// Of is the number of iterations that the run makes.
	Of          int    `json:"of"`
	Guide       bool   `json:"guide"`
	Evaluated   int    `json:"evaluated"`
	Checkpoints int    `json:"checkpoints"`
	State       string `json:"state"`
	// Missing says why there are no checkpoints although the run has made some; empty otherwise.
	Missing string `json:"missing,omitempty"`
	// Data tells how many records the run trains on, and what was dropped; empty before it begins.
	Data string `json:"data,omitempty"`
	// Source is what a replay or fork began with; Lineage says it in words.
	Source  *schemas.SourceSpec `json:"source,omitempty"`
	Lineage string              `json:"lineage,omitempty"`
	// Live is who works on the run now; absent in a list of runs.
	Live *liveness `json:"live,omitempty"`
}

type iterationStatus struct {
	Iteration uint32 `json:"iteration"`
	Total     int    `json:"total"`
	Prompts   int    `json:"prompts"`
	Pairs     int    `json:"pairs"`
	Encoded   int    `json:"encoded"`
	Scored    int    `json:"scored"`
	Dead      int    `json:"dead"`
	// Expired tells that the run's retention has removed messages.
	Expired bool `json:"expired,omitempty"`
}

func statusOf(c ledger.Count) iterationStatus {
	return iterationStatus{
		Iteration: c.Iteration, Total: c.Total, Prompts: c.Prompts, Pairs: c.Pairs, Encoded: c.Encoded, Scored: c.Scored,
		Dead: c.Dead, Expired: c.Expired,
	}
}

// with adds to the counts of a replay what its source gave it: those pairs stand on the source's log.
func (i iterationStatus) with(spec schemas.Spec) iterationStatus {
	if !spec.Replays() {
		return i
	}
	from := schemas.Kind(spec.Source.From)
	for _, c := range []struct {
		kind schemas.Kind
		n    *int
	}{{schemas.Prompts, &i.Prompts}, {schemas.Pairs, &i.Pairs}, {schemas.Encoded, &i.Encoded}, {schemas.Scored, &i.Scored}} {
		if !from.Before(c.kind) {
			*c.n = i.Total
		}
	}
	return i
}

func (c *statusCommand) Run(ctx context.Context, e *env) error {
	return e.attached(ctx, c.servers(), func(s *runs.Session) error { return c.run(ctx, e, s) })
}

func (c *statusCommand) run(ctx context.Context, e *env, s *runs.Session) (err error) {
	n := e.node(s)
	if c.Spec {
		specs, err := n.specsOf(ctx, []string{c.Name})
		if err != nil {
			return err
		}
		return e.showSpec(specs[0])
	}
	if c.Watch {
		return c.watch(ctx, e, n)
	}
	status, err := n.liveStatus(ctx, c.Name)
	if err != nil {
		return err
	}
	if e.json {
		return printJSON(e.stdout, []runStatus{status})
	}
	return printStatus(e.stdout, status)
}

func (n *node) status(ctx context.Context, run string) (runStatus, error) {
	specs, err := n.specsOf(ctx, []string{run})
	if err != nil {
		return runStatus{}, err
	}
	spec := specs[0]
	s := runStatus{Run: run, Objective: spec.Objective.Kind, Of: spec.Iterations, Policy: -1}
	if spec.Source != nil {
		s.Source, s.Lineage = spec.Source, lineage.Describe(spec)
	}
	counts, err := ledger.Counts(ctx, n.Streams, run)
	if err != nil {
		return s, err
	}
	for _, c := range counts {
		if i := statusOf(c).with(spec); !spec.Replays() || i.Prompts > 0 {
			s.Iterations = append(s.Iterations, i)
		}
	}
	manifests, err := n.Checkpoints.List(ctx, run)
	if err != nil {
		return s, err
	}
	if s.Checkpoints = len(manifests); s.Checkpoints == 0 {
		if s.Missing, err = n.missing(ctx, run); err != nil {
			return s, err
		}
	}
	for _, m := range manifests {
		switch m.Kind {
		case checkpoints.Policy:
			s.Policy = int(m.Iteration)
		case checkpoints.Guide:
			s.Guide = true
		case checkpoints.State:
		}
	}
	results, err := n.results(ctx, run)
	if err != nil {
		return s, err
	}
	s.Evaluated = len(results)
	records, err := n.Streams.Find(ctx, schemas.Control, run, (&events.Control{Kind: events.ControlRecords}).ID())
	if err != nil && !errors.Is(err, streams.ErrNotFound) {
		return s, err
	}
	if c, ok := records.Message.(*events.Control); ok {
		s.Data = c.GetMessage()
	}
	s.State = state(s, expectedResults(spec))
	return s, nil
}

// missing says that the store has nothing of a run that has checkpoints; empty where it has none yet.
func (n *node) missing(ctx context.Context, run string) (string, error) {
	announced, err := n.Announced(ctx, run)
	if err != nil || announced == 0 {
		return "", err
	}
	return fmt.Sprintf("the run's log names %s, and none is in the store that was looked into: give the run's own by --s3 "+
		"(LDALIGN_S3); without it that is the folder %s", progress.Count(int64(announced), "checkpoints"), n.Dir), nil
}

func state(s runStatus, results int) string {
	switch {
	case s.Policy < s.Of:
		return stateGoing
	case s.Evaluated < results:
		return "trained, being evaluated"
	default:
		return stateComplete
	}
}

const (
	stateGoing    = "in progress"
	stateComplete = "complete"
)
