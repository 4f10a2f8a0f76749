package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/streams/ledger"
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

    prompts = trained + dead + skipped + ready + in flight + lost

The numbers of trained and skipped pairs come from the trainer's record of its batches, all others from the logs. An audit
finds and names pairs that are lost, trained twice, not trained, or sampled by weights other than the iteration's policy, and
messages missing in the middle of a log. It also says which version of libtorch computed the pairs. Pairs removed by retention
are counted separately. The exit code is 1 if anything is found. The text output names up to 20 pairs of each finding, --json
all of them. The run may continue meanwhile.`
}

func (c *auditCommand) Run(ctx context.Context, e *env) error {
	return e.attached(ctx, c.servers(), func(s *runs.Session) error {
		spec, err := runs.Spec(ctx, s, c.Name)
		if err != nil {
			return err
		}
		o := runs.AuditOptions{Iteration: c.Iteration, Names: 20}
		if e.json {
			o.Names = -1
		}
		task := e.display.Task("audit "+c.Name, 0, "messages")
		defer task.Done()
		o.Progress = func(done, total uint64) {
			task.SetTotal(int64(total))
			task.Set(int64(done))
		}
		balances, err := runs.Audit(ctx, s, spec, o)
		if err != nil {
			return err
		}
		if c.Iteration >= 0 && len(balances) == 0 {
			return fmt.Errorf("run %s has no iteration %d", c.Name, c.Iteration)
		}
		return e.printAudit(c.Name, balances)
	})
}

// printAudit prints the ledger of each iteration, and returns an error if one does not balance.
func (e *env) printAudit(run string, balances []ledger.Balance) error {
	var err error
	if e.json {
		err = printJSON(e.stdout, balances)
	} else {
		err = printBalances(e.stdout, run, balances)
	}
	unbalanced := 0
	for _, b := range balances {
		if !b.Balances() {
			unbalanced++
		}
	}
	if err == nil && unbalanced > 0 {
		err = fmt.Errorf("%d of %d iterations of run %s do not balance", unbalanced, len(balances), run)
	}
	return err
}

func printBalances(w io.Writer, run string, balances []ledger.Balance) error {
	var b strings.Builder
	for _, a := range balances {
		fmt.Fprintf(&b, "iteration %d: %d prompts, %d pairs, %d encoded, %d scored, %d dead, %d in flight, %d duplicates dropped\n",
			a.Iteration, a.Prompts, a.Pairs, a.Encoded, a.Scored, a.DeadTotal(), a.InFlight, a.Duplicates)
		prompts := fmt.Sprintf("%d prompts", a.Prompts)
		if a.Expired > 0 {
			prompts += fmt.Sprintf(" + %d removed by retention", a.Expired)
		}
		verdict := "balances"
		if !a.Balances() {
			verdict = "DOES NOT BALANCE"
		}
		fmt.Fprintf(&b, "  %s = %d trained + %d dead + %d skipped + %d ready + %d in flight + %d lost: %s\n",
			prompts, a.Trained, a.DeadTotal(), a.SkippedTotal(), a.Ready, a.InFlight, a.Lost, verdict)
		if a.Trained > 0 && !a.Recorded {
			fmt.Fprintln(&b, "  its policy has no record of batches: the number trained is that of the pairs in the log")
		}
		for _, r := range a.Dead {
			fmt.Fprintf(&b, "  dead: %d %s (`ldalign deadletters list %s`)\n", r.Count, r.Reason, run)
		}
		if a.Unnamed > 0 {
			fmt.Fprintf(&b, "  in addition: %d dead letters that belong to no pair of the iteration\n", a.Unnamed)
		}
		for _, r := range a.Skipped {
			fmt.Fprintf(&b, "  skipped: %d %s\n", r.Count, r.Reason)
		}
		for _, v := range a.Libtorch {
			fmt.Fprintf(&b, "  libtorch %s computed %d %s\n", v.Version, v.Count, v.Stream)
		}
		for _, f := range a.Flights {
			fmt.Fprintf(&b, "  in flight: pair %s, last seen on %s\n", f.PairID, f.At)
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
