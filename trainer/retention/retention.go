// Package retention removes what a run no longer keeps, and says what has to stay and why. It needs no tensors.
package retention

import (
	"context"
	"fmt"
	"strings"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
	"github.com/ldalign/ldalign/trainer/lineage"
)

// Removed is what the retention of a run has removed, or would remove.
type Removed struct {
	Run string `json:"run"`
	// Iterations lost messages, Messages of them.
	Iterations []uint32 `json:"iterations"`
	Messages   uint64   `json:"messages"`
	// Expiry is of the policies that lost their weights.
	checkpoints.Expiry
	// Stays are older than the spec keeps, and had to stay.
	Stays []Stay `json:"stays"`
	// Done tells that it is removed; false for what would be.
	Done bool `json:"removed"`
}

// Stay is something that retention would remove but that is still needed.
type Stay struct {
	// What it is: a kind of messages, or policy.
	What      string `json:"what"`
	Iteration uint32 `json:"iteration"`
	// Why names who needs it.
	Why string `json:"why"`
}

// Apply removes what a run no longer keeps: of past iterations the messages on the logs, of past policies the weights. What
// is still needed stays: what a stage of the run has not settled, a policy that is not evaluated, what a replay or fork of
// the run has pinned (see lineage.Source), the first policy where it is the reference of all. by is noted as
// the reason. Repeating it does no harm; with dry it only reports. The caller holds the run's lease.
func Apply(
	ctx context.Context, conn *streams.Conn, repository *checkpoints.Repository, spec schemas.Spec, keep schemas.RetentionSpec,
	by string, dry bool,
) (Removed, error) {
	r := retention{conn: conn, repository: repository, spec: spec, by: by, dry: dry, out: Removed{
		Run: spec.Run, Iterations: []uint32{}, Expiry: checkpoints.Expiry{Policies: []uint32{}}, Stays: []Stay{}, Done: !dry,
	}}
	if keep == (schemas.RetentionSpec{}) {
		return r.out, nil
	}
	if err := r.retain(ctx, keep); err != nil {
		return r.out, fmt.Errorf("retention of run %s: %w", spec.Run, err)
	}
	return r.out, nil
}

// retention is the state of one Apply.
type retention struct {
	conn       *streams.Conn
	repository *checkpoints.Repository
	spec       schemas.Spec
	by         string
	dry        bool
	// policies of the run by iteration, and the newest of them.
	policies map[uint32]checkpoints.Manifest
	newest   int
	// heirs are the runs whose source is this one.
	heirs []schemas.Spec
	out   Removed
}

func (r *retention) retain(ctx context.Context, keep schemas.RetentionSpec) error {
	manifests, err := r.repository.List(ctx, r.spec.Run)
	if err != nil {
		return err
	}
	r.policies, r.newest = map[uint32]checkpoints.Manifest{}, -1
	for _, m := range manifests {
		if m.Kind == checkpoints.Policy {
			r.policies[m.Iteration] = m
			r.newest = max(r.newest, int(m.Iteration))
		}
	}
	heirs, err := lineage.Descendants(ctx, r.conn, r.spec.Run)
	if err != nil {
		return err
	}
	for _, name := range heirs {
		heir, err := lineage.Spec(ctx, r.conn, name)
		if err != nil {
			return err
		}
		r.heirs = append(r.heirs, heir)
	}
	first := r.spec.FirstIteration()
	if keep.Messages > 0 {
		counts, err := ledger.Counts(ctx, r.conn, r.spec.Run)
		if err != nil {
			return err
		}
		for _, count := range counts {
			if i := int(count.Iteration); i < first || i >= r.newest-keep.Messages {
				continue
			}
			if err := r.messages(ctx, count); err != nil {
				return err
			}
		}
	}
	if keep.Policies > 0 {
		return r.weights(ctx, uint32(first), r.newest-keep.Policies)
	}
	return nil
}

// messages removes those of an iteration that has made its policy.
func (r *retention) messages(ctx context.Context, count ledger.Count) error {
	i := count.Iteration
	var going []schemas.Kind
	var n uint64
	for _, held := range []struct {
		kind schemas.Kind
		n    int
	}{
		{schemas.Prompts, count.Prompts},
		{schemas.Pairs, count.Pairs},
		{schemas.Encoded, count.Encoded},
		{schemas.Scored, count.Scored},
	} {
		if held.n == 0 {
			continue
		}
		why, err := r.read(ctx, held.kind, i)
		if err != nil {
			return err
		}
		if why != "" {
			r.out.Stays = append(r.out.Stays, Stay{string(held.kind), i, why})
			continue
		}
		going, n = append(going, held.kind), n+uint64(held.n)
	}
	if len(going) == 0 {
		return nil
	}
	if made := r.policies[i+1]; !recorded(made) {
		r.out.Stays = append(r.out.Stays, Stay{"messages", i, "its policy has no record of batches: the log alone has one"})
		return nil
	}
	if !r.dry {
		removed, err := ledger.Expire(ctx, r.conn, r.spec.Run, i, going, r.by)
		if err != nil {
			return err
		}
		n = removed
	}
	r.out.Iterations, r.out.Messages = append(r.out.Iterations, i), r.out.Messages+n
	return nil
}

func recorded(m checkpoints.Manifest) bool {
	_, ok := m.File(checkpoints.BatchesFile)
	return ok
}

// read says who still reads messages of an iteration; empty for nobody.
func (r *retention) read(ctx context.Context, kind schemas.Kind, i uint32) (string, error) {
	for _, heir := range r.heirs {
		s := heir.Source
		if s.From == string(kind) && int(i) >= s.Iteration && int(i) < heir.Iterations {
			return fmt.Sprintf("run %s replays them", heir.Run), nil
		}
	}
	settled, err := ledger.Settled(ctx, r.conn, kind, r.spec.Run, i)
	if err != nil || settled {
		return "", err
	}
	return "a stage has not settled them", nil
}

// weights removes those of the policies from first up to last.
func (r *retention) weights(ctx context.Context, first uint32, last int) error {
	evaluated, err := r.evaluated(ctx)
	if err != nil {
		return err
	}
	var going []checkpoints.Manifest
	for i := first; int(i) <= last; i++ {
		m, ok := r.policies[i]
		if !ok {
			continue
		}
		why := ""
		settled, err := ledger.Settled(ctx, r.conn, schemas.Checkpoints, r.spec.Run, i)
		if err != nil {
			return err
		}
		for _, heir := range r.heirs {
			if heir.Source.Policy == m.Digest {
				why = fmt.Sprintf("run %s starts from it", heir.Run)
			}
		}
		switch {
		case why != "":
		case i == first && r.spec.Objective.Reference == "initial":
			why = "it is the reference of every iteration (objective.reference: initial)"
		case r.spec.Data.Eval != "" && int(i) >= r.spec.Evaluation.First && !evaluated[i]:
			why = "it is not evaluated"
		case !settled:
			why = "a stage has not settled its announcement"
		}
		if why != "" {
			r.out.Stays = append(r.out.Stays, Stay{"policy", i, why})
			continue
		}
		going = append(going, m)
	}
	r.out.Expiry, err = r.repository.Expire(ctx, r.spec.Run, going, r.by, r.dry)
	return err
}

// evaluated are the iterations whose policies have results, or whose evaluation is a dead letter.
func (r *retention) evaluated(ctx context.Context) (map[uint32]bool, error) {
	out := map[uint32]bool{}
	for _, kind := range []schemas.Kind{schemas.Results, schemas.DeadLetters} {
		err := r.conn.Read(ctx, kind, r.spec.Run, streams.AllIterations, 0, func(got streams.Received) error {
			switch m := got.Message.(type) {
			case *events.Result:
				if m.GetStep() == 0 {
					out[m.GetIteration()] = true
				}
			case *events.DeadLetter:
				if m.GetStage() == "evaluator" {
					out[m.GetIteration()] = true
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Reason is what a spec's retention writes beside what it removes.
func Reason(keep schemas.RetentionSpec) string {
	var parts []string
	if keep.Messages > 0 {
		parts = append(parts, fmt.Sprintf("retention.messages: %d", keep.Messages))
	}
	if keep.Policies > 0 {
		parts = append(parts, fmt.Sprintf("retention.policies: %d", keep.Policies))
	}
	return strings.Join(parts, ", ")
}
