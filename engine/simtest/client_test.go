package simtest

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/millrace/millrace/engine/wire"
	"github.com/millrace/millrace/ring"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// client is a client with a machine of its own.
type client struct {
	*machine
	name    string
	conn    *conn // nil: none
	stopped bool
	recvMax int           // bytes that one receive takes at most
	lag     time.Duration // between two receives: a slow reader
}

func (r *run) client(name string) *client {
	c := &client{machine: r.machine(name), name: name, recvMax: connBuffer}
	r.clients = append(r.clients, c)
	return c
}

// stop ends a client for good.
func (c *client) stop() {
	c.stopped = true
	if c.conn != nil {
		c.conn.end(errStopped)
	}
}

// below is a random number from 0 to n-1, of this client's.
func (c *client) below(n int) int { return int(c.io.Random() % uint64(n)) }

// think is the time between two pieces of work.
func (c *client) think() time.Duration {
	if c.below(40) == 0 {
		return 10 * c.run.pace
	}
	return time.Duration(c.below(int(2*c.run.pace)) + 1000)
}

// later calls f if the connection lasts until then.
func (c *client) later(d time.Duration, f func()) {
	n := c.conn
	c.after(d, func() {
		if n != nil && c.conn == n {
			f()
		}
	})
}

// version is a random version of an API, at least least.
func (c *client) version(key, least int16) int16 {
	a := &wire.APIs[key]
	least = max(least, a.Min)
	return least + int16(c.below(int(a.Max-least)+1))
}

const (
	connBuffer     = 16 << 10
	requestTimeout = 3 * time.Second
)

var (
	errStopped = errors.New("stopped")
	errTimeout = errors.New("no answer in time")
	errEnded   = errors.New("the broker closed the connection")
)

// conn is one connection to the broker, from dial to its end: requests in order,
// their answers in the same order.
type conn struct {
	c        *client
	fd       ring.FD
	up       bool
	ended    bool
	life     int  // of the broker
	deaf     bool // what comes is not looked at
	watching bool
	down     func(error)

	connect, recv, send ring.Op
	in                  []byte // received and not whole
	out                 []byte // to be sent
	from, to            []byte // what the kernel looks into
	waiting             []waiting
	correlation         int32
}

type waiting struct {
	key, version int16
	correlation  int32
	until        int64
	done         func(body []byte, err error)
}

// dial connects; up is told once, or down; and down once when an open one ends.
func (c *client) dial(up func(), down func(error)) {
	if c.stopped {
		return
	}
	addr := c.run.broker.addr()
	fd, err := c.host.Socket(addr)
	if err != nil {
		c.run.fail("%s: %v", c.name, err)
	}
	n := &conn{c: c, fd: fd, down: down, from: c.io.Pool().Get(connBuffer), to: c.io.Pool().Get(connBuffer)}
	if n.from == nil || n.to == nil {
		c.run.fail("%s: its pool is used up: a connection does not end", c.name)
	}
	c.conn = n
	n.connect = ring.Op{Code: ring.Connect, FD: fd, Addr: addr, Done: completer(func(op *ring.Op) {
		switch err := op.Error(); {
		case n.ended:
			n.free()
		case err != nil:
			n.end(err)
		default:
			n.up, n.life = true, c.run.broker.lives
			n.receive()
			up()
			n.push()
		}
	})}
	c.io.Submit(&n.connect)
}

// redial connects until it works.
func (c *client) redial(up func(), down func(error)) {
	c.dial(up, func(err error) {
		down(err)
		c.after(time.Duration(c.below(100)+1)*time.Millisecond, func() {
			if !c.stopped && c.conn == nil {
				c.redial(up, down)
			}
		})
	})
}

// completer is a function as a ring.Completer.
type completer func(op *ring.Op)

// Complete calls it.
func (f completer) Complete(op *ring.Op) { f(op) }

func (n *conn) receive() {
	n.recv = ring.Op{Code: ring.Recv, FD: n.fd, Buf: n.from[:min(n.c.recvMax, len(n.from))], Done: completer(func(op *ring.Op) {
		switch err := op.Error(); {
		case n.ended:
			n.free()
		case err != nil:
			n.end(err)
		case op.Result == 0:
			n.end(errEnded)
		default:
			if !n.deaf {
				n.in = append(n.in, op.Buf[:op.Result]...)
				n.cut()
			}
			if n.ended {
				n.free()
			} else if n.c.lag > 0 {
				n.c.after(n.c.lag, func() {
					if !n.ended {
						n.receive()
					}
				})
			} else {
				n.receive()
			}
		}
	})}
	n.c.io.Submit(&n.recv)
}

// cut takes whole answers from what has come.
func (n *conn) cut() {
	r := n.c.run
	for len(n.in) >= 4 && !n.ended {
		size := int(int32(binary.BigEndian.Uint32(n.in)))
		if size < 4 || size > 64<<20 {
			r.fail("%s: an answer of %d bytes", n.c.name, size)
		}
		if len(n.in) < 4+size {
			return
		}
		frame := n.in[4 : 4+size]
		n.in = n.in[4+size:]
		if len(n.waiting) == 0 {
			r.fail("%s: an answer to nothing: % x", n.c.name, frame[:min(len(frame), 64)])
		}
		w := n.waiting[0]
		n.waiting = n.waiting[1:]
		correlation, body, err := wire.ParseResponseHeader(frame, w.key, w.version)
		if err != nil || correlation != w.correlation {
			r.fail("%s: %s version %d: an answer to %d, want %d (%v)", n.c.name, wire.Name(w.key), w.version, correlation, w.correlation, err)
		}
		w.done(body, nil)
	}
}

// push sends what waits.
func (n *conn) push() {
	if n.send.Active || !n.up || n.ended || len(n.out) == 0 {
		return
	}
	size := copy(n.to, n.out)
	n.send = ring.Op{Code: ring.Send, FD: n.fd, Buf: n.to[:size], Done: completer(func(op *ring.Op) {
		switch err := op.Error(); {
		case n.ended:
			n.free()
		case err != nil:
			n.end(err)
		default:
			n.out = n.out[op.Result:]
			n.push()
		}
	})}
	n.c.io.Submit(&n.send)
}

// end ends the connection: nobody who waits gets an answer.
func (n *conn) end(err error) {
	if n.ended {
		return
	}
	n.ended = true
	n.c.conn = nil
	n.c.io.Cancel(&n.connect)
	n.c.io.Submit(&ring.Op{Code: ring.Close, FD: n.fd, Done: completer(func(*ring.Op) {})})
	n.free()
	waiting := n.waiting
	n.waiting = nil
	for _, w := range waiting {
		w.done(nil, err)
	}
	n.down(err)
}

// free gives the memory back once the kernel does not look into it any more.
func (n *conn) free() {
	if n.from == nil || n.connect.Active || n.recv.Active || n.send.Active {
		return
	}
	n.c.io.Pool().Put(n.from)
	n.c.io.Pool().Put(n.to)
	n.from, n.to = nil, nil
}

// raw sends a request with that body.
func (n *conn) raw(key, version int16, body []byte, done func(body []byte, err error)) {
	n.correlation++
	at := len(n.out)
	n.out = wire.AppendRequestHeader(n.out, key, version, n.correlation, n.c.name)
	n.out = append(n.out, body...)
	wire.PutSize(n.out[at:], 0)
	if done != nil {
		n.waiting = append(n.waiting, waiting{key, version, n.correlation, n.c.run.world.Now() + int64(requestTimeout), done})
		n.watch()
	}
	n.push()
}

// watch ends the connection when an answer does not come in time.
func (n *conn) watch() {
	if n.watching || len(n.waiting) == 0 {
		return
	}
	n.watching = true
	n.c.after(time.Duration(n.waiting[0].until-n.c.run.world.Now()), func() {
		n.watching = false
		switch {
		case n.ended || len(n.waiting) == 0:
		case n.waiting[0].until <= n.c.run.world.Now():
			n.end(errTimeout)
		default:
			n.watch()
		}
	})
}

// call sends a request and has its answer parsed. Without an answer done is told
// the error, and the response is nil.
func (n *conn) call(q kmsg.Request, done func(kmsg.Response, error)) {
	n.raw(q.Key(), q.GetVersion(), q.AppendTo(nil), func(body []byte, err error) {
		if err != nil {
			done(nil, err)
			return
		}
		a := q.ResponseKind()
		a.SetVersion(q.GetVersion())
		if err := a.ReadFrom(body); err != nil {
			n.c.run.fail("%s: %s version %d: the answer cannot be read: %v", n.c.name, wire.Name(q.Key()), q.GetVersion(), err)
		}
		done(a, nil)
	})
}

// failed ends the connection when an answer says that it is of no use to go on.
func (c *client) failed(err error) {
	if c.conn != nil {
		c.conn.end(err)
	}
}
