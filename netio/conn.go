package netio

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"syscall"

	"github.com/millrace/millrace/ring"
)

// Conn is one connection. It belongs to its server's core.
type Conn struct {
	Peer netip.AddrPort
	User any // the handler's

	srv    *Server
	fd     ring.FD
	active int64 // the ring's clock when the peer last did something: see touch
	life   link  // in srv.quiet or srv.holding
	pause  link  // in srv.hungry

	recv    ring.Op
	reading bool // recv is armed
	ending  bool // a multishot recv was cancelled, to go on into a frame of its own
	small   uint8
	wants   bool // stopped at a bound: see full

	prefix  [4]byte // the start of a size that came in pieces; the size of frame
	nprefix int
	frame   []byte // a frame being put together, from the pool
	have    int
	rest    []byte     // what has arrived and could not be taken further
	restIn  ring.Chunk // what rest lies in: a receive buffer, or memory of the pool (ownMemory)

	head, tail *Exchange // in the works or answered, in request order
	inFlight   int
	unsent     int // bytes of memory in their replies

	send    ring.Op // a read of what is to be sent, too
	copying int     // the piece that it reads
	ahead   *ahead  // what comes before that read
	sending bool
	vector  *vector // what send sends, where that is several pieces

	closed bool // no more reading or sending
	gone   bool // and nothing of it is in the kernel
	told   bool // the log has a line about it: see Say
}

// smallFrames is after how many frames in a row that came whole in a receive
// buffer a connection's receive is armed for many again.
const smallFrames = 16

// largeFrame is the size above which a frame is received straight into memory of its own.
const largeFrame = 16 << 10

// growFrame is the most memory that a frame gets before its bytes have come, and
// growFrameShort that where half of the pool is out: a size alone must not take much.
const (
	growFrame      = 1 << 20
	growFrameShort = 16 << 10
)

// unsentMax is how much memory the unsent replies of a connection may hold before
// its socket is not read, bytes. One reply may be larger.
const unsentMax = 1 << 20

// ownMemory is the chunk ID of bytes that lie in memory of the pool. The frames in
// them are copied out.
const ownMemory = 1<<16 - 1

type recvDone Conn
type sendDone Conn

// full says that the connection has as much in the works as it may.
func (c *Conn) full() bool {
	return c.inFlight >= c.srv.cfg.InFlight || c.unsent >= unsentMax
}

// read arms the receive unless something forbids.
func (c *Conn) read() {
	if c.reading || c.closed {
		return
	}
	s := c.srv
	if c.frame == nil && c.full() {
		c.wants = true // more reads on
		return
	}
	if s.paused {
		c.wait(ring.Forever) // Resume
		return
	}
	if c.rest != nil {
		rest, in := c.rest, c.restIn
		c.rest, c.restIn = nil, ring.Chunk{}
		c.take(rest, in)
		c.letGo(in)
		if c.rest != nil || c.closed {
			return
		}
	}
	if c.frame != nil && !c.filled() { // it had no memory to grow
		return
	}
	op := &c.recv
	*op = ring.Op{Code: ring.Recv, FD: c.fd, Done: op.Done}
	switch {
	case c.frame != nil:
		op.Buf = c.frame[c.have:]
	case c.small >= smallFrames || c.small == 0:
		op.Flags = ring.Pick | ring.Multi
	default: // a large frame came lately: one buffer at a time, so that the next can go straight to its place
		op.Flags = ring.Pick
	}
	c.reading = true
	s.io.Submit(op)
}

// letGo is after rest has been taken: what it lay in goes, unless some of it is rest again.
func (c *Conn) letGo(in ring.Chunk) {
	switch {
	case in.ID != ownMemory:
		c.srv.drop(in)
	case c.rest == nil:
		c.srv.io.Pool().Put(in.Bytes)
	}
}

// wait puts the connection among those that Tick lets try again: when something
// has happened, but at the latest by the time at.
func (c *Conn) wait(at int64) {
	s := c.srv
	if c.pause.next == nil {
		s.hungry.push(&c.pause)
	}
	s.lookAt = min(s.lookAt, at)
}

// waitForMemory is wait for what somebody will give back.
func (c *Conn) waitForMemory() { c.wait(c.srv.io.Now() + hungryRetry) }

// waitForBuffer lets Tick try again when a receive buffer has gone back. To try
// earlier would be answered by a completion, and that by another try.
func (c *Conn) waitForBuffer() {
	s := c.srv
	if s.thirsty.empty() {
		s.thirstAt = s.io.Now() + hungryRetry
	}
	c.pause.unlink()
	s.thirsty.push(&c.pause)
}

// Complete takes what arrived.
func (d *recvDone) Complete(op *ring.Op) {
	c := (*Conn)(d)
	s := c.srv
	if !op.More {
		c.reading = false
		c.ending = false
	}
	if op.Result > 0 {
		s.Stats.BytesIn += uint64(op.Result)
	}
	switch picked := op.Flags&ring.Pick != 0; {
	case c.closed:
		if picked && op.Result > 0 {
			s.io.ReturnChunk(op.Chunk)
		}
	case op.Result > 0 && picked && c.rest != nil: // it came before a cancel took hold
		if !c.spill(op.Chunk.Bytes) {
			c.Fail("no memory for %d bytes that wait to be served", len(c.rest)+len(op.Chunk.Bytes))
		}
		s.io.ReturnChunk(op.Chunk)
	case op.Result > 0 && picked:
		chunk := op.Chunk
		s.hold(chunk)
		c.take(chunk.Bytes, chunk)
		s.drop(chunk)
	case op.Result > 0:
		c.have += int(op.Result)
		c.filled()
		c.moved()
	case op.Result == 0 && c.rest != nil: // the end is told again when that has been served
	case op.Result == -int32(syscall.ENOBUFS):
		c.waitForBuffer()
	case op.Result == -int32(syscall.ECANCELED):
	default:
		c.left()
	}
	if c.closed {
		c.finish()
		return
	}
	if !c.reading && c.pause.next == nil {
		c.read()
	}
}

// take cuts frames from data, which lies in a receive buffer or in memory of the pool.
func (c *Conn) take(data []byte, in ring.Chunk) {
	s := c.srv
	for len(data) > 0 && !c.closed {
		if c.frame != nil {
			n := copy(c.frame[c.have:], data)
			c.have += n
			s.Stats.Copied += uint64(n)
			data = data[n:]
			if !c.filled() {
				break
			}
			continue
		}
		if c.full() {
			c.wants = true
			break
		}
		if s.paused {
			c.wait(ring.Forever)
			break
		}
		if c.nprefix > 0 || len(data) < 4 {
			n := copy(c.prefix[c.nprefix:], data)
			c.nprefix += n
			data = data[n:]
			if c.nprefix < 4 {
				break
			}
		}
		prefix, body := c.prefix[:], data
		if c.nprefix == 0 {
			prefix, body = data[:4], data[4:]
		}
		size, ok := c.size(prefix)
		if !ok {
			break
		}
		if len(body) >= size && in.ID != ownMemory {
			c.nprefix = 0
			data = body[size:]
			c.serveIn(body[:size:size], in)
			continue
		}
		if !c.start(size) {
			break
		}
		c.nprefix = 0
		data = body
	}
	if !c.closed {
		c.keep(data, in)
		c.moved()
	}
}

// moved notes that the peer has sent something. While we send to it only its
// reading counts.
func (c *Conn) moved() {
	if !c.closed && !c.sending {
		c.srv.touch(c)
	}
}

// size reads a frame's size and closes the connection when nobody would send such a frame.
func (c *Conn) size(b []byte) (int, bool) {
	n := int(int32(binary.BigEndian.Uint32(b)))
	if n <= 0 || n > c.srv.cfg.FrameMax {
		c.srv.Stats.BadFrames++
		c.Fail("a frame of %d bytes (socket.request.max.bytes=%d)", n, c.srv.cfg.FrameMax)
		return 0, false
	}
	return n, true
}

// start gets memory for a frame that is not served in place. It says no when
// there is none.
func (c *Conn) start(size int) bool {
	b := c.grow(size, 0)
	if b == nil {
		return false
	}
	c.frame, c.have = b, 0
	binary.BigEndian.PutUint32(c.prefix[:], uint32(size)) // kept here until the frame is whole
	if c.reading && !c.ending && size > largeFrame {
		c.small = 1
		c.endMulti()
	}
	return true
}

// grow gets memory for a frame of size bytes of which have have come. These earn
// it more.
func (c *Conn) grow(size, have int) []byte {
	s := c.srv
	n := max(growFrame, 4*have)
	if p := s.io.Pool(); p.Used() > p.Size()/2 {
		n = max(growFrameShort, 2*have)
	}
	b := s.frameMemory(min(size, n))
	if b == nil {
		c.waitForMemory()
		return nil
	}
	return b[:min(size, cap(b))]
}

// filled looks whether the frame in hand is whole, and serves it. It says no
// when there is no memory to go on with.
func (c *Conn) filled() bool {
	if c.have < len(c.frame) {
		return true
	}
	s := c.srv
	size := int(binary.BigEndian.Uint32(c.prefix[:]))
	if c.have < size {
		b := c.grow(size, c.have)
		if b == nil {
			return false
		}
		s.Stats.Copied += uint64(copy(b, c.frame))
		s.io.Pool().Put(c.frame)
		c.frame = b
		return true
	}
	b := c.frame
	c.frame, c.have = nil, 0
	x := s.exchange(c)
	x.Frame, x.owned = b, b
	if size > largeFrame {
		c.small = 1
	}
	c.serve(x)
	return true
}

// serveIn serves a frame where it lies, in a receive buffer.
func (c *Conn) serveIn(frame []byte, in ring.Chunk) {
	s := c.srv
	x := s.exchange(c)
	x.Frame, x.chunk = frame, int32(in.ID)
	s.hold(in)
	if s.held > s.cfg.HeldMax {
		x.Own()
	}
	if c.small > 0 && c.small < smallFrames {
		c.small++
	}
	c.serve(x)
}

func (c *Conn) serve(x *Exchange) {
	c.srv.Stats.Frames++
	c.inFlight++
	if c.tail == nil {
		c.head = x
	} else {
		c.tail.next = x
	}
	c.tail = x
	c.srv.handler.Serve(x)
}

// keep holds on to bytes that cannot be served now; the connection stops reading.
func (c *Conn) keep(data []byte, in ring.Chunk) {
	if len(data) == 0 {
		return
	}
	s := c.srv
	c.rest, c.restIn = data, in
	if in.ID != ownMemory {
		s.hold(in)
		if s.held > s.cfg.HeldMax {
			c.spill(nil)
		}
	}
	if c.reading && !c.ending {
		c.endMulti()
	}
}

// endMulti disarms a receive that would go on by itself.
func (c *Conn) endMulti() {
	c.ending = true
	c.srv.io.Cancel(&c.recv)
}

// spill moves what waits to be served, and what came behind it, into memory of
// the pool. It says no when there is none.
func (c *Conn) spill(behind []byte) bool {
	s, n := c.srv, len(c.rest)+len(behind)
	s.Stats.Copied += uint64(len(behind))
	if c.restIn.ID == ownMemory && n <= cap(c.rest) {
		c.rest = append(c.rest, behind...)
		return true
	}
	b := s.io.Pool().Get(n)
	if b == nil {
		return false
	}
	s.Stats.Copied += uint64(copy(b, c.rest))
	copy(b[len(c.rest):], behind)
	c.dropRest()
	c.rest, c.restIn = b, ring.Chunk{ID: ownMemory, Bytes: b}
	return true
}

func (c *Conn) dropRest() {
	in := c.restIn
	c.rest, c.restIn = nil, ring.Chunk{}
	c.letGo(in)
}

// hold and drop count who looks into a receive buffer; the last one returns it.
func (s *Server) hold(chunk ring.Chunk) {
	if s.chunkRefs[chunk.ID]++; s.chunkRefs[chunk.ID] == 1 {
		s.held++
	}
}

func (s *Server) drop(chunk ring.Chunk) {
	switch s.chunkRefs[chunk.ID]--; {
	case s.chunkRefs[chunk.ID] == 0:
		s.held--
		s.returned = true
		s.io.ReturnChunk(chunk)
	case s.chunkRefs[chunk.ID] < 0:
		panic(fmt.Sprintf("BUG: netio: receive buffer %d dropped once too often", chunk.ID))
	}
}

// frameMemory gets memory for a request, or nil. A quarter of the pool is left
// for what requests need to end: their replies.
func (s *Server) frameMemory(n int) []byte {
	p := s.io.Pool()
	if block := 1 << bits.Len(uint(n-1)); p.Used()+block <= p.Size()/4*3 {
		if b := p.Get(n); b != nil {
			return b
		}
	}
	s.shortUntil = s.io.Now() + shortFor
	return nil
}

// Say puts a line in the log about what the peer did wrong, with its address: the first
// of a connection, and no more than a core may say (see saysAtOnce).
func (c *Conn) Say(format string, args ...any) {
	if c.told {
		return
	}
	c.told = true
	if s := c.srv; s.maySay() {
		s.cfg.Log("%v: "+format, append([]any{c.Peer}, args...)...)
	}
}

// Fail closes the connection because of what its peer did, and says so as Say does.
func (c *Conn) Fail(format string, args ...any) {
	if !c.closed {
		c.Say("closed: "+format, args...)
		c.close()
	}
}

// left closes a connection that its peer has closed or reset. Between frames, with
// nothing unsent, that is how connections end, and nobody needs to hear of it.
func (c *Conn) left() {
	switch {
	case c.unsent > 0:
		c.Say("left with %d bytes of replies unsent", c.unsentBytes())
	case c.frame != nil:
		c.Say("left inside a frame: %d of its %d bytes had come", c.have, binary.BigEndian.Uint32(c.prefix[:]))
	case c.nprefix > 0:
		c.Say("left inside a frame: %d bytes of its size had come", c.nprefix)
	}
	c.close()
}

// Close closes the connection; what is answered but unsent is lost.
func (c *Conn) Close() { c.close() }

// Closed says whether the connection has ended.
func (c *Conn) Closed() bool { return c.closed }

func (c *Conn) close() {
	if c.closed {
		return
	}
	c.closed = true
	s := c.srv
	c.life.unlink()
	c.pause.unlink()
	s.Stats.Closed++
	s.Stats.Open--
	s.cfg.Open.Add(-1)
	if c.rest != nil {
		c.dropRest()
	}
	s.handler.Closed(c)
	// What the kernel looks into stays until the ops have completed: see finish.
	s.io.Cancel(&c.recv)
	if c.ahead != nil {
		s.io.Cancel(&c.ahead.op)
	}
	s.io.Cancel(&c.send)
	c.finish()
}

// finish gives back what a closed connection held, once nothing of it is in the kernel.
func (c *Conn) finish() {
	if c.gone || c.reading || c.sending {
		return
	}
	c.gone = true
	s := c.srv
	if c.frame != nil {
		s.io.Pool().Put(c.frame)
		c.frame = nil
	}
	c.recv = ring.Op{Code: ring.Close, FD: c.fd, Done: ignore{}}
	s.io.Submit(&c.recv)
	c.advance()
}
