package report

import (
	"bytes"
	"fmt"
	"html"
	"html/template"
	"image/color"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Colours of the figures. The page replaces each by a variable, so that it can follow the reader's light or dark theme.
var (
	ink   = color.NRGBA{0x1f, 0x24, 0x30, 0xff}
	muted = color.NRGBA{0x6b, 0x72, 0x80, 0xff}
	grid  = color.NRGBA{0xd8, 0xdc, 0xe2, 0xff}
	paper = color.NRGBA{0xff, 0xff, 0xff, 0xff}
)

// palette is told apart by the colour-blind: Okabe and Ito's, with a darker purple.
var palette = []color.NRGBA{
	{0x00, 0x72, 0xb2, 0xff}, // blue
	{0xd5, 0x5e, 0x00, 0xff}, // vermillion
	{0x00, 0x9e, 0x73, 0xff}, // green
	{0xaa, 0x44, 0x99, 0xff}, // purple
	{0xe6, 0x9f, 0x00, 0xff}, // orange
	{0x56, 0xb4, 0xe9, 0xff}, // sky
}

const (
	figureWidth  vg.Length = 360 // points
	figureHeight vg.Length = 236
	figureDPI              = 144 // of the PNG
)

// figure is one plot with its title and legend above it.
type figure struct {
	Name    string // file name without extension
	Title   string
	Caption string // what is to be seen, for the page and for screen readers

	height vg.Length
	plot   *plot.Plot
	legend []legendEntry
}

type legendEntry struct {
	name string
	line draw.LineStyle
	// glyph is drawn instead of the line when it has a shape.
	glyph draw.GlyphStyle
}

func newFigure(name, title, caption, x, y string) figure {
	p := plot.New()
	p.BackgroundColor = nil
	p.X.Label.Text, p.Y.Label.Text = x, y
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		restyle(&a.Label.TextStyle, 10, ink)
		restyle(&a.Tick.Label, 9, muted)
		a.Tick.Marker = majorTicks{}
		a.Tick.LineStyle = draw.LineStyle{Color: grid, Width: vg.Points(0.75)}
		a.LineStyle = draw.LineStyle{Color: grid, Width: vg.Points(0.75)}
		a.Label.Padding = vg.Points(3)
		a.Padding = vg.Points(4)
	}
	return figure{Name: name, Title: title, Caption: caption, height: figureHeight, plot: p}
}

// restyle changes the font and colour of a style, and leaves its alignment.
func restyle(s *text.Style, size float64, c color.Color) {
	s.Color = c
	s.Font = font.Font{Typeface: "Liberation", Variant: "Sans", Size: vg.Points(size)}
	s.Handler = plot.DefaultTextHandler
}

// majorTicks are gonum's default ticks without the unlabelled ones between, with labels that say where they are: gonum's may
// have a digit too few, so that 2.6 and 2.65 are both called 2.6.
type majorTicks struct{ plot.DefaultTicks }

// Ticks between low and high.
func (m majorTicks) Ticks(low, high float64) []plot.Tick {
	ticks := slices.DeleteFunc(m.DefaultTicks.Ticks(low, high), plot.Tick.IsMinor)
	const near = 1e-3 // of the distance of two ticks
	exact := func(t plot.Tick) bool {
		said, err := strconv.ParseFloat(t.Label, 64)
		return err == nil && math.Abs(said-t.Value) <= near*(ticks[1].Value-ticks[0].Value)
	}
	for digits := 1; digits <= 12 && len(ticks) > 1; digits++ {
		if !slices.ContainsFunc(ticks, func(t plot.Tick) bool { return !exact(t) }) {
			break
		}
		for i := range ticks {
			ticks[i].Label = strconv.FormatFloat(ticks[i].Value, 'f', digits, 64)
		}
	}
	return ticks
}

// widen makes room at the ends of an axis, and makes a range of a single value.
func widen(a *plot.Axis) {
	room := 0.04 * (a.Max - a.Min)
	if room == 0 {
		if room = 0.1 * math.Abs(a.Max); room == 0 {
			room = 0.1
		}
	}
	a.Min, a.Max = a.Min-room, a.Max+room
}

// paint draws the figure. gonum/plot panics where it cannot draw: that is returned as an error.
func (f figure) paint(canvas vg.CanvasSizer) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("report: drawing figure %s: %v", f.Name, r)
		}
	}()
	c := draw.New(canvas)
	c.SetColor(paper)
	c.Fill(c.Rectangle.Path())
	c = draw.Crop(c, vg.Points(6), -vg.Points(8), vg.Points(4), -vg.Points(6))
	bold := text.Style{YAlign: draw.YTop}
	restyle(&bold, 11, ink)
	bold.Font.Weight = 3 // bold, in golang.org/x/image/font
	c.FillText(bold, vg.Point{X: c.Min.X, Y: c.Max.Y}, f.Title)
	c = draw.Crop(c, 0, 0, 0, -vg.Points(18))
	f.plot.Draw(draw.Crop(c, 0, 0, 0, -f.paintLegend(c)))
	return nil
}

// paintLegend draws the entries side by side from the top left, in as many lines as they need, and returns their
// height.
func (f figure) paintLegend(c draw.Canvas) vg.Length {
	const line, swatch, gap = 13, 16, 10
	const wider = 1.18 // than the font that is measured are those that a reader without it sees: DejaVu Sans, Verdana
	if len(f.legend) == 0 {
		return 0
	}
	st := text.Style{YAlign: draw.YCenter}
	restyle(&st, 9.5, ink)
	x, y := c.Min.X, c.Max.Y-vg.Points(line)/2
	for _, e := range f.legend {
		width := vg.Points(swatch+4) + wider*st.Width(e.name)
		if x > c.Min.X && x+width > c.Max.X {
			x, y = c.Min.X, y-vg.Points(line)
		}
		if e.glyph.Shape != nil {
			c.DrawGlyph(e.glyph, vg.Point{X: x + vg.Points(swatch)/2, Y: y})
		} else {
			c.StrokeLine2(e.line, x, y, x+vg.Points(swatch), y)
		}
		c.FillText(st, vg.Point{X: x + vg.Points(swatch+4), Y: y}, e.name)
		x += width + vg.Points(gap)
	}
	return c.Max.Y - y + vg.Points(line)/2 + vg.Points(6)
}

func (f figure) svg() ([]byte, error) {
	canvas := vgsvg.New(figureWidth, f.height)
	if err := f.paint(canvas); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return nil, fmt.Errorf("report: figure %s as SVG: %w", f.Name, err)
	}
	return bytes.Replace(b.Bytes(), []byte(liberation), []byte(fontStack), -1), nil
}

func (f figure) png() ([]byte, error) {
	canvas := vgimg.NewWith(vgimg.UseWH(figureWidth, f.height), vgimg.UseDPI(figureDPI))
	if err := f.paint(canvas); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if _, err := (vgimg.PngCanvas{Canvas: canvas}).WriteTo(&b); err != nil {
		return nil, fmt.Errorf("report: figure %s as PNG: %w", f.Name, err)
	}
	return b.Bytes(), nil
}

// Arial and its metric twins: the text keeps the width that it was laid out for.
const (
	liberation = "font-family:Liberation Sans"
	fontStack  = "font-family:Liberation Sans,Arimo,Arial,Helvetica,sans-serif"
)

var svgStart = regexp.MustCompile(`(?s)^.*?<svg[^>]*viewBox="([^"]*)"[^>]*>`)

// inline turns the SVG file into an element of the page: no prolog, no fixed size, a title and description for screen
// readers, and theme variables for colours.
func (f figure) inline(svg []byte) template.HTML {
	start := fmt.Sprintf(`<svg viewBox="$1" role="img" aria-labelledby="%[1]s-title %[1]s-desc">`+
		`<title id="%[1]s-title">%[2]s</title><desc id="%[1]s-desc">%[3]s</desc>`,
		f.Name, escapeReplacement(f.Title), escapeReplacement(f.Caption))
	out := svgStart.ReplaceAllString(string(svg), start)
	pairs := []string{
		hex(ink), "var(--ink)", hex(muted), "var(--muted)", hex(grid), "var(--grid)", hex(paper), "var(--card)",
	}
	for i, c := range palette {
		pairs = append(pairs, hex(c), fmt.Sprintf("var(--c%d)", i))
	}
	return template.HTML(strings.NewReplacer(pairs...).Replace(out)) //nolint:gosec // all text in it is escaped
}

// escapeReplacement escapes for HTML and for a regexp's replacement.
func escapeReplacement(s string) string {
	return strings.ReplaceAll(html.EscapeString(clean(s)), "$", "$$")
}

func hex(c color.NRGBA) string { return fmt.Sprintf("#%02X%02X%02X", c.R, c.G, c.B) }

// slug is s as a file name and an id: letters and digits of ASCII, and hyphens.
func slug(s string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(s) {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	return strings.Trim(b.String(), "-")
}
