package journal

import (
	"errors"
	"fmt"

	"github.com/millrace/millrace/engine/metrics"
	"github.com/millrace/millrace/ring"
)

const (
	// frameMax bounds one write, bytes, and so the staging buffer: large enough that the
	// fixed price of a synchronous write is small beside its bytes.
	frameMax = 4 << 20
	// zeroPiece is how much is zeroed by one write, zeroAhead how far ahead of
	// the entries, bytes.
	zeroPiece = 256 << 10
	zeroAhead = 16 << 20
)

// Stats counts what a journal did.
type Stats struct {
	Frames  uint64 // synchronous writes that completed, or writes and their syncs
	Bytes   uint64 // in them, padding included
	Entries uint64
	Cuts    uint64            // cuts that ended
	Waits   uint64            // times that a frame waited for a cut
	Asides  uint64            // times that what fenced partitions keep was copied out of the way
	Write   metrics.Histogram // from its submission to its completion
}

// Core is the journal of one core, at work.
type Core struct {
	io   ring.IO
	path string
	fd   ring.FD
	id   [16]byte
	gen  uint64
	size int64 // of the file, in whole blocks

	queue  queue // submitted, in no frame yet
	flight queue // in the frame in flight
	frame  frameOp
	sync   syncOp
	way    Way
	stage  []byte
	err    error // the first one: nothing is durable any more

	head int64 // position where the next frame goes, unless it would not fit before the file's end
	prev int64 // position of the last frame, or -1
	tail int64 // what lies below is not needed
	said int64 // the tail that the last durable frame names

	stakes  []*Stake
	cutting bool
	mark    int64 // what lies below is to be cut
	waiting int   // stakes that the cut waits for
	asking  int   // of these, asked
	toAsk   *Stake
	stalled bool // the next frame waits for room
	full    bool // somebody was told so
	loose   bool // a fenced partition that had something here is forgotten: the tail may move
	onRoom  []func()

	aside  asideOp
	zero   zeroOp
	zeroes []byte
	zeroed int64 // of the file, from its start

	stats Stats
}

// queue is a list of entries.
type queue struct{ first, last *Entry }

func (q *queue) push(e *Entry) {
	e.next = nil
	if q.first == nil {
		q.first = e
	} else {
		q.last.next = e
	}
	q.last = e
}

func (q *queue) pop() *Entry {
	e := q.first
	if e != nil {
		q.first, e.next = e.next, nil
	}
	return e
}

// frameOp is the one write in flight.
type frameOp struct {
	ring.Op
	core  *Core
	busy  bool
	at    int64
	start int64
	size  int // padded
	began int64
	wrote int // bytes of the last write
	fault error
}

// syncOp is the sync that follows a frame's write, where the way is Linked.
type syncOp struct {
	ring.Op
	core *Core
}

// zeroOp zeroes blocks that no frame has reached.
type zeroOp struct {
	ring.Op
	core *Core
	busy bool
}

// newCore makes the journal at work on a file. The memory comes out of io's pool.
func newCore(io ring.IO, path string, fd ring.FD, size int64, id [16]byte, generation uint64, zeroed bool) (*Core, error) {
	c := &Core{io: io, path: path, fd: fd, size: size, id: id, gen: generation, prev: -1}
	c.frame.core, c.sync.core, c.zero.core, c.aside.core = c, c, c, c
	stage := int(min(frameMax, size/8)) &^ (blockSize - 1)
	c.stage = io.Pool().Get(stage)
	c.zeroes = io.Pool().Get(int(min(zeroPiece, size)))
	if c.stage == nil || c.zeroes == nil {
		return nil, fmt.Errorf("%s: no memory for %d bytes of staging: raise memory.bytes or lower tail.bytes", path, stage)
	}
	clear(c.zeroes)
	if zeroed {
		c.zeroed = size
	}
	if r, ok := io.(ring.BufferRegistrar); ok {
		r.RegisterBuffer(c.stage[:cap(c.stage)]) // without it a write is only dearer
	}
	return c, nil
}

// Use chooses how frames become durable; until then it is DSync. Before the first entry.
func (c *Core) Use(w Way) { c.way = w }

// Stats is what the journal did. Owner's goroutine only.
func (c *Core) Stats() *Stats { return &c.stats }

// Bytes is the size of the file, and Used how much of it is needed.
func (c *Core) Bytes() int64 { return c.size }

// Used is how much of the file is needed, bytes.
func (c *Core) Used() int64 { return c.head - c.tail }

// Memory is how much of the core's pool the journal keeps, bytes.
func (c *Core) Memory() int { return cap(c.stage) + cap(c.zeroes) }

// Zeroed says whether every block of the file has been written.
func (c *Core) Zeroed() bool { return c.zeroed >= c.size }

// EntryMax is what fits into a frame with nothing else.
func (c *Core) EntryMax() int { return len(c.stage) - headerSize - rowSize }

// Full: less than an eighth is free.
func (c *Core) Full() bool {
	c.full = c.err == nil && c.size-c.Used() < c.size/8
	return c.full
}

// OnRoom has f called each time that Full is over.
func (c *Core) OnRoom(f func()) { c.onRoom = append(c.onRoom, f) }

// Submit queues an entry; the frame that it goes into is written after the step.
func (c *Core) Submit(e *Entry) {
	if e.Done == nil || e.Stake == nil || e.Stake.partition == nil || e.Size > c.EntryMax() {
		panic(fmt.Sprintf("BUG: journal %s: entry of %d bytes at offset %d: no Done, not attached, or over %d", c.path, e.Size, e.Base, c.EntryMax()))
	}
	c.queue.push(e)
}

// AfterStep ends a step of the core's loop: all that it brought goes into one frame,
// unless one is in flight.
func (c *Core) AfterStep() (again bool) {
	if c.err != nil {
		c.refuse()
		return c.queue.first != nil
	}
	c.cut()
	if c.loose && !c.cutting { // no cut begins for it: where there is no room there is nothing new
		c.loose = false
		c.free()
	}
	if c.stalled {
		c.round()
	}
	c.kickAside()
	c.kick()
	c.kickZero()
	return false
}

// kick writes what has queued, when nothing is in flight.
func (c *Core) kick() {
	f := &c.frame
	if f.busy || c.queue.first == nil {
		return
	}
	c.write(c.queue.first)
}

// write writes a frame with first and what follows it in the queue; nil: with nothing.
func (c *Core) write(first *Entry) {
	f := &c.frame
	entries, size := c.compose(first)
	at, whole := c.head, int64(padded(size))
	if left := c.size - at%c.size; left < whole {
		at += left // not in two parts: on from the start of the file
	}
	if first != nil && at+whole-c.said > c.size-blockSize {
		// Torn, a frame leaves the one before it as the last, and a replay begins where that one says:
		// nothing from there on may be overwritten. One block is kept for a frame that only says
		// that less is needed by now.
		if c.said < c.tail {
			c.write(nil)
			return
		}
		if !c.stalled {
			c.stalled = true
			c.stats.Waits++
		}
		return // until the cut has made room
	}
	c.stalled = false
	if !c.claim(at, whole) {
		return // until the zeroes are through
	}
	body := headerSize + entries*rowSize
	for i := range entries {
		e := c.queue.pop()
		from := body
		for _, b := range e.Bufs {
			body += copy(c.stage[body:size], b)
		}
		if body-from != e.Size {
			panic(fmt.Sprintf("BUG: journal %s: entry of %d bytes has %d, at offset %d", c.path, e.Size, body-from, e.Base))
		}
		putRow(c.stage[headerSize+i*rowSize:], e, c.stage[from:body])
		c.hold(e, at)
		c.flight.push(e)
	}
	f.began = c.io.Stamp()
	for e := c.flight.first; e != nil; e = e.next {
		e.Began = f.began
	}
	clear(c.stage[size:whole])
	putHeader(c.stage, c.id, c.gen, header{at: at, prev: c.prev, start: c.tail, entries: entries, size: size})
	f.busy, f.at, f.size, f.start = true, at, int(whole), c.tail
	c.head, c.prev = at+whole, at
	c.stats.Entries += uint64(entries)
	f.write(0)
}

// compose says how many entries from first on go into one frame, and how large it is. What they
// leave free is for what their partitions have appended since.
func (c *Core) compose(first *Entry) (entries, size int) {
	size = headerSize
	for e := first; e != nil && size+rowSize+e.Size <= len(c.stage); e = e.next {
		size += rowSize + e.Size
		entries++
	}
	e := first
	for range entries {
		had, free := e.Size, len(c.stage)-size
		e.Done.Grow(e, free)
		if e.Size < had || e.Size > had+free {
			panic(fmt.Sprintf("BUG: journal %s: entry at offset %d grew from %d to %d bytes, with %d free", c.path, e.Base, had, e.Size, free))
		}
		size += e.Size - had
		e = e.next
	}
	return entries, size
}

// hold notes what e's partition needs from the frame at a position on.
func (c *Core) hold(e *Entry, at int64) {
	s := e.Stake
	if s.first < 0 {
		s.first = at
	} else if c.cutting && s.later < 0 {
		s.later = at
	}
	s.last, s.lastAt = e.End, at
}

// write writes the frame from byte `from` on.
func (f *frameOp) write(from int) {
	c := f.core
	f.Op = ring.Op{Code: ring.Write, FD: c.fd, Buf: c.stage[from:f.size], Off: f.at%c.size + int64(from), Done: f}
	if c.way == DSync {
		f.Flags = ring.DSync
	} else {
		c.sync.Op = ring.Op{Code: ring.Sync, FD: c.fd, Done: &c.sync}
		f.Next = &c.sync.Op
	}
	c.io.Submit(&f.Op)
}

// Complete ends the frame, unless a sync follows.
func (f *frameOp) Complete(op *ring.Op) {
	f.wrote, f.fault = int(op.Result), op.Error()
	if f.core.way == DSync {
		f.end()
	}
}

// Complete ends the frame whose write came before. The sync of one that was short or failed was cancelled.
func (y *syncOp) Complete(op *ring.Op) {
	f := &y.core.frame
	if err := op.Error(); err != nil && f.fault == nil && f.wrote == len(f.Buf) {
		f.fault = fmt.Errorf("fdatasync: %w", err)
	}
	f.end()
}

// end writes the rest of a frame of which the kernel took a part, or tells the owners of its entries.
func (f *frameOp) end() {
	c := f.core
	if n := f.wrote; n > 0 && n < len(f.Buf) {
		// Short: the rest, from a whole block on.
		f.write((f.size - len(f.Buf) + n) &^ (blockSize - 1))
		return
	}
	f.busy = false
	c.said = f.start
	if f.fault == nil && f.wrote == 0 {
		f.fault = errors.New("nothing was written")
	}
	if f.fault != nil {
		c.fail(fmt.Errorf("%s: write of %d bytes at %d: %w", c.path, f.size, f.at%c.size, f.fault))
	}
	c.stats.Frames++
	c.stats.Bytes += uint64(f.size)
	c.stats.Write.Record(c.io.Now() - f.began)
	done := c.flight
	c.flight = queue{}
	for e := done.pop(); e != nil; e = done.pop() {
		e.Done.Durable(e, c.err)
	}
}

func (c *Core) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

// refuse answers everything that has queued with the first error.
func (c *Core) refuse() {
	waiting := c.queue
	c.queue = queue{}
	for e := waiting.pop(); e != nil; e = waiting.pop() {
		e.Done.Durable(e, c.err)
	}
}

// round answers what waits for room and is durable in the partitions' own files by now: a
// partition that is closed or deleted does not wait for a cut that may never come.
func (c *Core) round() {
	waiting := c.queue
	c.queue = queue{}
	for e := waiting.pop(); e != nil; e = waiting.pop() {
		if e.End <= e.Stake.durable {
			e.Done.Durable(e, nil)
		} else {
			c.queue.push(e)
		}
	}
}

// claim says whether a frame may be written there: the first time round, not where
// zeroes are on their way.
func (c *Core) claim(at, n int64) bool {
	end := at + n
	if end <= c.zeroed || c.zeroed >= c.size {
		return true
	}
	if c.zero.busy {
		return false
	}
	c.zeroed = min(end, c.size)
	return true
}

// kickZero keeps the blocks ahead zeroed, the first time round.
func (c *Core) kickZero() {
	z := &c.zero
	if z.busy || c.prev < 0 || c.zeroed >= c.size || c.zeroed-c.head >= zeroAhead { // not before it is used
		return
	}
	n := min(int64(len(c.zeroes)), c.size-c.zeroed)
	z.busy = true
	z.Op = ring.Op{Code: ring.Write, FD: c.fd, Buf: c.zeroes[:n], Off: c.zeroed, Done: z}
	c.io.Submit(&z.Op)
}

// Complete goes on. A failed one ends the zeroing: it is for speed only, and a
// device that is broken will say so to a frame too.
func (z *zeroOp) Complete(op *ring.Op) {
	c := z.core
	z.busy = false
	if op.Result <= 0 {
		c.zeroed = c.size
		return
	}
	c.zeroed += int64(op.Result) &^ (blockSize - 1)
	if op.Result < blockSize {
		c.zeroed = c.size
	}
}

var _ Journal = (*Core)(nil)
