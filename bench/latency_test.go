package bench

import (
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// given makes a histogram of n samples of 1, 2, .. n microseconds.
func given(n int) *hdrhistogram.Histogram {
	h := newHistogram()
	for i := 1; i <= n; i++ {
		record(h, time.Duration(i)*time.Microsecond, 1)
	}
	return h
}

func TestPercentileNeedsSamplesAbove(t *testing.T) {
	for _, c := range []struct {
		samples int
		printed [4]bool // p50 p90 p99 p99.9
	}{
		{0, [4]bool{}},
		{199, [4]bool{}},
		{200, [4]bool{true}},
		{999, [4]bool{true}},
		{1000, [4]bool{true, true}},
		{9_999, [4]bool{true, true}},
		{10_000, [4]bool{true, true, true}},
		{99_999, [4]bool{true, true, true}},
		{100_000, [4]bool{true, true, true, true}},
	} {
		l, err := summarize(given(c.samples), 1, false)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range l.percentiles() {
			if (p != nil) != c.printed[i] {
				t.Errorf("%d samples: %s printed %v, want %v", c.samples, quantiles[i].Name, p != nil, c.printed[i])
			}
		}
		if why := l.refused(); (why == "") != c.printed[3] {
			t.Errorf("%d samples: reason %q", c.samples, why)
		}
	}
}

func TestPercentilesAndRawHistogram(t *testing.T) {
	l, err := summarize(given(100_000), 1, true)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []float64{50_000, 90_000, 99_000, 99_900} {
		if got := *l.percentiles()[i]; got < want*0.998 || got > want*1.002 {
			t.Errorf("%s is %.0f us, want %.0f within 0.2 %%", quantiles[i].Name, got, want)
		}
	}
	back, err := hdrhistogram.Decode([]byte(l.Histogram))
	if err != nil {
		t.Fatal(err)
	}
	if !back.Equals(given(100_000)) {
		t.Error("the histogram in the file is not the one measured")
	}
}

func TestRecordLosesNothing(t *testing.T) {
	h := newHistogram()
	record(h, -time.Second, 1)
	record(h, 48*time.Hour, 1)
	record(h, 1, 3) // a nanosecond is rounded up
	if h.TotalCount() != 5 || h.Max() < latencyMax {
		t.Errorf("%d samples, max %d; want 5 and %d at least", h.TotalCount(), h.Max(), latencyMax)
	}
}

func TestBatchIsOneSample(t *testing.T) {
	l, err := summarize(given(100_000), 16, false)
	if err != nil {
		t.Fatal(err)
	}
	if l.Count != 100_000 || l.Samples != 6_250 || l.P90 == nil || l.P99 != nil {
		t.Errorf("6,250 batches of 16: %d records, %d samples, p90 %v, p99 %v; want p90 and no p99", l.Count, l.Samples, l.P90, l.P99)
	}
}

func TestRefusalNamesTheNumbers(t *testing.T) {
	l, _ := summarize(given(5000), 1, false)
	if why := l.refused(); !strings.Contains(why, "p99 ") || !strings.Contains(why, "of 5000 samples 50 lie above p99") {
		t.Errorf("reason %q", why)
	}
}
