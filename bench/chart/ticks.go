package chart

import (
	"math"
	"strconv"
)

// Logs are the ticks of a Log axis that holds lowest to highest, and its range. Up to two decades have
// labels at 1, 2 and 5; more have one a decade, or every second.
func Logs(lowest, highest float64, label func(v float64) string) (ticks []Tick, from, to float64) {
	from, to = floor125(lowest), ceil125(highest)
	if from == to {
		from, to = floor125(from*0.99), ceil125(to*1.01)
	}
	decades := math.Log10(to / from)
	for e := math.Floor(math.Log10(from)); e <= math.Ceil(math.Log10(to)); e++ {
		for _, m := range []float64{1, 2, 5} {
			v := m * math.Pow(10, e)
			if v < from*0.999 || v > to*1.001 {
				continue
			}
			t := Tick{Value: v}
			if m == 1 && (decades <= 6 || int(e)%2 == 0) || decades <= 2.5 {
				t.Label = label(v)
			}
			ticks = append(ticks, t)
		}
	}
	return ticks, from, to
}

// floor125 is the largest of 1, 2 and 5 times a power of ten that is not above v, which is above 0.
func floor125(v float64) float64 {
	e := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{10, 5, 2} {
		if m*e <= v*(1+1e-9) {
			return m * e
		}
	}
	return e
}

// ceil125 is the smallest of them that is not below v.
func ceil125(v float64) float64 {
	e := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if m*e >= v*(1-1e-9) {
			return m * e
		}
	}
	return 10 * e
}

// Nines is where a percentile lies on an axis on which each further nine takes the same room: q in 0 to below 1.
func Nines(q float64) float64 { return -math.Log10(1 - q) }

// NinesTicks are the percentiles up to where the axis ends, at Nines of the last.
func NinesTicks(end float64) (ticks []Tick) {
	for _, t := range []struct {
		q     float64
		label string
	}{{0, "0"}, {.5, "p50"}, {.9, "p90"}, {.99, "p99"}, {.999, "p99.9"}, {.9999, "p99.99"}, {.99999, "p99.999"}} {
		if at := Nines(t.q); at <= end*1.001 {
			ticks = append(ticks, Tick{Value: at, Label: t.label})
		}
	}
	return ticks
}

// Counts are the ticks of an axis that counts from 1: at most seven of them, at round numbers.
func Counts(last int) (ticks []Tick) {
	step := 1
	for i := 0; last/step > 6; i++ {
		step = []int{2, 5, 10}[i%3] * int(math.Pow10(i/3))
	}
	for at := step; at <= last; at += step {
		ticks = append(ticks, Tick{Value: float64(at), Label: strconv.Itoa(at)})
	}
	return ticks
}
