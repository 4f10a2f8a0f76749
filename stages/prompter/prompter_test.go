package prompter_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/ldalign/ldalign/dataset"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/stages/prompter"
)

func spec(change ...func(*schemas.Spec)) schemas.Spec {
	s := schemas.Default()
	s.Run, s.Iterations, s.Data.Train = "r", 3, "builtin:demo/align"
	for _, c := range change {
		c(&s)
	}
	return schemas.Resolve(s, 1)
}

func records(n int) []dataset.Record {
	out := make([]dataset.Record, n)
	for i := range out {
		out[i] = dataset.Record{ID: fmt.Sprintf("p%d", i), Prompt: fmt.Sprintf("question %d", i), Response: fmt.Sprintf("answer %d", i)}
	}
	return out
}

func policy(iteration uint32) *events.Checkpoint {
	return &events.Checkpoint{Schema: 1, Run: "r", Kind: "policy", Iteration: iteration, Digest: fmt.Sprintf("digest-%d", iteration)}
}

// process is what the stage makes of one checkpoint: its prompts and the control message behind them.
func process(t *testing.T, s schemas.Spec, records []dataset.Record, c *events.Checkpoint) ([]*events.Prompt, *events.Control) {
	t.Helper()
	out, errs := prompter.New(s, records).Process(t.Context(), []*events.Checkpoint{c})
	if errs[0] != nil {
		t.Fatal(errs[0])
	}
	if len(out[0]) == 0 {
		return nil, nil
	}
	var prompts []*events.Prompt
	for _, m := range out[0][:len(out[0])-1] {
		prompts = append(prompts, m.(*events.Prompt))
	}
	return prompts, out[0][len(out[0])-1].(*events.Control)
}

func TestIteration(t *testing.T) {
	for _, samples := range []int{1, 3} {
		s := spec(func(s *schemas.Spec) { s.Generation.SamplesPerPrompt, s.Seed = samples, 9 })
		all := records(7)
		prompts, closed := process(t, s, all, policy(2))
		total := uint64(7 * samples)
		if closed.GetKind() != "closed" || closed.GetTotal() != total || closed.GetIteration() != 2 || closed.GetRun() != "r" {
			t.Errorf("the last message is %v, want closed, iteration 2 of r, total %d", closed, total)
		}
		if len(prompts) != int(total) {
			t.Fatalf("%d prompts, want %d", len(prompts), total)
		}
		seen := map[string]int{}
		ids, seeds := map[string]bool{}, map[uint64]bool{}
		for i, p := range prompts {
			record := all[slices.IndexFunc(all, func(r dataset.Record) bool { return r.ID == p.GetPromptId() })]
			want := &events.Prompt{
				Schema: events.Version, Run: "r", Iteration: 2, PairId: schemas.PairID("r", 2, record.ID, p.GetSample()),
				PromptId: record.ID, Sample: uint32(seen[record.ID]), Position: uint64(i), Total: total,
				Prompt: record.Prompt, Response: record.Response,
				SampleSeed: schemas.SampleSeed(9, 2, record.ID, p.GetSample()), Checkpoint: "digest-2",
			}
			if !proto.Equal(want, p) {
				t.Errorf("prompt %d: %v, want %v", i, p, want)
			}
			seen[record.ID]++
			ids[p.GetPairId()], seeds[p.GetSampleSeed()] = true, true
		}
		for _, r := range all {
			if seen[r.ID] != samples {
				t.Errorf("prompt %s comes %d times, want %d", r.ID, seen[r.ID], samples)
			}
		}
		if len(ids) != int(total) || len(seeds) != int(total) {
			t.Errorf("%d pair ids and %d seeds for %d pairs", len(ids), len(seeds), total)
		}
	}
}

// TestPure: the same checkpoint gives the same messages, so a redelivered event does no harm; another iteration or seed
// gives another order.
// TestGivenLogProbs are of the run's first policy: later iterations have them only where that stays the reference.
func TestGivenLogProbs(t *testing.T) {
	given := records(3)
	given[1].Rejected, given[1].Reference = "other", &[2]float64{-7, -8}
	for _, c := range []struct {
		reference string
		iteration uint32
		want      int
	}{{"previous", 0, 1}, {"previous", 1, 0}, {"initial", 0, 1}, {"initial", 1, 1}} {
		s := spec(func(s *schemas.Spec) { s.Objective.Kind, s.Objective.Reference = "dpo", c.reference })
		prompts, _ := process(t, s, given, policy(c.iteration))
		got := 0
		for _, p := range prompts {
			if p.ChosenLogp != nil && p.GetChosenLogp() == -7 && p.GetRejectedLogp() == -8 {
				got++
			}
		}
		if got != c.want {
			t.Errorf("reference %s, iteration %d: %d prompts have log-probs, want %d", c.reference, c.iteration, got, c.want)
		}
	}
}

func TestPure(t *testing.T) {
	order := func(s schemas.Spec, iteration uint32) []string {
		prompts, _ := process(t, s, records(30), policy(iteration))
		var ids []string
		for _, p := range prompts {
			ids = append(ids, p.GetPromptId())
		}
		return ids
	}
	if diff := cmp.Diff(order(spec(), 0), order(spec(), 0)); diff != "" {
		t.Errorf("processed twice:\n%s", diff)
	}
	if slices.Equal(order(spec(), 0), order(spec(), 1)) {
		t.Error("iterations 0 and 1 have the same order")
	}
	if slices.Equal(order(spec(), 0), order(spec(func(s *schemas.Spec) { s.Seed = 2 }), 0)) {
		t.Error("seeds 1 and 2 have the same order")
	}
	one, _ := process(t, spec(), records(3), policy(0))
	other, _ := process(t, spec(func(s *schemas.Spec) { s.Run = "other" }), records(3), policy(0))
	for i := range one {
		if one[i].GetSampleSeed() != other[i].GetSampleSeed() || one[i].GetPairId() == other[i].GetPairId() {
			t.Error("runs of one seed share their samples' seeds, and never a pair id")
		}
	}
}

func TestWhatStartsNothing(t *testing.T) {
	last := policy(3)
	guide, state := policy(0), policy(1)
	guide.Kind, state.Kind = "guide", "state"
	for name, c := range map[string]*events.Checkpoint{"the last policy": last, "a guide": guide, "a state": state} {
		if prompts, closed := process(t, spec(), records(3), c); prompts != nil || closed != nil {
			t.Errorf("%s starts %d prompts and %v", name, len(prompts), closed)
		}
	}
	if prompts, _ := process(t, spec(), records(3), policy(2)); len(prompts) != 3 {
		t.Errorf("the last iteration has %d prompts, want 3", len(prompts))
	}
}

// TestObjectivesThatSampleNothing see each prompt once, whatever samples_per_prompt says.
func TestObjectivesThatSampleNothing(t *testing.T) {
	for kind, want := range map[string]int{"sft": 4, "dpo": 4, "spin": 20, "ldalign": 20} {
		s := spec(func(s *schemas.Spec) { s.Objective.Kind, s.Generation.SamplesPerPrompt = kind, 5 })
		if prompts, _ := process(t, s, records(4), policy(0)); len(prompts) != want {
			t.Errorf("%s: %d prompts, want %d", kind, len(prompts), want)
		}
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data.jsonl")
	text := `{"prompt":"a","response":"1","rejected":"x"}
{"prompt":"b","response":"2"}
{"prompt":"c","response":"3","rejected":"y"}
{"prompt":"d","response":"4","rejected":"z"}
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		kind  string
		limit int
		want  string
	}{{"spin", 0, "abcd"}, {"spin", 2, "ab"}, {"spin", 9, "abcd"}, {"dpo", 0, "acd"}, {"dpo", 2, "ac"}}
	for _, test := range tests {
		set, err := prompter.Load(spec(func(s *schemas.Spec) {
			s.Objective.Kind, s.Data.Train, s.Data.Limit = test.kind, path, test.limit
		}))
		if err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		for _, r := range set.Records {
			got.WriteString(r.Prompt)
		}
		if got.String() != test.want {
			t.Errorf("%s, limit %d: prompts %s, want %s", test.kind, test.limit, got.String(), test.want)
		}
	}
	missing := path + ".gone"
	if _, err := prompter.Load(spec(func(s *schemas.Spec) { s.Data.Train = missing })); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("got %v, want an error that names %s", err, missing)
	}
}
