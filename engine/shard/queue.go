package shard

import "sync/atomic"

// queue is a bounded ring of messages with one producer and one consumer, on
// different cores. head and tail lie on cache lines of their own; each side keeps
// a copy of the other's so that it reads the shared one only when it must.
type queue struct {
	slots []Message
	mask  uint64
	_     [64]byte
	tail  atomic.Uint64 // next to be written; the producer's
	seen  uint64        // the producer's copy of head
	_     [48]byte
	head  atomic.Uint64 // next to be read; the consumer's
	known uint64        // the consumer's copy of tail
	_     [48]byte
}

func (q *queue) init(capacity int) {
	if capacity&(capacity-1) != 0 {
		panic("BUG: shard: the capacity of a queue is a power of two")
	}
	q.slots = make([]Message, capacity)
	q.mask = uint64(capacity - 1)
}

func (q *queue) push(m Message) bool {
	t := q.tail.Load()
	if t-q.seen == uint64(len(q.slots)) {
		if q.seen = q.head.Load(); t-q.seen == uint64(len(q.slots)) {
			return false
		}
	}
	q.slots[t&q.mask] = m
	q.tail.Store(t + 1)
	return true
}

func (q *queue) pop() Message {
	h := q.head.Load()
	if h == q.known {
		if q.known = q.tail.Load(); h == q.known {
			return nil
		}
	}
	m := q.slots[h&q.mask]
	q.slots[h&q.mask] = nil
	q.head.Store(h + 1)
	return m
}

// empty is for the consumer.
func (q *queue) empty() bool { return q.head.Load() == q.tail.Load() }

// Note is a message with its place in a queue. It is embedded in what sends it, with
// Message set once.
type Note struct {
	Message
	next *Note
}

// notes is a queue of notes with one producer and one consumer: the producer puts
// them on a stack, which the consumer takes whole and turns round.
type notes struct {
	stack atomic.Pointer[Note]
	_     [56]byte
	first *Note // taken, oldest first; the consumer's
	_     [56]byte
}

func (q *notes) push(n *Note) {
	for {
		top := q.stack.Load()
		n.next = top
		if q.stack.CompareAndSwap(top, n) {
			return
		}
	}
}

func (q *notes) pop() *Note {
	if q.first == nil {
		if q.stack.Load() == nil {
			return nil
		}
		for n := q.stack.Swap(nil); n != nil; {
			next := n.next
			n.next = q.first
			q.first, n = n, next
		}
	}
	n := q.first
	q.first, n.next = n.next, nil
	return n
}

// empty is for the consumer.
func (q *notes) empty() bool { return q.first == nil && q.stack.Load() == nil }
