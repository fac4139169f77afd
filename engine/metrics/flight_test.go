package metrics

import (
	"fmt"
	"testing"
)

// request takes d[i] ns to reach stage i+1.
func request(at int64, d ...int64) *Request {
	r := &Request{Topic: fmt.Sprint(at)}
	r.Stamps[Received] = at
	for i := Decoded; i < stageCount; i++ {
		at += d[(int(i)-1)%len(d)]
		r.Stamps[i] = at
	}
	return r
}

func TestFlightKeepsTheWorst(t *testing.T) {
	var f Flight
	for i := range int64(1000) {
		f.Record(request(i*1e6, 1+i*7919%1000))
	}
	w := f.Worst()
	if len(w) != worstKept {
		t.Fatalf("%d kept", len(w))
	}
	for i, r := range w {
		if want := 7 * (1000 - int64(i)); r.Stamps.Total() != want {
			t.Errorf("%d: took %d, want %d", i, r.Stamps.Total(), want)
		}
	}
	if f.Stages[Received].Count != 1000 || f.Durable.Count != 1000 || f.Stages[Replied].Count != 1000 {
		t.Error("not all were counted")
	}
	// The next window: the last one is kept beside it, and goes with the one after.
	f.Record(request(70e9, 3))
	if w := f.Worst(); len(w) != worstKept+1 || w[worstKept].Topic != "70000000000" {
		t.Errorf("%d kept in the second window", len(w))
	}
	f.Record(request(140e9, 4))
	if w := f.Worst(); len(w) != 2 || w[0].Topic != "140000000000" {
		t.Errorf("third window: %v", w)
	}
	f.Record(request(400e9, 1))
	if w := f.Worst(); len(w) != 1 {
		t.Errorf("after a pause: %v", w)
	}
}

func TestFlightStages(t *testing.T) {
	var f Flight
	r := request(100, 1, 2, 3, 4, 50, 6, 7)
	if got := r.Stamps.Longest(); got != Flushed {
		t.Errorf("longest: %s", Stages[got])
	}
	// A duplicate: its original was being flushed already.
	r.Stamps[Submitted] = 101
	f.Record(r)
	if r.Stamps[Submitted] != r.Stamps[Appended] || f.Stages[Submitted].Sum != 0 || f.Stages[Flushed].Sum != 54 || f.Durable.Sum != 54 {
		t.Errorf("%v: wait %d, flush %d, durable %d", r.Stamps, f.Stages[Submitted].Sum, f.Stages[Flushed].Sum, f.Durable.Sum)
	}
	if n := testing.AllocsPerRun(100, func() { f.Record(r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	var sum Flight
	sum.Merge(&f)
	if sum.Stages[Received] != f.Stages[Received] || sum.Durable != f.Durable {
		t.Error("not merged")
	}
}

func BenchmarkFlight(b *testing.B) {
	var f Flight
	r := request(100, 1, 2000, 30, 40000, 500, 600, 7)
	for i := range b.N {
		r.Stamps[Received] -= int64(i & 1023)
		f.Record(r)
	}
}
