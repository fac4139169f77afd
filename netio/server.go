package netio

import (
	"sync/atomic"
	"syscall"

	"github.com/millrace/millrace/ring"
)

// Config of a server.
type Config struct {
	FrameMax int   // socket.request.max.bytes: the largest frame, bytes
	InFlight int   // exchanges in the works per connection; the bound of its queue
	IdleMax  int64 // connections.max.idle.ms in ns; 0: never close for silence
	ConnMax  int64 // max.connections over all cores; 0: no bound
	// HeldMax is how many receive buffers may be held by requests in the works, or
	// that wait to be served; beyond it they are moved to memory of the pool. Some
	// half of the ring's. 0: 512.
	HeldMax int
	// UnsentMax is how much memory all unsent replies may hold before connections
	// that do not take theirs are closed, bytes. 0: a sixteenth of the core's pool.
	UnsentMax int
	// Open counts connections over all cores. Shared by the servers of a broker.
	Open *atomic.Int64
	// Log says what a person should know: one line, with the peer's address where there is
	// a peer. Of peers at most one line for each connection: see saysAtOnce.
	Log func(format string, args ...any)
}

// Handler serves what connections ask.
type Handler interface {
	// Serve takes a request: x.Frame, without its size. It ends in exactly one
	// x.Reply, x.ReplyBytes or x.Silent, now or later, on this core; also where
	// the connection has been closed meanwhile, by x.Conn.Fail or its peer.
	Serve(x *Exchange)
	// Closed is told that a connection is no more; exchanges that are still in the
	// works end as before, their replies go nowhere.
	Closed(c *Conn)
}

// Server accepts and serves the connections of one core.
type Server struct {
	io      ring.IO
	cfg     Config
	handler Handler

	listener ring.FD
	accept   ring.Op
	refusing bool  // the last accept failed, and the log says so
	retryAt  int64 // accepting stopped and is to be tried again then; ring.Forever: it goes on
	closing  bool

	// Every open connection is in one of these, by last activity, oldest first.
	quiet   connList
	holding connList // hold memory of ours while we wait for their peer: see touch
	paused  bool
	hungry  connList // wait for memory, or for the end of a pause
	lookAt  int64    // some are hungry, and are to be tried again then even if nothing happens
	thirsty connList // wait for a receive buffer
	// thirstAt is lookAt for these; returned: a buffer has gone back since they were tried.
	thirstAt int64
	returned bool
	trying   connList // those of hungry or thirsty that Tick is at

	chunkRefs  []int32 // by chunk ID: who looks into it
	held       int     // receive buffers that somebody looks into
	unsent     int     // bytes of memory in replies that are not sent
	shortUntil int64   // memory for requests was short: see patience
	free       *Exchange
	vectors    *vector
	aheads     *ahead
	copyMax    int64 // see Paths
	Stats      Stats

	says    int    // lines that may be said at once: see saysAtOnce
	saysAt  int64  // when says was last right
	unsaid  uint64 // lines that were left out, to be counted in one at countAt
	countAt int64
}

const (
	// stallMax is how long a connection may hold memory without moving while
	// memory is short, ns; and memory is short for shortFor after some was missing.
	stallMax = 5e9
	shortFor = 1e9
	// hungryRetry is when those that wait for memory try again though nothing
	// happened, ns: what another core or a worker gave back is not told.
	hungryRetry = 10e6
	// acceptRetry is the same for an accept that failed.
	acceptRetry = 100e6
	// saysAtOnce is how many lines about peers a core puts in the log at once, and sayEvery
	// after how long it may put in one more, ns: whoever floods us with connections does not
	// flood the log. What is left out is counted in a line every countEvery.
	saysAtOnce = 64
	sayEvery   = 100e6
	countEvery = 1e9
)

// Stats of a server.
type Stats struct {
	Accepted, Refused, Closed, Idle, BadFrames uint64
	Stalled                                    uint64 // closed because they held memory and did not move
	Unsaid                                     uint64 // lines about peers that the log was spared
	Frames, BytesIn, BytesOut                  uint64
	Copied                                     uint64 // bytes copied to put frames together or out of receive buffers
	Read                                       uint64 // bytes of files that were sent by a copy
	ReadCold                                   uint64 // reads for that of what was not in memory
	Open                                       int
}

// NewServer serves connections that arrive at listener (from ring.Host.Listen).
func NewServer(io ring.IO, listener ring.FD, cfg Config, handler Handler) *Server {
	s := &Server{io: io, cfg: cfg, handler: handler, listener: listener, chunkRefs: make([]int32, 1<<16)}
	if s.cfg.Open == nil {
		s.cfg.Open = new(atomic.Int64)
	}
	if s.cfg.HeldMax == 0 {
		s.cfg.HeldMax = 512
	}
	if s.cfg.UnsentMax == 0 {
		s.cfg.UnsentMax = io.Pool().Size() / 16
	}
	for _, l := range []*connList{&s.quiet, &s.holding, &s.hungry, &s.thirsty, &s.trying} {
		l.init()
	}
	s.retryAt, s.lookAt = ring.Forever, ring.Forever
	s.SetPaths(DefaultPaths)
	s.says, s.saysAt = saysAtOnce, io.Now()
	s.accept = ring.Op{Code: ring.Accept, Flags: ring.Multi, FD: listener, Done: s}
	io.Submit(&s.accept)
	return s
}

// Complete takes a new connection.
func (s *Server) Complete(op *ring.Op) {
	at := int64(0) // when to go on
	switch e := syscall.Errno(-op.Result); {
	case op.Result >= 0:
		s.refusing = false
		s.open(ring.FD(op.Result))
	case s.closing || e == syscall.ECONNABORTED || e == syscall.EPROTO: // that peer has left
	default: // out of descriptors or memory: the connections stay in the backlog
		if !s.refusing {
			s.refusing = true
			s.cfg.Log("accept: %v; trying again every %d ms", e, int64(acceptRetry)/1e6)
		}
		at = s.io.Now() + acceptRetry
	}
	switch {
	case op.More || s.closing:
	case at == 0:
		s.io.Submit(&s.accept)
	default:
		s.retryAt = at
	}
}

func (s *Server) open(fd ring.FD) {
	if s.closing {
		s.close(fd)
		return
	}
	peer, err := s.io.Host().Peer(fd)
	if err != nil { // gone already
		s.close(fd)
		return
	}
	if !s.admit() {
		s.Stats.Refused++
		if s.maySay() {
			s.cfg.Log("%v: refused: max.connections=%d is reached", peer, s.cfg.ConnMax)
		}
		s.close(fd)
		return
	}
	s.Stats.Accepted++
	s.Stats.Open++
	c := &Conn{srv: s, fd: fd, Peer: peer}
	c.recv.Done, c.send.Done = (*recvDone)(c), (*sendDone)(c)
	c.pause.conn, c.life.conn = c, c
	s.touch(c)
	c.read()
}

// admit counts one more connection, unless there are as many as may be. Other
// cores do so at the same time.
func (s *Server) admit() bool {
	for {
		n := s.cfg.Open.Load()
		if s.cfg.ConnMax > 0 && n >= s.cfg.ConnMax {
			return false
		}
		if s.cfg.Open.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// maySay says whether the log may have one more line about a peer.
func (s *Server) maySay() bool {
	now := s.io.Now()
	if more := (now - s.saysAt) / sayEvery; more > 0 {
		s.says = int(min(saysAtOnce, int64(s.says)+more))
		s.saysAt += more * sayEvery
	}
	if s.says == 0 {
		if s.unsaid == 0 {
			s.countAt = now + countEvery
		}
		s.unsaid++
		s.Stats.Unsaid++
		return false
	}
	s.says--
	return true
}

// count says how many lines were left out.
func (s *Server) count() {
	if s.unsaid > 0 {
		s.cfg.Log("%d more lines about connections were left out: a core writes one every %d ms", s.unsaid, int64(sayEvery)/1e6)
		s.unsaid = 0
	}
}

// close closes a socket that has no Conn.
func (s *Server) close(fd ring.FD) {
	s.io.Submit(&ring.Op{Code: ring.Close, FD: fd, Done: ignore{}})
}

type ignore struct{}

func (ignore) Complete(*ring.Op) {}

// Pause stops reading all sockets (the core is short of memory or its disk is
// behind) until Resume. Requests already read are not affected.
func (s *Server) Pause() { s.paused = true }

// Resume ends a Pause; Tick then reads on. It is no error when there is none.
func (s *Server) Resume() {
	if s.paused {
		s.paused, s.lookAt = false, 0
	}
}

// Tick lets the connections that could not read try again. To be called at the
// end of each step of the loop; it costs nothing when none waits.
func (s *Server) Tick() {
	s.lookAt = ring.Forever
	if s.paused {
		return
	}
	s.retry(&s.hungry)
	if s.returned || s.io.Now() >= s.thirstAt {
		s.returned = false
		s.retry(&s.thirsty)
	}
}

// retry lets each of a list read, once: who is still hungry goes to the end of it.
func (s *Server) retry(list *connList) {
	if list.empty() {
		return
	}
	s.trying.takeAll(list)
	for !s.trying.empty() {
		l := s.trying.first()
		l.unlink()
		l.conn.read()
	}
}

// NextDeadline is when Expire or Tick has something to do (shard.Source).
func (s *Server) NextDeadline() int64 {
	at := min(s.retryAt, s.lookAt)
	if !s.thirsty.empty() && !s.paused {
		if s.returned {
			return 0
		}
		at = min(at, s.thirstAt)
	}
	if s.cfg.IdleMax > 0 && !s.quiet.empty() {
		at = min(at, s.quiet.first().conn.active+s.cfg.IdleMax)
	}
	if !s.holding.empty() {
		at = min(at, s.patience(s.holding.first().conn.active))
	}
	if s.unsaid > 0 {
		at = min(at, s.countAt)
	}
	return at
}

// patience is until when a connection that moved at active, and then not any
// more, may hold memory of ours.
func (s *Server) patience(active int64) int64 {
	switch {
	case s.unsent > s.cfg.UnsentMax || s.io.Now() < s.shortUntil:
		return active + stallMax
	case s.cfg.IdleMax > 0:
		return active + s.cfg.IdleMax
	}
	return ring.Forever
}

// Expire closes who has been silent too long, and accepts again after an error.
func (s *Server) Expire(now int64) {
	if s.countAt <= now {
		s.count()
	}
	if s.retryAt <= now {
		s.retryAt = ring.Forever
		if !s.closing {
			s.io.Submit(&s.accept)
		}
	}
	for s.cfg.IdleMax > 0 && !s.quiet.empty() {
		c := s.quiet.first().conn
		if c.active+s.cfg.IdleMax > now {
			break
		}
		if c.inFlight > 0 || c.rest != nil || s.paused { // it is we who are silent
			s.touch(c)
			continue
		}
		s.Stats.Idle++
		if c.nprefix > 0 {
			c.Say("closed: silent for %d ms inside a frame: %d bytes of its size had come", (now-c.active)/1e6, c.nprefix)
		}
		c.close()
	}
	for !s.holding.empty() {
		c := s.holding.first().conn
		if s.patience(c.active) > now {
			break
		}
		if !c.sending && s.paused { // we do not read
			s.touch(c)
			continue
		}
		s.Stats.Stalled++
		c.Fail("nothing moved for %d ms: %d bytes of replies unsent, %d of a request received", (now-c.active)/1e6, c.unsent, c.have)
	}
}

// touch puts a connection behind the others: its peer has done something, or is
// waited for from now on. Who sends holds the memory of replies; who is in the
// middle of a request holds its memory.
func (s *Server) touch(c *Conn) {
	c.active = s.io.Now()
	c.life.unlink()
	if c.sending || c.frame != nil {
		s.holding.push(&c.life)
	} else {
		s.quiet.push(&c.life)
	}
}

// Close stops accepting, closes the listener and every connection. Exchanges
// in the works end when their handlers end them.
func (s *Server) Close() {
	s.StopAccepting()
	for _, l := range []*connList{&s.quiet, &s.holding} {
		for !l.empty() {
			l.first().conn.close()
		}
	}
	s.count()
}

// StopAccepting closes the listener and leaves the connections.
func (s *Server) StopAccepting() {
	if !s.closing {
		s.closing = true
		s.io.Cancel(&s.accept)
		s.close(s.listener)
	}
}

func (s *Server) exchange(c *Conn) *Exchange {
	x := s.free
	if x == nil {
		x = &Exchange{}
	} else {
		s.free = x.next
	}
	x.Conn, x.next, x.state, x.chunk = c, nil, working, noChunk
	return x
}

// link is a place in a list of connections.
type link struct {
	prev, next *link
	conn       *Conn
}

// unlink takes it out of its list. It is no error when it is in none.
func (e *link) unlink() {
	if e.next != nil {
		e.prev.next, e.next.prev = e.next, e.prev
		e.next, e.prev = nil, nil
	}
}

type connList struct{ head link }

func (l *connList) init()        { l.head.next, l.head.prev = &l.head, &l.head }
func (l *connList) empty() bool  { return l.head.next == &l.head }
func (l *connList) first() *link { return l.head.next }

func (l *connList) push(e *link) {
	e.prev, e.next = l.head.prev, &l.head
	e.prev.next, e.next.prev = e, e
}

// takeAll moves all of from, which is not empty, to l, which is.
func (l *connList) takeAll(from *connList) {
	l.head = from.head
	l.head.next.prev, l.head.prev.next = &l.head, &l.head
	from.init()
}
