package chart

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strings"
	"testing"
)

// all is a chart with everything in it.
func all() Chart {
	c := Chart{ID: "x", Title: "a < b", Desc: "1 & 2", Bands: []Band{{1, 2}},
		X: Axis{Label: "seconds", Min: 0.5, Max: 5.5}, Y: Axis{Label: "latency", Log: true}}
	for style := range 2 * Colors {
		c.Series = append(c.Series, Series{Style: style, Marks: style == 1, Pieces: [][]Point{{{1, 10}, {2, 400}}, nil, {{4, 90_000}}}})
	}
	c.Y.Ticks, c.Y.Min, c.Y.Max = Logs(10, 90_000, func(us float64) string { return fmt.Sprintf("%v µs", us) })
	return c
}

func TestSVGIsWellFormedAndRefersToNothing(t *testing.T) {
	svg, err := all().SVG()
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if bad := regexp.MustCompile(`http|url\(|href|<\?xml`).FindString(svg); bad != "" {
		t.Errorf("%q in the drawing", bad)
	}
	if !strings.Contains(svg, "<title id=\"x-t\">a &lt; b</title>") || !strings.Contains(svg, "<desc id=\"x-d\">1 &amp; 2</desc>") {
		t.Error("no title, or no description")
	}
}

// Every colour is the page's: a fixed one would be lost in the dark.
func TestSVGHasColoursOfThePageOnly(t *testing.T) {
	svg, err := all().SVG()
	if err != nil {
		t.Fatal(err)
	}
	if fixed := regexp.MustCompile(`#[0-9A-Fa-f]{6}`).FindString(svg); fixed != "" {
		t.Errorf("a fixed colour: %s", fixed)
	}
	wanted := []string{"var(--ink)", "var(--grid)", "var(--shade)", "stroke-dasharray"}
	for i := range Colors {
		wanted = append(wanted, fmt.Sprintf("stroke:var(--s%d)", i))
	}
	for _, want := range wanted {
		if !strings.Contains(svg, want) {
			t.Errorf("no %s", want)
		}
	}
	for text := range strings.SplitSeq(svg, "<text") {
		if strings.Contains(text, "</text>") && !strings.Contains(text, "fill:var(--ink)") {
			t.Errorf("a text without a colour: %s", text)
		}
	}
}

func TestSVGRefuses(t *testing.T) {
	c := all()
	c.X.Max = c.X.Min
	if _, err := c.SVG(); err == nil {
		t.Error("an axis without a range")
	}
	c = all()
	c.Series[0].Pieces[0][0].Y = math.NaN()
	if _, err := c.SVG(); err == nil {
		t.Error("a value that is not a number")
	}
}

func TestLogs(t *testing.T) {
	for _, c := range []struct {
		lowest, highest, from, to float64
		labels                    string
	}{
		{300, 300, 200, 500, "200 500"},
		{200, 200, 100, 500, "100 200 500"},
		{340, 7_000, 200, 10_000, "200 500 1000 2000 5000 10000"},
		{30, 90_000, 20, 100_000, "100 1000 10000 100000"},
		{1, 1, 0.5, 2, "0.5 1 2"},
	} {
		ticks, from, to := Logs(c.lowest, c.highest, func(us float64) string { return fmt.Sprint(math.Round(us*10) / 10) })
		var labels []string
		for _, tick := range ticks {
			if tick.Label != "" {
				labels = append(labels, tick.Label)
			}
		}
		if math.Abs(from/c.from-1) > 1e-9 || math.Abs(to/c.to-1) > 1e-9 || strings.Join(labels, " ") != c.labels {
			t.Errorf("%v to %v: %v to %v, %q, want %v to %v, %q", c.lowest, c.highest, from, to, labels, c.from, c.to, c.labels)
		}
	}
}

func TestCounts(t *testing.T) {
	for last, want := range map[int]string{1: "1", 6: "1 2 3 4 5 6", 7: "2 4 6", 20: "5 10 15 20", 100: "20 40 60 80 100", 2000: "500 1000 1500 2000"} {
		var labels []string
		for _, tick := range Counts(last) {
			labels = append(labels, tick.Label)
		}
		if got := strings.Join(labels, " "); got != want {
			t.Errorf("%d: %s, want %s", last, got, want)
		}
	}
}

func TestNinesTicksEndWithTheAxis(t *testing.T) {
	ticks := NinesTicks(Nines(.999))
	if last := ticks[len(ticks)-1]; len(ticks) != 5 || last.Label != "p99.9" || math.Abs(last.Value-3) > 1e-9 {
		t.Errorf("%v", ticks)
	}
}
