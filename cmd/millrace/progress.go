package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// meter counts records on their way and shows how it goes: a line that
// overwrites itself while a terminal watches, a summary at the end. Several
// goroutines may add to it.
type meter struct {
	mu      sync.Mutex
	start   time.Time
	records int64
	bytes   int64
	last    time.Duration           // latency of the last record
	latency *hdrhistogram.Histogram // microseconds, up to ten minutes; nil where none is measured
}

func newMeter(latency bool) *meter {
	m := &meter{start: time.Now()}
	if latency {
		m.latency = hdrhistogram.New(1, (10 * time.Minute).Microseconds(), 3)
	}
	return m
}

func (m *meter) add(records, bytes int64, latency time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.records += records
	m.bytes += bytes
	m.last = latency
	if m.latency != nil {
		m.latency.RecordValue(min(max(latency.Microseconds(), 1), m.latency.HighestTrackableValue()))
	}
}

// watch shows progress on w until the returned function is called.
func (m *meter) watch(w io.Writer) (stop func()) {
	const every = 250 * time.Millisecond
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		var seen, seenBytes int64
		for at := m.start; ; {
			select {
			case <-quit:
				fmt.Fprint(w, "\r\x1b[K")
				return
			case now := <-tick.C:
				m.mu.Lock()
				line := fmt.Sprintf("%d records, %s", m.records, rate(m.records-seen, m.bytes-seenBytes, now.Sub(at)))
				if m.latency != nil {
					line += ", last latency " + milliseconds(m.last)
				}
				seen, seenBytes, at = m.records, m.bytes, now
				m.mu.Unlock()
				fmt.Fprint(w, "\r\x1b[K"+line)
			}
		}
	}()
	return func() { close(quit); <-ended }
}

// summary is what was done, in one line.
func (m *meter) summary(verb string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	took := time.Since(m.start)
	s := fmt.Sprintf("%s %d records, %s in %.2f s: %s", verb, m.records, size(m.bytes), took.Seconds(), rate(m.records, m.bytes, took))
	if m.latency != nil && m.records > 0 {
		at := func(q float64) string {
			return milliseconds(time.Duration(m.latency.ValueAtQuantile(q)) * time.Microsecond)
		}
		s += fmt.Sprintf(", latency p50 %s p99 %s max %s", at(50), at(99), at(100))
	}
	return s
}

func rate(records, bytes int64, d time.Duration) string {
	seconds := max(d.Seconds(), 1e-9)
	return fmt.Sprintf("%.0f records/s, %.2f MB/s", float64(records)/seconds, float64(bytes)/1e6/seconds)
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.2f ms", d.Seconds()*1e3) }

// size is a number of bytes for people, in decimal units.
func size(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1000_000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 1000_000_000:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.2f GB", float64(n)/1e9)
}

// terminal says whether w is one.
func terminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
