package report

import (
	"fmt"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// dot is a value with an interval; dots of one series share the rows of the figure.
type dot struct {
	row            int // from the top
	mean, low, top float64
}

type dotSeries struct {
	name string
	dots []dot
}

// dotFigure has a line for each of names, from the top, and the series' dots beside them.
func dotFigure(f figure, names []string, series []dotSeries) (figure, error) {
	const rowHeight = 19
	f.height = vg.Points(float64(rowHeight*len(names)) + 84)
	ticks := make([]plot.Tick, len(names))
	for i, name := range names {
		ticks[i] = plot.Tick{Value: float64(len(names) - 1 - i), Label: shorten(clean(name), 24)}
	}
	f.plot.Y.Tick.Marker = plot.ConstantTicks(ticks)
	restyle(&f.plot.Y.Tick.Label, 9.5, ink)
	f.plot.Y.Tick.Length = 0
	f.plot.Y.Width = 0
	for i := range names {
		f.plot.Add(marks{ys: []float64{float64(i)}, color: grid})
	}
	for i, s := range series {
		offset := 0.0
		if len(series) > 1 {
			offset = 0.16 * (1 - 2*float64(i)/float64(len(series)-1))
		}
		d := errorDots{XYs: make(plotter.XYs, len(s.dots)), XErrors: make(plotter.XErrors, len(s.dots))}
		for j, v := range s.dots {
			d.XYs[j] = plotter.XY{X: v.mean, Y: float64(len(names)-1-v.row) + offset}
			d.XErrors[j].Low, d.XErrors[j].High = v.mean-v.low, v.top-v.mean
		}
		glyph := draw.GlyphStyle{Color: palette[i], Radius: vg.Points(3.2), Shape: draw.CircleGlyph{}}
		if i%2 == 1 { // told apart without colour, too
			glyph.Shape = draw.BoxGlyph{}
		}
		bars, err := plotter.NewXErrorBars(d)
		if err != nil {
			return f, fmt.Errorf("report: figure %s: %w", f.Name, err)
		}
		bars.LineStyle = draw.LineStyle{Color: palette[i], Width: vg.Points(1.25)}
		bars.CapWidth = vg.Points(4)
		points, err := plotter.NewScatter(d)
		if err != nil {
			return f, fmt.Errorf("report: figure %s: %w", f.Name, err)
		}
		points.GlyphStyle = glyph
		f.plot.Add(bars, points)
		if len(series) > 1 {
			f.legend = append(f.legend, legendEntry{name: s.name, glyph: glyph})
		}
	}
	widen(&f.plot.X)
	f.plot.Y.Min, f.plot.Y.Max = -0.5, float64(len(names))-0.5
	return f, nil
}

type errorDots struct {
	plotter.XYs
	plotter.XErrors
}

// scoreFigures compares the rows of the held-out table. Error bars are one standard deviation over seeds.
func scoreFigures(in Input) ([]figure, error) {
	all := measures()
	panels := []struct {
		name, title, axis string
		measures          []int
	}{
		{"scores-exact", "Exact answers", "share of held-out prompts", []int{2, 0}},
		{"scores-graded", "Graded answers", "mean score, 0 to 1", []int{3, 1}},
		{"scores-distance", "Mean held-out distance", "s, latent units (smaller is closer)", []int{4}},
	}
	var out []figure
	for _, p := range panels {
		var names []string
		series := make([]dotSeries, len(p.measures))
		for _, r := range in.Rows {
			row := len(names)
			for i, m := range p.measures {
				s := all[m].summary(r)
				if s.N == 0 {
					continue
				}
				if len(names) == row {
					names = append(names, r.Method)
				}
				series[i].dots = append(series[i].dots, dot{row, s.Mean, s.Mean - s.SD, s.Mean + s.SD})
			}
		}
		if len(names) == 0 {
			continue
		}
		for i, m := range p.measures {
			series[i].name = strings.Fields(all[m].name)[0] // sampled, greedy
		}
		series = slices.DeleteFunc(series, func(s dotSeries) bool { return len(s.dots) == 0 })
		caption := p.title + " by method; mean, and one standard deviation over seeds where there are several."
		f, err := dotFigure(newFigure(p.name, p.title, caption, p.axis, ""), names, series)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

// agreementFigure shows the two-sample test with its intervals.
func agreementFigure(groups []agreementGroup) ([]figure, error) {
	var names []string
	series := []dotSeries{{name: "all pairs"}, {name: "neither exact"}}
	rows := map[string]int{} // of each method: most have one, and a name that says enough
	for _, g := range groups {
		rows[g.method]++
	}
	for _, g := range groups {
		row := len(names)
		for i, c := range []count{g.all, g.inexact} {
			if c.n == 0 {
				continue
			}
			if len(names) == row {
				name := g.method
				if rows[g.method] > 1 {
					name = fmt.Sprintf("%s, policy %d", g.method, g.iteration)
				}
				names = append(names, name)
			}
			low, high := wilson(c.agree, c.n)
			series[i].dots = append(series[i].dots, dot{row, 100 * float64(c.agree) / float64(c.n), 100 * low, 100 * high})
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	series = slices.DeleteFunc(series, func(s dotSeries) bool { return len(s.dots) == 0 })
	f := newFigure("agreement", "Smaller distance is the better sample",
		"How often the smaller latent distance belongs to the better of two samples; 95 % intervals, dashed: chance.",
		"agreement (%)", "")
	f.plot.Add(marks{xs: []float64{50}, color: muted})
	f, err := dotFigure(f, names, series)
	f.plot.X.Min, f.plot.X.Max = min(f.plot.X.Min, 40), 100
	return []figure{f}, err
}

const histogramBins = 24

// histogramTop is the upper edge of a method's histograms: its largest distance over all iterations.
func histogramTop(groups []distanceGroup, method string) float64 {
	top := 0.0
	for _, g := range groups {
		if g.method == method {
			top = max(top, g.max)
		}
	}
	return top
}

// histogramFigures has a figure for each method and a line for each iteration.
func histogramFigures(groups []distanceGroup) ([]figure, error) {
	var out []figure
	for i, g := range groups {
		top := histogramTop(groups, g.method)
		if top == 0 {
			continue
		}
		if i == 0 || groups[i-1].method != g.method {
			name := fmt.Sprintf("histogram-%d-%s", len(out)+1, slug(g.method)) // numbered: slugs may be equal
			out = append(out, newFigure(name, shorten("Distances: "+clean(g.method), 48),
				"Share of the pairs by the latent distance between human and sampled answer, a line for each iteration. "+
					"Pairs with identical text are left out and counted in the legend.",
				"distance s (latent units)", "share of all pairs (%)"))
			out[len(out)-1].plot.Add(levels())
		}
		f := &out[len(out)-1]
		outline := plotter.XYs{{X: 0, Y: 0}}
		width := top / histogramBins
		for bin, n := range histogram(g.values, top, histogramBins) {
			y := 100 * float64(n) / float64(max(1, g.pairs))
			outline = append(outline, plotter.XY{X: float64(bin) * width, Y: y}, plotter.XY{X: float64(bin+1) * width, Y: y})
		}
		line, err := plotter.NewLine(append(outline, plotter.XY{X: top, Y: 0}))
		if err != nil {
			return nil, fmt.Errorf("report: figure %s: %w", f.Name, err)
		}
		n := len(f.legend)
		line.LineStyle = draw.LineStyle{Color: palette[n%len(palette)], Width: vg.Points(1.5), Dashes: dashes(n)}
		f.plot.Add(line)
		f.legend = append(f.legend, legendEntry{
			name: fmt.Sprintf("iteration %d (%.0f %% identical)", g.iteration, 100*g.identical.Mean),
			line: line.LineStyle,
		})
	}
	return out, nil
}

// dashes tells the lines of a figure apart without colour.
func dashes(i int) []vg.Length {
	return [][]vg.Length{nil, {vg.Points(5), vg.Points(2)}, {vg.Points(1.5), vg.Points(2)}}[i%3]
}

// figureSet is all figures of the report by section.
type figureSet struct {
	scores, curves, histograms, agreement []figure
}

func newFigureSet(in Input) (figureSet, error) {
	var s figureSet
	var err error
	if s.scores, err = scoreFigures(in); err != nil {
		return s, err
	}
	if s.curves, err = curveFigures(in.Curves); err != nil {
		return s, err
	}
	if s.histograms, err = histogramFigures(groupDistances(in.Distances)); err != nil {
		return s, err
	}
	if s.agreement, err = agreementFigure(groupAgreement(in.Agreement)); err != nil {
		return s, err
	}
	return s, nil
}

func (s figureSet) all() []figure {
	return slices.Concat(s.scores, s.curves, s.histograms, s.agreement)
}

// shorten cuts s to at most n runes.
func shorten(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
