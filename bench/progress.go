package bench

import (
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// progress shows what is running and how long all will take. On a terminal that is a bar in the last line, which changes; elsewhere a
// line for each thing that begins. Any goroutine may use it. A nil one shows nothing.
type progress struct {
	out io.Writer
	tty bool

	mu      sync.Mutex // of all below, and held while out is written to
	clock   clock
	atLeast bool   // what is to come is not all known
	doing   string // what is running
	phase   string // of it
	each    string // what the last second was like
}

func newProgress(out io.Writer) *progress {
	return &progress{out: out, tty: isTerminal(out), clock: clock{began: time.Now()}}
}

// expect says how long what is to come will take, as far as can be guessed. atLeast: more may follow.
func (p *progress) expect(left time.Duration, atLeast bool) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clock.total, p.atLeast = p.clock.done+left, atLeast
}

// begin says what runs from now on.
func (p *progress) begin(format string, args ...any) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.doing, p.phase, p.each = fmt.Sprintf(format, args...), "", ""
	if p.tty {
		p.draw()
	} else {
		fmt.Fprintf(p.out, "%s; %s\n", p.doing, p.left())
	}
}

// passed says that what was guessed to take that long is over.
func (p *progress) passed(cost time.Duration) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clock.passed(cost, time.Now())
}

// skip says that what was expected to take that long is not done.
func (p *progress) skip(cost time.Duration) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clock.total -= cost
}

// say writes a line that stays, above the bar.
func (p *progress) say(format string, args ...any) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintf(p.out, format+"\n", args...)
	p.draw()
}

// step shows a phase of what runs; without a terminal as a line where lines is set.
func (p *progress) step(phase string, lines bool) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.phase, p.each = phase, ""
	if p.tty {
		p.draw()
	} else if lines {
		fmt.Fprintln(p.out, phase)
	}
}

// second shows the last second of a run.
func (p *progress) second(in Interval) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	acked := float64(in.Acked)
	p.each = fmt.Sprintf("%s records/s, p50 %s, max %s", number(&acked), micros(in.P50), micros(&in.Max))
	if in.Warmup {
		p.each = "warm-up: " + p.each
	}
	p.draw()
}

// clear empties the bar's line. Called with mu held.
func (p *progress) clear() {
	if p.tty {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

// end takes the bar away, until something begins.
func (p *progress) end() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	p.doing = ""
}

// left is the time left, in words. Called with mu held.
func (p *progress) left() string {
	left := roughly(p.clock.left(time.Now()))
	if p.atLeast {
		return "at least " + left + " left"
	}
	return left + " left"
}

const barWidth = 20

// draw writes the bar over what is in its line. Called with mu held.
func (p *progress) draw() {
	if !p.tty || p.doing == "" {
		return
	}
	took, left := time.Since(p.clock.began), p.clock.left(time.Now())
	share := 0.0
	if took+left > 0 {
		share = float64(took) / float64(took+left)
	}
	full := min(barWidth, int(share*barWidth))
	line := fmt.Sprintf("[%s%s] %3.0f %%  %s  %s%s", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), math.Floor(100*share), p.left(), p.doing, after(": ", or(p.each, p.phase)))
	if width := columns(p.out); width > 1 && len([]rune(line)) >= width {
		line = string([]rune(line)[:width-1])
	}
	fmt.Fprintf(p.out, "\r\x1b[K%s", line)
}

// columns is how wide a terminal is, or 0.
func columns(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}

// clock says how much time is left: guesses, corrected by how long what is done has taken.
type clock struct {
	began       time.Time
	last        time.Time     // when something ended
	total, done time.Duration // guessed
}

func (c *clock) passed(cost time.Duration, now time.Time) { c.done, c.last = c.done+cost, now }

// left is the time from now on.
func (c *clock) left(now time.Time) time.Duration {
	left := float64(c.total - c.done)
	if c.done > 0 && c.done > c.total/20 {
		left *= min(max(float64(c.last.Sub(c.began))/float64(c.done), 0.5), 5)
	}
	since := c.began
	if !c.last.IsZero() {
		since = c.last
	}
	return max(0, time.Duration(left)-now.Sub(since))
}

// roughly prints a time of seconds to hours.
func roughly(d time.Duration) string {
	switch {
	case d < 90*time.Second:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	}
	return fmt.Sprintf("%.1f h", d.Hours())
}

// runsCost guesses how long one run of each row takes.
func runsCost(rows []Row, w Workload) (sum time.Duration) {
	for _, row := range rows {
		sum += matrixCell{row, w}.cost()
	}
	return sum
}

// steps are how many rates are still to be tried at least, when low was sustained and high was not (0: there is none yet); more says that
// it may be any number of further ones.
func (s Search) steps(low, high int64) (n int, more bool) {
	halvings := func(ratio float64) int {
		if ratio <= 1+s.Precision {
			return 0
		}
		return int(math.Ceil(math.Log2(math.Log(ratio) / math.Log1p(s.Precision))))
	}
	if low > 0 && high > 0 {
		return halvings(float64(high) / float64(low)), false
	}
	if low >= s.To {
		return 0, false
	}
	return 1 + halvings(s.Growth), true
}

// expect tells how long the open curves take at least; the rest of the time is a bound.
func (s Search) expect(p *progress, curves []Curve, rows []Row, w Workload, runs int, left time.Duration) {
	sum, more := time.Duration(0), false
	for i, c := range curves {
		if c.Ended == "" {
			n, open := s.steps(c.Sustained, c.Failed)
			sum, more = sum+time.Duration(n*runs)*runsCost(rows[i:i+1], w), more || open
		}
	}
	p.expect(min(sum, max(0, left)), more && sum < left)
}
