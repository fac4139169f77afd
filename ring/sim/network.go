package sim

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/ring"
)

type addrPort = netip.AddrPort

// A segment, or a Connect, that is not answered is sent again after retryMin,
// then after twice that, and so on up to retryMax.
const (
	retryMin = 200 * time.Millisecond
	retryMax = 2 * time.Second
)

// listener is a listening socket.
type listener struct {
	host     *Host
	addr     addrPort
	accepts  []*flight
	backlog  []*endpoint // connected, not accepted
	acceptAt int64
	closed   bool
}

// pump gives connections to who accepts them.
func (l *listener) pump() {
	for len(l.accepts) > 0 && len(l.backlog) > 0 {
		e := l.backlog[0]
		l.backlog = slices.Delete(l.backlog, 0, 1)
		fd := l.host.install(&descriptor{socket: true, end: e})
		told(&l.accepts, &l.acceptAt, result{n: int32(fd), more: l.accepts[0].op.Flags&ring.Multi != 0})
	}
}

func (l *listener) close() {
	l.closed = true
	for len(l.accepts) > 0 {
		told(&l.accepts, &l.acceptAt, result{n: -int32(syscall.ECANCELED)})
	}
	for _, e := range l.backlog {
		e.refuse()
	}
	l.backlog = nil
	if i := slices.Index(l.host.listeners, l); i >= 0 {
		l.host.listeners = slices.Delete(l.host.listeners, i, i+1)
	}
}

// takes says whether the listener is there for connections to addr.
func (l *listener) takes(addr addrPort) bool {
	return l.addr.Port() == addr.Port() && (l.addr.Addr().IsUnspecified() || l.addr.Addr() == addr.Addr())
}

// Listen opens a listener. The address may be the host's name, its IP, loopback,
// or nothing. See ring.Host.
func (h *Host) Listen(addr string, exclusive bool) (ring.FD, netip.AddrPort, error) {
	none := netip.AddrPort{}
	if h.down {
		return ring.NoFD, none, fmt.Errorf("listen %s: %w", addr, ErrCrashed)
	}
	at, err := h.parse(addr)
	if err != nil {
		return ring.NoFD, none, fmt.Errorf("listen %s: %w", addr, err)
	}
	if ip := at.Addr(); !ip.IsUnspecified() && !ip.IsLoopback() && ip != h.addr {
		return ring.NoFD, none, fmt.Errorf("listen %s: %w", addr, syscall.EADDRNOTAVAIL)
	}
	if at.Port() == 0 {
		at = netip.AddrPortFrom(at.Addr(), h.freePort())
	}
	for _, l := range h.listeners {
		if exclusive && (l.takes(at) || at.Port() == l.addr.Port() && at.Addr().IsUnspecified()) {
			return ring.NoFD, none, fmt.Errorf("listen %s: %w", addr, syscall.EADDRINUSE)
		}
	}
	l := &listener{host: h, addr: at}
	h.listeners = append(h.listeners, l)
	return h.install(&descriptor{listener: l}), at, nil
}

func (h *Host) parse(addr string) (netip.AddrPort, error) {
	i := strings.LastIndexByte(addr, ':')
	if i < 0 {
		return netip.AddrPort{}, errors.New("there is no port")
	}
	port, err := strconv.ParseUint(addr[i+1:], 10, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	ip := netip.IPv4Unspecified()
	switch name := strings.Trim(addr[:i], "[]"); name {
	case "":
	case "localhost":
		ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case h.name:
		ip = h.addr
	default:
		if ip, err = netip.ParseAddr(name); err != nil {
			return netip.AddrPort{}, err
		}
	}
	return netip.AddrPortFrom(ip, uint16(port)), nil
}

// freePort is a port that nobody listens on.
func (h *Host) freePort() uint16 {
	for {
		if h.lastPort++; h.lastPort < ephemeralPorts {
			h.lastPort = ephemeralPorts
		}
		if !slices.ContainsFunc(h.listeners, func(l *listener) bool { return l.addr.Port() == h.lastPort }) {
			return h.lastPort
		}
	}
}

// Socket makes a socket. See ring.Host.
func (h *Host) Socket(addr netip.AddrPort) (ring.FD, error) {
	if h.down {
		return ring.NoFD, fmt.Errorf("socket to %s: %w", addr, ErrCrashed)
	}
	if !addr.IsValid() {
		return ring.NoFD, fmt.Errorf("socket to %s: %w", addr, syscall.EAFNOSUPPORT)
	}
	return h.install(&descriptor{socket: true}), nil
}

// Peer is the other end's address. See ring.Host.
func (h *Host) Peer(fd ring.FD) (netip.AddrPort, error) {
	d := h.descriptor(fd)
	switch {
	case h.down:
		return netip.AddrPort{}, fmt.Errorf("peer of fd %d: %w", fd, ErrCrashed)
	case d == nil:
		return netip.AddrPort{}, fmt.Errorf("peer of fd %d: %w", fd, syscall.EBADF)
	case d.end == nil:
		return netip.AddrPort{}, fmt.Errorf("peer of fd %d: %w", fd, syscall.ENOTCONN)
	}
	return d.end.remote, nil
}

func (f *flight) startConnect() {
	w, d := f.io.host.world, f.desc
	switch {
	case !d.socket:
		f.fail(syscall.EINVAL)
	case d.end != nil:
		f.fail(syscall.EISCONN)
	case d.connect != nil:
		f.fail(syscall.EALREADY)
	case !f.op.Addr.IsValid():
		f.fail(syscall.EAFNOSUPPORT)
	default:
		f.state, f.since, d.connect = stateConnect, w.now, f
		w.schedule(w.now+w.latency(f.io.host, w.at(f.io.host, f.op.Addr.Addr())), f, flightConnect)
	}
}

// at is the host that has an address, as seen from h; nil: none.
func (w *World) at(h *Host, ip netip.Addr) *Host {
	if ip.IsLoopback() || ip.IsUnspecified() {
		return h
	}
	for _, other := range w.hosts {
		if other.addr == ip {
			return other
		}
	}
	return nil
}

func (w *World) latency(a, b *Host) int64 {
	if a == b {
		return w.draw(w.Config.Loopback)
	}
	return w.draw(w.Config.Net)
}

// reach is the moment at which a Connect gets to the other host, or does not.
func (f *flight) reach() {
	h, d := f.io.host, f.desc
	w := h.world
	if f.cancelled || d.closed {
		d.connect = nil
		f.fail(syscall.ECANCELED)
		return
	}
	to := w.at(h, f.op.Addr.Addr())
	var taking []*listener
	if to != nil {
		for _, l := range to.listeners {
			if l.takes(f.op.Addr) {
				taking = append(taking, l)
			}
		}
	}
	var l *listener
	if len(taking) > 0 {
		l = taking[w.random.below(int64(len(taking)))]
	}
	switch {
	case to == nil || to.powerless || w.cuts[[2]int{h.id, to.id}] || w.cuts[[2]int{to.id, h.id}] ||
		l != nil && len(l.backlog) >= w.Config.Backlog:
		waited := w.now - f.since
		if waited >= int64(w.Config.ConnectTimeout) {
			d.connect = nil
			f.fail(syscall.ETIMEDOUT)
			return
		}
		w.schedule(w.now+min(max(waited, int64(retryMin)), int64(retryMax)), f, flightConnect)
	case l == nil:
		d.connect = nil
		f.state = stateDone
		f.post(result{n: -int32(syscall.ECONNREFUSED)}, w.now+w.latency(to, h))
	default:
		d.connect = nil
		f.state = stateDone
		known := w.now + w.latency(to, h)
		d.end = w.join(h, l, f.op.Addr, known)
		l.pump()
		f.post(result{}, known)
	}
}

// join makes a connection from h to a listener. The client knows of it at known.
func (w *World) join(h *Host, l *listener, addr addrPort, known int64) *endpoint {
	ip := h.addr
	if addr.Addr().IsLoopback() {
		ip = addr.Addr()
	}
	client := &endpoint{host: h, local: netip.AddrPortFrom(ip, h.freePort()), remote: addr}
	server := &endpoint{host: l.host, local: addr, remote: client.local, peer: client}
	client.peer = server
	span := int64(max(0, w.Config.NetBufferMax-w.Config.NetBufferMin)) + 1
	client.out = &pipe{from: client, to: server, capacity: w.Config.NetBufferMin + int(w.random.below(span))}
	server.out = &pipe{from: server, to: client, capacity: w.Config.NetBufferMin + int(w.random.below(span)), lastAt: known}
	client.in, server.in = server.out, client.out
	l.backlog = append(l.backlog, server)
	w.note("connect", h.id, int64(client.local.Port()), int64(addr.Port()), 0)
	return client
}

// segment is what travels: bytes, the end, or a reset.
type segment struct {
	at   int64
	kind uint8
	data []byte
}

const (
	segmentData = iota
	segmentEnd
	segmentReset
)

// pipe is one direction of a connection: bounded, in order.
type pipe struct {
	from, to *endpoint
	capacity int
	segments []segment
	inFlight int    // bytes of segments
	arrived  []byte // not yet received by an op
	lastAt   int64
	moving   bool  // an event for the first segment is scheduled
	opening  bool  // an event that tells the sender of room is scheduled
	silent   bool  // nothing arrives any more, and nobody is told
	ended    bool  // the end has arrived
	stuck    int64 // since when the first segment has been sent in vain
}

// What an event of a pipe is.
const (
	pipeSegment = iota
	pipeRoom
)

func (p *pipe) room() int { return max(0, p.capacity-p.inFlight-len(p.arrived)) }

// send cuts data into segments as it pleases.
func (p *pipe) send(data []byte) {
	w := p.from.host.world
	for len(data) > 0 {
		n := len(data)
		if n > 1 && w.happens(w.Config.SplitOneIn) {
			n = 1 + int(w.random.below(int64(n-1)))
		}
		p.push(segment{data: data[:n]})
		data = data[n:]
	}
}

func (p *pipe) push(s segment) {
	w := p.from.host.world
	p.lastAt = max(p.lastAt+1, w.now+w.latency(p.from.host, p.to.host))
	s.at = p.lastAt
	p.inFlight += len(s.data)
	p.segments = append(p.segments, s)
	p.move()
}

// move schedules the arrival of the first segment.
func (p *pipe) move() {
	if !p.moving && len(p.segments) > 0 {
		p.moving = true
		p.from.host.world.schedule(p.segments[0].at, p, pipeSegment)
	}
}

func (p *pipe) drop() {
	p.segments, p.inFlight = nil, 0
}

// take moves what has arrived into b.
func (p *pipe) take(b []byte) int {
	n := copy(b, p.arrived)
	p.arrived = p.arrived[n:]
	if len(p.arrived) == 0 {
		p.arrived = nil
	}
	if !p.opening && len(p.from.sends) > 0 {
		w := p.from.host.world
		p.opening = true
		w.schedule(w.now+w.latency(p.to.host, p.from.host), p, pipeRoom)
	}
	return n
}

func (p *pipe) fire(kind int) {
	if kind == pipeRoom {
		p.tellRoom()
		return
	}
	p.moving = false
	if len(p.segments) == 0 {
		return
	}
	w := p.from.host.world
	if p.silent || w.cuts[[2]int{p.from.host.id, p.to.host.id}] {
		p.stall()
		return
	}
	p.stuck = 0
	s := p.segments[0]
	p.segments = slices.Delete(p.segments, 0, 1)
	p.inFlight -= len(s.data)
	p.deliver(s)
	p.move()
}

func (p *pipe) tellRoom() {
	w := p.from.host.world
	if p.silent || p.from.broken || p.from.closed {
		return
	}
	if w.cuts[[2]int{p.to.host.id, p.from.host.id}] {
		w.schedule(w.now+int64(retryMax), p, pipeRoom)
		return
	}
	p.opening = false
	p.from.pumpSend()
}

// stall sends the first segment again later, or gives the connection up.
func (p *pipe) stall() {
	w := p.from.host.world
	if p.stuck == 0 {
		p.stuck = w.now
	}
	waited := w.now - p.stuck
	switch {
	case p.from.lost: // nobody is there to send it again
		p.drop()
	case waited >= int64(w.Config.SendTimeout):
		p.drop()
		p.from.reset(syscall.ETIMEDOUT)
	default:
		p.moving = true
		w.schedule(w.now+min(max(waited, int64(retryMin)), int64(retryMax)), p, pipeSegment)
	}
}

func (p *pipe) deliver(s segment) {
	w, e := p.to.host.world, p.to
	w.note("arrive", e.host.id, int64(e.local.Port())<<16|int64(e.remote.Port()), int64(s.kind)<<32|int64(len(s.data)), checksum(s.data))
	switch {
	case e.lost || e.broken:
	case s.kind == segmentReset:
		e.reset(econnreset)
	case s.kind == segmentEnd:
		p.ended = true
		e.pumpRecv()
	case e.closed || e.shut: // nobody will read it
		p.drop()
		e.broken = true
		e.out.push(segment{kind: segmentReset})
	default:
		p.arrived = append(p.arrived, s.data...)
		e.pumpRecv()
	}
}
