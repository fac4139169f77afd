package bench

import (
	"bytes"
	"strings"
	"testing"
)

// pair is a phase alone and one beside a reader, of one run.
func pair(alone, beside, steal float64) []consumeResult {
	return []consumeResult{
		{Seconds: 1, Latency: Latency{P50: us(alone / 2), P99: us(alone)}},
		{Seconds: 1, Latency: Latency{P50: us(beside / 2), P99: us(beside)}, Readers: 1, Bytes: 2e6, Steal: steal, Disturbed: steal > StealMax},
	}
}

func TestConsumeMediansLeaveOutDisturbedPairs(t *testing.T) {
	for name, c := range map[string]struct {
		pairs [][]consumeResult
		want  []string
	}{
		"one disturbed": {
			[][]consumeResult{pair(100, 200, 0), pair(900, 900, 50), pair(300, 600, 1)},
			[]string{"\n| 2 | 450 µs |", "| median | 100 µs | 200 µs | 200 µs | 400 µs | 2.00 | 2.00 |", "1 of 3 runs are left out", "of the medians: 2.00"},
		},
		"all disturbed": {
			[][]consumeResult{pair(100, 200, 50), pair(300, 900, 50)},
			[]string{"| median | 100 µs | 275 µs | 200 µs | 550 µs | 2.50 |", "all runs were disturbed"},
		},
		"a percentile is missing in the one that was disturbed": {
			[][]consumeResult{pair(100, 200, 0), {{Seconds: 1}, {Seconds: 1, Disturbed: true}}},
			[]string{"| median | 50 µs | 100 µs | 100 µs | 200 µs |"},
		},
		"cut short after the first phase of the second run": {
			[][]consumeResult{pair(100, 200, 0), pair(300, 900, 0)[:1]},
			[]string{"| median | 50 µs | 100 µs | 100 µs | 200 µs |"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var all []consumeResult
			for _, p := range c.pairs {
				all = append(all, p...)
			}
			var out bytes.Buffer
			(&consume{produce: produce{stdout: &out}}).print(all)
			for _, want := range c.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in\n%s", want, &out)
				}
			}
			if name == "cut short after the first phase of the second run" && strings.Contains(out.String(), "disturbed") {
				t.Errorf("nothing was disturbed:\n%s", &out)
			}
		})
	}
}
