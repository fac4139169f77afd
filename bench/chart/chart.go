// Package chart draws line charts as SVG that stands inside a page of HTML.
//
// The drawing is gonum's. What it writes has fixed colours; here each becomes a CSS variable of the page
// (--ink, --grid, --shade, --s0 to --s7), so that one drawing serves light and dark. The same variables colour
// the keys that a page writes beside the chart; see [Key].
package chart

import (
	"bytes"
	"errors"
	"fmt"
	"html"
	"image/color"
	"math"
	"regexp"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Colors is how many colours series have; from there on they repeat with other dashes.
const Colors = 8

// Size of a chart, in its own units: a phone shows it a little smaller than that.
const width, height, textSize = 400, 270, 13

// Point is one value of a series. Y must be above 0 on a Log axis.
type Point struct{ X, Y float64 }

// Series is one line. It is drawn in pieces: a gap in the data is a gap in the line.
type Series struct {
	Style  int // colour and dash; the same number looks the same in every chart and key
	Pieces [][]Point
	Marks  bool // a dot at each point

	Crosses []Point // further marks, without a line
	Rings   []Point // around points, to point them out
}

// Band is a shaded range of the X axis.
type Band struct{ From, To float64 }

// Tick is a mark on an axis.
type Tick = plot.Tick

// Axis is one of the two.
type Axis struct {
	Label    string
	Log      bool    // then Min is above 0
	Ticks    []Tick  // nil: a few round numbers; a tick without a label is a small one
	Min, Max float64 // all points lie within
}

// Chart is what is drawn.
type Chart struct {
	ID          string // unique in the page
	Title, Desc string // for those who do not see it
	X, Y        Axis
	Series      []Series
	Bands       []Band
}

// Colours that stand for variables. Digits below the first are not looked at: gonum's conversion may lose one.
var (
	ink   = color.RGBA{0x18, 0x18, 0x08, 0xff}
	grid  = color.RGBA{0x18, 0x18, 0x18, 0xff}
	shade = color.RGBA{0x18, 0x18, 0x28, 0xff}
)

var inks = []string{"--ink", "--grid", "--shade"}

func colorOf(style int) color.RGBA {
	return color.RGBA{0x18, 0x28, uint8(style%Colors)<<4 | 8, 0xff}
}

var dashes = [][]vg.Length{nil, {7, 4}, {2, 3}}

func dash(style int) []vg.Length { return dashes[style/Colors%len(dashes)] }

// Key is a short piece of a series' line, as SVG, for a legend in the page.
func Key(style int) string {
	dashed := ""
	if d := dash(style); d != nil {
		dashed = fmt.Sprintf(` stroke-dasharray="%v,%v"`, float64(d[0]), float64(d[1]))
	}
	return fmt.Sprintf(`<svg class="key" viewBox="0 0 28 10" width="28" height="10" aria-hidden="true"><path d="M1,5L27,5" fill="none" stroke="var(--s%d)" stroke-width="3"%s/></svg>`,
		style%Colors, dashed)
}

// The marks of Series.Crosses and Series.Rings, for a legend in the page.
const (
	KeyCross = `<svg class="key" viewBox="0 0 28 10" width="28" height="10" aria-hidden="true"><path d="M10,1L18,9M10,9L18,1" fill="none" stroke="var(--ink)" stroke-width="1.5"/></svg>`
	KeyRing  = `<svg class="key" viewBox="0 0 28 12" width="28" height="12" aria-hidden="true"><circle cx="14" cy="6" r="5" fill="none" stroke="var(--ink)" stroke-width="1.5"/></svg>`
)

// SVG draws c. It fails on values that are not finite, and on an axis without a range.
func (c Chart) SVG() (string, error) {
	if !(c.X.Min < c.X.Max && c.Y.Min < c.Y.Max) {
		return "", fmt.Errorf("chart %s: axes from %v to %v and %v to %v", c.ID, c.X.Min, c.X.Max, c.Y.Min, c.Y.Max)
	}
	p := plot.New()
	p.BackgroundColor = nil
	for _, b := range c.Bands {
		if err := b.add(p, c.Y); err != nil {
			return "", fmt.Errorf("chart %s: %w", c.ID, err)
		}
	}
	g := plotter.NewGrid()
	g.Horizontal.Color, g.Vertical.Color = grid, grid
	p.Add(g)
	for _, s := range c.Series {
		if err := s.add(p); err != nil {
			return "", fmt.Errorf("chart %s: %w", c.ID, err)
		}
	}
	c.X.dress(&p.X)
	c.Y.dress(&p.Y)
	canvas := vgsvg.New(width, height)
	p.Draw(draw.Crop(draw.New(canvas), 2, -12, 2, -6)) // the last labels are as wide as they are
	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		return "", fmt.Errorf("chart %s: %w", c.ID, err)
	}
	return c.embed(out.String()), nil
}

// add shades a range, as high as the chart.
func (b Band) add(p *plot.Plot, y Axis) error {
	band, err := plotter.NewPolygon(plotter.XYs{{X: b.From, Y: y.Min}, {X: b.To, Y: y.Min}, {X: b.To, Y: y.Max}, {X: b.From, Y: y.Max}})
	if err != nil {
		return err
	}
	band.Color, band.LineStyle.Width = shade, 0
	p.Add(band)
	return nil
}

// add draws a series' pieces as lines, single points as dots.
func (s Series) add(p *plot.Plot) error {
	for _, piece := range s.Pieces {
		var xys plotter.XYs
		for _, at := range piece {
			xys = append(xys, plotter.XY{X: at.X, Y: at.Y})
		}
		if len(xys) == 0 {
			continue
		}
		line, dots, err := plotter.NewLinePoints(xys)
		if err != nil {
			return err
		}
		line.LineStyle = draw.LineStyle{Color: colorOf(s.Style), Width: 2, Dashes: dash(s.Style)}
		dots.GlyphStyle = draw.GlyphStyle{Color: colorOf(s.Style), Radius: 3, Shape: draw.CircleGlyph{}}
		p.Add(line)
		if s.Marks || len(xys) == 1 {
			p.Add(dots)
		}
	}
	return errors.Join(s.addMarks(p, s.Crosses, cross{}, 5), s.addMarks(p, s.Rings, ring{}, 7))
}

// addMarks draws a shape at each point.
func (s Series) addMarks(p *plot.Plot, at []Point, shape draw.GlyphDrawer, radius vg.Length) error {
	if len(at) == 0 {
		return nil
	}
	var xys plotter.XYs
	for _, point := range at {
		xys = append(xys, plotter.XY{X: point.X, Y: point.Y})
	}
	marks, err := plotter.NewScatter(xys)
	if err != nil {
		return err
	}
	marks.GlyphStyle = draw.GlyphStyle{Color: colorOf(s.Style), Radius: radius, Shape: shape}
	p.Add(marks)
	return nil
}

// cross and ring are gonum's glyphs with a line that is seen on a small screen.
type cross struct{}

func (cross) DrawGlyph(c *draw.Canvas, style draw.GlyphStyle, at vg.Point) {
	c.SetLineStyle(draw.LineStyle{Color: style.Color, Width: markWidth})
	r := style.Radius
	for _, up := range []vg.Length{r, -r} {
		c.Stroke(vg.Path{{Type: vg.MoveComp, Pos: vg.Point{X: at.X - r, Y: at.Y - up}}, {Type: vg.LineComp, Pos: vg.Point{X: at.X + r, Y: at.Y + up}}})
	}
}

type ring struct{}

func (ring) DrawGlyph(c *draw.Canvas, style draw.GlyphStyle, at vg.Point) {
	c.SetLineStyle(draw.LineStyle{Color: style.Color, Width: markWidth})
	var p vg.Path
	p.Move(vg.Point{X: at.X + style.Radius, Y: at.Y})
	p.Arc(at, style.Radius, 0, 2*math.Pi)
	p.Close()
	c.Stroke(p)
}

const markWidth = 1.5

// dress sets an axis' looks, range and ticks.
func (a Axis) dress(to *plot.Axis) {
	text := font.From(font.Font{Typeface: "Liberation", Variant: "Sans"}, textSize)
	to.Color, to.Tick.Color = ink, ink
	to.Label.Text, to.Label.Padding = a.Label, 4
	to.Label.TextStyle.Font, to.Label.TextStyle.Color = text, ink
	to.Tick.Label.Font, to.Tick.Label.Color = text, ink
	to.Min, to.Max = a.Min, a.Max
	if a.Log {
		to.Scale = plot.LogScale{}
	}
	if a.Ticks != nil {
		to.Tick.Marker = plot.ConstantTicks(a.Ticks)
	}
}

var header = regexp.MustCompile(`(?s)^.*?<svg[^>]*>`)

var stood = regexp.MustCompile(`#1[0-9A-F]([12])[0-9A-F]([0-9A-F])[0-9A-F]`)

// embed makes a part of a page of what gonum wrote as a document.
func (c Chart) embed(svg string) string {
	head := fmt.Sprintf(`<svg viewBox="0 0 %d %d" role="img" aria-labelledby="%s-t %s-d"><title id="%s-t">%s</title><desc id="%s-d">%s</desc>`,
		width, height, c.ID, c.ID, c.ID, html.EscapeString(c.Title), c.ID, html.EscapeString(c.Desc))
	svg = head + header.ReplaceAllString(svg, "")
	svg = strings.ReplaceAll(svg, "font-family:Liberation Sans;font-variant:normal;font-weight:normal;font-style:normal;", "")
	return stood.ReplaceAllStringFunc(svg, func(s string) string {
		at := stood.FindStringSubmatch(s)
		i := strings.Index("0123456789ABCDEF", at[2])
		if at[1] == "1" {
			return "var(" + inks[i] + ")"
		}
		return fmt.Sprintf("var(--s%d)", i)
	})
}
