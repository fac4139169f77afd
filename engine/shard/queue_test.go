package shard

import (
	"runtime"
	"sync"
	"testing"
)

type number int

func (number) Deliver(*Loop) {}

// What one core sends another takes in the same order, each once.
func TestQueues(t *testing.T) {
	const n = 50000
	var bounded queue
	bounded.init(16)
	var linked notes
	free := make(chan *Note, 64) // a note is sent again once it has been delivered
	for range cap(free) {
		free <- &Note{}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range n {
			for !bounded.push(number(i)) {
				runtime.Gosched()
			}
			note := <-free
			note.Message = number(i)
			linked.push(note)
		}
	})
	for i := range n {
		m := bounded.pop()
		for ; m == nil; m = bounded.pop() {
			runtime.Gosched()
		}
		note := linked.pop()
		for ; note == nil; note = linked.pop() {
			runtime.Gosched()
		}
		if m != number(i) || note.Message != number(i) {
			t.Fatalf("%v and %v in place of %d", m, note.Message, i)
		}
		free <- note
	}
	wg.Wait()
	if !bounded.empty() || !linked.empty() {
		t.Fatal("something is left")
	}
}
