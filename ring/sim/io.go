package sim

import (
	"fmt"
	"syscall"

	"github.com/millrace/millrace/ring"
)

// IOConfig sizes one core's IO. What is 0 is taken from the defaults.
type IOConfig struct {
	PoolBytes       int // 16 MiB
	RecvBuffers     int // 64; at most 65536
	RecvBufferBytes int // 16 KiB
}

// IO is one simulated core's ring. It implements ring.IO.
type IO struct {
	host   *Host
	random random
	pool   *ring.Pool
	stats  ring.Stats

	dead    bool // closed, or its host has crashed
	waiting bool // inside Wait
	dueAt   int64
	now     int64 // as of the last Wait
	ready   []completion
	spare   []completion // the other half of a double buffer

	flights []*flight // by Op.Slot
	freed   []*flight

	buffers   [][]byte // receive buffers by Chunk.ID
	lent      []bool
	available []uint16 // IDs that are not lent, first in, first out
}

var _ ring.IO = (*IO)(nil)

// completion is an op that Wait will deliver, and its result.
type completion struct {
	flight *flight
	result result
}

type result struct {
	n     int32
	more  bool
	chunk ring.Chunk
}

// NewIO adds a core's ring to the host, which must be running. It is due at once.
// Its pool lives until World.Close. Panics when there is no memory for that.
func (h *Host) NewIO(c IOConfig) *IO {
	if h.down {
		panic(fmt.Sprintf("BUG: sim: a new IO on host %s, which has crashed", h.name))
	}
	if c.PoolBytes == 0 {
		c.PoolBytes = 16 << 20
	}
	if c.RecvBuffers == 0 {
		c.RecvBuffers = 64
	}
	if c.RecvBufferBytes == 0 {
		c.RecvBufferBytes = 16 << 10
	}
	pool, err := ring.NewPool(c.PoolBytes)
	if err != nil {
		panic(fmt.Sprintf("sim: host %s: %v", h.name, err))
	}
	h.pools = append(h.pools, pool)
	io := &IO{
		host:   h,
		random: random{state: h.world.random.next()},
		pool:   pool,
		now:    h.world.now,
		dueAt:  h.world.now + 1,
		lent:   make([]bool, c.RecvBuffers),
	}
	for i := range c.RecvBuffers {
		io.buffers = append(io.buffers, make([]byte, c.RecvBufferBytes))
		io.available = append(io.available, uint16(i))
	}
	h.ios = append(h.ios, io)
	return io
}

// Due says whether the loop on this IO wants to be stepped now. A dead IO never does.
func (io *IO) Due() bool {
	return !io.dead && (len(io.ready) > 0 || io.dueAt <= io.host.world.now)
}

// Dead says whether the IO has been closed or its host has crashed since it was made.
func (io *IO) Dead() bool { return io.dead }

// Submit queues an op and those that follow it. See ring.IO.
func (io *IO) Submit(op *ring.Op) {
	var head, last *flight
	for o := op; o != nil; o = o.Next {
		f := io.admit(o)
		if head == nil {
			head = f
		} else {
			last.next = f
		}
		last = f
	}
	if io.dead {
		return
	}
	head.start()
}

func (io *IO) admit(op *ring.Op) *flight {
	switch {
	case op.Active:
		panic(fmt.Sprintf("BUG: sim: %v of fd %d is submitted and active", op.Code, op.FD))
	case op.Done == nil:
		panic(fmt.Sprintf("BUG: sim: %v of fd %d has no Done", op.Code, op.FD))
	case op.Flags&ring.Multi != 0 && (op.Next != nil || op.Code != ring.Accept && (op.Code != ring.Recv || op.Flags&ring.Pick == 0)):
		panic(fmt.Sprintf("BUG: sim: %v of fd %d cannot be Multi (flags %#x)", op.Code, op.FD, op.Flags))
	case len(op.Bufs) > ring.IOVMax:
		panic(fmt.Sprintf("BUG: sim: %v of fd %d has %d pieces, at most %d", op.Code, op.FD, len(op.Bufs), ring.IOVMax))
	}
	op.Active, op.Result, op.More, op.Err, op.Chunk = true, 0, false, nil, ring.Chunk{}
	io.stats.Submitted[op.Code]++
	var f *flight
	if n := len(io.freed); n > 0 {
		f = io.freed[n-1]
		io.freed = io.freed[:n-1]
	} else {
		f = &flight{io: io, slot: int32(len(io.flights))}
		io.flights = append(io.flights, nil)
	}
	f.op, f.state = op, stateQueued
	io.flights[f.slot] = f
	op.Slot = f.slot
	return f
}

// Cancel asks that op end early. See ring.IO.
func (io *IO) Cancel(op *ring.Op) {
	if !op.Active || io.dead {
		return
	}
	f := io.flights[op.Slot]
	if f == nil || f.op != op {
		panic(fmt.Sprintf("BUG: sim: cancel of %v of fd %d, which is active on another IO", op.Code, op.FD))
	}
	f.cancelled = true
	switch f.state {
	case stateSocket:
		f.detach()
		f.finish(-int32(syscall.ECANCELED))
	case stateConnect, stateQueued, stateDisk, stateDone: // seen when its turn comes, or too late
	}
}

// Wait delivers what has arrived and returns at once: see the package comment.
func (io *IO) Wait(until int64) int {
	w := io.host.world
	if io.waiting {
		panic("BUG: sim: Wait inside Complete")
	}
	io.stats.Waits++
	io.now = w.now
	if io.dead {
		return 0
	}
	io.dueAt = ring.Forever
	io.waiting = true
	batch := io.ready
	io.ready = io.spare[:0]
	delivered := 0
	for _, c := range batch {
		if io.dead { // the host crashed, or the ring was closed, in a Complete
			break
		}
		io.deliver(c)
		delivered++
	}
	clear(batch)
	io.spare = batch[:0]
	io.waiting = false
	if delivered > 0 || until <= w.now {
		until = w.now + w.draw(w.Config.Step)
	}
	io.dueAt = min(io.dueAt, until)
	return delivered
}

func (io *IO) deliver(c completion) {
	f, op, res := c.flight, c.flight.op, c.result
	if op.Code == ring.Task && res.n == 0 {
		if op.Err = op.Func(); op.Err != nil {
			res.n = -int32(syscall.EIO)
		}
		if io.dead {
			return
		}
	}
	op.Result, op.More, op.Chunk = res.n, res.more, res.chunk
	if !res.more {
		io.host.complete(f.change)
		if op.Code == ring.Task {
			f.advance(res.n)
		}
		io.release(f)
	}
	io.stats.Completed++
	op.Done.Complete(op)
}

func (io *IO) release(f *flight) {
	f.op.Active, f.op.Slot, f.op.Link = false, 0, nil
	io.flights[f.slot] = nil
	*f = flight{io: io, slot: f.slot, results: f.results[:0]}
	io.freed = append(io.freed, f)
}

// Wake makes the IO due. See ring.IO; here it belongs to the world's goroutine.
func (io *IO) Wake() {
	w := io.host.world
	io.stats.Wakes++
	io.dueAt = min(io.dueAt, w.now+w.draw(w.Config.Step))
}

// Now is the clock as of the last Wait, ns.
func (io *IO) Now() int64 { return io.now }

// Stamp is the clock, ns. It stands still between two steps of the world.
func (io *IO) Stamp() int64 { return io.host.world.now }

// WallMillis is the host's wall clock as of the last Wait.
func (io *IO) WallMillis() int64 { return epochMillis + io.host.skew + io.now/1e6 }

// Random is from the seed; each IO has a sequence of its own.
func (io *IO) Random() uint64 { return io.random.next() }

// Pool is the memory of this core.
func (io *IO) Pool() *ring.Pool { return io.pool }

// ReturnChunk takes a receive buffer back.
func (io *IO) ReturnChunk(c ring.Chunk) {
	if int(c.ID) >= len(io.lent) || !io.lent[c.ID] {
		panic(fmt.Sprintf("BUG: sim: return of chunk %d, which is not lent", c.ID))
	}
	io.lent[c.ID] = false
	io.available = append(io.available, c.ID)
}

// lend takes a receive buffer.
func (io *IO) lend() (ring.Chunk, bool) {
	if len(io.available) == 0 {
		io.stats.NoBuffers++
		return ring.Chunk{}, false
	}
	id := io.available[0]
	io.available = io.available[:copy(io.available, io.available[1:])]
	io.lent[id] = true
	return ring.Chunk{Bytes: io.buffers[id], ID: id}, true
}

// Lent is how many receive buffers have not been returned, for a test to find leaks.
func (io *IO) Lent() int { return len(io.buffers) - len(io.available) }

// Host is the machine.
func (io *IO) Host() ring.Host { return io.host }

// Stats is what the ring has done.
func (io *IO) Stats() *ring.Stats { return &io.stats }

// Name is sim.
func (io *IO) Name() string { return "sim" }

// Close ends the ring. What it had opened stays open, as Host.OpenFiles tells.
func (io *IO) Close() error {
	if io.dead {
		return nil
	}
	io.dead = true
	for _, f := range io.flights {
		if f != nil && f.state == stateSocket {
			f.detach()
		}
	}
	h := io.host
	for i, other := range h.ios {
		if other == io {
			h.ios = append(h.ios[:i], h.ios[i+1:]...)
			break
		}
	}
	return nil
}
