package metrics

import "testing"

func TestBucketsAreInOrderAndNarrow(t *testing.T) {
	last := -1
	for n := uint64(0); n < 1<<20; n++ {
		b := bucket(n)
		if b < last {
			t.Fatalf("%d falls into bucket %d, after %d", n, b, last)
		}
		if n >= Bound(b) || b > 0 && n < Bound(b-1) {
			t.Fatalf("%d is not in bucket %d: [%d, %d)", n, b, Bound(b-1), Bound(b))
		}
		if w := Bound(b); n > 8 && float64(w-n) > 0.26*float64(n) {
			t.Fatalf("%d: bucket bound %d is too far", n, w)
		}
		last = b
	}
}

func TestQuantile(t *testing.T) {
	var h Histogram
	for i := int64(1); i <= 1000; i++ {
		h.Record(i * 1000)
	}
	if q := h.Quantile(0.5); q < 500_000 || q > 640_000 {
		t.Fatalf("median of 1..1000 µs: %d ns", q)
	}
	if n := testing.AllocsPerRun(100, func() { h.Record(12345) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}
