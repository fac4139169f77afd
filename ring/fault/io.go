package fault

import (
	"fmt"
	"slices"
	"syscall"

	"github.com/millrace/millrace/ring"
)

// IO is a ring.IO whose ops fail by rule. Over ring/sim a driver steps its loop
// when the IO that it wraps is due.
type IO struct {
	ring.IO
	host  *Host
	rules *Rules

	live    []*proxy // every op of a chain that a rule has fired for, until it completes
	ready   []*proxy // completed by us, to be delivered by Wait
	spare   []*proxy // the other half of a double buffer
	held    []*proxy // delayed
	effects []effect // of the chain that is being submitted
}

var _ ring.IO = (*IO)(nil)

// Wrap wraps one core's ring. Rules are those of its machine.
func Wrap(io ring.IO, rules *Rules) *IO {
	return &IO{IO: io, host: WrapHost(io.Host(), rules), rules: rules}
}

// proxy stands between an op that a rule has fired for, or that is in a chain
// with one, and the ring: the ring sees the proxy's op instead.
type proxy struct {
	ring.Op
	io     *IO
	user   *ring.Op
	next   *proxy
	effect effect
	state  proxyState
	due    int64 // held: until then
	cancel bool
}

type proxyState uint8

const (
	queued  proxyState = iota // behind another in its chain
	held                      // delayed
	running                   // in the ring
	ready                     // its result is known
)

// Host is the machine, with the same rules.
func (io *IO) Host() ring.Host { return io.host }

// Submit queues op and those that follow it.
func (io *IO) Submit(op *ring.Op) {
	if !io.rules.some.Load() {
		io.pass(op)
		return
	}
	for o := op; o != nil; o = o.Next {
		if o.Active || o.Done == nil {
			panic(fmt.Sprintf("BUG: fault: submit of %v of fd %d: active %v, Done %v", o.Code, o.FD, o.Active, o.Done))
		}
	}
	io.effects = io.effects[:0]
	any := false
	for o := op; o != nil; o = o.Next {
		fd, size := o.FD, int64(o.Size())
		switch o.Code {
		case ring.SendFile:
			fd, size = o.From, o.Len
		case ring.Allocate, ring.Prefetch, ring.Forget:
			size = o.Len
		case ring.Nop, ring.Task:
			fd = ring.NoFD
		}
		e, _, fires := io.rules.decideFD(verbOf(o.Code), size, fd)
		any = any || fires
		io.effects = append(io.effects, e)
	}
	if !any {
		io.pass(op)
		return
	}
	var head, last *proxy
	for i, o := 0, op; o != nil; i, o = i+1, o.Next {
		p := &proxy{io: io, user: o, effect: io.effects[i]}
		o.Active, o.Result, o.More, o.Chunk, o.Err = true, 0, false, ring.Chunk{}, nil
		io.live = append(io.live, p)
		if head == nil {
			head = p
		} else {
			last.next = p
		}
		last = p
	}
	head.start()
}

// pass lets the ring have the op itself.
func (io *IO) pass(op *ring.Op) {
	if op.Code == ring.Close {
		io.rules.closed(op.FD)
	}
	io.IO.Submit(op)
}

// Cancel asks that op end early.
func (io *IO) Cancel(op *ring.Op) {
	if i := slices.IndexFunc(io.live, func(p *proxy) bool { return p.user == op }); i >= 0 {
		io.live[i].stop()
		return
	}
	io.IO.Cancel(op)
}

func (p *proxy) stop() {
	switch p.cancel = true; p.state {
	case held:
		p.io.held = slices.DeleteFunc(p.io.held, func(h *proxy) bool { return h == p })
		p.finish(-int32(syscall.ECANCELED))
	case running:
		p.io.IO.Cancel(&p.Op)
	case queued, ready: // seen when its turn comes, or too late
	}
}

// start begins an op whose turn has come, or delays it.
func (p *proxy) start() {
	io, e := p.io, &p.effect
	switch {
	case p.cancel:
		p.finish(-int32(syscall.ECANCELED))
	case e.delay > 0:
		p.due = io.IO.Stamp() + int64(e.delay)
		p.state, e.delay = held, 0
		io.held = append(io.held, p)
	case e.errno != 0:
		p.finish(-int32(e.errno))
	case e.lie:
		p.finish(int32(p.user.Size()))
	case e.short == 0 || e.torn != -1 && e.tornBytes(int64(p.user.Size())) == 0:
		p.finish(p.result(0))
	default:
		p.run()
	}
}

// run hands the ring a copy of the op, as short as the rule makes it.
func (p *proxy) run() {
	u := p.user
	p.Op = ring.Op{Code: u.Code, Flags: u.Flags, FD: u.FD, From: u.From, Buf: u.Buf, Bufs: u.Bufs,
		Off: u.Off, Len: u.Len, Addr: u.Addr, Func: u.Func, Done: p}
	if p.effect.loose {
		p.Flags &^= ring.DSync
	}
	limit := p.effect.short
	if p.effect.torn != -1 {
		limit = p.effect.tornBytes(int64(u.Size()))
	}
	if limit >= 0 {
		p.Buf = u.Buf[:min(int64(len(u.Buf)), limit)]
		p.Bufs = cut(u.Bufs, limit)
		if u.Code == ring.SendFile {
			p.Len = min(u.Len, limit)
		}
	}
	p.state = running
	p.io.pass(&p.Op)
}

// cut returns the first n bytes of bufs.
func cut(bufs [][]byte, n int64) [][]byte {
	var part [][]byte
	for _, b := range bufs {
		b = b[:min(int64(len(b)), n)]
		n -= int64(len(b))
		part = append(part, b)
	}
	return part
}

// result is what the owner is told when the ring says n.
func (p *proxy) result(n int32) int32 {
	if n >= 0 && p.effect.torn != -1 {
		return -int32(syscall.EIO)
	}
	return n
}

// finish notes a result that did not come from the ring: Wait will deliver it.
func (p *proxy) finish(n int32) {
	p.state = ready
	p.user.Result = n
	p.io.ready = append(p.io.ready, p)
}

// Complete is told by the ring, inside its Wait.
func (p *proxy) Complete(op *ring.Op) {
	u := p.user
	u.Result, u.More, u.Chunk, u.Err = p.result(op.Result), op.More, op.Chunk, op.Err
	p.tell()
}

// tell goes on in the chain and tells the owner.
func (p *proxy) tell() {
	u := p.user
	if !u.More {
		u.Active = false
		p.io.live = slices.DeleteFunc(p.io.live, func(l *proxy) bool { return l == p })
		if next := p.next; next != nil {
			whole := u.Result >= 0
			switch u.Code {
			case ring.Read, ring.Write, ring.Send:
				whole = int(u.Result) == u.Size()
			case ring.SendFile:
				whole = int64(u.Result) == u.Len
			}
			next.cancel = next.cancel || !whole
			next.start()
		}
	}
	u.Done.Complete(u)
}

// Wait hands queued ops to the kernel, then delivers completions.
func (io *IO) Wait(until int64) int {
	if len(io.held) > 0 {
		now := io.IO.Stamp()
		for i := 0; i < len(io.held); {
			if p := io.held[i]; p.due <= now {
				io.held = slices.Delete(io.held, i, i+1)
				p.start()
			} else {
				i++
			}
		}
	}
	until = min(until, io.due())
	n := io.IO.Wait(until)
	batch := io.ready
	io.ready = io.spare[:0]
	for _, p := range batch {
		p.tell()
	}
	n += len(batch)
	clear(batch)
	io.spare = batch[:0]
	if io.due() < until { // asked for by a Complete: the ring has to come back for it
		io.IO.Wake()
	}
	return n
}

// due is when we have something to do: 0 for at once.
func (io *IO) due() int64 {
	if len(io.ready) > 0 {
		return 0
	}
	at := int64(ring.Forever)
	for _, p := range io.held {
		at = min(at, p.due)
	}
	return at
}
