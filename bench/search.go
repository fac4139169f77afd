package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Curve is one row's latency against offered load, and the largest rate that it sustained.
type Curve struct {
	Row        string  `json:"row"`
	Partitions int     `json:"partitions"`
	Sustained  int64   `json:"maxSustainableRecordsPerSecond"` // the largest rate that was; 0: none was
	Failed     int64   `json:"lowestNotSustained"`             // the lowest rate above it that was not; 0: none was tried
	Ended      string  `json:"ended"`                          // why no further rate was tried
	Points     []Point `json:"points"`                         // by rate
}

// Point is one rate: medians over its runs that count.
type Point struct {
	Offered   int64    `json:"offeredRecordsPerSecond"`
	Achieved  float64  `json:"achievedRecordsPerSecond"`
	P50       *float64 `json:"p50Micros"`
	P99       *float64 `json:"p99Micros"`
	P999      *float64 `json:"p99.9Micros"`
	Max       float64  `json:"maxMicros"`
	Steal     float64  `json:"stealPercent"` // the largest of the runs
	Others    float64  `json:"othersCPUs"`   // that other programs used, the largest of the runs
	Runs      int      `json:"runs"`
	Disturbed bool     `json:"disturbed,omitempty"` // no run was undisturbed
	Sustained bool     `json:"sustained"`
	Why       string   `json:"why,omitempty"` // it was not
}

// What a rate must keep to be sustained.
const (
	achievedMin = 0.99  // of what was offered
	growthMax   = 0.005 // s/s: how much the delay may grow
)

// unsustained says why a run's rate was not sustained, or "": all of it was sent and acknowledged, at least achievedMin of the rate was acknowledged
// within the measured time, and arrived at every subscription, and the delay, from the intended time to the acknowledgement, did not grow.
func unsustained(r *Result) string {
	offered := float64(r.Workload.Rate)
	slack := 0.0 // a record at either end is not a lower rate
	if r.Seconds > 0 {
		slack = 2 / r.Seconds
	}
	switch {
	case r.Verify.State == "FAILED":
		return "not all that was acknowledged was read back"
	case r.Failed > 0:
		return fmt.Sprintf("%d records failed: %s", r.Failed, r.Error)
	case r.Unsent+r.Hanging > 0:
		return fmt.Sprintf("%d records were due and not sent, or sent and not acknowledged", r.Unsent+r.Hanging)
	case r.RecordsPerSecond < achievedMin*offered-slack:
		return fmt.Sprintf("%.1f %% of the rate was achieved", 100*r.RecordsPerSecond/offered)
	}
	if c := r.Consumed; c != nil {
		if due := offered * float64(r.Workload.Streams.Groups); c.RecordsPerSecond < achievedMin*due-slack*float64(r.Workload.Streams.Groups) {
			return fmt.Sprintf("consumers had %.1f %% of the rate", 100*c.RecordsPerSecond/due)
		}
	}
	if grew := growth(r.Intervals, r.Workload.length()); grew > growthMax {
		return fmt.Sprintf("the delay grew by %.0f ms a second", 1e3*grew)
	}
	return ""
}

// growth is by how much the delay grew from the first third of the measured seconds to the last, in seconds a second; 0 where it did not also
// double, since a delay that is low and changes does not grow, and where there are fewer than 3 whole seconds. A second's delay is its median, or
// its largest where one of them has too few samples for a median.
func growth(intervals []Interval, end time.Duration) float64 {
	var delays, largest []float64
	for _, in := range intervals {
		if in.Warmup || in.Acked == 0 || time.Duration(in.Second)*time.Second > end {
			continue
		}
		largest = append(largest, in.Max/1e6)
		if in.P50 != nil {
			delays = append(delays, *in.P50/1e6)
		}
	}
	if len(delays) < len(largest) {
		delays = largest
	}
	third := len(delays) / 3
	if third == 0 {
		return 0
	}
	first, last := middle(delays[:third]), middle(slices.Clone(delays[len(delays)-third:]))
	if last < 2*first {
		return 0
	}
	return (last - first) / float64(len(delays)-third)
}

// Search is how rates are tried: upwards from From by Growth until one is not sustained, or To; then between the largest that was and the lowest
// that was not, until they are within Precision.
type Search struct {
	From      int64         `json:"fromRecordsPerSecond"`
	To        int64         `json:"toRecordsPerSecond"`
	Growth    float64       `json:"growth"`    // above 1
	Precision float64       `json:"precision"` // of the lower rate
	TimeMax   time.Duration `json:"timeMaxNanos"`
}

func (s Search) validate() error {
	switch {
	case s.From < 1 || s.To < s.From:
		return fmt.Errorf("rates from %d to %d", s.From, s.To)
	case !(s.Growth >= 1.01 && s.Growth <= 100):
		return fmt.Errorf("growth %v is not within 1.01 to 100", s.Growth)
	case !(s.Precision >= 0.001 && s.Precision <= 1):
		return fmt.Errorf("precision %v is not within 0.001 to 1", s.Precision)
	case s.TimeMax <= 0:
		return errors.New("the search needs a bound of time")
	}
	return nil
}

// next is the rate to try when low was sustained and high was not (0: there is none yet), or why there is no other.
func (s Search) next(low, high int64) (rate int64, ended string) {
	switch {
	case low == 0 && high == 0:
		return s.From, ""
	case high == 0 && low >= s.To:
		return 0, "the largest rate that was asked for is sustained"
	case high == 0:
		return min(s.To, max(low+1, int64(float64(low)*s.Growth))), ""
	case low == 0 && high == 1:
		return 0, "no rate is sustained"
	case low == 0:
		return max(1, min(high-1, int64(float64(high)/s.Growth))), ""
	case high-low <= 1 || float64(high) <= float64(low)*(1+s.Precision):
		return 0, fmt.Sprintf("within %.3g %%", 100*s.Precision)
	}
	middle := int64(math.Sqrt(float64(low) * float64(high)))
	return min(max(middle, low+1), high-1), ""
}

// Rates makes the curve of each row, with w's topics and sizes. Rows take turns. Each rate is tried by rule's runs, and is sustained when more than
// half of those that count sustain it. A run's row has the rate in its name. It returns what there is with ctx's error. told hears of each point.
func (s Search) Rates(ctx context.Context, rows []Row, w Workload, rule RepeatRule, c Confinement, o Options, told func(Curve, Point)) ([]Curve, []*Result, error) {
	if err := s.validate(); err != nil {
		return nil, nil, err
	}
	curves := make([]Curve, len(rows))
	for i, row := range rows {
		curves[i] = Curve{Row: row.Name, Partitions: w.Partitions}
	}
	var all []*Result
	began := time.Now()
	for open := true; open; {
		open = false
		for i := range rows {
			curve := &curves[i]
			if curve.Ended != "" {
				continue
			}
			rate, ended := s.next(curve.Sustained, curve.Failed)
			if ended == "" && time.Since(began) > s.TimeMax {
				ended = fmt.Sprintf("time: %v are over", s.TimeMax)
			}
			if curve.Ended = ended; ended != "" {
				continue
			}
			open = true
			w.Rate = rate
			s.expect(o.bar, curves, rows, w, rule.Runs, s.TimeMax-time.Since(began))
			row := rows[i]
			row.Name = fmt.Sprintf("%s at %d/s", row.Name, rate) // in a file, runs of one row were asked for the same
			table, runs, err := Compare(ctx, []Row{row}, w, rule, c, o, func(string, int, int, *Result) {})
			all = append(all, runs...)
			if err != nil {
				return curves, all, err
			}
			told(*curve, curve.add(rate, table[0], runs))
		}
	}
	return curves, all, nil
}

// add judges a rate by its runs.
func (c *Curve) add(rate int64, s Summary, runs []*Result) Point {
	p := Point{Offered: rate, Achieved: s.RecordsPerSecond, P50: s.P50, P99: s.P99, P999: s.P999, Max: s.Max, Steal: s.Steal, Runs: s.Runs, Disturbed: s.Marked}
	kept, failed := 0, 0
	for _, r := range runs {
		if r.Left && !s.Marked {
			continue
		}
		if o := r.othersCPUs(); o != nil {
			p.Others = max(p.Others, *o)
		}
		if why := unsustained(r); why != "" {
			p.Why, failed = why, failed+1
		} else {
			kept++
		}
	}
	if p.Sustained = kept > failed; p.Sustained {
		p.Why = ""
		c.Sustained = max(c.Sustained, rate)
	} else {
		c.Failed = rate
	}
	c.Points = append(c.Points, p)
	slices.SortFunc(c.Points, func(a, b Point) int { return cmp.Compare(a.Offered, b.Offered) })
	return p
}
