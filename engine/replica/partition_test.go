package replica

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// Who waits for an acknowledgement is in order of offsets; of the same offset, who
// came first is first.
func TestProduceList(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var l produceList
		var want []*Produce
		for i := range r.IntN(20) {
			w := &Produce{LastOffset: r.Int64N(10), Index: int32(i)}
			l.insert(w)
			want = append(want, w)
		}
		slices.SortStableFunc(want, func(a, b *Produce) int { return int(a.LastOffset - b.LastOffset) })
		for i, w := range want {
			if got := l.pop(); got != w || got.next != nil {
				t.Fatalf("place %d of %d: offset %d, wanted %d", i, len(want), got.LastOffset, w.LastOffset)
			}
		}
		if l.pop() != nil || l.head != nil || l.tail != nil {
			t.Fatal("something is left")
		}
		last := &Produce{LastOffset: 3}
		l.push(last)
		if l.head != last || l.tail != last {
			t.Fatal("a list that was empty")
		}
	}
}

type woken struct{ n int }

func (w *woken) Wake(*Watch) { w.n++ }

// A watch is told until it is taken back, in whatever order they come and go.
func TestWatches(t *testing.T) {
	p := New("t", [16]byte{}, 0, 0, nil)
	var told [3]woken
	var watches [3]Watch
	for i := range watches {
		watches[i].Woken = &told[i]
		p.Watch(&watches[i])
	}
	p.wake()
	watches[1].Unwatch()
	watches[1].Unwatch()
	p.wake()
	watches[0].Unwatch()
	watches[2].Unwatch()
	p.Watch(&watches[1])
	p.wake()
	if told != [3]woken{{2}, {2}, {2}} {
		t.Fatal(told)
	}
}
