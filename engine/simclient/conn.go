package simclient

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"github.com/millrace/millrace/engine/wire"
	"github.com/millrace/millrace/ring"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// BufferBytes is what a connection sends, or receives, at once at most.
	BufferBytes = 16 << 10
	// RequestTimeout is how long a connection waits for an answer before it ends.
	RequestTimeout = 3 * time.Second

	answerMax = 64 << 20
)

// Why a connection ended, besides errors of the network.
var (
	ErrTimeout = errors.New("no answer in time")
	ErrEnded   = errors.New("the broker closed the connection")
)

// Config is what a connection is made with.
type Config struct {
	Addr     netip.AddrPort
	ClientID string
	RecvMax  int           // bytes that one receive takes at most; 0: BufferBytes
	Lag      time.Duration // between two receives: a slow reader
	// Up is told once the connection is there. Closed is told first when it ends, before who waits for an answer,
	// and Down last; a dial that fails ends likewise.
	Up     func()
	Closed func()
	Down   func(error)
	// Fail is told of what no broker may do: an answer to nothing, one that cannot be
	// read. It does not return.
	Fail func(format string, args ...any)
}

// Conn is one connection to a broker: requests in order, their answers in the same
// order.
type Conn struct {
	m        *Machine
	c        Config
	fd       ring.FD
	up       bool
	ended    bool
	watching bool

	// Deaf connections do not look at what comes.
	Deaf bool

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

// completer is a function as a ring.Completer.
type completer func(op *ring.Op)

// Complete calls it.
func (f completer) Complete(op *ring.Op) { f(op) }

// Dial begins to connect. Nothing is told before it returns.
func (m *Machine) Dial(c Config) *Conn {
	if c.RecvMax == 0 {
		c.RecvMax = BufferBytes
	}
	fd, err := m.Host.Socket(c.Addr)
	if err != nil {
		c.Fail("%s: %v", c.ClientID, err)
	}
	n := &Conn{m: m, c: c, fd: fd, from: m.IO.Pool().Get(BufferBytes), to: m.IO.Pool().Get(BufferBytes)}
	if n.from == nil || n.to == nil {
		c.Fail("%s: its pool is used up: a connection does not end", c.ClientID)
	}
	n.connect = ring.Op{Code: ring.Connect, FD: fd, Addr: c.Addr, Done: completer(func(op *ring.Op) {
		switch err := op.Error(); {
		case n.ended:
			n.free()
		case err != nil:
			n.End(err)
		default:
			n.up = true
			n.receive()
			c.Up()
			n.push()
		}
	})}
	m.IO.Submit(&n.connect)
	return n
}

func (n *Conn) receive() {
	n.recv = ring.Op{Code: ring.Recv, FD: n.fd, Buf: n.from[:min(n.c.RecvMax, len(n.from))], Done: completer(func(op *ring.Op) {
		switch err := op.Error(); {
		case n.ended:
			n.free()
		case err != nil:
			n.End(err)
		case op.Result == 0:
			n.End(ErrEnded)
		default:
			if !n.Deaf {
				n.in = append(n.in, op.Buf[:op.Result]...)
				n.cut()
			}
			if n.ended {
				n.free()
			} else if n.c.Lag > 0 {
				n.m.After(n.c.Lag, func() {
					if !n.ended {
						n.receive()
					}
				})
			} else {
				n.receive()
			}
		}
	})}
	n.m.IO.Submit(&n.recv)
}

// cut takes whole answers from what has come.
func (n *Conn) cut() {
	name := n.c.ClientID
	for len(n.in) >= 4 && !n.ended {
		size := int(int32(binary.BigEndian.Uint32(n.in)))
		if size < 4 || size > answerMax {
			n.c.Fail("%s: an answer of %d bytes", name, size)
		}
		if len(n.in) < 4+size {
			return
		}
		frame := n.in[4 : 4+size]
		n.in = n.in[4+size:]
		if len(n.waiting) == 0 {
			n.c.Fail("%s: an answer to nothing: % x", name, frame[:min(len(frame), 64)])
		}
		w := n.waiting[0]
		n.waiting = n.waiting[1:]
		correlation, body, err := wire.ParseResponseHeader(frame, w.key, w.version)
		if err != nil || correlation != w.correlation {
			n.c.Fail("%s: %s version %d: an answer to %d, want %d (%v)", name, wire.Name(w.key), w.version, correlation, w.correlation, err)
		}
		w.done(body, nil)
	}
}

// push sends what waits.
func (n *Conn) push() {
	if n.send.Active || !n.up || n.ended || len(n.out) == 0 {
		return
	}
	size := copy(n.to, n.out)
	n.send = ring.Op{Code: ring.Send, FD: n.fd, Buf: n.to[:size], Done: completer(func(op *ring.Op) {
		switch err := op.Error(); {
		case n.ended:
			n.free()
		case err != nil:
			n.End(err)
		default:
			n.out = n.out[op.Result:]
			n.push()
		}
	})}
	n.m.IO.Submit(&n.send)
}

// End ends the connection: nobody who waits gets an answer.
func (n *Conn) End(err error) {
	if n.ended {
		return
	}
	n.ended = true
	n.c.Closed()
	n.m.IO.Cancel(&n.connect)
	n.m.IO.Submit(&ring.Op{Code: ring.Close, FD: n.fd, Done: completer(func(*ring.Op) {})})
	n.free()
	waiting := n.waiting
	n.waiting = nil
	for _, w := range waiting {
		w.done(nil, err)
	}
	n.c.Down(err)
}

// free gives the memory back once the kernel does not look into it any more.
func (n *Conn) free() {
	if n.from == nil || n.connect.Active || n.recv.Active || n.send.Active {
		return
	}
	n.m.IO.Pool().Put(n.from)
	n.m.IO.Pool().Put(n.to)
	n.from, n.to = nil, nil
}

// Write sends bytes that need be no request.
func (n *Conn) Write(p []byte) {
	n.out = append(n.out, p...)
	n.push()
}

// Raw sends a request with that body. A nil done expects no answer.
func (n *Conn) Raw(key, version int16, body []byte, done func(body []byte, err error)) {
	n.correlation++
	at := len(n.out)
	n.out = wire.AppendRequestHeader(n.out, key, version, n.correlation, n.c.ClientID)
	n.out = append(n.out, body...)
	wire.PutSize(n.out[at:], 0)
	if done != nil {
		n.waiting = append(n.waiting, waiting{key, version, n.correlation, n.m.World.Now() + int64(RequestTimeout), done})
		n.watch()
	}
	n.push()
}

// watch ends the connection when an answer does not come in time.
func (n *Conn) watch() {
	if n.watching || len(n.waiting) == 0 {
		return
	}
	n.watching = true
	n.m.After(time.Duration(n.waiting[0].until-n.m.World.Now()), func() {
		n.watching = false
		switch {
		case n.ended || len(n.waiting) == 0:
		case n.waiting[0].until <= n.m.World.Now():
			n.End(ErrTimeout)
		default:
			n.watch()
		}
	})
}

// Call sends a request and has its answer parsed. Without an answer done is told
// the error, and the response is nil.
func (n *Conn) Call(q kmsg.Request, done func(kmsg.Response, error)) {
	n.Raw(q.Key(), q.GetVersion(), q.AppendTo(nil), func(body []byte, err error) {
		if err != nil {
			done(nil, err)
			return
		}
		a := q.ResponseKind()
		a.SetVersion(q.GetVersion())
		if err := a.ReadFrom(body); err != nil {
			n.c.Fail("%s: %s version %d: the answer cannot be read: %v", n.c.ClientID, wire.Name(q.Key()), q.GetVersion(), err)
		}
		done(a, nil)
	})
}
