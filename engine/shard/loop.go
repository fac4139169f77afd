// Package shard is one core: an event loop over a ring.IO, bounded mailboxes to
// the other cores, and timers.
//
// A shard is one goroutine, locked to its thread and pinned to its CPU; what it
// owns nobody else touches, so nothing above it locks. The loop is a step
// function: [Loop.Step] waits on the ring, takes what other cores sent, fires
// timers, and ends with what is done once per step. [Loop.Run] is Step for ever.
// In simulation one goroutine steps all the loops in turn; it is the same code.
//
// # Mailboxes
//
// Between each two cores and in each direction there are three queues with one
// producer and one consumer each:
//
//   - requests: [Loop.Send]. A request needs one of the sender's credits for that
//     core; without one Send says no and the sender waits its turn
//     ([Loop.WaitForCredit]), which ends in a socket that is not read.
//   - replies: [Loop.Reply]. There is one place for every credit, so a reply
//     never waits. The receiver gives the credit back with [Loop.Credit].
//   - control: [Loop.Control]. What follows a reply (a wait that is over, the return
//     of a lease) and never waits either: it is a list through the messages
//     themselves, so there is room for every one. It is bounded by what sends
//     them: a [Note] is part of a request that somebody holds a place for.
//
// Because only requests can be refused, and a request never holds up a reply,
// two full cores cannot wait for each other.
//
// The edge (net/http, signals, etcd) has one queue into each shard: [Loop.Post].
package shard

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/millrace/millrace/ring"
)

// Credits is how many requests one core may have outstanding at another.
const Credits = 1024

// drainMax is how many messages of one queue a step takes, so that the ring is
// looked at in between.
const drainMax = 256

// yieldEvery is how long Run goes on, in ns, without a call of Go's scheduler. Go's monitor takes a goroutine
// that did not call it for 10 ms for one that is stuck: it takes its processor at every system call, and looks again every 20 µs
// meanwhile, 3,000 times a second, on a CPU that may be the loop's only one. A call costs two switches of threads.
const yieldEvery = 5e6

// edgeMax bounds the queue from the edge.
const edgeMax = 4096

// Message is something one core sends to another. Deliver runs on the receiver.
// Messages are pointers to state that outlives the exchange: sending allocates
// nothing.
type Message interface{ Deliver(at *Loop) }

// Source is something with deadlines of its own, such as the logs of a core.
type Source interface {
	// NextDeadline is when Expire wants to be called, on the ring's clock, or ring.Forever.
	NextDeadline() int64
	Expire(now int64)
}

// Loop is one core.
type Loop struct {
	ID int
	IO ring.IO

	peers   []*Loop
	in      []mailbox // by sender
	credits []int     // by receiver: requests that may still be sent
	waiting []waiters // by receiver: who waits for a credit
	wake    []bool    // by receiver: something was sent in this step

	timers  timerHeap
	sources []Source
	after   []func() (again bool)
	again   bool // one of after has something left

	edgeMu    sync.Mutex
	edge      []Message
	edgeSpare []Message
	edgeCount atomic.Int32

	stopped atomic.Bool
	Steps   uint64
}

type mailbox struct {
	requests, replies queue
	control           notes
}

// New makes n connected loops without rings: each gets its IO on its own thread
// (a ring belongs to the thread that made it) before its first step.
func New(n int) []*Loop {
	loops := make([]*Loop, n)
	for i := range loops {
		l := &Loop{
			ID: i, peers: loops,
			in:      make([]mailbox, n),
			credits: make([]int, n),
			waiting: make([]waiters, n),
			wake:    make([]bool, n),
		}
		for j := range l.in {
			if j == i {
				continue
			}
			l.in[j].requests.init(Credits)
			l.in[j].replies.init(Credits)
			l.credits[j] = Credits
		}
		loops[i] = l
	}
	return loops
}

// Peers are all loops of this broker, by ID.
func (l *Loop) Peers() []*Loop { return l.peers }

// AddSource adds deadlines to look after. Before the first step.
func (l *Loop) AddSource(s Source) { l.sources = append(l.sources, s) }

// AfterStep adds a function that ends every step: work that is done once for
// all that a step brought. Where it says true the next step does not wait for
// anything to happen. Before the first step.
func (l *Loop) AfterStep(f func() (again bool)) { l.after = append(l.after, f) }

// Run steps until Stop.
func (l *Loop) Run() {
	for yielded := int64(0); !l.stopped.Load(); {
		l.Step()
		if now := l.IO.Now(); now-yielded >= yieldEvery {
			l.again = true // what is queued goes to the kernel first
			l.Step()
			runtime.Gosched()
			yielded = now
		}
	}
}

// Stop makes Run return after the step in progress. Any goroutine.
func (l *Loop) Stop() {
	l.stopped.Store(true)
	l.IO.Wake()
}

// Step does one round. What it does comes after Wait, so that a step which waits
// has seen all that the one before it left.
func (l *Loop) Step() {
	l.Steps++
	until := int64(0)
	if !l.again && !l.sent() {
		until = l.nextDeadline()
	}
	l.IO.Wait(until)
	l.drain()
	now := l.IO.Now()
	// No more than there are: one that sets itself again for now has its turn in the next step.
	for n := l.timers.len(); n > 0 && l.timers.len() > 0 && l.timers.first().when <= now; n-- {
		l.timers.pop().fire.Fire(now)
	}
	for _, s := range l.sources {
		if s.NextDeadline() <= now {
			s.Expire(now)
		}
	}
	l.again = false
	for _, f := range l.after {
		if f() {
			l.again = true
		}
	}
	l.flushWakes()
}

func (l *Loop) nextDeadline() int64 {
	until := int64(ring.Forever)
	if l.timers.len() > 0 {
		until = l.timers.first().when
	}
	for _, s := range l.sources {
		until = min(until, s.NextDeadline())
	}
	return until
}

// drain takes what has been sent to this core, or a good part of it.
func (l *Loop) drain() {
	l.drainEdge()
	for i := range l.in {
		if i == l.ID {
			continue
		}
		m := &l.in[i]
		// Control and replies first: they free what requests need.
		l.takeNotes(&m.control)
		l.take(&m.replies)
		l.take(&m.requests)
	}
}

func (l *Loop) take(q *queue) {
	for range drainMax {
		m := q.pop()
		if m == nil {
			return
		}
		m.Deliver(l)
	}
}

func (l *Loop) takeNotes(q *notes) {
	for range drainMax {
		n := q.pop()
		if n == nil {
			return
		}
		n.Deliver(l)
	}
}

// sent says whether there is something to drain. Whatever is sent after it has
// looked comes with a wake.
func (l *Loop) sent() bool {
	if l.edgeCount.Load() > 0 {
		return true
	}
	for i := range l.in {
		m := &l.in[i]
		if i != l.ID && (!m.requests.empty() || !m.replies.empty() || !m.control.empty()) {
			return true
		}
	}
	return false
}

func (l *Loop) drainEdge() {
	if l.edgeCount.Load() == 0 {
		return
	}
	l.edgeMu.Lock()
	batch := l.edge
	l.edge = l.edgeSpare[:0]
	l.edgeCount.Store(0)
	l.edgeMu.Unlock()
	for i, m := range batch {
		m.Deliver(l)
		batch[i] = nil
	}
	l.edgeSpare = batch
}

// Post sends a message from outside the shards (or from any shard, for cold
// work). It reports false when the queue of 4096 is full.
func (l *Loop) Post(m Message) bool {
	l.edgeMu.Lock()
	if len(l.edge) >= edgeMax {
		l.edgeMu.Unlock()
		return false
	}
	l.edge = append(l.edge, m)
	l.edgeCount.Store(int32(len(l.edge)))
	l.edgeMu.Unlock()
	l.IO.Wake()
	return true
}

// Func is a Message for cold work.
type Func func(at *Loop)

// Deliver runs f.
func (f Func) Deliver(at *Loop) { f(at) }

// Send sends a request to another core; it says no when no credit is left.
func (l *Loop) Send(to int, m Message) bool {
	if l.credits[to] == 0 {
		return false
	}
	l.credits[to]--
	l.push(to, &l.peers[to].in[l.ID].requests, m)
	return true
}

// HasCredits says whether n requests could be sent to that core now.
func (l *Loop) HasCredits(to, n int) bool { return to == l.ID || l.credits[to] >= n }

// Reply answers a request of that core.
func (l *Loop) Reply(to int, m Message) { l.push(to, &l.peers[to].in[l.ID].replies, m) }

// Control sends what never waits, in the order of the calls. Until n is delivered
// it must not be sent again.
func (l *Loop) Control(to int, n *Note) {
	l.peers[to].in[l.ID].control.push(n)
	l.wake[to] = true
}

func (l *Loop) push(to int, q *queue, m Message) {
	if !q.push(m) {
		panic(fmt.Sprintf("BUG: shard %d -> %d: queue of %d full", l.ID, to, len(q.slots)))
	}
	l.wake[to] = true
}

// Credit gives back the credit of a request to that core, when its reply has
// been dealt with, and lets waiters try.
func (l *Loop) Credit(to int) {
	l.credits[to]++
	if l.credits[to] > Credits {
		panic(fmt.Sprintf("BUG: shard %d has %d credits for %d", l.ID, l.credits[to], to))
	}
	for l.credits[to] > 0 { // who needs another core's too may leave this one to the next
		w := l.waiting[to].pop()
		if w == nil {
			return
		}
		w.waiting = false
		w.Retry.Retry()
	}
}

// Waiter waits for a credit. It is embedded in what waits; Retry is set by its owner.
type Waiter struct {
	Retry   interface{ Retry() }
	next    *Waiter
	waiting bool
}

// WaitForCredit calls w.Retry once when a credit for that core comes back.
// Waiters are served in order; there are never more of them than connections.
func (l *Loop) WaitForCredit(to int, w *Waiter) {
	if w.waiting {
		panic("BUG: shard: a waiter waits twice")
	}
	w.waiting = true
	l.waiting[to].push(w)
}

type waiters struct{ head, tail *Waiter }

func (q *waiters) push(w *Waiter) {
	w.next = nil
	if q.tail == nil {
		q.head = w
	} else {
		q.tail.next = w
	}
	q.tail = w
}

func (q *waiters) pop() *Waiter {
	w := q.head
	if w == nil {
		return nil
	}
	if q.head = w.next; q.head == nil {
		q.tail = nil
	}
	w.next = nil
	return w
}

// flushWakes wakes the cores that were sent something, once each.
func (l *Loop) flushWakes() {
	for to, sent := range l.wake {
		if sent {
			l.wake[to] = false
			l.peers[to].IO.Wake()
		}
	}
}
