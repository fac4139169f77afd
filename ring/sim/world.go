// Package sim is the deterministic backend of package ring: a clock, disks and a
// network that come from one seed. A whole cluster and its clients run in one
// goroutine; the same seed and the same program give the same run, event by
// event. There is no goroutine, no lock and no real clock in here.
//
// # Driving
//
// A [World] has hosts, a [Host] has one disk and one or more [IO], one for each
// core. Nothing blocks. [World.Step] moves the clock to the next event; then the
// driver steps every loop whose IO is due:
//
//	w := sim.NewWorld(seed)
//	defer w.Close()
//	...                              // hosts, IOs, loops on the IOs
//	for !done() {
//		if !w.Step() {
//			// nothing is left to happen: a deadlock of the simulated program
//		}
//		for _, l := range loops {    // a slice, in a fixed order
//			if l.io.Due() {
//				l.Step()             // calls l.io.Wait(until) once
//			}
//		}
//	}
//
// IO.Wait delivers what has arrived and returns at once. When that is nothing,
// it notes until as the time at which the IO is due again; a completion or a Wake
// makes it due earlier. When it delivered something, or until has passed, the IO
// is due a moment later ([Config].Step), as a real loop would come round again.
// So a loop must take a Wait that returns early as it takes a spurious wake.
// Blocking verbs of a Host take no virtual time.
//
// # Time and order
//
// Every op takes a time drawn from the seed. A disk op takes effect at some
// point between Submit and its completion, so ops that are in flight together
// complete, and take effect, in any order. The bytes of a Write or Send must not
// change while it is in flight: the simulator checks that and panics.
//
// # Disk
//
// A disk keeps, for each sector of 512 bytes, what is durable and every content
// it has had since. Sync makes durable what had completed (been delivered by
// Wait, or been followed by Op.Next) when the Sync was submitted, and no more.
// Sizes are durable by Sync in the order in which they changed; names are
// durable by SyncDir of their directory only. See [Crash] for what a crash
// leaves. SyncRange, Prefetch, Forget and NoReadahead do nothing. Allocate takes space and does not survive as
// anything else. [World.CrashAfter] lets a test enumerate every crash point.
//
// Map returns the file's content itself: what ops and verbs write is visible in
// it and what is stored in it is read by them. How durable such a store is, is
// not simulated: it is part of the sector that it is in.
//
// # Network
//
// Connections are streams with latency, cut into segments at random, bounded
// (a sender waits when the peer does not read), resettable, and can be
// partitioned or fall silent. Segments that a partition stops are sent again, as
// TCP would, until Config.SendTimeout. MsgMore changes nothing.
package sim

import (
	"fmt"
	"hash/crc32"
	"time"

	"github.com/millrace/millrace/ring"
)

// Range is a range of times from which the seed draws. One draw in 32 is up to
// eight times Max, so that the tail of the distribution is met too.
type Range struct{ Min, Max time.Duration }

// Config holds the times of a World. It may be changed at any time; what has
// been drawn stays.
type Config struct {
	DiskRead, DiskWrite, DiskSync Range // from Submit to completion
	DSync                         Range // what DSync adds to a write
	Net                           Range // one way between two hosts
	Loopback                      Range // one way within a host
	Reap                          Range // from the effect of a socket op to its completion
	Task                          Range // from Submit until Func runs
	Step                          Range // between two steps of a loop that has not slept
	ResetAfter                    Range // from a power loss until peers see a reset

	ConnectTimeout time.Duration // a Connect that gets no answer ends with ETIMEDOUT
	SendTimeout    time.Duration // a connection whose bytes are not taken ends with ETIMEDOUT
	ClockSkew      time.Duration // the most that a host's wall clock is off, either way

	// A connection buffers between NetBufferMin and NetBufferMax bytes each way.
	NetBufferMin, NetBufferMax int
	// Backlog is how many connections a listener holds before it ignores more.
	Backlog int
	// One in so many, 0 for none: Writes that are short; Sends that are short though
	// there is room; pieces of a stream that are cut in two on their way.
	ShortWriteOneIn, ShortSendOneIn, SplitOneIn int
}

// DefaultConfig is what NewWorld starts with.
func DefaultConfig() Config {
	const us, ms = time.Microsecond, time.Millisecond
	return Config{
		DiskRead:       Range{20 * us, 200 * us},
		DiskWrite:      Range{5 * us, 100 * us},
		DiskSync:       Range{100 * us, 2 * ms},
		DSync:          Range{50 * us, 500 * us},
		Net:            Range{30 * us, 500 * us},
		Loopback:       Range{5 * us, 30 * us},
		Reap:           Range{1 * us, 10 * us},
		Task:           Range{10 * us, 200 * us},
		Step:           Range{1 * us, 5 * us},
		ResetAfter:     Range{50 * ms, 2 * time.Second},
		ConnectTimeout: 60 * time.Second,
		SendTimeout:    120 * time.Second,
		ClockSkew:      50 * ms,
		NetBufferMin:   4 << 10,
		NetBufferMax:   256 << 10,
		Backlog:        128,
		ShortSendOneIn: 8,
		SplitOneIn:     4,
	}
}

// epochMillis is the wall clock at the start of every World: 2025-01-01 UTC.
const epochMillis = 1735689600000

// World is the clock, the network and all the machines. Everything in it belongs
// to one goroutine, except IO.Wake of package ring, which in here does too.
type World struct {
	Config Config
	// Log, where set, is told every event: to find where two runs part.
	Log func(line string)

	seed   uint64
	random random
	now    int64 // ns; starts at one second
	seq    uint64
	events eventHeap
	hosts  []*Host
	cuts   map[[2]int]bool // from host, to host; only ever looked up
	trace  uint64
}

// NewWorld makes a world whose every choice follows from seed.
func NewWorld(seed uint64) *World {
	return &World{
		Config: DefaultConfig(),
		seed:   seed,
		random: random{state: mix(seed)},
		now:    int64(time.Second),
		cuts:   map[[2]int]bool{},
		trace:  0xcbf29ce484222325,
	}
}

// Close gives back the memory of all pools. Nothing of the world may be used after it.
func (w *World) Close() error {
	for _, h := range w.hosts {
		for _, io := range h.ios {
			io.dead = true
		}
		for _, p := range h.pools {
			if err := p.Close(); err != nil {
				return fmt.Errorf("sim: host %s: close a pool: %w", h.name, err)
			}
		}
		h.pools = nil
	}
	return nil
}

// Seed is what the world was made from.
func (w *World) Seed() uint64 { return w.seed }

// Now is the virtual clock, ns.
func (w *World) Now() int64 { return w.now }

// Random is a random number from the seed, for the driver and its workload.
func (w *World) Random() uint64 { return w.random.next() }

// Trace is a hash of every event so far. Two runs of the same seed and program
// have the same Trace at the same point.
func (w *World) Trace() uint64 { return w.trace }

// Step moves the clock to the next event and lets it happen: an op takes effect
// or completes, bytes arrive, or an IO's Wait is over. It returns false, and
// does nothing, when nothing is left to happen. An IO that is due already, and
// has not been waited on, does not hold the clock.
func (w *World) Step() bool {
	due := w.NextDue()
	if due == ring.Forever {
		return false
	}
	w.now = due
	for len(w.events) > 0 && w.events[0].at <= w.now {
		e := w.events.pop()
		e.target.fire(e.kind)
	}
	return true
}

// NextDue is the time at which the next Step will be, ring.Forever for never.
func (w *World) NextDue() int64 {
	due := int64(ring.Forever)
	if len(w.events) > 0 {
		due = w.events[0].at
	}
	for _, h := range w.hosts {
		for _, io := range h.ios {
			if at := io.dueAt; !io.dead && at > w.now && at < due {
				due = at
			}
		}
	}
	return due
}

// Partition stops all that is sent between a and b, both ways, until Heal.
func (w *World) Partition(a, b *Host) {
	w.PartitionOneWay(a, b)
	w.PartitionOneWay(b, a)
}

// PartitionOneWay stops what from sends to to, until Heal.
func (w *World) PartitionOneWay(from, to *Host) {
	w.note("partition", from.id, int64(to.id), 0, 0)
	w.cuts[[2]int{from.id, to.id}] = true
}

// Heal ends the partitions between a and b. What they sent meanwhile arrives when
// it is sent again.
func (w *World) Heal(a, b *Host) {
	w.note("heal", a.id, int64(b.id), 0, 0)
	delete(w.cuts, [2]int{a.id, b.id})
	delete(w.cuts, [2]int{b.id, a.id})
}

// Reset resets every connection between a and b at both ends.
func (w *World) Reset(a, b *Host) {
	for _, e := range w.between(a, b) {
		e.reset(econnreset)
		e.peer.reset(econnreset)
	}
}

// HalfOpen makes every connection that there is now between a and b fall silent:
// nothing of it arrives any more and neither side is told. New connections work.
func (w *World) HalfOpen(a, b *Host) {
	for _, e := range w.between(a, b) {
		e.in.silent, e.out.silent = true, true
	}
}

// between lists the ends at a of the connections between a and b, in order of a's descriptors.
func (w *World) between(a, b *Host) []*endpoint {
	var ends []*endpoint
	for _, d := range a.fds {
		switch {
		case d == nil:
		case d.end != nil && d.end.peer.host == b:
			ends = append(ends, d.end)
		case d.listener != nil:
			for _, e := range d.listener.backlog {
				if e.peer.host == b {
					ends = append(ends, e)
				}
			}
		}
	}
	return ends
}

// CrashAfter crashes h, in the given way, just before its n-th disk event from
// now (1 is the next one). A disk event is whatever can change the disk: a
// Write, Sync, SyncRange, Allocate or Truncate that takes effect, and each call
// of a Host verb that creates, writes, syncs, renames or removes. 0 calls it off.
// Host.DiskEvents says how many a run has, so that all of them can be tried.
func (w *World) CrashAfter(h *Host, n int, mode Crash) {
	if n < 0 {
		panic(fmt.Sprintf("BUG: sim: crash after %d events", n))
	}
	h.crashAt, h.crashMode = 0, mode
	if n > 0 {
		h.crashAt = h.diskEvents + n
	}
}

// happens is true once in n times, never if n is 0.
func (w *World) happens(n int) bool { return n > 0 && w.random.below(int64(n)) == 0 }

func (w *World) draw(r Range) int64 {
	lo, hi := int64(r.Min), int64(r.Max)
	if w.happens(32) {
		hi *= 8
	}
	if hi < lo {
		hi = lo
	}
	return lo + w.random.below(hi-lo+1)
}

// note adds an event to the trace.
func (w *World) note(what string, host int, a, b int64, sum uint32) {
	t := w.trace
	for i := 0; i < len(what); i++ {
		t = (t ^ uint64(what[i])) * 0x100000001b3
	}
	for _, v := range [...]uint64{uint64(w.now), uint64(host), uint64(a), uint64(b), uint64(sum)} {
		t = mix(t ^ v)
	}
	w.trace = t
	if w.Log != nil {
		w.Log(fmt.Sprintf("%d host=%d %s %d %d %08x", w.now, host, what, a, b, sum))
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// event is something that will happen to target. Its kind means something to the target only.
type event struct {
	at     int64
	seq    uint64 // events of the same time happen in the order in which they were made
	target target
	kind   int
}

type target interface{ fire(kind int) }

// schedule makes an event. It is never now: what is due now has been collected.
func (w *World) schedule(at int64, t target, kind int) {
	w.seq++
	w.events.push(event{at: max(at, w.now+1), seq: w.seq, target: t, kind: kind})
}

// eventHeap is a binary heap, the earliest event first.
type eventHeap []event

func (h eventHeap) less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}

func (h *eventHeap) push(e event) {
	*h = append(*h, e)
	s := *h
	for i := len(s) - 1; i > 0; {
		up := (i - 1) / 2
		if !s.less(i, up) {
			break
		}
		s[i], s[up] = s[up], s[i]
		i = up
	}
}

func (h *eventHeap) pop() event {
	s := *h
	e := s[0]
	last := len(s) - 1
	s[0] = s[last]
	s[last] = event{}
	s = s[:last]
	*h = s
	for i := 0; ; {
		child := 2*i + 1
		if child >= len(s) {
			break
		}
		if child+1 < len(s) && s.less(child+1, child) {
			child++
		}
		if !s.less(child, i) {
			break
		}
		s[i], s[child] = s[child], s[i]
		i = child
	}
	return e
}
