package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
	"github.com/ldalign/ldalign/trainer/lineage"
	"github.com/ldalign/ldalign/trainer/objective"
)

type auditCommand struct {
	Name      string `arg:"" name:"run" help:"Name of the run."`
	Iteration int    `help:"Audit this iteration only; -1 audits all." default:"-1"`
	serverFlags
}

func (auditCommand) Help() string {
	return `Example:

    ldalign audit my-run
    ldalign audit my-run --iteration 2 --json | jq .findings

For each iteration, by pair ids:

    prompts = trained + dead + stale + skipped + ready + in flight + lost

trained and skipped by the trainer's record of its batches, the rest by the logs. Found and named are pairs that are lost,
trained twice or not at all, made by other weights than the iteration's policy, and messages missing in the middle of a
log; what retention has removed from a log's beginning is told apart. Ends with exit code 1 when anything is found. The
screen names 20 pairs of each finding, --json all of them. A run may go on meanwhile.`
}

func (c *auditCommand) Run(ctx context.Context, e *env) error {
	return e.attached(ctx, c.servers(), func(s *runs.Session) error { return c.run(ctx, e, s) })
}

func (c *auditCommand) run(ctx context.Context, e *env, s *runs.Session) (err error) {
	n := e.node(s)
	specs, err := n.specsOf(ctx, []string{c.Name})
	if err != nil {
		return err
	}
	names := 20
	if e.json {
		names = -1
	}
	audits, err := n.audit(ctx, specs[0], c.Iteration, names)
	if err != nil {
		return err
	}
	if c.Iteration >= 0 && len(audits) == 0 {
		return fmt.Errorf("run %s has no iteration %d", c.Name, c.Iteration)
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
	Closed bool `json:"closed"`
	// Recorded tells that trained is by the trainer's record. Of prompts that retention has removed, expired tells the number.
	Recorded   bool            `json:"recorded"`
	Trained    int             `json:"trained"`
	DeadBy     []reasonStatus  `json:"dead_by,omitempty"`
	Dropped    int             `json:"dropped"`
	Unnamed    int             `json:"unnamed"`
	Stale      int             `json:"stale"`
	Skipped    int             `json:"skipped"`
	SkippedBy  []reasonStatus  `json:"skipped_by,omitempty"`
	Ready      int             `json:"ready"`
	InFlight   int             `json:"in_flight"`
	Flights    []flightStatus  `json:"flights,omitempty"`
	Lost       int             `json:"lost"`
	Expired    int             `json:"expired"`
	Duplicates int             `json:"duplicates"`
	Findings   []findingStatus `json:"findings,omitempty"`
	Balanced   bool            `json:"balanced"`
}

type reasonStatus struct {
	Reason string `json:"reason"`
	Count  int    `json:"count"`
}

type flightStatus struct {
	Pair string `json:"pair"`
	At   string `json:"at"`
}

type findingStatus struct {
	Code   string   `json:"code"`
	Stream string   `json:"stream,omitempty"`
	Count  int      `json:"count"`
	Pairs  []string `json:"pairs,omitempty"`
	Text   string   `json:"text"`
}

// audit balances a run's iterations, or one of them. names is how many pairs a finding names, negative for all.
func (n *node) audit(ctx context.Context, spec schemas.Spec, iteration, names int) ([]iterationAudit, error) {
	named, err := n.namedPolicies(ctx, spec.Run) // before the store: a policy is there before the log names it
	if err != nil {
		return nil, err
	}
	policies, err := n.policies(ctx, spec.Run)
	if err != nil {
		return nil, err
	}
	task := n.display.Task("audit "+spec.Run, 0, "messages")
	defer task.Done()
	feed, _ := lineage.Feed(spec, objective.TrainsFrom(spec.Objective.Kind))
	o := ledger.AuditOptions{
		Iteration: iteration, Source: feed.Kind, Names: names, First: uint32(spec.FirstIteration()),
		Record: func(ctx context.Context, i uint32) (ledger.Record, error) {
			r, err := n.record(ctx, policies, i)
			if digest, made := named[i+1]; made && !r.Done {
				r.Done, r.Problem = true, fmt.Sprintf("the log names policy %d (%.12s), which the checkpoint store does not have: "+
					"restore it from a copy", i+1, digest)
			}
			if _, replayed := lineage.Feed(spec, schemas.Pairs); err == nil && replayed {
				var origin checkpoints.Manifest
				origin, err = lineage.Origin(ctx, n.Streams, n.Checkpoints, spec.Source.Run, i)
				r.Policy = origin.Digest
			}
			return r, err
		},
		Progress: func(done, total uint64) {
			task.SetTotal(int64(total))
			task.Set(int64(done))
		},
	}
	if given, ok := lineage.Given(spec); ok {
		o.Given = &given
	}
	for i := range policies {
		o.Trained = max(o.Trained, i)
	}
	for i := range named {
		o.Trained = max(o.Trained, i)
	}
	balances, err := ledger.Audit(ctx, n.Streams, spec.Run, o)
	if err != nil {
		return nil, err
	}
	audits := make([]iterationAudit, len(balances))
	for i, b := range balances {
		audits[i] = auditOf(b)
	}
	return audits, nil
}

// policies are a run's newest policies by iteration.
func (n *node) policies(ctx context.Context, run string) (map[uint32]checkpoints.Manifest, error) {
	manifests, err := n.Checkpoints.List(ctx, run)
	if err != nil {
		return nil, err
	}
	policies := map[uint32]checkpoints.Manifest{}
	for _, m := range manifests {
		if m.Kind == checkpoints.Policy {
			policies[m.Iteration] = m
		}
	}
	return policies, nil
}

// namedPolicies are the digests of the policies that a run's log names, by iteration.
func (n *node) namedPolicies(ctx context.Context, run string) (map[uint32]string, error) {
	named := map[uint32]string{}
	err := n.Streams.Read(ctx, schemas.Checkpoints, run, streams.AllIterations, 0, func(r streams.Received) error {
		if c, ok := r.Message.(*events.Checkpoint); ok && c.GetKind() == string(checkpoints.Policy) {
			named[c.GetIteration()] = c.GetDigest()
		}
		return nil
	})
	return named, err
}

// record is the trainer's side of an iteration: what its policy's manifest says that it was made of.
func (n *node) record(ctx context.Context, policies map[uint32]checkpoints.Manifest, iteration uint32) (ledger.Record, error) {
	r := ledger.Record{Policy: policies[iteration].Digest}
	made, done := policies[iteration+1]
	if !done {
		return r, nil
	}
	r.Done = true
	if _, known := made.File(checkpoints.BatchesFile); !known {
		return r, nil
	}
	batches, err := n.Checkpoints.Batches(ctx, made)
	if errors.Is(err, checkpoints.ErrBatches) {
		r.Problem = err.Error()
	} else if err != nil {
		return r, err
	}
	r.Known, r.Pairs = true, batches.Pairs[:len(batches.Pairs)-batches.Earlier] // what came before was audited there
	for _, s := range batches.Skipped {
		r.Skipped = append(r.Skipped, ledger.Skip{ID: s.ID, Reason: s.Reason})
	}
	return r, nil
}

func auditOf(b ledger.Balance) iterationAudit {
	a := iterationAudit{
		iterationStatus: iterationStatus{
			Iteration: b.Iteration, Total: b.Total, Prompts: b.Prompts, Pairs: b.Pairs, Encoded: b.Encoded, Scored: b.Scored,
			Dead: b.DeadTotal(),
		},
		Closed: b.Closed, Recorded: b.Recorded, Trained: b.Trained, DeadBy: reasonsOf(b.Dead), Dropped: b.Dropped,
		Unnamed: b.Unnamed, Stale: b.Stale, Skipped: b.SkippedTotal(), SkippedBy: reasonsOf(b.Skipped), Ready: b.Ready,
		InFlight: b.InFlight, Lost: b.Lost, Expired: b.Expired, Duplicates: b.Duplicates, Balanced: b.Balances(),
	}
	for _, f := range b.Flights {
		a.Flights = append(a.Flights, flightStatus{f.PairID, string(f.At)})
	}
	for _, f := range b.Findings {
		a.Findings = append(a.Findings, findingStatus{f.Code, string(f.Stream), f.Count, f.Pairs, f.Text})
	}
	return a
}

func reasonsOf(counts []ledger.ReasonCount) []reasonStatus {
	var out []reasonStatus
	for _, c := range counts {
		out = append(out, reasonStatus{c.Reason, c.Count})
	}
	return out
}

func printAudits(w io.Writer, run string, audits []iterationAudit) error {
	var b strings.Builder
	for _, a := range audits {
		fmt.Fprintf(&b, "iteration %d: %d prompts, %d pairs, %d encoded, %d scored, %d dead, %d in flight, %d duplicates dropped\n",
			a.Iteration, a.Prompts, a.Pairs, a.Encoded, a.Scored, a.Dead, a.InFlight, a.Duplicates)
		prompts := fmt.Sprintf("%d prompts", a.Prompts)
		if a.Expired > 0 {
			prompts += fmt.Sprintf(" + %d removed by retention", a.Expired)
		}
		verdict := "balances"
		if !a.Balanced {
			verdict = "DOES NOT BALANCE"
		}
		fmt.Fprintf(&b, "  %s = %d trained + %d dead + %d stale + %d skipped + %d ready + %d in flight + %d lost: %s\n",
			prompts, a.Trained, a.Dead, a.Stale, a.Skipped, a.Ready, a.InFlight, a.Lost, verdict)
		if a.Trained > 0 && !a.Recorded {
			fmt.Fprintln(&b, "  its policy has no record of batches: trained is what the log held for the trainer")
		}
		for _, r := range a.DeadBy {
			fmt.Fprintf(&b, "  dead: %d %s (`ldalign deadletters list %s`)\n", r.Count, r.Reason, run)
		}
		if a.Unnamed > 0 {
			fmt.Fprintf(&b, "  beside them: %d dead letters of no pair that was asked for\n", a.Unnamed)
		}
		for _, r := range a.SkippedBy {
			fmt.Fprintf(&b, "  skipped: %d %s\n", r.Count, r.Reason)
		}
		for _, f := range a.Flights {
			fmt.Fprintf(&b, "  in flight: pair %s, last seen on %s\n", f.Pair, f.At)
		}
		printMore(&b, "in flight", a.InFlight-len(a.Flights))
		for _, f := range a.Findings {
			fmt.Fprintf(&b, "  found %s, %d: %s\n", f.Code, f.Count, f.Text)
			for _, pair := range f.Pairs {
				fmt.Fprintf(&b, "    %s: pair %s\n", f.Code, pair)
			}
			if len(f.Pairs) > 0 {
				printMore(&b, "  "+f.Code, f.Count-len(f.Pairs))
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func printMore(b *strings.Builder, what string, n int) {
	if n > 0 {
		fmt.Fprintf(b, "  %s: and %d more (--json names all)\n", what, n)
	}
}
