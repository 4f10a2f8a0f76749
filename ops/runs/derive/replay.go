package derive

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/objective"
)

// Replay asks for a run that reads a log of the parent in place of its own, with some keys changed.
type Replay struct {
	// As is the name of the new run.
	As string
	// From is the log that the run reads: prompts, pairs, encoded or scored.
	From schemas.Kind
	// Iteration is the number of one iteration, or "all". Empty means all if each iteration then starts from the policy that
	// sampled its pairs, else the first one.
	Iteration string
	// Set are assignments, as schemas.Set takes them.
	Set []string
	// OffPolicy accepts pairs that were not sampled by the policy that an iteration starts from.
	OffPolicy bool
	// Exact refuses changes that would change the weights.
	Exact bool
}

// Needs returns the facts that Plan needs, or an error if the request can be refused without facts.
func (r Replay) Needs(parent schemas.Spec) (Needs, error) {
	child, differences, err := r.draft(parent)
	if err != nil {
		return Needs{}, err
	}
	needs := Needs{Runs: []string{r.As}, Kind: r.From, First: child.Source.Iteration, End: child.Iterations}
	if !changesModel(differences) {
		needs.Policies = []int{child.Source.Iteration}
	}
	return needs, nil
}

// Plan returns the spec of the replay. A replay that is already declared keeps its policy and its part of the log.
func (r Replay) Plan(parent schemas.Spec, facts Facts) (schemas.Spec, error) {
	child, differences, err := r.draft(parent)
	if err != nil {
		return child, err
	}
	if err := pin(&child, changesModel(differences), facts); err != nil {
		return child, err
	}
	return finished(child)
}

// draft returns the replay's spec, still without its first policy and its part of the log, and the differences to the parent's.
func (r Replay) draft(parent schemas.Spec) (schemas.Spec, []schemas.Difference, error) {
	child, err := changed(parent, r.As, r.Set)
	if err != nil {
		return child, nil, err
	}
	differences := schemas.Differences(parent, child)
	if err := mayChange(differences, r.From); err != nil {
		return child, nil, err
	}
	if err := hasLog(parent, r.From); err != nil {
		return child, nil, err
	}
	first, end, err := r.iterations(parent, resultKeys(differences))
	if err != nil {
		return child, nil, err
	}
	if changes := resultKeys(differences); r.Exact && len(changes) > 0 {
		return child, nil, fmt.Errorf("%w: --exact needs the same spec, but --set changes %s", ErrRequest,
			strings.Join(changes, ", "))
	}
	if child.Objective.Mix == "previous" && first > parent.FirstIteration() {
		return child, nil, fmt.Errorf("%w: iteration %d mixes in pairs of iteration %d, which this replay does not train: "+
			"replay all iterations, or --set objective.mix=current", ErrRequest, first, first-1)
	}
	child.Iterations = end
	child.Source = &schemas.SourceSpec{
		Run: parent.Run, From: string(r.From), Iteration: first, OffPolicy: schemas.RefuseOffPolicy, Spec: parent.Digest(),
	}
	if r.OffPolicy {
		child.Source.OffPolicy = schemas.AcceptOffPolicy
	}
	keepGuide(&child, parent, changesGuide(differences))
	if !assigns(r.Set, "evaluation.first") {
		child.Evaluation.First = first + 1 // the parent has already evaluated the policy that the replay starts from
	}
	return child, differences, nil
}

// mayChange returns an error if the differences have a key that a replay from this log cannot change.
func mayChange(differences []schemas.Difference, from schemas.Kind) error {
	for _, d := range differences {
		latest, ok := schemas.LatestSource(d.Key)
		switch {
		case d.Key == "iterations":
			return fmt.Errorf("%w: a replay makes the iterations that it replays: choose them with --iteration", ErrRequest)
		case d.Key == "objective.distance" && slices.Contains(d.Values, "given"):
			return fmt.Errorf("%w: given distances come with the data: start a new run with `ldalign up`", ErrRequest)
		case !ok:
			return fmt.Errorf("%w: %s decides which prompts there are, and the prompts are already in the log: "+
				"start a new run with `ldalign up`", ErrRequest, d.Key)
		case latest.Before(from):
			return fmt.Errorf("%w: %s changes messages that --from %s reads from the log: use --from %s", ErrRequest, d.Key, from, latest)
		}
	}
	return nil
}

// hasLog returns an error if the run has no messages of the kind: its objective does not make them, or the run is itself a replay
// and reads them from its source.
func hasLog(parent schemas.Spec, from schemas.Kind) error {
	last := objective.TrainsFrom(parent.Objective.Kind)
	if last.Before(from) {
		return fmt.Errorf("%w: run %s (%s) has no %s in its log: use --from %s",
			ErrRequest, parent.Run, parent.Objective.Kind, from, last)
	}
	if from == schemas.Encoded && !parent.NeedsGuide() {
		return fmt.Errorf("%w: run %s has no encoded in its log, since its distances are given, not measured", ErrRequest, parent.Run)
	}
	if _, replayed := parent.ReadsFrom(from); replayed {
		return fmt.Errorf("%w: run %s is a replay of %s and has no %s of its own: replay %s", ErrRequest, parent.Run,
			parent.Source.Run, from, parent.Source.Run)
	}
	return nil
}

// resultKeys returns the keys among the differences that change the policies, and not only their evaluation.
func resultKeys(differences []schemas.Difference) []string {
	var keys []string
	for _, d := range differences {
		ours := d.Key == "iterations" || d.Key == "guide.from" // keys that a replay sets itself
		if !ours && d.Key != "data.eval" && !strings.HasPrefix(d.Key, "evaluation.") {
			keys = append(keys, d.Key)
		}
	}
	return keys
}

// iterations returns the iterations that the replay makes: first up to but excluding end. changes are the keys that change its
// policies.
func (r Replay) iterations(parent schemas.Spec, changes []string) (first, end int, err error) {
	begin, all := parent.FirstIteration(), parent.Iterations
	samples := r.From == schemas.Prompts // the replay samples its own pairs, with its own policies
	switch r.Iteration {
	case "":
		if samples || len(changes) == 0 || r.OffPolicy {
			return begin, all, nil
		}
		return begin, begin + 1, nil
	case "all":
		if !samples && len(changes) > 0 && all-begin > 1 && !r.OffPolicy {
			return 0, 0, fmt.Errorf("%w: with another %s, policy %d is not the one that sampled the %s of iteration %d in the log: "+
				"replay one iteration (--iteration N), replay --from prompts, or accept the difference (--off-policy)",
				ErrRequest, strings.Join(changes, ", "), begin+1, r.From, begin+1)
		}
		return begin, all, nil
	}
	n, err := strconv.Atoi(r.Iteration)
	if err != nil || n < begin || n >= all {
		return 0, 0, fmt.Errorf("%w: --iteration %s: run %s has iterations %d to %d",
			ErrRequest, r.Iteration, parent.Run, begin, all-1)
	}
	return n, n + 1, nil
}

// keepGuide makes a replay use its parent's guide if it cannot train its own: because the latents are already in the log, or
// because it does not replay iteration 0, in which the guide is trained.
func keepGuide(child *schemas.Spec, parent schemas.Spec, changed bool) {
	if !child.NeedsGuide() || child.Guide.From != "" || !parent.NeedsGuide() {
		return
	}
	if schemas.Pairs.Before(schemas.Kind(child.Source.From)) || child.Source.Iteration > 0 && !changed {
		child.Guide.From = newest(parent)
	}
}

// pin writes into a replay's spec the policy that it starts from, and the part of the log that it reads.
func pin(child *schemas.Spec, otherModel bool, facts Facts) error {
	s := child.Source
	if begun := facts.Declared[child.Run].Source; begun != nil && begun.Run == s.Run && begun.From == s.From &&
		begun.Iteration == s.Iteration && begun.Spec == s.Spec {
		s.Policy, s.First, s.Last = begun.Policy, begun.First, begun.Last
		return nil
	}
	policy := facts.Policies[s.Iteration]
	switch {
	case otherModel && s.Iteration > 0:
		return fmt.Errorf("%w: a replay with another model.from must start with iteration 0", ErrRequest)
	case !otherModel && policy.Missing != nil:
		return fmt.Errorf("the policy that the replay starts from: %w", policy.Missing)
	case !otherModel:
		s.Policy = policy.Digest
	}
	for i := s.Iteration; i < child.Iterations; i++ {
		part := facts.Parts[i]
		if part.Missing != nil {
			return fmt.Errorf("run %s cannot be replayed from %s: %w", s.Run, s.From, part.Missing)
		}
		if s.First == 0 || part.First < s.First {
			s.First = part.First
		}
		s.Last = max(s.Last, part.Last)
	}
	return nil
}
