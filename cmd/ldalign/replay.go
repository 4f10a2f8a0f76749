package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
	"github.com/ldalign/ldalign/trainer/curves"
	"github.com/ldalign/ldalign/trainer/lineage"
	"github.com/ldalign/ldalign/trainer/objective"
)

type replayCommand struct {
	Name string `arg:"" name:"run" help:"Name of the run whose log is replayed."`
	As   string `required:"" help:"Name of the new run." placeholder:"NAME"`
	replayFlags
	Exact  bool `help:"Prove that the same spec gives the same weights: compare with the run's policies, and end with exit code 1 where they differ."`
	DryRun bool `help:"Print the spec of the new run and what it would do, and stop."`
	serverFlags
}

// replayFlags say what of a run is replayed and what is changed.
type replayFlags struct {
	From      string   `enum:"prompts,pairs,encoded,scored" default:"scored" help:"Log that is read: prompts, pairs, encoded or scored. Only the stages behind it run."`
	Iteration string   `help:"Iteration to replay, or all. Left out: all when nothing changes or with --from prompts, else 0." placeholder:"N"`
	Set       []string `help:"Change a key of the run's spec, e.g. --set objective.beta=0.5." placeholder:"KEY=VALUE" sep:"none"`
	OffPolicy bool     `help:"Accept pairs that were sampled by other weights than those that an iteration starts from."`
}

func (replayCommand) Help() string {
	return `Example:

    ldalign replay align-1 --from scored --set objective.beta=0.5 --as align-1-beta
    ldalign replay align-1 --from pairs --set guide.latent_dim=8 --as align-1-guide
    ldalign replay align-1 --exact --as align-1-again

The new run reads the other one's messages where they are: nothing is copied, and no stage in front of the log that is
read runs again. From scored, the trainer alone works (another beta, weight, optimizer, number of epochs); from encoded,
distance and the trainer (another metric); from pairs also the encoder (another guide); from prompts all but the prompter.
Interrupted, the same command goes on. docs/replay.md says what can be changed, and why one iteration is the default.`
}

func (c *replayCommand) Run(ctx context.Context, e *env) error {
	parent, child, err := e.planReplay(ctx, c.serverFlags, replayPlan{c.Name, c.As, c.replayFlags})
	if err != nil {
		return err
	}
	if c.Exact {
		if d := resultKeys(schemas.Differences(parent, child)); len(d) > 0 {
			return fmt.Errorf("%w: --exact compares the weights of the same spec, but this changes %s", errUsage, keysOf(d))
		}
	}
	if c.DryRun {
		return e.printPlan(parent, child)
	}
	if err := e.up(ctx, []schemas.Spec{child}, child.Run); err != nil {
		return err
	}
	if c.Exact {
		return e.proveExact(ctx, child)
	}
	return nil
}

// replayPlan is what a replay was asked to do.
type replayPlan struct {
	parent, as string
	replayFlags
}

// planReplay makes the spec of a replay, which connects for reading only. It refuses what the log cannot give.
func (e *env) planReplay(ctx context.Context, flags serverFlags, plan replayPlan) (parent, child schemas.Spec, err error) {
	err = e.attached(ctx, flags.servers(), func(s *runs.Session) error {
		n := e.node(s)
		if parent, err = n.specOf(ctx, plan.parent); err != nil {
			return err
		}
		child, err = n.replaySpec(ctx, parent, plan)
		child.Servers = flags.over(child.Servers)
		return err
	})
	return parent, child, err
}

// specOf is the spec of one named run.
func (n *node) specOf(ctx context.Context, run string) (schemas.Spec, error) {
	specs, err := n.specsOf(ctx, []string{run})
	if err != nil {
		return schemas.Spec{}, err
	}
	return specs[0], nil
}

// replaySpec makes the spec of a replay of a declared run.
func (n *node) replaySpec(ctx context.Context, parent schemas.Spec, plan replayPlan) (schemas.Spec, error) {
	child, err := changed(parent, plan.as, plan.Set)
	if err != nil {
		return child, err
	}
	from := schemas.Kind(plan.From)
	differences := schemas.Differences(parent, child)
	if err := mayChange(differences, from); err != nil {
		return child, err
	}
	if err := hasLog(parent, from); err != nil {
		return child, err
	}
	first, end, err := iterationsOf(parent, from, differences, plan.replayFlags)
	if err != nil {
		return child, err
	}
	if child.Objective.Mix == "previous" && first > parent.FirstIteration() {
		return child, fmt.Errorf("%w: iteration %d mixes in pairs of iteration %d, which this replay has not trained: "+
			"replay all iterations, or --set objective.mix=current", errUsage, first, first-1)
	}
	child.Iterations = end
	child.Source = &schemas.SourceSpec{
		Run: parent.Run, From: plan.From, Iteration: first, OffPolicy: schemas.RefuseOffPolicy, Spec: parent.Digest(),
	}
	if plan.OffPolicy {
		child.Source.OffPolicy = schemas.AcceptOffPolicy
	}
	keepGuide(&child, parent, from, differences)
	if !assigns(plan.Set, "evaluation.first") {
		child.Evaluation.First = first + 1 // the policy that it starts from is the source's, and measured there
	}
	if err := n.pin(ctx, &child, parent, from, differences); err != nil {
		return child, err
	}
	child = schemas.Resolve(child, child.Compute.Threads)
	return child, child.Validate()
}

// changed is a spec under another name, with keys set.
func changed(parent schemas.Spec, as string, assignments []string) (schemas.Spec, error) {
	child := parent.Clone()
	child.Run, child.Source = as, nil
	if !schemas.ValidRun(as) {
		return child, fmt.Errorf("%w: %q cannot be a run's name: lower-case letters, digits, - and _, at most 63", errUsage, as)
	}
	if as == parent.Run {
		return child, fmt.Errorf("%w: give the new run another name than %s", errUsage, as)
	}
	for _, s := range assignments {
		if err := schemas.Set(&child, s); err != nil {
			return child, err
		}
	}
	if child.Run != as {
		return child, fmt.Errorf("%w: the name of the new run is given by --as, not by --set run", errUsage)
	}
	return child, nil
}

// assigns tells whether a key is among assignments.
func assigns(assignments []string, key string) bool {
	return slices.ContainsFunc(assignments, func(s string) bool { return strings.HasPrefix(strings.TrimSpace(s), key+"=") })
}

// mayChange refuses keys that a replay from a log cannot change.
func mayChange(differences []schemas.Difference, from schemas.Kind) error {
	for _, d := range differences {
		latest, ok := schemas.LatestSource(d.Key)
		switch {
		case d.Key == "iterations":
			return fmt.Errorf("%w: a replay makes as many iterations as it replays: say which by --iteration", errUsage)
		case d.Key == "objective.distance" && slices.Contains(d.Values, "given"):
			return fmt.Errorf("%w: given distances come with the data: start a new run by `ldalign up`", errUsage)
		case !ok:
			return fmt.Errorf("%w: %s decides which prompts there are, and those are in the log: start a new run by `ldalign up`",
				errUsage, d.Key)
		case latest.Before(from):
			return fmt.Errorf("%w: %s changes what --from %s takes from the log as it is: use --from %s", errUsage, d.Key, from, latest)
		}
	}
	return nil
}

// hasLog refuses a log that a run's objective does not fill, or that the run, a replay itself, has not got.
func hasLog(parent schemas.Spec, from schemas.Kind) error {
	if objective.TrainsFrom(parent.Objective.Kind).Before(from) {
		return fmt.Errorf("%w: run %s (%s) has no log %s; the last that it fills is %s (--from)",
			errUsage, parent.Run, parent.Objective.Kind, from, objective.TrainsFrom(parent.Objective.Kind))
	}
	if from == schemas.Encoded && !parent.NeedsGuide() {
		return fmt.Errorf("%w: run %s has no encoded: its distances are given, not measured", errUsage, parent.Run)
	}
	if _, replayed := parent.ReadsFrom(from); replayed {
		return fmt.Errorf("%w: run %s is a replay of %s and has no %s of its own: replay %s", errUsage, parent.Run, parent.Source.Run,
			from, parent.Source.Run)
	}
	return nil
}

// resultKeys are the differences that change the policies, not only how they are measured.
func resultKeys(differences []schemas.Difference) []schemas.Difference {
	var out []schemas.Difference
	for _, d := range differences {
		ours := d.Key == "iterations" || d.Key == "guide.from" // what a replay sets by itself
		if !ours && d.Key != "data.eval" && !strings.HasPrefix(d.Key, "evaluation.") {
			out = append(out, d)
		}
	}
	return out
}

func keysOf(differences []schemas.Difference) string {
	keys := make([]string, len(differences))
	for i, d := range differences {
		keys[i] = d.Key
	}
	return strings.Join(keys, ", ")
}

// iterationsOf are the iterations that a replay makes, from first up to and without end.
func iterationsOf(
	parent schemas.Spec, from schemas.Kind, differences []schemas.Difference, flags replayFlags,
) (first, end int, err error) {
	begin, all := parent.FirstIteration(), parent.Iterations
	differ := resultKeys(differences)
	switch flags.Iteration {
	case "":
		if from == schemas.Prompts || len(differ) == 0 || flags.OffPolicy {
			return begin, all, nil
		}
		return begin, begin + 1, nil
	case "all":
		if from != schemas.Prompts && len(differ) > 0 && all-begin > 1 && !flags.OffPolicy {
			return 0, 0, fmt.Errorf("%w: with another %s, policy %d is not the one that sampled the %s of iteration %d in the log: "+
				"replay one iteration (--iteration N), start --from prompts, or accept it (--off-policy)",
				errUsage, keysOf(differ), begin+1, from, begin+1)
		}
		return begin, all, nil
	}
	n, err := strconv.Atoi(flags.Iteration)
	if err != nil || n < begin || n >= all {
		return 0, 0, fmt.Errorf("%w: --iteration %s: run %s has iterations %d to %d",
			errUsage, flags.Iteration, parent.Run, begin, all-1)
	}
	return n, n + 1, nil
}

// keepGuide has a replay use the guide that its source used where it trains none of its own: the latents are in the log,
// or iteration 0, in which a guide is trained, is not replayed.
func keepGuide(child *schemas.Spec, parent schemas.Spec, from schemas.Kind, differences []schemas.Difference) {
	if !child.NeedsGuide() || child.Guide.From != "" || !parent.NeedsGuide() {
		return
	}
	unchanged := !slices.ContainsFunc(differences, func(d schemas.Difference) bool { return strings.HasPrefix(d.Key, "guide.") })
	if schemas.Pairs.Before(from) || child.Source.Iteration > 0 && unchanged {
		child.Guide.From = "run:" + parent.Run
	}
}

// pin notes in a replay's spec the policy that it starts from and the part of the log that it reads. A replay that has
// begun keeps what it has noted then.
func (n *node) pin(
	ctx context.Context, child *schemas.Spec, parent schemas.Spec, from schemas.Kind, differences []schemas.Difference,
) error {
	begun, ok, err := lineage.Source(ctx, n.Streams, child.Run)
	if err != nil && !errors.Is(err, streams.ErrNotFound) {
		return err
	}
	s := child.Source
	if ok && begun.Run == s.Run && begun.From == s.From && begun.Iteration == s.Iteration && begun.Spec == s.Spec {
		s.Policy, s.First, s.Last = begun.Policy, begun.First, begun.Last
		return nil
	}
	other := slices.ContainsFunc(differences, func(d schemas.Difference) bool {
		return d.Key == "model.from" || strings.HasPrefix(d.Key, "model.scratch.")
	})
	switch {
	case !other:
		policy, err := n.Checkpoints.Policy(ctx, parent.Run, uint32(s.Iteration))
		if err == nil {
			err = n.Checkpoints.Whole(ctx, policy)
		}
		if err != nil {
			return fmt.Errorf("the policy that the replay starts from: %w", err)
		}
		s.Policy = policy.Digest
	case s.Iteration > 0:
		return fmt.Errorf("%w: another model.from starts in iteration 0", errUsage)
	}
	part, err := ledger.Survey(ctx, n.Streams, from, parent.Run, uint32(s.Iteration), uint32(child.Iterations))
	if err != nil {
		return fmt.Errorf("run %s cannot be replayed from %s: %w", parent.Run, from, err)
	}
	s.First, s.Last = part.First, part.Last
	return nil
}

// printPlan says what a replay or fork would do, and prints its spec.
func (e *env) printPlan(parent, child schemas.Spec) error {
	names := make([]string, 0, len(roles(child))+1)
	for _, r := range roles(child) {
		names = append(names, string(r))
	}
	names = append(names, "trainer")
	differences := schemas.Differences(parent, child)
	if e.json {
		changed := map[string][2]string{}
		for _, d := range differences {
			changed[d.Key] = [2]string{d.Values[0], d.Values[1]}
		}
		return e.printSpecJSON(child, count{"lineage", lineage.Describe(child)}, count{"changed", changed}, count{"stages", names})
	}
	fmt.Fprintf(e.stdout, "---\n# %s\n", lineage.Describe(child))
	for _, d := range differences {
		fmt.Fprintf(e.stdout, "# %s: %s, was %s\n", d.Key, shown(d.Values[1]), shown(d.Values[0]))
	}
	fmt.Fprintf(e.stdout, "# stages that run: %s\n", strings.Join(names, ", "))
	return e.printSpec(child)
}

// shown is a value as a sentence shows it.
func shown(value string) string {
	if value == "" {
		return "nothing"
	}
	return value
}

var errDiffers = errors.New("the replay has other weights than its source")

// exactPolicy is a policy of a replay that is its source's, as --json tells it.
type exactPolicy struct {
	Run     string `json:"run"`
	Source  string `json:"source"`
	Policy  int    `json:"exact_policy"`
	Weights string `json:"weights"`
	Records string `json:"records"`
}

// proveExact compares the policies that a replay has made with those of its source.
func (e *env) proveExact(ctx context.Context, spec schemas.Spec) error {
	return e.attached(ctx, spec.Servers, func(s *runs.Session) error { return e.sameWeights(ctx, s, spec) })
}

func (e *env) sameWeights(ctx context.Context, n *runs.Session, spec schemas.Spec) error {
	for i := spec.Source.Iteration + 1; i <= spec.Iterations; i++ {
		made, err := n.Checkpoints.Policy(ctx, spec.Run, uint32(i))
		if err != nil {
			return err
		}
		was, err := n.Checkpoints.Policy(ctx, spec.Source.Run, uint32(i))
		if err != nil {
			return fmt.Errorf("cannot compare policy %d: %w", i, err)
		}
		for _, name := range []string{checkpoints.WeightsFile, curves.File} {
			a, b := sha(made, name), sha(was, name)
			if a != b {
				return fmt.Errorf("%w: policy %d, %s: %.12s in run %s, %.12s in run %s", errDiffers, i, name, a, spec.Run, b, spec.Source.Run)
			}
		}
		if e.json {
			same := exactPolicy{spec.Run, spec.Source.Run, i, sha(made, checkpoints.WeightsFile), sha(made, curves.File)}
			if err := printJSON(e.stdout, []exactPolicy{same}); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(e.stdout, "exact: policy %d of %s has the weights (sha256 %.12s) and the records of %s\n", i, spec.Run,
			sha(made, checkpoints.WeightsFile), spec.Source.Run)
	}
	return nil
}

func sha(m checkpoints.Manifest, name string) string {
	f, _ := m.File(name)
	return f.SHA256
}
