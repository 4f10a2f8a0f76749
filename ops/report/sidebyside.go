package report

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// SideBySide is a comparison of runs.
type SideBySide struct {
	Title       string
	GeneratedBy string
	Runs        []Compared
}

// Compared is one run of a comparison.
type Compared struct {
	Name   string `json:"run"`
	Method string `json:"method"`
	// Lineage says from which run a replay or fork started; empty for other runs.
	Lineage string `json:"lineage,omitempty"`
	// Settings are the keys in which the runs of the comparison differ, the same keys in each run.
	Settings []Setting `json:"settings"`
	// Policy is the newest policy's iteration; -1 before the first.
	Policy int `json:"policy"`
	// Policies are the policies that were evaluated on held-out prompts, in order.
	Policies []Measured `json:"scores"`
	// Curves has the run's training log: one curve, or none.
	Curves []Curve `json:"-"`
	// Training is filled in by Ends.
	Training []Ending `json:"training"`
	Spec     string   `json:"-"`
}

// Setting is a key of the run spec with its value; empty where the run's spec has no such section.
type Setting struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Measured is a policy with its held-out values.
type Measured struct {
	Iteration int `json:"iteration"`
	Scores
}

// Ending is the mean of one value of the training log over the last tenth of its steps.
type Ending struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
}

// ends are the endings of a run's training log, without values that its objective does not have.
func ends(c Compared) []Ending {
	var out []Ending
	for _, v := range []struct {
		name string
		of   value
	}{
		{"loss", loss}, {"margin", margin()}, {"accuracy", accuracy()}, {"kl", kl()}, {"grad norm", gradNorm},
	} {
		var sum float64
		n := 0
		for _, curve := range c.Curves {
			for _, step := range curve.Steps[len(curve.Steps)*9/10:] {
				if x := v.of(step); x != nil && finite(*x) {
					sum += *x
					n++
				}
			}
		}
		if n > 0 {
			out = append(out, Ending{v.name, sum / float64(n)})
		}
	}
	return out
}

// Ends fills in how the training of each run ended.
func (c SideBySide) Ends() SideBySide {
	c.Runs = slices.Clone(c.Runs)
	for i := range c.Runs {
		c.Runs[i].Training = ends(c.Runs[i])
	}
	return c
}

// SideBySideTable is the table of a comparison as aligned Markdown, for the terminal. It ends with a newline.
func SideBySideTable(c SideBySide) string { return c.Ends().table().markdown() }

// table has a line for each run: its settings, its last measured policy, and how its training ended. Columns that no run
// has are left out.
func (c SideBySide) table() table {
	t := table{
		Title: "Runs", Labels: 1, Head: []string{"run"},
		Note: "The settings are those in which the runs differ. Held-out values are those of the last measured policy; loss and " +
			"what follows are means over the last tenth of the training steps. – is not measured.",
	}
	lines := make([][]string, len(c.Runs))
	column := func(head string, text func(Compared) string) {
		texts := make([]string, len(c.Runs))
		empty := true
		for i, r := range c.Runs {
			texts[i] = text(r)
			empty = empty && texts[i] == missing
		}
		if empty && len(c.Runs) > 0 {
			return
		}
		t.Head = append(t.Head, head)
		for i := range lines {
			lines[i] = append(lines[i], texts[i])
		}
	}
	for i := range lines {
		lines[i] = []string{c.Runs[i].Name}
	}
	if len(c.Runs) > 0 {
		for k, s := range c.Runs[0].Settings {
			column(s.Key, func(r Compared) string {
				if r.Settings[k].Value == "" {
					return missing
				}
				return r.Settings[k].Value
			})
		}
	}
	column("policy", func(r Compared) string { return fmt.Sprint(r.Policy) })
	for _, m := range measures() {
		column(m.name, func(r Compared) string {
			if len(r.Policies) == 0 {
				return missing
			}
			return m.text(Row{Seeds: []Scores{r.Policies[len(r.Policies)-1].Scores}})
		})
	}
	for _, name := range []string{"loss", "margin", "accuracy", "kl", "grad norm"} {
		column(name, func(r Compared) string {
			for _, e := range r.Training {
				if e.Name == name {
					return number(e.Value, 3)
				}
			}
			return missing
		})
	}
	for _, l := range lines {
		t.Rows = append(t.Rows, cells(l...))
	}
	return t
}

// lineages has a line for each run that began with something of another.
func (c SideBySide) lineages() table {
	t := table{Title: "Lineage", Labels: 2, Head: []string{"run", "began as"}}
	for _, r := range c.Runs {
		if r.Lineage != "" {
			t.Rows = append(t.Rows, cells(r.Name, r.Lineage))
		}
	}
	return t
}

// rows are the measured policies of all runs.
func (c SideBySide) rows() []Row {
	var out []Row
	for _, r := range c.Runs {
		for _, p := range r.Policies {
			out = append(out, Row{
				Method: fmt.Sprintf("%s, policy %d", r.Name, p.Iteration), Run: r.Name, Iteration: p.Iteration, Seeds: []Scores{p.Scores},
			})
		}
	}
	return out
}

// curves are the training logs, each under its run's name.
func (c SideBySide) curves() []Curve {
	var out []Curve
	for _, r := range c.Runs {
		for _, curve := range r.Curves {
			curve.Method = r.Name
			out = append(out, curve)
		}
	}
	return out
}

// WriteSideBySide writes a comparison into a folder, which is made: table.md, each figure as .svg and .png, and
// index.html. Each file is whole or as it was before.
func WriteSideBySide(dir string, c SideBySide) error {
	c = c.Ends()
	in := Input{Title: c.Title, GeneratedBy: c.GeneratedBy, Rows: c.rows(), Curves: c.curves()}
	for _, r := range c.Runs {
		in.Runs = append(in.Runs, Run{Name: r.Name, Method: r.Method, Spec: r.Spec})
	}
	var figures figureSet
	var err error
	if figures.scores, err = scoreFigures(in); err != nil {
		return err
	}
	if figures.curves, err = curveFigures(in.Curves); err != nil {
		return err
	}
	files, svgs, err := paintAll(figures.all())
	if err != nil {
		return err
	}
	p := page{In: in, Title: c.Title, Plain: true}
	p.Sections = []section{
		{ID: "runs-table", Title: "Runs", Tables: []table{c.table(), c.lineages()}, Missing: "No run was given."},
		{
			ID: "answers", Title: "Held-out answers", Figures: show(figures.scores, svgs),
			Missing: "No held-out answers were scored.",
		},
		{
			ID: "training", Title: "Training", Figures: show(figures.curves, svgs),
			Intro: "A colour for each run.", Missing: "No training step was recorded yet.",
		},
	}
	html, err := p.html()
	if err != nil {
		return err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "# %s\n\n%s\n%s\n", c.Title, c.table().markdown(), c.table().Note)
	if l := c.lineages(); len(l.Rows) > 0 {
		fmt.Fprintf(&text, "\n%s", l.markdown())
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("report: making the folder: %w", err)
	}
	for _, f := range append(files, file{"table.md", []byte(text.String())}, file{"index.html", html}) {
		if err := replace(filepath.Join(dir, f.name), f.data); err != nil {
			return err
		}
	}
	return nil
}
