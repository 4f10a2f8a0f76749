package report

import (
	"fmt"
	"image/color"
	"slices"

	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/ldalign/ldalign/trainer/curves"
)

// objectiveGroup is a set of objectives whose curves share figures, for their losses can be compared.
type objectiveGroup struct {
	name, title string
	objectives  []string
}

var objectiveGroups = []objectiveGroup{
	{"alignment", "Alignment", []string{"ldalign", "spin", "dpo"}},
	{"sft", "Fine-tuning", []string{"sft"}},
	{"guide", "Guide", []string{"guide"}},
}

// value is a number of a step; nil where its objective has none.
type value func(curves.Step) *float64

// The values that are shown.
func loss(s curves.Step) *float64     { return &s.Loss }
func rate(s curves.Step) *float64     { return &s.LR }
func gradNorm(s curves.Step) *float64 { return &s.GradNorm }

// ofPairs is a value of objectives with pairs.
func ofPairs(of func(*curves.Pairs) *float64) value {
	return func(s curves.Step) *float64 {
		if s.Pairs == nil {
			return nil
		}
		return of(s.Pairs)
	}
}

func margin() value       { return ofPairs(func(p *curves.Pairs) *float64 { return &p.Margin }) }
func chosenChange() value { return ofPairs(func(p *curves.Pairs) *float64 { return &p.ChosenChange }) }

func rejectedChange() value {
	return ofPairs(func(p *curves.Pairs) *float64 { return &p.RejectedChange })
}
func kl() value { return ofPairs(func(p *curves.Pairs) *float64 { return p.KL }) }

// accuracy is that over the differing pairs of a step that has some.
func accuracy() value {
	return ofPairs(func(p *curves.Pairs) *float64 {
		if p.Differing == 0 {
			return nil
		}
		return &p.Accuracy
	})
}

// percentOf is 100 times a value.
func percentOf(of value) value {
	return func(s curves.Step) *float64 {
		v := of(s)
		if v == nil {
			return nil
		}
		return new(100 * *v)
	}
}

// panel is one figure of learning curves: one value of the steps, or two.
type panel struct {
	key, title, axis, caption string
	zero                      bool // the axis includes 0, with a line there
	values                    []panelValue
}

type panelValue struct {
	name string // in the legend, beside the method; empty for a panel with one value
	of   value
}

func panels() []panel {
	one := func(of value) []panelValue { return []panelValue{{"", of}} }
	return []panel{
		{"loss", "loss", "loss (nats)", "The training loss by optimizer step.", false, one(loss)},
		{
			"accuracy", "accuracy over differing pairs", "accuracy (%)",
			"Share of differing pairs in which the human answer gained more than the sampled one.", false, one(percentOf(accuracy())),
		},
		{
			"margin", "margin", "β·Δ (nats)", "Implicit reward of the human answer minus that of the sampled one.", true, one(margin()),
		},
		{
			"logp", "log-probability against the reference", "change (nats per answer)",
			"Change of the log-probability of the human (chosen) and of the sampled (rejected) answers in the iteration.", true,
			[]panelValue{{"chosen", chosenChange()}, {"rejected", rejectedChange()}},
		},
		{
			"kl", "KL from the reference", "KL (nats per answer)", "Estimated divergence from the iteration's start.", true, one(kl()),
		},
		{"gradnorm", "gradient norm", "norm before clipping", "Global norm of the gradient.", true, one(gradNorm)},
		{"lr", "learning rate", "learning rate", "The learning rate by optimizer step.", true, one(rate)},
	}
}

// curveFigures draws the learning curves: small multiples, a colour for each method.
func curveFigures(all []Curve) ([]figure, error) {
	var out []figure
	for _, g := range objectiveGroups {
		var members []Curve
		for _, c := range all {
			if slices.Contains(g.objectives, c.Objective) {
				members = append(members, c)
			}
		}
		for _, p := range panels() {
			f, err := p.figure(g.name, g.title, members)
			if err != nil {
				return nil, err
			}
			if len(f.legend) > 0 {
				out = append(out, f)
			}
		}
	}
	return out, nil
}

// figure of the panel; its legend is empty when no step has the value.
func (p panel) figure(group, groupTitle string, members []Curve) (figure, error) {
	f := newFigure("curve-"+group+"-"+p.key, groupTitle+": "+p.title, p.caption, "optimizer step", p.axis)
	m := marks{xs: boundaries(members), color: muted}
	if p.zero {
		m.ys = []float64{0}
	}
	f.plot.Add(levels(), m)
	var methods []string
	single := len(members) <= 3
	for _, c := range members {
		i := slices.Index(methods, c.Method)
		seen := i >= 0
		if !seen {
			i = len(methods)
			methods = append(methods, c.Method)
		}
		shade := palette[i%len(palette)]
		for j, v := range p.values {
			bold := draw.LineStyle{Color: shade, Width: vg.Points(1.5), Dashes: dashes(j)}
			name := shorten(clean(c.Method), 24)
			if v.name != "" {
				name += " " + v.name
			}
			drawn := false
			for _, segment := range segments(c.Steps, v.of) {
				drawn = true
				if single && len(p.values) == 1 && len(segment) > 1 {
					raw, err := plotter.NewLine(segment)
					if err != nil {
						return f, fmt.Errorf("report: figure %s: %w", f.Name, err)
					}
					raw.LineStyle = draw.LineStyle{Color: fade(shade), Width: vg.Points(0.75)}
					f.plot.Add(raw)
				}
				line, err := plotter.NewLine(smooth(segment))
				if err != nil {
					return f, fmt.Errorf("report: figure %s: %w", f.Name, err)
				}
				line.LineStyle = bold
				f.plot.Add(line)
				if len(segment) == 1 { // of which a line shows nothing
					point, err := plotter.NewScatter(segment)
					if err != nil {
						return f, fmt.Errorf("report: figure %s: %w", f.Name, err)
					}
					point.GlyphStyle = draw.GlyphStyle{Color: shade, Radius: vg.Points(2), Shape: draw.CircleGlyph{}}
					f.plot.Add(point)
				}
			}
			if drawn && !slices.ContainsFunc(f.legend, func(e legendEntry) bool { return e.name == name }) {
				f.legend = append(f.legend, legendEntry{name: name, line: bold})
			}
		}
	}
	if p.zero {
		f.plot.Y.Min, f.plot.Y.Max = min(0, f.plot.Y.Min), max(0, f.plot.Y.Max)
	}
	if len(f.legend) > 0 {
		widen(&f.plot.X)
		widen(&f.plot.Y)
	}
	return f, nil
}

func fade(c color.NRGBA) color.NRGBA {
	c.A = 0x48
	return c
}

const maxPoints = 400 // of a segment: as many as a figure can show

// segments are the finite values of the steps, an iteration each, averaged over neighbouring steps where there are more
// than maxPoints. Steps are numbered from 1.
func segments(steps []curves.Step, of value) []plotter.XYs {
	var out []plotter.XYs
	var current plotter.XYs
	iteration := uint32(0)
	flush := func() {
		if len(current) > 0 {
			out = append(out, thin(current))
		}
		current = nil
	}
	for i, s := range steps {
		if s.Iteration != iteration {
			flush()
			iteration = s.Iteration
		}
		if v := of(s); v != nil && finite(*v) {
			current = append(current, plotter.XY{X: float64(i + 1), Y: *v})
		}
	}
	flush()
	return out
}

func thin(points plotter.XYs) plotter.XYs {
	size := (len(points) + maxPoints - 1) / maxPoints
	if size < 2 {
		return points
	}
	var out plotter.XYs
	for block := range slices.Chunk(points, size) {
		out = append(out, mean(block))
	}
	return out
}

// smooth is a centred running mean over about a tenth of the segment.
func smooth(points plotter.XYs) plotter.XYs {
	half := len(points) / 20
	out := make(plotter.XYs, len(points))
	for i := range points {
		window := points[max(0, i-half):min(len(points), i+half+1)]
		out[i] = plotter.XY{X: points[i].X, Y: mean(window).Y}
	}
	return out
}

func mean(points plotter.XYs) plotter.XY {
	var m plotter.XY
	for _, p := range points {
		m.X += p.X / float64(len(points))
		m.Y += p.Y / float64(len(points))
	}
	return m
}

// boundaries are the places, in steps, where an iteration follows another in any of the curves; ascending.
func boundaries(members []Curve) []float64 {
	var out []float64
	for _, c := range members {
		for i := 1; i < len(c.Steps); i++ {
			if c.Steps[i].Iteration != c.Steps[i-1].Iteration {
				out = append(out, float64(i)+0.5) // between steps i and i+1, which are numbered from 1
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
