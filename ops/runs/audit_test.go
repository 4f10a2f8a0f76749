package runs

import (
	"slices"
	"strings"
	"testing"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
)

// The trainer's record in the policies is held against the logs.
func TestAudit(t *testing.T) {
	w := newWorld(t)
	spec := w.finished("align")
	var done, total uint64
	all := func() []ledger.Balance {
		t.Helper()
		balances, err := Audit(t.Context(), w.Session, spec, AuditOptions{
			Iteration: streams.AllIterations, Names: -1, Progress: func(n, of uint64) { done, total = n, of },
		})
		w.must(err)
		return balances
	}
	for i, b := range all() {
		if !b.Balances() || b.Iteration != uint32(i) || !b.Recorded || b.Trained != pairsPerIteration || b.Prompts != pairsPerIteration {
			t.Errorf("iteration %d: %+v", i, b)
		}
	}
	if done == 0 || done != total {
		t.Errorf("progress ends at %d of %d", done, total)
	}
	one, err := Audit(t.Context(), w.Session, spec, AuditOptions{Iteration: 1})
	if err != nil || len(one) != 1 || one[0].Iteration != 1 {
		t.Errorf("iteration 1 alone: %+v, %v", one, err)
	}

	// the log names a policy that the store has lost
	w.publish(schemas.Checkpoints, &events.Checkpoint{
		Schema: events.Version, Run: "align", Number: 9, Kind: string(checkpoints.Policy), Iteration: 3, Digest: strings.Repeat("ab", 32),
	})
	w.closes("align", 2, 1)
	balances := all()
	last := balances[len(balances)-1]
	lost := slices.IndexFunc(last.Findings, func(f ledger.Finding) bool { return f.Code == ledger.FoundRecord })
	if len(balances) != 3 || last.Balances() || lost < 0 || !strings.Contains(last.Findings[lost].Text, "the log names policy 3 (abababababab)") {
		t.Errorf("a policy that is not in the store: %+v", last)
	}
}
