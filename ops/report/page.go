package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"unicode/utf8"
)

//go:embed page.html.tmpl
var pageTemplate string

// page is what the template shows.
type page struct {
	In       Input
	Title    string
	Verdict  Verdict
	Sections []section
	Groups   []exampleGroup
	// Identical counts the examples that were not shown, their two answers being equal.
	Identical int
	Notes     []string
	// Plain leaves verdict and examples out.
	Plain bool
}

// section is a heading with figures and tables, or the reason why there are none.
type section struct {
	ID, Title, Intro string
	Figures          []pageFigure
	Tables           []table
	Missing          string
}

type pageFigure struct {
	Title, Caption, Name string
	SVG                  template.HTML
}

const maxText = 2000 // runes of a prompt or answer on the page

// html5 is index.html. svgs holds the SVG of each figure by its name.
func html5(in Input, figures figureSet, svgs map[string][]byte) ([]byte, error) {
	p := page{In: in, Title: title(in), Verdict: Judge(in), Notes: in.Notes}
	p.Groups, p.Identical = pickExamples(in.Examples)
	p.Sections = []section{
		{
			ID: "answers", Title: "Held-out answers", Figures: show(figures.scores, svgs),
			Tables:  []table{scoreTable(in), comparisonTable(in, p.Verdict)},
			Missing: "No held-out answers were scored: give the run a held-out set and a scorer (evaluation in the run spec).",
		},
		{
			ID: "training", Title: "Training", Figures: show(figures.curves, svgs),
			Intro:   "Bold lines are running means; a dashed upright line is the start of an iteration, with a new reference.",
			Missing: "No training step was recorded yet.",
		},
		{
			ID: "distances", Title: "Latent distances",
			Intro: "How far the model's own answers are from the human ones in the guide's latent space. Alignment should " +
				"move them to the left.",
			Figures: show(figures.histograms, svgs), Tables: []table{distanceTable(groupDistances(in.Distances))},
			Missing: "No pair was scored yet.",
		},
		{
			ID: "guide", Title: "Is the guide any good?", Figures: show(figures.agreement, svgs),
			Tables:  []table{agreementTable(groupAgreement(in.Agreement)), guideTable(in.Guides)},
			Missing: "The guide was not checked: evaluate two samples per prompt for the two-sample test.",
		},
		{
			ID: "time", Title: "Time", Tables: []table{stageTable(in)},
			Missing: "No stage reported its work. Only the `ldalign up` that did the work knows what it took.",
		},
	}
	return p.html()
}

// show makes figures ready for the page.
func show(figures []figure, svgs map[string][]byte) []pageFigure {
	var out []pageFigure
	for _, f := range figures {
		out = append(out, pageFigure{f.Title, f.Caption, f.Name, f.inline(svgs[f.Name])})
	}
	return out
}

// html drops the tables without rows and fills in the template.
func (p page) html() ([]byte, error) {
	for i := range p.Sections {
		s := &p.Sections[i]
		tables := s.Tables
		s.Tables = nil
		for _, t := range tables {
			if len(t.Rows) > 0 {
				s.Tables = append(s.Tables, t)
			}
		}
		if len(s.Tables)+len(s.Figures) > 0 {
			s.Missing = ""
		}
	}
	t, err := template.New("page").Funcs(template.FuncMap{
		"number":  func(v float64) string { return number(v, 3) },
		"clip":    clip,
		"numeric": func(t table, column int) bool { return column >= t.Labels },
	}).Parse(pageTemplate)
	if err != nil {
		return nil, fmt.Errorf("report: page template: %w", err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, p); err != nil {
		return nil, fmt.Errorf("report: page: %w", err)
	}
	return b.Bytes(), nil
}

// clip keeps the page readable when prompts are long.
func clip(s string) string {
	n := utf8.RuneCountInString(s)
	if n <= maxText {
		return s
	}
	return string([]rune(s)[:maxText]) + fmt.Sprintf("… (%d more characters)", n-maxText)
}
