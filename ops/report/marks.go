package report

import (
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// marks are straight lines across the whole plot: dashed upright ones at xs, thin level ones at ys. They do not widen
// the axes.
type marks struct {
	xs, ys []float64
	color  color.Color
}

// Plot draws the marks that lie within the axes.
func (m marks) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	dashed := draw.LineStyle{Color: m.color, Width: vg.Points(0.75), Dashes: []vg.Length{vg.Points(2), vg.Points(3)}}
	for _, x := range m.xs {
		if x > p.X.Min && x < p.X.Max {
			c.StrokeLine2(dashed, tx(x), c.Min.Y, tx(x), c.Max.Y)
		}
	}
	thin := draw.LineStyle{Color: m.color, Width: vg.Points(0.5)}
	for _, y := range m.ys {
		if y > p.Y.Min && y < p.Y.Max {
			c.StrokeLine2(thin, c.Min.X, ty(y), c.Max.X, ty(y))
		}
	}
}

// levels are light level lines at the ticks of the y axis.
func levels() *plotter.Grid {
	g := plotter.NewGrid()
	g.Vertical.Color = nil
	g.Horizontal = draw.LineStyle{Color: grid, Width: vg.Points(0.5)}
	return g
}
