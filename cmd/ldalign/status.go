package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer"
)

type statusCommand struct {
	Name string `arg:"" name:"run" help:"Name of the run."`
	Spec bool   `help:"Print the run's resolved spec instead."`
	serverFlags
}

func (statusCommand) Help() string {
	return `Example:

    ldalign status my-run
    ldalign status my-run --json | jq .iterations
    ldalign status my-run --spec > run.yaml

Works while the run is on and after it has ended.`
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
}

type iterationStatus struct {
	Iteration uint32 `json:"iteration"`
	Total     int    `json:"total"`
	Prompts   int    `json:"prompts"`
	Pairs     int    `json:"pairs"`
	Encoded   int    `json:"encoded"`
	Scored    int    `json:"scored"`
	Dead      int    `json:"dead"`
}

func statusOf(b streams.Balance) iterationStatus {
	return iterationStatus{
		Iteration: b.Iteration, Total: b.Total, Prompts: b.Prompts, Pairs: b.Pairs, Encoded: b.Encoded, Scored: b.Scored,
		Dead: b.DeadTotal(),
	}
}

func (c *statusCommand) Run(ctx context.Context, e *env) (err error) {
	n, err := e.attach(ctx, c.serverFlags.over(schemas.ServersSpec{}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	if c.Spec {
		specs, err := n.specsOf(ctx, []string{c.Name})
		if err != nil {
			return err
		}
		fmt.Fprintln(e.stdout, "---")
		return e.printSpec(specs[0])
	}
	s, err := n.status(ctx, c.Name)
	if err != nil {
		return err
	}
	if e.json {
		return printJSON(e.stdout, []runStatus{s})
	}
	fmt.Fprintf(e.stdout, "run %s (%s): %s, policy %d of %d, %d evaluated, %d checkpoints\n",
		s.Run, s.Objective, s.State, s.Policy, s.Of, s.Evaluated, s.Checkpoints)
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "iteration\ttotal\tprompts\tpairs\tencoded\tscored\tdead\t")
	for _, i := range s.Iterations {
		fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", i.Iteration, i.Total, i.Prompts, i.Pairs, i.Encoded, i.Scored, i.Dead)
	}
	return w.Flush()
}

func (n *node) status(ctx context.Context, run string) (runStatus, error) {
	specs, err := n.specsOf(ctx, []string{run})
	if err != nil {
		return runStatus{}, err
	}
	spec := specs[0]
	s := runStatus{Run: run, Objective: spec.Objective.Kind, Of: spec.Iterations, Policy: -1}
	balances, err := n.streams.Audit(ctx, run)
	if err != nil {
		return s, err
	}
	for _, b := range balances {
		s.Iterations = append(s.Iterations, statusOf(b))
	}
	manifests, err := n.checkpoints.List(ctx, run)
	if err != nil {
		return s, err
	}
	s.Checkpoints = len(manifests)
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
	s.State = state(s, expectedResults(spec))
	return s, nil
}

func state(s runStatus, results int) string {
	switch {
	case s.Policy < s.Of:
		return "in progress"
	case s.Evaluated < results:
		return "trained, being evaluated"
	default:
		return "complete"
	}
}

type runsCommand struct{ serverFlags }

func (runsCommand) Help() string {
	return "Example:\n\n    ldalign runs\n    ldalign runs --json | jq -r .run"
}

func (c *runsCommand) Run(ctx context.Context, e *env) (err error) {
	n, err := e.attach(ctx, c.serverFlags.over(schemas.ServersSpec{}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	names, err := n.streams.Runs(ctx)
	if err != nil {
		return err
	}
	var all []runStatus
	for _, name := range names {
		s, err := n.status(ctx, name)
		if errors.Is(err, errNoSuchRun) {
			s = runStatus{Run: name, State: "not declared", Policy: -1}
		} else if err != nil {
			return err
		}
		all = append(all, s)
	}
	if e.json {
		return printJSON(e.stdout, all)
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "run\tobjective\tpolicy\tstate")
	for _, s := range all {
		fmt.Fprintf(w, "%s\t%s\t%d of %d\t%s\n", s.Run, s.Objective, s.Policy, s.Of, s.State)
	}
	return w.Flush()
}

type auditCommand struct {
	Name string `arg:"" name:"run" help:"Name of the run."`
	serverFlags
}

func (auditCommand) Help() string {
	return `Example:

    ldalign audit my-run

For each iteration: prompts = what the trainer takes (scored pairs, or for objectives without distances pairs, or for sft
the prompts) + dead-lettered + in flight, counted by unique pair ids. Ends with exit code 1 when an iteration that is
closed does not balance, or one that was trained from has pairs in flight.`
}

func (c *auditCommand) Run(ctx context.Context, e *env) (err error) {
	n, err := e.attach(ctx, c.serverFlags.over(schemas.ServersSpec{}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	specs, err := n.specsOf(ctx, []string{c.Name})
	if err != nil {
		return err
	}
	s, err := n.status(ctx, c.Name)
	if err != nil {
		return err
	}
	audits, err := n.audit(ctx, specs[0], s.Policy)
	if err != nil {
		return err
	}
	if e.json {
		err = printJSON(e.stdout, audits)
	} else {
		err = printAudits(e.stdout, c.Name, audits)
	}
	if err != nil {
		return err
	}
	unbalanced := 0
	for _, a := range audits {
		if !a.Balanced {
			unbalanced++
		}
	}
	if unbalanced > 0 {
		return fmt.Errorf("%d of %d iterations of run %s do not balance", unbalanced, len(audits), c.Name)
	}
	return nil
}

// iterationAudit is what audit prints of an iteration with --json.
type iterationAudit struct {
	iterationStatus
	Closed     bool           `json:"closed"`
	DeadBy     map[string]int `json:"dead_by,omitempty"`
	InFlight   []flightStatus `json:"in_flight,omitempty"`
	Strays     []string       `json:"strays,omitempty"`
	Duplicates int            `json:"duplicates"`
	Balanced   bool           `json:"balanced"`
}

type flightStatus struct {
	Pair string `json:"pair"`
	At   string `json:"at"`
}

// audit balances a run's iterations. policy is its newest one: what was trained from has nothing in flight.
func (n *node) audit(ctx context.Context, spec schemas.Spec, policy int) ([]iterationAudit, error) {
	balances, err := n.streams.Audit(ctx, spec.Run)
	if err != nil {
		return nil, err
	}
	source := trainer.Source(spec.Objective.Kind)
	audits := make([]iterationAudit, 0, len(balances))
	for _, b := range balances {
		a := iterationAudit{
			iterationStatus: statusOf(b), Closed: b.Closed, Strays: b.Strays, Duplicates: b.Duplicates,
		}
		for _, f := range b.InFlight {
			if f.At != source { // the trainer takes it from there
				a.InFlight = append(a.InFlight, flightStatus{f.PairID, string(f.At)})
			}
		}
		for _, d := range b.Dead {
			if a.DeadBy == nil {
				a.DeadBy = map[string]int{}
			}
			a.DeadBy[d.Reason] = d.Count
		}
		trained := int(b.Iteration) < policy
		a.Balanced = len(b.Strays) == 0 && (!b.Closed || b.Prompts == b.Total) && (!trained || len(a.InFlight) == 0)
		audits = append(audits, a)
	}
	return audits, nil
}

func printAudits(w io.Writer, run string, audits []iterationAudit) error {
	for _, a := range audits {
		fmt.Fprintf(w, "iteration %d: %d prompts, %d pairs, %d encoded, %d scored, %d dead, %d in flight, %d duplicates dropped\n",
			a.Iteration, a.Prompts, a.Pairs, a.Encoded, a.Scored, a.Dead, len(a.InFlight), a.Duplicates)
		for _, reason := range slices.Sorted(maps.Keys(a.DeadBy)) {
			fmt.Fprintf(w, "  dead: %d %s (`ldalign deadletters list %s`)\n", a.DeadBy[reason], reason, run)
		}
		for _, f := range a.InFlight {
			fmt.Fprintf(w, "  in flight: pair %s, last seen on %s\n", f.Pair, f.At)
		}
		for _, id := range a.Strays {
			fmt.Fprintf(w, "  stray: pair %s has no prompt in the log\n", id)
		}
	}
	return nil
}
