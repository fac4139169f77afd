package bench

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestClockCorrectsItself(t *testing.T) {
	began := time.Now()
	at := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }
	c := clock{began: began, total: 100 * time.Second}
	if left := c.left(at(10)); left != 90*time.Second {
		t.Errorf("%v before anything is done", left)
	}
	c.passed(50*time.Second, at(100))
	if left := c.left(at(100)); left != 100*time.Second {
		t.Errorf("%v where half took twice as long as guessed", left)
	}
	if left := c.left(at(130)); left != 70*time.Second {
		t.Errorf("%v half a minute later", left)
	}
	if left := c.left(at(1000)); left != 0 {
		t.Errorf("%v where the rest takes longer than guessed", left)
	}
}

func TestProgressOnATerminal(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out)
	p.tty = true
	p.clock.began = time.Now().Add(-30 * time.Second)
	p.expect(60*time.Second, false)
	p.begin("row os, round %d of 2", 1)
	p.passed(30 * time.Second)
	p.expect(30*time.Second, true)
	p.second(Interval{Acked: 2000, Max: 900})
	p.say("a line")
	lines := strings.Split(out.String(), "\r\x1b[K")
	if want := "[##########..........]  50 %  30 s left  row os, round 1 of 2"; lines[1] != want {
		t.Errorf("%q, want %q", lines[1], want)
	}
	if want := "at least 30 s left  row os, round 1 of 2: 2,000 records/s, p50 -, max 900 µs"; !strings.HasSuffix(lines[2], want) {
		t.Errorf("%q, want %q at its end", lines[2], want)
	}
	// A line takes the bar's place, and the bar comes back below it.
	if lines[3] != "a line\n" || lines[4] != lines[2] {
		t.Errorf("%q", lines[3:])
	}
	p.end()
	p.say("the end")
	if !strings.HasSuffix(out.String(), "\r\x1b[K\r\x1b[Kthe end\n") {
		t.Errorf("%q", out.String())
	}
}

func TestProgressElsewhere(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out)
	p.expect(10*time.Minute, false)
	p.begin("row os")
	p.step("reading back", false)
	p.step("reading back", true)
	p.end()
	if got := out.String(); got != "row os; 10 min left\nreading back\n" {
		t.Errorf("%q", got)
	}
}

// A phase may come from another goroutine than the seconds: that of a run with a backlog does. A nil bar shows nothing.
func TestProgressOfSeveralGoroutines(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out)
	p.tty = true
	p.begin("row os")
	var all sync.WaitGroup
	for _, p := range []*progress{p, nil} {
		for range 2 {
			all.Go(func() {
				for range 50 {
					p.begin("row os")
					p.expect(time.Minute, false)
					p.step("draining", true)
					p.second(Interval{Acked: 1})
					p.passed(time.Second)
					p.skip(time.Second)
					p.say("a line")
				}
				p.end()
			})
		}
	}
	all.Wait()
	lines := 0
	for _, part := range strings.Split(out.String(), "\r\x1b[K") {
		if strings.HasSuffix(part, "\n") {
			lines++
			if part != "a line\n" {
				t.Fatalf("%q", part)
			}
		} else if part != "" && !strings.HasPrefix(part, "[") {
			t.Fatalf("%q", part)
		}
	}
	if lines != 2*50 {
		t.Errorf("%d lines", lines)
	}
}

func TestSearchSteps(t *testing.T) {
	s := Search{From: 1000, To: 10_000, Growth: 2, Precision: 0.05}
	for _, c := range []struct {
		low, high int64
		steps     int
		more      bool
	}{
		{0, 0, 5, true}, // it, and four halvings of a doubling: ln 2 / ln 1.05 is 14.2
		{1000, 0, 5, true},
		{1000, 2000, 4, false},
		{1000, 1040, 0, false},
		{10_000, 0, 0, false},
	} {
		if n, more := s.steps(c.low, c.high); n != c.steps || more != c.more {
			t.Errorf("%d to %d: %d steps, %v; want %d, %v", c.low, c.high, n, more, c.steps, c.more)
		}
		// As many rates are tried when all of them are sustained.
		n, low := 0, c.low
		for c.high > 0 && c.low > 0 {
			rate, ended := s.next(low, c.high)
			if ended != "" {
				break
			}
			low, n = rate, n+1
		}
		if n > c.steps {
			t.Errorf("%d to %d: %d rates were tried, %d said", c.low, c.high, n, c.steps)
		}
	}
}
