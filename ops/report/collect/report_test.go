package collect

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/ops/report"
	"github.com/ldalign/ldalign/schemas"
)

func run(name, kind, from string, iterations int) schemas.Spec {
	s := schemas.Spec{Run: name, Iterations: iterations}
	s.Objective.Kind, s.Model.From = kind, from
	return s
}

// Rows are named as in the paper: by the method and the iteration that made the policy, from 0.
func TestRowsOfPolicies(t *testing.T) {
	replay := run("low", "ldalign", "models/sft", 3)
	replay.Source = &schemas.SourceSpec{Run: "align"}
	for _, c := range []struct {
		spec      schemas.Spec
		iteration uint32
		want      string
	}{
		{run("align", "ldalign", "run:sft", 3), 0, "SFT"},
		{run("align", "ldalign", "models/sft", 3), 0, "Start"},
		{run("align", "ldalign", "models/sft", 3), 2, "LD-Align 1"},
		{run("sft", "sft", "scratch", 1), 1, "SFT from scratch"},
		{replay, 3, "LD-Align (low) 2"},
	} {
		if got := label(c.spec, c.iteration); got != c.want {
			t.Errorf("policy %d of %s: %q, want %q", c.iteration, c.spec.Run, got, c.want)
		}
	}
}

// The verdict judges the last policy of the first method that aligns, against the start and the last of each other method.
func TestWhatIsCompared(t *testing.T) {
	specs := []schemas.Spec{run("sft", "sft", "scratch", 1), run("align", "ldalign", "run:sft", 2), run("spin", "spin", "run:sft", 2)}
	var rows []report.Row
	for _, s := range specs {
		for i := range s.Iterations + 1 {
			rows = append(rows, report.Row{Method: label(s, uint32(i)), Run: s.Run, Iteration: i})
		}
	}
	subject, against := comparison(rows, specs)
	if diff := cmp.Diff([]string{"Start", "SFT from scratch", "SPIN 1"}, against); diff != "" || subject != "LD-Align 1" {
		t.Errorf("%s is judged; against (-want +got):\n%s", subject, diff)
	}
	if subject, against := comparison(nil, specs); subject != "" || len(against) != 0 {
		t.Errorf("without rows: %s against %q", subject, against)
	}
}

// A replay that names its source's guide, and how many iterations it has, differs from the source in nothing that it was set.
func TestSettingsOfAReplay(t *testing.T) {
	source := run("align", "ldalign", "models/sft", 3)
	replay := source.Clone()
	replay.Source, replay.Iterations, replay.Guide.From = &schemas.SourceSpec{Run: "align"}, 2, "run:align"
	if a, b := settings(source), settings(replay); a.Iterations != b.Iterations || a.Guide.From != b.Guide.From {
		t.Errorf("%+v\nand %+v", a, b)
	}
	replay.Guide.From = "run:other"
	if got := settings(replay).Guide.From; got != "run:other" {
		t.Errorf("another run's guide has become %q", got)
	}
}
