package pipeline

import (
	"errors"
	"fmt"
	"testing"

	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
)

// The stages of a run are those up to the messages that its trainer reads.
func TestStagesOfARun(t *testing.T) {
	for kind, want := range map[string]string{
		"sft": "[prompter]", "dpo": "[prompter generator]", "spin": "[prompter generator]",
		"ldalign": "[prompter generator encoder distance]",
	} {
		spec := schemas.Default()
		spec.Objective.Kind = kind
		if got := fmt.Sprint(Default().Stages().Of(spec).Names()); got != want {
			t.Errorf("%s: %s, want %s", kind, got, want)
		}
	}
}

// TestStagesOfAReplay: the stages behind the log that it reads, and no worker of another one.
func TestStagesOfAReplay(t *testing.T) {
	for from, want := range map[string]string{
		"scored": "[evaluator]", "encoded": "[distance evaluator]", "pairs": "[encoder distance evaluator]",
		"prompts": "[generator encoder distance evaluator]", "policy": "[prompter generator encoder distance evaluator]",
	} {
		spec := schemas.Default()
		spec.Data.Eval, spec.Source = "held-out.jsonl", &schemas.SourceSpec{Run: "p", From: from}
		if got := fmt.Sprint(Default().Of(spec).Stages().Names()); got != want {
			t.Errorf("from %s: %s, want %s", from, got, want)
		}
		if _, err := Default().For(spec, "prompter"); (err != nil) != (from != "policy") || err != nil && !errors.Is(err, runs.ErrSettings) {
			t.Errorf("from %s, prompter: %v", from, err)
		}
		if row, err := Default().For(spec, "evaluator"); err != nil || row.Name != "evaluator" {
			t.Errorf("from %s, evaluator: %v", from, err)
		}
	}
}

// A stage that only looks at messages is part of the runs that have such messages on their own log.
func TestStageThatOnlyReads(t *testing.T) {
	table := append(Default(), Row{Stage: runs.Stage{Name: "look", In: schemas.Pairs}})
	for name, c := range map[string]struct {
		change func(*schemas.Spec)
		want   bool
	}{
		"ldalign":          {func(*schemas.Spec) {}, true},
		"sft has no pairs": {func(s *schemas.Spec) { s.Objective.Kind = "sft" }, false},
		"a replay from pairs reads those of its source": {
			func(s *schemas.Spec) { s.Source = &schemas.SourceSpec{Run: "p", From: "pairs"} }, false,
		},
		"a replay from prompts makes pairs": {
			func(s *schemas.Spec) { s.Source = &schemas.SourceSpec{Run: "p", From: "prompts"} }, true,
		},
	} {
		spec := schemas.Default()
		c.change(&spec)
		_, got := table.Of(spec).row("look")
		if got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
