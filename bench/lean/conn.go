package lean

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/millrace/millrace/engine/wire"
	"github.com/millrace/millrace/ring"
)

type connState uint8

const (
	idle connState = iota
	resolving
	connecting
	greeting // connected; what the broker speaks is asked
	ready
	ending // ops are in flight still: what the connection had goes back when they are over
)

// conn is the connection to one address, from dial to dial.
type conn struct {
	c       *Client
	address string
	state   connState
	wanted  bool  // some partition's leader is there
	dialAt  int64 // idle: not before
	backoff int64
	by      int64 // resolving to greeting: up by then
	fd      ring.FD

	// One op each: what asks again for the same is the same op.
	resolve, connect, recv, send, close ring.Op
	resolved                            netip.AddrPort

	produceVersion, metadataVersion, producerVersion int16

	correlation int32
	asks        []*request // to be written, before any produce request
	sending     *request
	flight      []*request // written, or being written as the last of them; answered in this order
	produces    int        // produce requests among them
	in          []byte     // the beginning of an answer
	waiting     []*partition
	mutedUntil  int64 // throttled by the broker
}

// What the kernel tells, by op.
type (
	resolveDone conn
	connectDone conn
	recvDone    conn
	sendDone    conn
	closeDone   conn
)

var errLeft = errors.New("the broker closed the connection")

// connTo is the connection to an address, dialled or not.
func (c *Client) connTo(address string) *conn {
	for _, n := range c.conns {
		if n.address == address {
			return n
		}
	}
	n := &conn{c: c, address: address, fd: ring.NoFD, backoff: int64(askAgain)}
	c.conns = append(c.conns, n)
	return n
}

// deadline is when tend has something to do.
func (n *conn) deadline() int64 {
	at := int64(ring.Forever)
	switch n.state {
	case idle:
		if n.wanted {
			at = n.dialAt
		}
	case resolving, connecting, greeting:
		at = n.by
	case ready:
		if len(n.flight) > 0 {
			at = n.flight[0].until
		}
		if len(n.waiting) > 0 && n.mutedUntil != 0 {
			at = min(at, n.mutedUntil)
		}
	}
	return at
}

func (n *conn) tend(now int64) {
	switch {
	case n.state == idle && n.wanted && now >= n.dialAt && n.c.ruined == nil:
		n.dial(now)
	case n.state == idle || n.state == ending:
	case n.state < ready && now >= n.by:
		n.end(fmt.Errorf("%s: no connection within %v", n.address, dialTimeout))
	case n.state == ready && len(n.flight) > 0 && now >= n.flight[0].until:
		n.end(fmt.Errorf("%s: no answer to %s within %v", n.address, wire.Name(n.flight[0].key), n.c.cfg.RequestTimeout))
	}
	if n.mutedUntil != 0 && now >= n.mutedUntil {
		n.mutedUntil = 0
	}
}

// dial begins to connect.
func (n *conn) dial(now int64) {
	n.state, n.by = resolving, now+int64(dialTimeout)
	if at, err := netip.ParseAddrPort(n.address); err == nil {
		n.open(at)
		return
	}
	n.resolve = ring.Op{Code: ring.Task, Done: (*resolveDone)(n), Func: func() error {
		a, err := net.ResolveTCPAddr("tcp", n.address)
		if err == nil {
			n.resolved = a.AddrPort()
		}
		return err
	}}
	n.c.io.Submit(&n.resolve)
}

// Complete takes the address of a name.
func (d *resolveDone) Complete(op *ring.Op) {
	n := (*conn)(d)
	switch {
	case n.state == ending:
		n.finish()
	case op.Error() != nil:
		n.end(fmt.Errorf("%s: %w", n.address, op.Error()))
	default:
		n.open(n.resolved)
	}
}

func (n *conn) open(at netip.AddrPort) {
	fd, err := n.c.io.Host().Socket(at)
	if err != nil {
		n.end(err)
		return
	}
	n.state, n.fd = connecting, fd
	n.connect = ring.Op{Code: ring.Connect, FD: fd, Addr: at, Done: (*connectDone)(n)}
	n.c.io.Submit(&n.connect)
}

// Complete takes the connection.
func (d *connectDone) Complete(op *ring.Op) {
	n := (*conn)(d)
	switch {
	case n.state == ending:
		n.finish()
	case op.Error() != nil:
		n.end(fmt.Errorf("connect to %s: %w", n.address, op.Error()))
	default:
		n.state = greeting
		n.receive()
		n.greet()
		n.push()
	}
}

// up is told once the broker has said what it speaks.
func (n *conn) up() {
	c := n.c
	n.state, n.backoff = ready, int64(askAgain)
	c.leaders.at = min(c.leaders.at, c.io.Now())
	now := c.io.Now()
	for i := range c.partitions {
		if p := &c.partitions[i]; p.conn == n {
			p.see(now)
			p.schedule()
		}
	}
}

// push writes the next request, if one may be written.
func (n *conn) push() {
	if n.sending != nil || n.state != greeting && n.state != ready {
		return
	}
	if len(n.asks) > 0 {
		r := n.asks[0]
		n.asks = slices.Delete(n.asks, 0, 1)
		n.write(r)
		return
	}
	if n.state != ready || n.mutedUntil != 0 || len(n.waiting) == 0 || n.produces >= inFlightMax {
		return
	}
	if r := n.produce(); r != nil {
		n.produces++
		n.write(r)
	}
}

func (n *conn) write(r *request) {
	n.sending = r
	r.until = n.c.io.Now() + int64(n.c.cfg.RequestTimeout)
	n.flight = append(n.flight, r)
	n.submit(r)
}

// submit writes what has not been written of a request.
func (n *conn) submit(r *request) {
	n.send = ring.Op{Code: ring.Send, FD: n.fd, Bufs: r.bufs[r.at:r.count], Done: (*sendDone)(n)}
	n.c.io.Submit(&n.send)
}

// Complete takes how much was written.
func (d *sendDone) Complete(op *ring.Op) {
	n := (*conn)(d)
	r := n.sending
	switch {
	case n.state == ending:
		n.finish()
		return
	case op.Result < 0:
		n.end(fmt.Errorf("write to %s: %w", n.address, op.Error()))
		return
	}
	for left := int(op.Result); left > 0; {
		m := min(left, len(r.bufs[r.at]))
		r.bufs[r.at] = r.bufs[r.at][m:]
		if left -= m; len(r.bufs[r.at]) == 0 {
			r.at++
		}
	}
	if r.at < r.count {
		n.submit(r)
		return
	}
	n.sending = nil
	switch err := n.written(r); {
	case err != nil:
		n.end(fmt.Errorf("%s: %w", n.address, err))
	default:
		n.push()
	}
}

// written goes on with a request that has left.
func (n *conn) written(r *request) error {
	c := n.c
	if r.then == nil {
		now := c.io.Stamp()
		c.wrote(r, now)
		if c.cfg.Acks == 0 { // that is all
			n.flight = slices.DeleteFunc(n.flight, func(q *request) bool { return q == r })
			n.produces--
			for i, b := range r.batches {
				r.batches[i] = nil
				b.partition.settle(b, 0, nil, now)
			}
			c.putRequest(r)
			return nil
		}
	}
	if r.hasEarly {
		n.flight = n.flight[:len(n.flight)-1]
		return n.answered(r, r.early)
	}
	return nil
}

func (n *conn) receive() {
	n.recv = ring.Op{Code: ring.Recv, Flags: ring.Multi | ring.Pick, FD: n.fd, Done: (*recvDone)(n)}
	n.c.io.Submit(&n.recv)
}

// Complete takes what came.
func (d *recvDone) Complete(op *ring.Op) {
	n := (*conn)(d)
	if op.Result > 0 {
		if n.state != ending {
			if err := n.arrived(op.Chunk.Bytes); err != nil {
				n.end(fmt.Errorf("%s: %w", n.address, err))
			}
		}
		n.c.io.ReturnChunk(op.Chunk)
	}
	switch {
	case op.More:
	case n.state == ending:
		n.finish()
	case n.state == idle: // that was the last op of its end
	case op.Result > 0, op.Result == -int32(syscall.ENOBUFS), op.Result == -int32(syscall.ECANCELED): // the ring stopped it
		n.receive()
	case op.Result == 0:
		n.end(fmt.Errorf("%s: %w", n.address, errLeft))
	default:
		n.end(fmt.Errorf("read from %s: %w", n.address, op.Error()))
	}
}

// arrived cuts answers from what came, and keeps the rest.
func (n *conn) arrived(data []byte) error {
	if len(n.in) > 0 {
		n.in = append(n.in, data...)
		rest, err := n.cut(n.in)
		n.in = n.in[:copy(n.in, rest)]
		return err
	}
	rest, err := n.cut(data)
	n.in = append(n.in, rest...)
	return err
}

func (n *conn) cut(data []byte) (rest []byte, err error) {
	for len(data) >= wire.SizePrefix && n.state != ending {
		size := int(int32(binary.BigEndian.Uint32(data)))
		if size < 4 || size > answerMax {
			return nil, fmt.Errorf("an answer of %d bytes", size)
		}
		if len(data) < wire.SizePrefix+size {
			break
		}
		if err := n.answer(data[wire.SizePrefix : wire.SizePrefix+size]); err != nil {
			return nil, err
		}
		data = data[wire.SizePrefix+size:]
	}
	return data, nil
}

// answer matches an answer with the oldest request. Kafka answers in order: another correlation id is damage, and nothing that comes
// after it can be trusted.
func (n *conn) answer(frame []byte) error {
	if len(n.flight) == 0 {
		return errors.New("an answer to nothing")
	}
	r := n.flight[0]
	correlation, body, err := wire.ParseResponseHeader(frame, r.key, r.version)
	if err == nil && correlation != r.correlation {
		err = fmt.Errorf("an answer to request %d before that to %d", correlation, r.correlation)
	}
	if err != nil {
		return err
	}
	if r == n.sending { // the kernel has yet to say that it is written: until then its memory is the kernel's
		if r.hasEarly {
			return fmt.Errorf("two answers to request %d", correlation)
		}
		r.early, r.hasEarly = append(r.early[:0], body...), true
		return nil
	}
	n.flight = n.flight[:copy(n.flight, n.flight[1:])]
	if err := n.answered(r, body); err != nil {
		return err
	}
	n.push()
	return nil
}

func (n *conn) answered(r *request, body []byte) error {
	if r.then == nil {
		return n.acknowledged(r, body)
	}
	r.then(body)
	n.c.putRequest(r)
	return nil
}

// forget takes a partition out of those that wait.
func (n *conn) forget(p *partition) {
	n.waiting = slices.DeleteFunc(n.waiting, func(q *partition) bool { return q == p })
	p.waits = false
}

// end ends the connection: what it had goes back in finish, once the kernel looks into none of it any more.
func (n *conn) end(err error) {
	if n.state == idle {
		n.wanted = false
	}
	if n.state == idle || n.state == ending {
		return
	}
	if n.c.ruined == nil {
		n.c.leaders.last = err
	}
	n.state = ending
	n.c.io.Cancel(&n.connect)
	if n.fd != ring.NoFD {
		n.close = ring.Op{Code: ring.Close, FD: n.fd, Done: (*closeDone)(n)}
		n.c.io.Submit(&n.close)
		n.fd = ring.NoFD
	}
	n.finish()
}

// Complete goes on with the end.
func (d *closeDone) Complete(*ring.Op) { (*conn)(d).finish() }

// finish gives back what the connection had, and makes it ready to be dialled again.
func (n *conn) finish() {
	if n.state != ending || n.resolve.Active || n.connect.Active || n.recv.Active || n.send.Active || n.close.Active {
		return
	}
	c := n.c
	now := c.io.Now()
	flight := n.flight
	n.state, n.sending, n.flight, n.produces, n.in, n.mutedUntil, n.wanted = idle, nil, nil, 0, nil, 0, false
	n.dialAt, n.by = now+n.backoff, 0
	n.backoff = min(2*n.backoff, int64(dialAgainMax))
	for _, r := range append(flight, n.asks...) {
		for _, b := range r.batches {
			if b != nil {
				b.partition.back(b)
			}
		}
		c.putRequest(r)
	}
	n.asks = nil
	for i := range c.partitions {
		if p := &c.partitions[i]; p.conn == n {
			p.leave(now)
			p.resume()
		}
	}
	c.leaders.lost(n)
	c.leaders.want(now + int64(askAgain))
}
