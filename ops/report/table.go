package report

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// table is rendered as Markdown and as HTML.
type table struct {
	Title  string
	Note   string
	Labels int // leading columns that hold words: aligned left
	Head   []string
	Rows   [][]cell
}

// cell is a text with a tone: better, worse, tie or none.
type cell struct{ Text, Tone string }

func cells(texts ...string) []cell {
	out := make([]cell, len(texts))
	for i, t := range texts {
		out[i].Text = clean(t)
	}
	return out
}

// markdown is the table with its columns aligned, so that it reads well as plain text too.
func (t table) markdown() string {
	rows := [][]string{t.Head}
	for _, r := range t.Rows {
		texts := make([]string, len(r))
		for i, c := range r {
			texts[i] = strings.ReplaceAll(clean(c.Text), "|", `\|`)
		}
		rows = append(rows, texts)
	}
	widths := make([]int, len(t.Head))
	for i := range widths {
		widths[i] = 3
		for _, r := range rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(r[i]))
		}
	}
	var b strings.Builder
	for n, r := range rows {
		for i, text := range r {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text))
			if i < t.Labels {
				b.WriteString("| " + text + pad + " ")
			} else {
				b.WriteString("| " + pad + text + " ")
			}
		}
		b.WriteString("|\n")
		if n > 0 {
			continue
		}
		for i, w := range widths {
			if i < t.Labels {
				b.WriteString("|" + strings.Repeat("-", w+2))
			} else {
				b.WriteString("|" + strings.Repeat("-", w+1) + ":")
			}
		}
		b.WriteString("|\n")
	}
	return b.String()
}

// Table is the held-out table as aligned Markdown, for the terminal. It ends with a newline.
func Table(in Input) string { return scoreTable(in).markdown() }

func scoreTable(in Input) table {
	t := table{Title: "Held-out answers", Labels: 1, Head: []string{"method", "seeds"}}
	t.Note = "Mean ± standard deviation over seeds; – is not measured. Exact: share equal to the human answer. Graded: " +
		"score in 0…1. Sampled at temperature 1. Distance: ‖φ(x,y) − φ(x,y′)‖ of the sampled answers."
	if in.HeldOut > 0 {
		t.Note = fmt.Sprintf("%d held-out prompts. ", in.HeldOut) + t.Note
	}
	for _, m := range measures() {
		t.Head = append(t.Head, m.name)
	}
	for _, r := range in.Rows {
		texts := []string{r.Method, fmt.Sprint(len(r.Seeds))}
		for _, m := range measures() {
			texts = append(texts, m.text(r))
		}
		t.Rows = append(t.Rows, cells(texts...))
	}
	return t
}

// comparisonTable has a row for each measure and a column for each row that the subject is compared with.
func comparisonTable(in Input, v Verdict) table {
	t := table{Title: clean(in.Subject) + " compared", Labels: 1, Note: Rule, Head: []string{"measure"}}
	for _, m := range measures() {
		row := cells(m.name)
		for _, c := range v.Comparisons {
			if c.Measure != m.name {
				continue
			}
			text := string(c.Outcome)
			if c.Outcome != NotJudged {
				text += fmt.Sprintf(" %+.*f", m.digits, c.Difference)
			}
			row = append(row, cell{text, strings.Fields(string(c.Outcome))[0]})
		}
		if len(row) > 1 {
			t.Rows = append(t.Rows, row)
		}
	}
	for _, name := range in.Against {
		if _, ok := findRow(in.Rows, name); ok {
			t.Head = append(t.Head, "against "+clean(name))
		}
	}
	return t
}

func distanceTable(groups []distanceGroup) table {
	t := table{
		Title: "Distances", Labels: 1,
		Note: "Effective size: (Σw)² / Σw² as a share of the pairs. Mean ± standard deviation over seeds; the largest over all.",
		Head: []string{
			"method", "iteration", "pairs", "identical", "mean s", "mean s, differing", "largest s", "largest w",
			"effective size",
		},
	}
	for _, g := range groups {
		if g.pairs == 0 {
			t.Rows = append(t.Rows, cells(g.method, fmt.Sprint(g.iteration), "0",
				missing, missing, missing, missing, missing, missing))
			continue
		}
		weight, ess := missing, missing
		if g.essShare.N > 0 {
			weight, ess = number(g.maxWeight, 2), percent(g.essShare.Mean, 0)
		}
		t.Rows = append(t.Rows, cells(g.method, fmt.Sprint(g.iteration), fmt.Sprint(g.pairs), percent(g.identical.Mean, 1),
			g.mean.text(3), g.differing.text(3), number(g.max, 3), weight, ess))
	}
	for _, g := range groups {
		if g.broken > 0 {
			t.Note += fmt.Sprintf(" %s: %d pairs left out, their distance or weight is not a number.", g.title(), g.broken)
		}
	}
	return t
}

func agreementTable(groups []agreementGroup) table {
	t := table{
		Title: "Does the smaller distance pick the better of two samples?", Labels: 1,
		Note: "Pairs of samples with different scores; equal distances count as disagreement. 95 % Wilson intervals; " +
			"chance is 50 %. Pairs with an exact answer are easy (its distance is 0): the right half of the table is the test.",
		Head: []string{"method", "policy", "pairs", "agreement", "interval", "neither exact", "agreement", "interval"},
	}
	for _, g := range groups {
		row := []string{g.method, fmt.Sprint(g.iteration)}
		for _, c := range []count{g.all, g.inexact} {
			if c.n == 0 {
				row = append(row, "0", missing, missing)
				continue
			}
			low, high := wilson(c.agree, c.n)
			row = append(row, fmt.Sprint(c.n), percent(float64(c.agree)/float64(c.n), 1),
				fmt.Sprintf("%.0f–%.0f %%", 100*low, 100*high))
		}
		t.Rows = append(t.Rows, cells(row...))
	}
	return t
}

func guideTable(guides []Guide) table {
	t := table{
		Title: "Does the guide's decoder use the latent?", Labels: 1,
		Note: "Reconstruction loss in nats per token. The further apart, the more the latent says about the answer.",
		Head: []string{"run", "seed", "true latent", "shuffled latent", "difference"},
	}
	for _, g := range guides {
		t.Rows = append(t.Rows, cells(g.Run, fmt.Sprint(g.Seed),
			number(g.True, 3), number(g.Shuffled, 3), number(g.Shuffled-g.True, 3)))
	}
	return t
}

func stageTable(in Input) table {
	t := table{Title: "Where the time went", Labels: 1, Head: []string{"stage", "items", "busy", "rate"}}
	if in.WallSeconds > 0 {
		t.Note = "Wall time " + seconds(in.WallSeconds) + "."
	}
	if in.TensorShare != nil {
		t.Note += " Tensor work: " + percent(*in.TensorShare, 0) + " of it."
	}
	for _, s := range in.Stages {
		rate := missing
		if s.BusySeconds > 0 {
			rate = fmt.Sprintf("%.1f %s/s", float64(s.Items)/s.BusySeconds, s.Unit)
		}
		t.Rows = append(t.Rows, cells(s.Name, fmt.Sprintf("%d %s", s.Items, s.Unit), seconds(s.BusySeconds), rate))
	}
	t.Note = strings.TrimSpace(t.Note)
	return t
}

// seconds as 4.2 s, 3 min 05 s or 2 h 07 min.
func seconds(s float64) string {
	switch n := int64(min(s, 1e15) + 0.5); {
	case !finite(s) || s < 0:
		return missing
	case s < 59.95:
		return fmt.Sprintf("%.1f s", s)
	case n < 3600:
		return fmt.Sprintf("%d min %02d s", n/60, n%60)
	default:
		return fmt.Sprintf("%d h %02d min", n/3600, n/60%60)
	}
}

// markdown is table.md: the verdict, the tables and the notes.
func markdown(in Input) string {
	v := Judge(in)
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n%s\n", title(in), v.Headline)
	if in.State != "" {
		fmt.Fprintf(&b, "\nNot finished: %s.\n", clean(in.State))
	}
	for _, f := range v.Findings {
		mark := ""
		if f.Warning {
			mark = "Warning: "
		}
		fmt.Fprintf(&b, "\n- %s%s", mark, f.Text)
	}
	if len(v.Findings) > 0 {
		b.WriteString("\n")
	}
	for _, t := range []table{
		scoreTable(in), comparisonTable(in, v), distanceTable(groupDistances(in.Distances)),
		agreementTable(groupAgreement(in.Agreement)), guideTable(in.Guides), stageTable(in),
	} {
		if len(t.Rows) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s", t.Title, t.markdown())
		if t.Note != "" {
			fmt.Fprintf(&b, "\n%s\n", t.Note)
		}
	}
	for i, n := range in.Notes {
		if i == 0 {
			b.WriteString("\n## Notes\n\n")
		}
		fmt.Fprintf(&b, "- %s\n", clean(n))
	}
	if in.GeneratedBy != "" {
		fmt.Fprintf(&b, "\nGenerated by %s.\n", clean(in.GeneratedBy))
	}
	return b.String()
}

func title(in Input) string {
	if in.Title == "" {
		return "Report"
	}
	return clean(in.Title)
}
