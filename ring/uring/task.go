//go:build uring

package uring

import (
	"errors"
	"sync"
	"syscall"

	"github.com/millrace/millrace/ring"
	"golang.org/x/sys/unix"
)

// workersMax is how many goroutines run a ring's cold work at once.
const workersMax = 4

// workers run Task ops, and what the kernel cannot do. They exist while there is
// work. The queue holds ops that their owners have embedded, so it is bounded by
// them.
type workers struct {
	mu         sync.Mutex
	head, tail *ring.Op // by Link
	count      int
}

// punt gives op to a worker.
func (r *Ring) punt(op *ring.Op) {
	r.stats.Punted++
	op.Slot = slotDone
	if op.Code == ring.Truncate {
		r.fd(op.FD).users++
	}
	w := &r.workers
	w.mu.Lock()
	if w.tail == nil {
		w.head = op
	} else {
		w.tail.Link = op
	}
	w.tail = op
	hire := w.count < workersMax
	if hire {
		w.count++
	}
	w.mu.Unlock()
	if hire {
		go r.work()
	}
}

func (r *Ring) work() {
	w := &r.workers
	for {
		w.mu.Lock()
		op := w.head
		if op == nil {
			w.count--
			w.mu.Unlock()
			return
		}
		w.head = op.Link
		if w.head == nil {
			w.tail = nil
		}
		w.mu.Unlock()

		op.Link = nil
		op.Result, op.Err = r.perform(op)
		for {
			newest := r.returned.Load()
			op.Link = newest
			if r.returned.CompareAndSwap(newest, op) {
				break
			}
		}
		r.Wake()
	}
}

// perform runs on a worker.
func (r *Ring) perform(op *ring.Op) (int32, error) {
	if op.Code == ring.Truncate {
		err := r.host.Truncate(op.FD, op.Len)
		var errno syscall.Errno
		switch {
		case err == nil:
			return 0, nil
		case errors.As(err, &errno):
			return -int32(errno), nil
		}
		return -int32(unix.EIO), err
	}
	if err := op.Func(); err != nil {
		return -int32(unix.EIO), err
	}
	return 0, nil
}

// takeReturned delivers what workers have finished, in the order they did.
func (r *Ring) takeReturned() {
	var first *ring.Op
	for op := r.returned.Swap(nil); op != nil; {
		next := op.Link
		op.Link = first
		first = op
		op = next
	}
	for op := first; op != nil; {
		next := op.Link
		if op.Code == ring.Truncate {
			r.unuse(op.FD)
		}
		r.advance(op)
		r.deliver(op)
		op = next
	}
}
