package netio

import (
	"encoding/binary"
	"syscall"

	"github.com/millrace/millrace/ring"
)

// Exchange is one request and its reply. It is used again for another request
// after its reply has been sent (or dropped): nobody may hold on to it then.
type Exchange struct {
	Conn  *Conn
	Frame []byte // the request, without its size; valid until the reply, or ReleaseFrame
	User  any    // the handler's; stays with the Exchange when it is used again

	owned []byte // Frame's memory, where it came from the pool
	chunk int32  // or the receive buffer it lies in

	state  state
	pieces []Piece // the reply
	memory int     // bytes of memory in pieces
	files  int     // ranges of files in pieces that have not been copied whole
	copied int     // bytes of memory in pieces that we have read from files
	head   []byte  // pool memory to be given back with it
	at     int     // pieces sent
	off    int     // bytes of pieces[at] sent
	sent   Sent
	next   *Exchange
}

type state uint8

const (
	working state = iota
	answered
)

const noChunk = -1

// Piece is a part of a reply: memory, or a range of a file. An empty one is skipped.
type Piece struct {
	Mem  []byte // off heap; or nil:
	File ring.FD
	Pos  int64
	Len  int64

	pooled bool // Mem is ours: see copyNext
}

func (p *Piece) size() int {
	if p.Mem != nil {
		return len(p.Mem)
	}
	return int(p.Len)
}

// vector is the pieces of one send. Only connections that send have one.
type vector struct {
	bufs [ring.IOVMax][]byte
	next *vector
}

// Sent is told when a reply has been sent, or never will be: what its pieces
// looked into may go. The kernel does not look at them any more.
type Sent interface{ Sent(x *Exchange) }

// ReleaseFrame gives the request's memory back before the reply.
func (x *Exchange) ReleaseFrame() {
	s := x.Conn.srv
	if x.owned != nil {
		s.io.Pool().Put(x.owned)
		x.owned = nil
	}
	if x.chunk >= 0 {
		s.drop(ring.Chunk{ID: uint16(x.chunk), Bytes: x.Frame})
		x.chunk = noChunk
	}
	x.Frame = nil
}

// Own moves the request into memory of its own, for a handler that will hold
// it for long: receive buffers are few and shared. When there is no memory it stays where it is.
func (x *Exchange) Own() {
	if x.owned != nil || x.Frame == nil {
		return
	}
	b := x.Conn.srv.frameMemory(len(x.Frame))
	if b == nil {
		return
	}
	x.Conn.srv.Stats.Copied += uint64(copy(b, x.Frame))
	x.ReleaseFrame()
	x.Frame, x.owned = b, b
}

// Pieces is an empty slice to build a reply in; it is used again.
func (x *Exchange) Pieces() []Piece { return x.pieces[:0] }

// Reply answers with pieces, in order; the first begins with the 4-byte size.
// head, where not nil, is pool memory of this core that goes back when all is
// sent; then sent is told, where not nil. Once per Exchange, on its core.
func (x *Exchange) Reply(pieces []Piece, head []byte, sent Sent) {
	if x.state != working {
		panic("BUG: netio: an exchange was answered twice")
	}
	x.state = answered
	x.pieces, x.head, x.sent, x.at, x.off, x.memory = pieces, head, sent, 0, 0, 0
	x.files, x.copied = 0, 0
	for i := range pieces {
		if x.memory += len(pieces[i].Mem); pieces[i].Mem == nil {
			x.files++
		}
	}
	x.Conn.unsent += x.memory
	x.Conn.srv.unsent += x.memory
	x.ReleaseFrame()
	x.Conn.advance()
}

// ReplyBytes answers with a copy of body, which begins with room for the size. For cold replies.
func (x *Exchange) ReplyBytes(body []byte) {
	binary.BigEndian.PutUint32(body, uint32(len(body)-4))
	b := x.Conn.srv.io.Pool().Get(len(body))
	if b == nil {
		x.Conn.Fail("no memory for a reply of %d bytes", len(body))
		x.Reply(x.Pieces(), nil, nil)
		return
	}
	copy(b, body)
	x.Reply(append(x.Pieces(), Piece{Mem: b}), b, nil)
}

// Silent ends an exchange that gets no reply (acks=0).
func (x *Exchange) Silent() { x.Reply(x.Pieces(), nil, nil) }

// advance sends what is answered at the head of the queue.
func (c *Conn) advance() {
	if c.sending || c.closed && !c.gone { // sendDone or finish comes back
		return
	}
	if c.gone {
		for c.head != nil && c.head.state == answered {
			c.pop()
		}
		return
	}
	c.strip()
	if c.sending || c.closed { // a Sent has answered more, or closed the connection
		return
	}
	if c.head != nil && c.head.state == answered {
		c.transmit()
	}
	c.more()
}

// transmit sends a range of a file, or all the memory up to the next one, or reads
// a range into memory first.
func (c *Conn) transmit() {
	s, op := c.srv, &c.send
	if c.copyNext() {
		c.sending = true
		s.touch(c)
		return
	}
	*op = ring.Op{FD: c.fd, Done: op.Done}
	if p := &c.head.pieces[c.head.at]; p.Mem == nil {
		op.Code, op.From, op.Off, op.Len = ring.SendFile, p.File, p.Pos+int64(c.head.off), p.Len-int64(c.head.off)
	} else {
		v := s.vectors
		if v == nil {
			v = new(vector)
		} else {
			s.vectors = v.next
		}
		n := c.gather(v)
		v.bufs[0] = v.bufs[0][c.head.off:]
		op.Code = ring.Send
		if n > 1 {
			op.Bufs, c.vector = v.bufs[:n], v
		} else {
			op.Buf = v.bufs[0]
			v.next, s.vectors = s.vectors, v
		}
	}
	c.sending = true
	s.touch(c)
	s.io.Submit(op)
}

// unsentBytes is what is answered and unsent.
func (c *Conn) unsentBytes() (n int) {
	for x := c.head; x != nil; x = x.next {
		if x.state == answered {
			for i := x.at; i < len(x.pieces); i++ {
				n += x.pieces[i].size()
			}
			n -= x.off
		}
	}
	return n
}

// gather lists the memory at the head of the queue, as far as it is answered.
func (c *Conn) gather(v *vector) int {
	n := 0
	for x := c.head; x != nil && x.state == answered; x = x.next {
		for i := x.at; i < len(x.pieces); i++ {
			p := &x.pieces[i]
			switch {
			case p.size() == 0:
				continue
			case p.Mem == nil || n == len(v.bufs):
				return n
			}
			v.bufs[n] = p.Mem
			n++
		}
	}
	return n
}

// more reads on after a bound was the reason not to.
func (c *Conn) more() {
	if c.wants && c.inFlight < c.srv.cfg.InFlight/2+1 && c.unsent <= unsentMax/2 {
		c.wants = false
		c.wait(0) // from Tick, not from inside a handler
	}
}

// Complete goes on after bytes were sent.
func (d *sendDone) Complete(op *ring.Op) {
	c := (*Conn)(d)
	s := c.srv
	if v := c.vector; v != nil {
		c.vector = nil
		v.next, s.vectors = s.vectors, v
	}
	if a := c.ahead; a != nil {
		c.ahead = nil
		if a.op.Result < 0 && op.Result == -int32(syscall.ECANCELED) && !c.closed {
			c.readAlone(a) // what makes no promise may fail
			return
		}
		if a.op.Result > 0 {
			s.Stats.ReadCold++
		}
		a.next, s.aheads = s.aheads, a
	}
	if op.Code == ring.Read && (c.closed || op.Result <= 0) {
		s.io.Pool().Put(op.Buf)
	}
	switch file := op.Code != ring.Send; {
	case c.closed:
	case op.Result > 0 && op.Code == ring.Read:
		c.copied(op)
	case op.Result > 0:
		s.Stats.BytesOut += uint64(op.Result)
		c.sent(int(op.Result))
	case file && op.Result == 0:
		c.told = false // it is we who did wrong
		c.Fail("a segment ended before the reply did")
	case file && !peerLeft(op.Result):
		c.told = false
		c.Fail("send from a segment: %v", op.Error())
	default:
		c.left()
	}
	c.sending = false
	if c.closed {
		c.finish()
		return
	}
	s.touch(c)
	c.advance()
}

func peerLeft(result int32) bool {
	switch syscall.Errno(-result) {
	case syscall.EPIPE, syscall.ECONNRESET, syscall.ETIMEDOUT, syscall.ECANCELED:
		return true
	}
	return false
}

// sent moves on by n bytes. Sending is not over for the connection yet, so that a
// Sent which answers more finds the queue whole.
func (c *Conn) sent(n int) {
	for n > 0 {
		c.strip()
		x := c.head
		size := x.pieces[x.at].size()
		step := min(n, size-x.off)
		x.off += step
		n -= step
		if x.off == size {
			x.uncopy(x.at)
			x.at, x.off = x.at+1, 0
		}
	}
}

// strip ends the exchanges at the head that have nothing (more) to send.
func (c *Conn) strip() {
	for c.head != nil && c.head.state == answered {
		x := c.head
		for x.at < len(x.pieces) && x.pieces[x.at].size() == 0 {
			x.at++
		}
		if x.at < len(x.pieces) {
			return
		}
		c.pop()
	}
}

// pop ends the exchange at the head.
func (c *Conn) pop() {
	x, s := c.head, c.srv
	for i := x.at; i < len(x.pieces) && x.copied > 0; i++ {
		x.uncopy(i)
	}
	if c.head = x.next; c.head == nil {
		c.tail = nil
	}
	c.inFlight--
	c.unsent -= x.memory
	s.unsent -= x.memory
	if x.head != nil {
		s.io.Pool().Put(x.head)
		x.head = nil
	}
	clear(x.pieces)
	x.pieces = x.pieces[:0]
	if x.sent != nil {
		sent := x.sent
		x.sent = nil
		sent.Sent(x)
	}
	x.Conn = nil
	x.next = s.free
	s.free = x
}
