// Package api is the Kafka protocol's APIs: one file per API key, named by its number.
//
// A request arrives at the core that holds its connection ([Core.Serve]). Produce and
// Fetch are decoded by views and go to the cores that own their partitions by
// mailbox; nothing on that way allocates. All other APIs are decoded by kmsg and
// may allocate: they are cold. A cold handler that needs another core's state runs
// a function there ([Core.On]) and comes back the same way.
package api

import (
	"errors"
	"slices"
	"sync/atomic"
	"syscall"

	"github.com/millrace/millrace/engine/cluster"
	"github.com/millrace/millrace/engine/config"
	"github.com/millrace/millrace/engine/group"
	"github.com/millrace/millrace/engine/journal"
	"github.com/millrace/millrace/engine/log"
	"github.com/millrace/millrace/engine/metrics"
	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/engine/replica"
	"github.com/millrace/millrace/engine/shard"
	"github.com/millrace/millrace/engine/wire"
	"github.com/millrace/millrace/netio"
	"github.com/millrace/millrace/ring"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Shared is what the cores of a broker share: immutable once started, or published
// whole by an atomic pointer.
type Shared struct {
	NodeID    int32
	ClusterID string
	Host      string // that clients are told
	Port      int32
	LogDir    string // absolute, for DescribeLogDirs
	FetchMax  int    // fetch.max.bytes

	Config atomic.Pointer[config.Broker]
	Image  atomic.Pointer[cluster.Image]
	Routes atomic.Pointer[Routes]

	Cores      []*Core
	Controller *cluster.Controller // core 0's
	Log        func(format string, args ...any)
}

// Routes says on which core each partition lives. Immutable.
type Routes struct {
	ByName map[string]*TopicRoute
	ByID   map[[16]byte]*TopicRoute
}

// TopicRoute is a topic's part of Routes.
type TopicRoute struct {
	Name       string
	NameBytes  []byte
	ID         [16]byte
	Internal   bool
	Partitions []Route
}

// Route leads to one partition. Partition belongs to its core: nobody else looks into it.
type Route struct {
	Core      int
	Partition *replica.Partition
	Published *log.Published // anybody may read this
}

// Core is one core's part of the API.
type Core struct {
	*Shared
	Loop    *shard.Loop
	Server  *netio.Server
	Logs    *log.Core
	Journal *journal.Core
	Groups  *group.Coordinator
	Metrics *metrics.Shard

	partitions  []*replica.Partition // that live here
	parked      []*replica.Partition // have batches that wait to be appended
	ready       []*fetchLeg          // woken: to be tried again at the end of the step
	woken       []*fetchLeg          // the other half of a double buffer
	overflow    []posted             // messages that another core's queue had no room for, in order
	freeCalls   *produceCall
	freeFetch   *fetchCall
	ids         idBlock
	producing   int // Produce requests in the works
	draining    shard.Timer
	unreadAgain int64 // the clock when unreadable speaks again
	closing     bool
}

type posted struct {
	to int
	m  shard.Message
}

// Serve is netio.Handler's: it takes one request.
func (c *Core) Serve(x *netio.Exchange) {
	h, body, err := wire.ParseHeader(x.Frame)
	if err != nil {
		// A Kafka broker closes the connection on what it does not serve.
		x.Conn.Fail("%s (key %d) version %d: %v", wire.Name(h.Key), h.Key, h.Version, err)
		x.Silent()
		return
	}
	c.Metrics.Requests[h.Key]++
	switch h.Key {
	case wire.KeyProduce:
		c.produce(x, h, body)
	case wire.KeyFetch:
		c.fetch(x, h, body)
	default:
		c.cold(x, h, body)
	}
}

// AfterStep does what a step left: woken fetches, parked batches, messages that
// found no room. It says whether something is still left.
func (c *Core) AfterStep() (again bool) {
	if len(c.parked) > 0 {
		c.relieve()
	}
	if len(c.overflow) > 0 {
		c.repost()
	}
	if c.Server != nil {
		if c.closing || c.Logs.Pressure() {
			c.Server.Pause()
		} else {
			c.Server.Resume()
		}
		c.Server.Tick()
	}
	c.ready, c.woken = c.woken[:0], c.ready
	for i := range c.woken {
		if leg := c.woken[i]; leg != nil {
			c.woken[i] = nil
			leg.again()
		}
	}
	return len(c.ready) > 0 || len(c.overflow) > 0
}

// relieve tries parked batches again: of each partition in its turn, and in the next
// step another one comes first, so that none takes all the room there is.
func (c *Core) relieve() {
	now := c.Loop.IO.WallMillis()
	for i := 0; i < len(c.parked); {
		p := c.parked[i]
		p.Relieved(now)
		if p.Parked() {
			i++
		} else {
			c.parked = slices.Delete(c.parked, i, i+1)
		}
	}
	if len(c.parked) > 1 {
		c.parked = append(c.parked[1:], c.parked[0])
	}
}

// Append gives a batch to a partition of this core.
func (c *Core) Append(q *replica.Partition, w *replica.Produce) {
	parked := q.Parked()
	q.Produce(w, c.Loop.IO.WallMillis())
	if !parked && q.Parked() {
		c.parked = append(c.parked, q)
	}
}

// On runs f on another core (or at once, when it is this one). For cold work: it
// allocates. There are never more of these under way than requests.
func (c *Core) On(core int, f func(at *Core)) {
	if core == c.Loop.ID {
		f(c)
		return
	}
	cores := c.Cores
	c.post(core, shard.Func(func(l *shard.Loop) { f(cores[l.ID]) }))
}

// Func is a message that runs f on c's core: for the edge.
func Func(c *Core, f func(c *Core)) shard.Message {
	return shard.Func(func(*shard.Loop) { f(c) })
}

// post sends m to a core. Where there is no room it waits here, and so does what
// comes behind it: the order stays.
func (c *Core) post(to int, m shard.Message) {
	if len(c.overflow) > 0 || !c.Cores[to].Loop.Post(m) {
		c.overflow = append(c.overflow, posted{to, m})
	}
}

// repost posts what had found no room.
func (c *Core) repost() {
	n := 0
	for n < len(c.overflow) && c.Cores[c.overflow[n].to].Loop.Post(c.overflow[n].m) {
		n++
	}
	c.overflow = slices.Delete(c.overflow, 0, n)
}

// Add takes a partition in. Remove forgets it.
func (c *Core) Add(p *replica.Partition) { c.partitions = append(c.partitions, p) }

// Remove forgets a partition that is about to go.
func (c *Core) Remove(p *replica.Partition) {
	if i := slices.Index(c.partitions, p); i >= 0 {
		c.partitions = slices.Delete(c.partitions, i, i+1)
	}
	if i := slices.Index(c.parked, p); i >= 0 {
		c.parked = slices.Delete(c.parked, i, i+1)
	}
}

// Partitions are those that live on this core.
func (c *Core) Partitions() []*replica.Partition { return c.partitions }

// drainMax is how long Drain waits for produces in the works, ns.
const drainMax = 1e9

// Drain stops serving: no new connection is taken and no further request is read,
// produces in the works get a second to be acknowledged, then every connection is
// closed, which ends the fetches that wait.
func (c *Core) Drain(done func()) {
	if c.Server == nil {
		done()
		return
	}
	c.closing = true
	c.Server.StopAccepting()
	c.Server.Pause()
	d := &drain{core: c, until: c.Loop.IO.Now() + drainMax, done: done}
	d.Fire(c.Loop.IO.Now())
}

type drain struct {
	core  *Core
	until int64
	done  func()
}

// Fire looks whether all is quiet.
func (d *drain) Fire(now int64) {
	c := d.core
	if c.producing > 0 && now < d.until {
		c.Loop.SetTimer(&c.draining, now+1e6, d)
		return
	}
	c.Server.Close()
	d.done()
}

// CloseLogs closes every log of this core cleanly.
func (c *Core) CloseLogs(done func(error)) {
	var first error
	all := newGather(func() { done(first) })
	for _, p := range c.partitions {
		all.add()
		p.Leave(wire.NotLeaderOrFollower, "the broker is closing")
		p.Log().Close(log.DoneFunc(func(_ *log.Log, err error) {
			if first == nil {
				first = err
			}
			all.end()
		}))
	}
	all.end()
}

// call is one request of a cold API.
type call struct {
	*Core
	x        *netio.Exchange
	h        wire.Header
	clientID string
	host     string // the client's address as groups show it: "/127.0.0.1"
}

// handlers are the cold APIs by key. A handler ends in exactly one reply, now or
// later, on its core.
var handlers [len(wire.APIs)]func(c *call, req kmsg.Request)

func (c *Core) cold(x *netio.Exchange, h wire.Header, body []byte) {
	cl := &call{Core: c, x: x, h: h, clientID: string(h.ClientID), host: "/" + x.Conn.Peer.Addr().Unmap().String()}
	cl.h.ClientID = nil
	if h.Key == wire.KeyAPIVersions {
		x.ReleaseFrame()
		cl.reply(wire.APIVersions(h.Version))
		return
	}
	req, err := wire.ParseRequest(h.Key, h.Version, body)
	if err != nil {
		x.Conn.Fail("%s version %d: %v", wire.Name(h.Key), h.Version, err)
		x.Silent()
		return
	}
	x.ReleaseFrame()
	handle := handlers[h.Key]
	if handle == nil {
		panic("BUG: api: " + wire.Name(h.Key) + " is listed and has no handler")
	}
	handle(cl, req)
}

func (c *call) reply(r kmsg.Response) {
	c.x.ReplyBytes(wire.AppendResponse(nil, c.h.CorrelationID, r))
}

// back runs f on the request's core again.
func (c *call) back(at *Core, f func()) { at.On(c.Loop.ID, func(*Core) { f() }) }

// Task runs blocking work on a worker thread, then done on this core.
func (c *Core) Task(work func() error, done func(error)) {
	c.Loop.IO.Submit(&ring.Op{Code: ring.Task, Func: work, Done: taskDone(done)})
}

type taskDone func(error)

// Complete hands the outcome on.
func (d taskDone) Complete(op *ring.Op) { d(op.Error()) }

// gather runs n pieces of work, each of which may end later, and done when all have.
// It belongs to the request's core.
type gather struct {
	left int
	done func()
}

func newGather(done func()) *gather { return &gather{left: 1, done: done} }

func (g *gather) add() { g.left++ }

// end ends one piece; once more at the end of the caller's own work.
func (g *gather) end() {
	if g.left--; g.left == 0 {
		g.done()
	}
}

// route finds a partition by topic name.
func (c *Core) route(topic string, partition int32) (*Route, *TopicRoute) {
	t := c.Routes.Load().ByName[topic]
	if t == nil || partition < 0 || int(partition) >= len(t.Partitions) {
		return nil, t
	}
	return &t.Partitions[partition], t
}

// logCode is Kafka's error for what a log answered.
func logCode(err error) int16 {
	var bad *record.Error
	if errors.As(err, &bad) {
		return bad.Code
	}
	var unread *log.ReadError
	var errno syscall.Errno
	if errors.As(err, &unread) && !errors.As(err, &errno) { // damaged: who consumes must hear of it
		return wire.CorruptMessage
	}
	return wire.KafkaStorageError
}

// unreadable says where a segment could not be read: once in ten seconds, since
// consumers try again and again.
func (c *Core) unreadable(err error) {
	var unread *log.ReadError
	if now := c.Loop.IO.Now(); errors.As(err, &unread) && now >= c.unreadAgain {
		c.unreadAgain = now + 10e9
		c.Log("SEGMENT NOT READABLE: %v", err)
	}
}

// checkEpoch compares the leader epoch a client knows (-1: none) with ours.
func checkEpoch(known, ours int32) int16 {
	switch {
	case known < 0 || known == ours:
		return 0
	case known < ours:
		return wire.FencedLeaderEpoch
	default:
		return wire.UnknownLeaderEpoch
	}
}
