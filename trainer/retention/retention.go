// Package retention removes what a run no longer keeps, and reports what must stay and why. It needs no tensors.
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
	// Iterations are those whose messages are removed, and Messages is the number of these messages.
	Iterations []uint32 `json:"iterations"`
	Messages   uint64   `json:"messages"`
	// Expiry lists the policies whose weights are removed.
	checkpoints.Expiry
	// Stays lists what is older than the spec keeps, but still needed.
	Stays []Stay `json:"stays"`
	// Done is true if the removal has happened, and false if this is a report of what would be removed.
	Done bool `json:"removed"`
}

// Stay is something that retention would remove but that is still needed.
type Stay struct {
	// What is a kind of messages, or policy.
	What      string `json:"what"`
	Iteration uint32 `json:"iteration"`
	// Why says what still needs it.
	Why string `json:"why"`
}

// Apply removes what a run no longer keeps: the messages of past iterations and the weights of past policies. It keeps what
// is still needed: messages that a stage of the run has not settled, policies that are not evaluated, what a replay or fork of
// the run has pinned (see lineage.Source), and the first policy if it is the reference of every iteration. by is recorded as
// the reason. Apply may be repeated. With dry it only reports. The caller must hold the run's lease.
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

// messages removes the messages of an iteration whose policy is made.
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
		r.out.Stays = append(r.out.Stays, Stay{
			"messages", i,
			"its policy has no record of batches, so only the messages show what it was trained on",
		})
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

// read says what still needs the messages of an iteration; empty if nothing does.
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
	return "a stage has not processed all of them", nil
}

// weights removes the weights of the policies from first to last.
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
			why = "it is not evaluated yet"
		case !settled:
			why = "a stage has not processed its event yet"
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

// Reason is the reason that is recorded for what a spec's retention removes.
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
