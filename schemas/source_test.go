package schemas

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// replayed is a valid run that replays another one's scored pairs.
func replayed(change ...func(*Spec)) Spec {
	s := Default()
	s.Run, s.Model.From, s.Data.Train, s.Guide.From = "again", "scratch", "builtin:demo/align", "run:demo"
	s.Model.Scratch = defaultScratch()
	s.Model.Scratch.Tokenizer = "builtin:demo"
	s.Source = defaultSource()
	s.Source.Run, s.Source.Policy, s.Source.First, s.Source.Last = "demo", "d1", 1, 40
	for _, c := range change {
		c(&s)
	}
	return Resolve(s, 1)
}

func TestSource(t *testing.T) {
	if err := replayed().Validate(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*Spec)
		says   string
	}{
		{"no run", func(s *Spec) { s.Source.Run = "" }, "source.run"},
		{"itself", func(s *Spec) { s.Source.Run = s.Run }, "another run"},
		{"another stage", func(s *Spec) { s.Source.From = "distance" }, "source.from"},
		{"past the end", func(s *Spec) { s.Source.Iteration = 3 }, "source.iteration"},
		{"no part of the log", func(s *Spec) { s.Source.First = 41 }, "41 to source.last 40"},
		{"no policy", func(s *Spec) { s.Source.Policy = "" }, "source.policy"},
		{
			"no policy in iteration 1",
			func(s *Spec) { s.Source.Policy, s.Source.From, s.Source.Iteration = "", "prompts", 1 }, "is required with source.iteration 1",
		},
		{"no guide", func(s *Spec) { s.Guide.From = "" }, "whose latents"},
		{"no guide in iteration 1", func(s *Spec) { s.Guide.From, s.Source.From, s.Source.Iteration = "", "pairs", 1 }, "in iteration 0"},
		{"sft from scores", func(s *Spec) { s.Objective.Kind = "sft" }, "trains from prompts"},
		{"off policy", func(s *Spec) { s.Source.OffPolicy = "maybe" }, "source.off_policy"},
		{"fork without a policy", func(s *Spec) { s.Source.From, s.Source.Policy = FromPolicy, "" }, "source.policy"},
	} {
		err := replayed(c.change).Validate()
		if spec := new(SpecError); !errors.As(err, &spec) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want it to say %q", c.name, err, c.says)
		}
	}
}

// TestSourceIsRead: the section is part of the digest, and reads back from the YAML that is stored with the run.
func TestSourceIsRead(t *testing.T) {
	spec := replayed()
	text, err := spec.YAML()
	if err != nil {
		t.Fatal(err)
	}
	specs, err := ParseSpecs("spec", text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(spec, specs[0]); diff != "" {
		t.Errorf("read back:\n%s", diff)
	}
	if other := replayed(func(s *Spec) { s.Source.Last++ }); other.Digest() == spec.Digest() {
		t.Error("another part of the log has the same digest")
	}
	fresh := replayed(func(s *Spec) { s.Source = nil })
	if fresh.Digest() == spec.Digest() || len(Differences(fresh, spec)) != 0 {
		t.Error("a source changes the digest and is no difference of settings")
	}
}

func TestReadsFrom(t *testing.T) {
	for _, c := range []struct {
		from string
		need Kind
		kind Kind
		ok   bool
	}{
		{"scored", Scored, Scored, true},
		{"scored", Pairs, Scored, true},
		{"encoded", Pairs, Encoded, true},
		{"encoded", Scored, Scored, false},
		{"pairs", Scored, Scored, false},
		{"prompts", Prompts, Prompts, true},
		{"prompts", Pairs, Pairs, false},
		{"policy", Scored, Scored, false},
	} {
		spec := replayed(func(s *Spec) { s.Source.From = c.from })
		if kind, ok := spec.ReadsFrom(c.need); kind != c.kind || ok != c.ok {
			t.Errorf("from %s, %s: got %s, %v; want %s, %v", c.from, c.need, kind, ok, c.kind, c.ok)
		}
	}
	if _, ok := Default().ReadsFrom(Scored); ok {
		t.Error("a run without a source reads from one")
	}
}

// TestLatestSource: every key of the spec has an entry, and the keys that are easily mistaken have the right one.
func TestLatestSource(t *testing.T) {
	for _, f := range Fields() {
		if _, ok := reach()[strings.Split(f.Key, ".")[0]]; !ok {
			t.Errorf("%s: reach has no entry for its section", f.Key)
		}
	}
	for key, want := range map[string]Kind{
		"objective.beta": Scored, "objective.distance": Encoded, "objective.reference": Prompts,
		"objective.mix": Scored, "guide.optimizer.lr": Pairs, "optimizer.lr": Scored,
		"generation.temperature": Prompts, "data.eval": Scored, "data.overlong": Prompts, "model.system": Prompts,
		"training.lora.rank": Scored, "data.train": "", "generation.samples_per_prompt": "", "iterations": "", "run": "",
	} {
		if got, ok := LatestSource(key); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %v; want %q", key, got, ok, want)
		}
	}
}

func TestDifferences(t *testing.T) {
	a, b := replayed(), replayed(func(s *Spec) {
		s.Run, s.Objective.Beta, s.Streams.MaxAge = "other", 0.5, "1h"
		s.Training.LoRA = defaultLoRA()
	})
	want := []Difference{
		{"objective.beta", []string{"0.1", "0.5"}},
		{"training.lora.rank", []string{"", "16"}},
		{"training.lora.alpha", []string{"", "32"}},
		{"training.lora.targets", []string{"", "all-linear"}},
		{"training.lora.scaling", []string{"", "lora"}},
	}
	if diff := cmp.Diff(want, Differences(a, b)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := Differences(a, a); got != nil {
		t.Errorf("equal specs differ in %v", got)
	}
}
