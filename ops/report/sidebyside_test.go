package report

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ldalign/ldalign/trainer/curves"
)

func sideBySide() SideBySide {
	curve := func(run string, loss float64) []Curve {
		var steps []curves.Step
		for step := range 20 {
			steps = append(steps, curves.Step{Loss: loss + float64(20-step), GradNorm: math.NaN(), Pairs: &curves.Pairs{Margin: float64(step)}})
		}
		return []Curve{{Method: "LD-Align", Run: run, Objective: "ldalign", Steps: steps}}
	}
	return SideBySide{
		Title: "Runs side by side", GeneratedBy: "a test",
		Runs: []Compared{
			{
				Name: "align", Method: "LD-Align", Policy: 2, Settings: []Setting{{"objective.beta", "0.1"}, {"training.lora.rank", ""}},
				Policies: []Measured{{0, Scores{SampledExact: new(0.25)}}, {2, Scores{SampledExact: new(0.5)}}},
				Curves:   curve("align", 1), Spec: "run: align",
			},
			{
				Name: "align-low", Method: "LD-Align", Lineage: "replay of run align", Policy: 1,
				Settings: []Setting{{"objective.beta", "0.05"}, {"training.lora.rank", "<16>"}}, Curves: curve("align-low", 3),
			},
		},
	}
}

func TestSideBySide(t *testing.T) {
	got := SideBySideTable(sideBySide())
	want := `| run       | objective.beta | training.lora.rank | policy | sampled exact |  loss | margin |
|-----------|---------------:|-------------------:|-------:|--------------:|------:|-------:|
| align     |            0.1 |                  – |      2 |         0.500 | 2.500 | 18.500 |
| align-low |           0.05 |               <16> |      1 |             – | 4.500 | 18.500 |
`
	if got != want {
		t.Errorf("the table is\n%s, want\n%s", got, want)
	}
	if empty := SideBySideTable(SideBySide{}); !strings.Contains(empty, "| run |") {
		t.Errorf("no runs: %s", empty)
	}
}

func TestWriteSideBySide(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "compare")
	if err := WriteSideBySide(dir, sideBySide()); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	page := read("index.html")
	for _, text := range []string{"align-low", "replay of run align", "&lt;16&gt;", `aria-labelledby="curve-alignment-loss-title`, "run: align"} {
		if !strings.Contains(page, text) {
			t.Errorf("the page does not hold %q", text)
		}
	}
	for _, text := range []string{"Examples", "Verdict"} {
		if strings.Contains(page, text) {
			t.Errorf("the page holds %q, which a report has", text)
		}
	}
	if svg := read("curve-alignment-loss.svg"); !strings.Contains(svg, "align-low") {
		t.Error("the curve does not name its runs")
	}
	if !strings.Contains(read("table.md"), "| align-low |") {
		t.Error("table.md has no line for a run")
	}
}
