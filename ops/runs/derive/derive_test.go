package derive

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/schemas"
)

// parsed is one spec, resolved.
func parsed(t testing.TB, text string) schemas.Spec {
	t.Helper()
	specs, err := schemas.ParseSpecs("spec", []byte(text))
	if err != nil || len(specs) != 1 {
		t.Fatalf("%d specs, %v", len(specs), err)
	}
	return schemas.Resolve(specs[0], 1)
}

// aligned is a run of three iterations that trains a guide of its own and is measured.
func aligned(t testing.TB) schemas.Spec {
	return parsed(t, `
run: align
iterations: 3
model: {from: "run:sft"}
data: {train: train.jsonl, eval: held-out.jsonl, limit: 32}
objective: {kind: ldalign, beta: 0.5}
guide: {encoder: policy, decoder: "scratch:1"}
`)
}

// spin is a run that ends at its pairs.
func spin(t testing.TB) schemas.Spec {
	return parsed(t, "run: spin\niterations: 2\nmodel: {from: \"run:sft\"}\ndata: {train: train.jsonl}\nobjective: {kind: spin}\n")
}

// replayed is a replay of align from its encoded, from iteration 1 on.
func replayed(t testing.TB) schemas.Spec {
	child, err := Replay{As: "align-cosine", From: schemas.Encoded, Iteration: "1", Set: []string{"objective.distance=cosine"}}.
		Plan(aligned(t), complete())
	if err != nil {
		t.Fatal(err)
	}
	return child
}

func digest(i int) string { return strings.Repeat(fmt.Sprint(i), 64) }

// complete are the facts about a parent of three iterations of 32 messages each, of which nothing is missing.
func complete() Facts {
	f := Facts{Declared: map[string]schemas.Spec{}, Policies: map[int]Policy{}, Parts: map[int]Part{}, Guide: true}
	for i := range 4 {
		f.Policies[i] = Policy{Iteration: i, Digest: digest(i)}
	}
	f.Policies[Newest] = f.Policies[3]
	for i := range 3 {
		f.Parts[i] = Part{First: uint64(32*i + 1), Last: uint64(32 * (i + 1))}
	}
	return f
}

func TestReplay(t *testing.T) {
	for name, c := range map[string]struct {
		parent  schemas.Spec
		request Replay
		// first and end are the iterations that are replayed; guide is guide.from.
		first, end int
		guide      string
		policy     string
		log        Part
	}{
		"the same spec replays all": {
			request: Replay{From: schemas.Scored}, end: 3, guide: "run:align", policy: digest(0), log: Part{First: 1, Last: 96},
		},
		"another beta replays the first iteration": {
			request: Replay{From: schemas.Scored, Set: []string{"objective.beta=0.05"}}, end: 1, guide: "run:align", policy: digest(0),
			log: Part{First: 1, Last: 32},
		},
		"what is only measured otherwise replays all": {
			request: Replay{From: schemas.Scored, Set: []string{"evaluation.samples=4"}}, end: 3, guide: "run:align", policy: digest(0),
			log: Part{First: 1, Last: 96},
		},
		"one iteration by its number": {
			request: Replay{From: schemas.Scored, Iteration: "2", Set: []string{"objective.beta=0.05"}}, first: 2, end: 3,
			guide: "run:align", policy: digest(2), log: Part{First: 65, Last: 96},
		},
		"off-policy replays all whatever is changed": {
			request: Replay{From: schemas.Scored, OffPolicy: true, Set: []string{"objective.beta=0.05"}}, end: 3, guide: "run:align",
			policy: digest(0), log: Part{First: 1, Last: 96},
		},
		"off-policy accepts all": {
			request: Replay{From: schemas.Scored, OffPolicy: true, Iteration: "all", Set: []string{"objective.beta=0.05"}}, end: 3,
			guide: "run:align", policy: digest(0), log: Part{First: 1, Last: 96},
		},
		"from prompts, it samples its own pairs in all iterations": {
			request: Replay{From: schemas.Prompts, Set: []string{"generation.temperature=0.5"}}, end: 3, policy: digest(0),
			log: Part{First: 1, Last: 96},
		},
		"from prompts, another model needs no policy of the parent": {
			request: Replay{From: schemas.Prompts, Set: []string{"model.from=run:other"}}, end: 3, log: Part{First: 1, Last: 96},
		},
		"from pairs, iteration 0 trains a guide": {
			request: Replay{From: schemas.Pairs, Set: []string{"guide.latent_dim=4"}}, end: 1, policy: digest(0),
			log: Part{First: 1, Last: 32},
		},
		"from pairs, a later iteration keeps the parent's guide": {
			request: Replay{From: schemas.Pairs, Iteration: "1"}, first: 1, end: 2, guide: "run:align", policy: digest(1),
			log: Part{First: 33, Last: 64},
		},
		"another objective needs no guide": {
			request: Replay{From: schemas.Pairs, Set: []string{"objective.kind=spin"}}, end: 1, policy: digest(0),
			log: Part{First: 1, Last: 32},
		},
		"a run that ends at its pairs": {
			parent: spin(t), request: Replay{From: schemas.Pairs}, end: 2, policy: digest(0), log: Part{First: 1, Last: 64},
		},
		"a replay keeps its numbers when it is replayed": {
			parent: replayed(t), request: Replay{From: schemas.Scored}, first: 1, end: 2, guide: "run:align", policy: digest(1),
			log: Part{First: 33, Last: 64},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c.parent.Run == "" {
				c.parent = aligned(t)
			}
			c.request.As = "again"
			child, err := c.request.Plan(c.parent, complete())
			if err != nil {
				t.Fatal(err)
			}
			want := schemas.SourceSpec{
				Run: c.parent.Run, From: string(c.request.From), Iteration: c.first, OffPolicy: schemas.RefuseOffPolicy, Policy: c.policy,
				First: c.log.First, Last: c.log.Last, Spec: c.parent.Digest(),
			}
			if c.request.OffPolicy {
				want.OffPolicy = schemas.AcceptOffPolicy
			}
			if diff := cmp.Diff(want, *child.Source); diff != "" {
				t.Errorf("source (-want +got):\n%s", diff)
			}
			// a parent that is a replay has its guide from where it has it
			if guide := child.Guide.From; child.Run != "again" || child.Iterations != c.end || child.NeedsGuide() && guide != c.guide {
				t.Errorf("run %s makes iterations up to %d, want %d; guide.from %q, want %q", child.Run, child.Iterations, c.end, guide, c.guide)
			}
			if first := child.Evaluation.First; first != c.first+1 {
				t.Errorf("policies are measured from %d on, want %d", first, c.first+1)
			}
		})
	}
}

// A request that is refused says why, and what to do.
func TestReplayRefuses(t *testing.T) {
	missing, gone := errors.New("iteration 1 lacks 3 of 32 pairs"), errors.New("the weights of policy 0 are gone")
	lacking, weightless := complete(), complete()
	lacking.Parts[1] = Part{Missing: missing}
	weightless.Policies[0] = Policy{Missing: gone}
	for _, c := range []struct {
		parent  schemas.Spec
		request Replay
		facts   Facts
		says    string
		// because is an error that the refusal wraps; ErrRequest where it is nil.
		because error
	}{
		{request: Replay{As: "Not A Name"}, says: `"Not A Name" cannot be a run's name`},
		{request: Replay{As: "align"}, says: "give the new run a name other than align"},
		{request: Replay{Set: []string{"run=other"}}, says: "with --as"},
		{request: Replay{Set: []string{"iterations=1"}}, says: "choose them with --iteration"},
		{request: Replay{Set: []string{"data.limit=8"}}, says: "data.limit decides which prompts there are"},
		{request: Replay{Set: []string{"objective.distance=given"}}, says: "given distances come with the data"},
		{
			request: Replay{Set: []string{"generation.temperature=0.5"}},
			says:    "generation.temperature changes messages that --from scored reads from the log: use --from prompts",
		},
		{request: Replay{Set: []string{"objective.distance=cosine"}}, says: "use --from encoded"},
		{request: Replay{From: schemas.Encoded, Set: []string{"guide.latent_dim=3"}}, says: "use --from pairs"},
		{parent: spin(t), request: Replay{}, says: "run spin (spin) has no scored in its log: use --from pairs"},
		{
			parent: replayed(t), request: Replay{From: schemas.Encoded},
			says: "run align-cosine is a replay of align and has no encoded of its own: replay align",
		},
		{request: Replay{Iteration: "3"}, says: "--iteration 3: run align has iterations 0 to 2"},
		{request: Replay{Iteration: "last"}, says: "run align has iterations 0 to 2"},
		{parent: replayed(t), request: Replay{Iteration: "0"}, says: "run align-cosine has iterations 1 to 1"},
		{
			request: Replay{Iteration: "all", Set: []string{"objective.beta=0.05", "optimizer.lr=1e-6"}},
			says:    "with another objective.beta, optimizer.lr, policy 1 is not the one that sampled the scored of iteration 1",
		},
		{request: Replay{Exact: true, Set: []string{"objective.beta=0.05"}}, says: "--exact needs the same spec, but --set changes objective.beta"},
		{request: Replay{Iteration: "1", Set: []string{"objective.mix=previous"}}, says: "iteration 1 mixes in pairs of iteration 0"},
		{request: Replay{From: schemas.Prompts, Iteration: "1", Set: []string{"model.from=run:other"}}, says: "a replay with another model.from must start with iteration 0"},
		{facts: lacking, says: "run align cannot be replayed from scored: iteration 1 lacks", because: missing},
		{facts: weightless, says: "the policy that the replay starts from: the weights", because: gone},
	} {
		t.Run(c.says, func(t *testing.T) {
			if c.parent.Run == "" {
				c.parent = aligned(t)
			}
			if c.request.From == "" {
				c.request.From = schemas.Scored
			}
			if c.request.As == "" {
				c.request.As = "again"
			}
			if c.facts.Parts == nil {
				c.facts = complete()
			}
			if c.because == nil {
				c.because = ErrRequest
			}
			if _, err := c.request.Plan(c.parent, c.facts); !errors.Is(err, c.because) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
	for _, set := range []string{"objective.betta=1", "objective.beta=many", "objective.beta=-1"} {
		_, err := Replay{As: "again", From: schemas.Scored, Set: []string{set}}.Plan(aligned(t), complete())
		if wrong := new(schemas.SpecError); !errors.As(err, &wrong) {
			t.Errorf("--set %s: got %v, want an error of the spec", set, err)
		}
	}
	// what is missing elsewhere is no reason
	if _, err := (Replay{As: "again", From: schemas.Scored, Iteration: "2"}).Plan(aligned(t), lacking); err != nil {
		t.Error(err)
	}
}

// What is asked for is what the plan then needs, and no more.
func TestReplayNeeds(t *testing.T) {
	for _, c := range []struct {
		request Replay
		want    Needs
	}{
		{Replay{As: "again", From: schemas.Scored}, Needs{Runs: []string{"again"}, Policies: []int{0}, Kind: schemas.Scored, End: 3}},
		{
			Replay{As: "again", From: schemas.Pairs, Iteration: "2"},
			Needs{Runs: []string{"again"}, Policies: []int{2}, Kind: schemas.Pairs, First: 2, End: 3},
		},
		{
			Replay{As: "again", From: schemas.Prompts, Set: []string{"model.from=run:other"}},
			Needs{Runs: []string{"again"}, Kind: schemas.Prompts, End: 3},
		},
	} {
		got, err := c.request.Needs(aligned(t))
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%+v: %v (-want +got):\n%s", c.request, err, diff)
		}
	}
}

// A replay that has begun keeps what it began with, although the log numbers its messages otherwise now; one that was asked for
// something else does not.
func TestReplayGoesOn(t *testing.T) {
	request := Replay{As: "again", From: schemas.Scored, Iteration: "1"}
	begun, err := request.Plan(aligned(t), complete())
	if err != nil {
		t.Fatal(err)
	}
	moved := complete()
	moved.Declared["again"] = begun
	moved.Parts[1], moved.Policies[1] = Part{First: 1033, Last: 1064}, Policy{Iteration: 1, Digest: digest(9)}
	moved.Parts[2] = Part{First: 1065, Last: 1096}
	again, err := request.Plan(aligned(t), moved)
	if diff := cmp.Diff(begun, again); err != nil || diff != "" {
		t.Errorf("%v (-begun +again):\n%s", err, diff)
	}
	request.Iteration = "2"
	other, err := request.Plan(aligned(t), moved)
	if err != nil || other.Source.First != 1065 || other.Source.Policy != digest(2) {
		t.Errorf("another iteration begins with %+v, %v", other.Source, err)
	}
}

func TestFork(t *testing.T) {
	for name, c := range map[string]struct {
		request    Fork
		facts      func(*Facts)
		run, guide string
		policy     int
		iterations int
	}{
		"the rest of the run": {
			request: Fork{Policy: 1}, run: "align-fork-1", policy: 1, iterations: 2, guide: "run:align",
		},
		"from the newest, as many as the parent made": {
			request: Fork{Policy: Newest}, run: "align-fork-3", policy: 3, iterations: 3, guide: "run:align",
		},
		"as many as are asked for": {
			request: Fork{Policy: 1, As: "branch", Set: []string{"iterations=7"}}, run: "branch", policy: 1, iterations: 7, guide: "run:align",
		},
		"a changed guide is trained anew": {
			request: Fork{Policy: 2, Set: []string{"guide.latent_dim=4"}}, run: "align-fork-2", policy: 2, iterations: 1,
		},
		"a parent that has no guide yet": {
			request: Fork{Policy: 0}, facts: func(f *Facts) { f.Guide = false }, run: "align-fork-0", iterations: 3,
		},
	} {
		t.Run(name, func(t *testing.T) {
			facts := complete()
			if c.facts != nil {
				c.facts(&facts)
			}
			child, err := c.request.Plan(aligned(t), facts)
			if err != nil {
				t.Fatal(err)
			}
			want := schemas.SourceSpec{
				Run: "align", From: schemas.FromPolicy, Iteration: c.policy, OffPolicy: schemas.RefuseOffPolicy, Policy: digest(c.policy),
				Spec: aligned(t).Digest(),
			}
			if diff := cmp.Diff(want, *child.Source); diff != "" {
				t.Errorf("source (-want +got):\n%s", diff)
			}
			if from := fmt.Sprintf("run:align@%d", c.policy); child.Run != c.run || child.Model.From != from ||
				child.Iterations != c.iterations || child.Guide.From != c.guide {
				t.Errorf("run %s from %s makes %d iterations with guide %q", child.Run, child.Model.From, child.Iterations, child.Guide.From)
			}
		})
	}
	gone := errors.New("no policy of iteration 7")
	facts := complete()
	facts.Policies[7] = Policy{Missing: gone}
	for _, c := range []struct {
		request Fork
		because error
		says    string
	}{
		{Fork{Policy: 7}, gone, "iteration 7"},
		{Fork{Policy: 1, Set: []string{"model.from=run:align@2"}}, ErrRequest, "not from another model"},
		{Fork{Policy: 1, As: "align"}, ErrRequest, "a name other than"},
		{Fork{Policy: 1, As: "a b"}, ErrRequest, "cannot be a run's name"},
	} {
		if _, err := c.request.Plan(aligned(t), facts); !errors.Is(err, c.because) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: got %v, want %q", c.request, err, c.says)
		}
	}
}

func TestSweep(t *testing.T) {
	sweep := Sweep{Replay{As: "align", From: schemas.Scored, Set: []string{
		"objective.beta=0.05,0.5", "training.epochs=1,10", "optimizer.lr=1e-7",
	}}}
	members, err := sweep.Plan(aligned(t), complete())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range members {
		got = append(got, fmt.Sprintf("%s: %s, up to %d", m.Spec.Run, strings.Join(m.Set, " "), m.Spec.Iterations))
	}
	want := []string{
		"align-beta-0_05-epochs-1: objective.beta=0.05 training.epochs=1 optimizer.lr=1e-7, up to 1",
		"align-beta-0_05-epochs-10: objective.beta=0.05 training.epochs=10 optimizer.lr=1e-7, up to 1",
		"align-beta-0_5-epochs-1: objective.beta=0.5 training.epochs=1 optimizer.lr=1e-7, up to 1",
		"align-beta-0_5-epochs-10: objective.beta=0.5 training.epochs=10 optimizer.lr=1e-7, up to 1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// of combinations that read different parts of the log, the facts cover all
	needs, err := Sweep{Replay{As: "align", From: schemas.Scored, Set: []string{"objective.beta=0.05,0.5"}}}.Needs(aligned(t))
	if diff := cmp.Diff(Needs{
		Runs: []string{"align-beta-0_05", "align-beta-0_5"}, Policies: []int{0}, Kind: schemas.Scored, End: 3,
	}, needs); err != nil || diff != "" {
		t.Errorf("needs, %v (-want +got):\n%s", err, diff)
	}
	for set, says := range map[string]string{
		"objective.beta=0.5":                         "no --set has several values",
		"objective.beta":                             "not key=value",
		"objective.beta=0.1,0.1":                     "two combinations would be named align-beta-0_1",
		"objective.beta=0.1,0.2 objective.beta=0.3":  "given twice",
		"objective.beta=0.1,many":                    "align-beta-many: --set",
		"generation.top_p=0.5,1":                     "align-top_p-0_5: wrong usage: generation.top_p",
		"compute.threads=1,2":                        "one tensor engine",
		"objective.beta=0.1,0.2 iterations=1":        "align-beta-0_1: wrong usage: a replay makes the iterations that it replays",
		"objective.beta=0.1,0.2 compute.device=cuda": "compute.device",
	} {
		s := Sweep{Replay{As: "align", From: schemas.Scored, Set: strings.Fields(set)}}
		if _, err := s.Plan(aligned(t), complete()); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("--set %s: got %v, want %q", set, err, says)
		}
	}
}

func TestCombine(t *testing.T) {
	combinations, names, err := combine([]string{
		`training.lora.targets="q_proj,v_proj",all-linear`, "optimizer.lr=1e-3,2e-3", "guide.optimizer.lr=5e-5,1e-4",
	})
	if err != nil || len(combinations) != 8 {
		t.Fatalf("%v, %v", combinations, err)
	}
	if got := strings.Join(combinations[0], " "); got != "training.lora.targets=q_proj,v_proj optimizer.lr=1e-3 guide.optimizer.lr=5e-5" {
		t.Errorf("the first is %s", got)
	}
	if names[7] != "-targets-all-linear-optimizer-lr-2e-3-guide-optimizer-lr-1e-4" {
		t.Errorf("the last is named %s", names[7])
	}
}

func TestRestore(t *testing.T) {
	saved := aligned(t)
	declared := Facts{Declared: map[string]schemas.Spec{"align": saved}}
	for _, c := range []struct {
		as    string
		facts Facts
		run   string // empty where it is refused
		says  string
		usage bool
	}{
		{run: "align"},
		{as: "copy", run: "copy"},
		{as: "copy", facts: declared, run: "copy"},
		{facts: declared, says: "run align already exists: delete it with `ldalign runs delete align`, or restore a copy with --as NAME"},
		{as: "align", facts: declared, says: "run align already exists"},
		{as: "Copy", says: `"Copy" cannot be a run's name`, usage: true},
	} {
		got, err := Restore{As: c.as}.Plan(saved, c.facts)
		if c.run == "" {
			if err == nil || !strings.Contains(err.Error(), c.says) || errors.Is(err, ErrRequest) != c.usage {
				t.Errorf("as %q: got %v, want %q", c.as, err, c.says)
			}
			continue
		}
		want := saved.Clone()
		want.Run = c.run
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("as %q: %v (-want +got):\n%s", c.as, err, diff)
		}
	}
}

// Whatever is asked for: a plan leaves its parent as it is, is what was asked for, and asked again when the run has begun it is
// the same.
func TestPlansArePure(t *testing.T) {
	assignments := []string{
		"objective.beta=0.05", "objective.distance=cosine", "objective.kind=spin", "objective.mix=previous", "objective.reference=initial",
		"guide.latent_dim=4", "guide.from=run:other", "generation.temperature=0.5", "model.from=run:other", "evaluation.first=0",
		"evaluation.samples=1", "data.eval=", "training.epochs=2", "retention.messages=1", "seed=7", "data.limit=3",
	}
	parents := []schemas.Spec{aligned(t), spin(t), replayed(t)}
	planned := 0
	rapid.Check(t, func(t *rapid.T) {
		parent := rapid.SampledFrom(parents).Draw(t, "parent")
		before := parent.Clone()
		request := Replay{
			As:        "again",
			From:      rapid.SampledFrom([]schemas.Kind{schemas.Prompts, schemas.Pairs, schemas.Encoded, schemas.Scored}).Draw(t, "from"),
			Iteration: rapid.SampledFrom([]string{"", "all", "0", "1", "2"}).Draw(t, "iteration"),
			Set:       rapid.SliceOfNDistinct(rapid.SampledFrom(assignments), 0, 3, rapid.ID).Draw(t, "set"),
			OffPolicy: rapid.Bool().Draw(t, "off-policy"), Exact: rapid.Bool().Draw(t, "exact"),
		}
		facts := complete()
		child, err := request.Plan(parent, facts)
		if diff := cmp.Diff(before, parent); diff != "" {
			t.Fatalf("the parent was changed:\n%s", diff)
		}
		if err != nil {
			return
		}
		planned++
		for _, d := range schemas.Differences(parent, child) {
			ours := slices.Contains([]string{"iterations", "guide.from", "evaluation.first"}, d.Key)
			if latest, ok := schemas.LatestSource(d.Key); !ours && (!ok || latest.Before(request.From)) {
				t.Fatalf("%s is changed from %s to %s by a replay from %s", d.Key, d.Values[0], d.Values[1], request.From)
			}
		}
		facts.Declared = map[string]schemas.Spec{"again": child}
		again, err := request.Plan(parent, facts)
		if diff := cmp.Diff(child, again); err != nil || diff != "" {
			t.Fatalf("asked again: %v\n%s", err, diff)
		}
	})
	if planned == 0 {
		t.Error("every request was refused")
	}
}
