package api

// Fetch (key 1), versions 4-18. 7 fetch sessions: never granted, so every request is
// a full one; 11 rack; 12 flexible; 13 topic ids; 16 leader hints (never
// filled). Followers' fetches come with replication.
//
// A fetch waits until there are MinBytes for it or MaxWait is over. Records go out
// as they lie in the log: from its memory, or by sendfile from its segment.

import (
	"fmt"
	"math"

	"github.com/millrace/millrace/engine/log"
	"github.com/millrace/millrace/engine/replica"
	"github.com/millrace/millrace/engine/shard"
	"github.com/millrace/millrace/engine/wire"
	"github.com/millrace/millrace/netio"
)

// fetchCall is one Fetch request. It is used again.
//
// Each core that owns one of its partitions does a leg: it tries (reads what there
// is and tells), and, while the call waits for more, pokes home when a high
// watermark moves. Home tries such a leg again. What a leg has read it keeps
// until home says that the reply has been sent (end). A leg holds a credit for its
// first try only: who waits for more must not keep producers out.
type fetchCall struct {
	core  *Core
	x     *netio.Exchange
	h     wire.Header
	req   wire.FetchRequest
	parts []fetchPart
	legs  []fetchLeg // by core
	left  int        // tries under way
	ends  int        // legs that have not said that they ended
	state fetchState
	timer shard.Timer
	begin int64
	wait  shard.Waiter
	next  *fetchCall // free
	// Among the connection's, while fetchWaiting:
	waiting *conn
	older   *fetchCall
	newer   *fetchCall
}

type fetchState uint8

const (
	fetchTrying  fetchState = iota
	fetchWaiting            // every leg has told, and it is not enough
	fetchReplied
)

type fetchPart struct {
	read   log.Read
	watch  replica.Watch
	leg    *fetchLeg
	route  *Route
	topic  *TopicRoute
	index  int  // in req.Partitions
	reads  bool // read is to be released
	answer wire.FetchResponsePartition
	bytes  int
	take   bool // in the reply
}

// fetchLeg is the part of a call that one core does.
type fetchLeg struct {
	call  *fetchCall
	owner *Core
	any   bool
	more  bool // at home: was poked since it was last tried

	// The owner's:
	left     int  // reads under way
	tried    bool // once at least
	poked    bool // home knows already
	watched  bool
	bytes    int
	failed   bool // a partition has an error: reply at once
	answered fetchAnswered
	told     shard.Note
	poke     shard.Note
	retry    shard.Note
	ended    shard.Note
	gone     shard.Note
}

type (
	fetchAnswered struct{ leg *fetchLeg } // owner to home: the first try is over
	fetchTold     struct{ leg *fetchLeg } // owner to home: a further try is over
	fetchPoke     struct{ leg *fetchLeg } // owner to home: there is more
	fetchTry      struct{ leg *fetchLeg } // home to owner: try again
	fetchEnd      struct{ leg *fetchLeg } // home to owner: the reply is sent
	fetchGone     struct{ leg *fetchLeg } // owner to home: nothing of it is left here
)

// fetchPartsMax bounds the partitions of a request: each takes about a KiB.
const fetchPartsMax = 1 << 17

func (c *Core) fetch(x *netio.Exchange, h wire.Header, body []byte) {
	f := c.freeFetch
	if f == nil {
		f = &fetchCall{legs: make([]fetchLeg, len(c.Cores))}
		f.wait.Retry = f
		for i := range f.legs {
			l := &f.legs[i]
			l.call, l.owner = f, c.Cores[i]
			l.answered.leg = l
			l.told.Message, l.poke.Message, l.retry.Message = &fetchTold{l}, &fetchPoke{l}, &fetchTry{l}
			l.ended.Message, l.gone.Message = &fetchEnd{l}, &fetchGone{l}
		}
	} else {
		c.freeFetch = f.next
	}
	f.core, f.x, f.h, f.begin, f.state = c, x, h, c.Loop.IO.Now(), fetchTrying
	for i := range f.legs {
		l := &f.legs[i]
		l.any, l.more, l.left, l.tried, l.poked, l.watched, l.bytes, l.failed = false, false, 0, false, false, false, 0, false
	}
	f.parts = f.parts[:0]
	err := f.req.Parse(h.Version, body)
	if n := len(f.req.Partitions); err == nil && n > fetchPartsMax {
		err = fmt.Errorf("%d partitions are more than %d", n, fetchPartsMax)
	}
	if err != nil {
		x.Conn.Fail("Fetch version %d: %v", h.Version, err)
		x.Silent()
		f.recycle()
		return
	}
	switch {
	case f.req.ReplicaID >= 0:
		f.refuse(wire.UnsupportedVersion) // a follower; there are none
		return
	case f.req.SessionEpoch > wire.FetchSessionFirstEpoch:
		f.refuse(wire.FetchSessionIDNotFound)
		return
	}
	f.resolve()
	x.ReleaseFrame() // a long wait must not hold a receive buffer
	f.start()
}

func (f *fetchCall) resolve() {
	c := f.core
	n := len(f.req.Partitions)
	if cap(f.parts) < n {
		f.parts = make([]fetchPart, n, n+n/2)
	}
	f.parts = f.parts[:n]
	routes := c.Routes.Load()
	for ti := range f.req.Topics {
		t := &f.req.Topics[ti]
		var topic *TopicRoute
		unknown := wire.UnknownTopicOrPartition
		if f.h.Version >= 13 {
			topic = routes.ByID[t.ID]
			unknown = wire.UnknownTopicID
		} else if topic = routes.ByName[string(t.Name)]; topic != nil {
			t.Name = topic.NameBytes
		} else {
			t.Name = append([]byte(nil), t.Name...) // the frame goes
		}
		for i := t.First; i < t.First+t.Count; i++ {
			p, part := &f.req.Partitions[i], &f.parts[i]
			part.topic, part.index = topic, i // the rest is zero: see recycle
			part.answer = wire.FetchResponsePartition{
				Partition: p.Partition, HighWatermark: -1, LastStable: -1, LogStart: -1, PreferredReplica: -1,
			}
			if topic == nil {
				part.answer.ErrorCode = unknown
				continue
			}
			if p.Partition < 0 || int(p.Partition) >= len(topic.Partitions) {
				part.answer.ErrorCode = wire.UnknownTopicOrPartition
				continue
			}
			part.route = &topic.Partitions[p.Partition]
			part.leg = &f.legs[part.route.Core]
			part.leg.any = true
		}
	}
}

// start tries every leg, all or none: without a credit for one of them the
// request waits.
func (f *fetchCall) start() {
	c := f.core
	for i := range f.legs {
		if f.legs[i].any && !c.Loop.HasCredits(i, 1) {
			c.Loop.WaitForCredit(i, &f.wait)
			return
		}
	}
	f.left, f.ends = 1, 0
	for i := range f.legs {
		if l := &f.legs[i]; l.any && i != c.Loop.ID {
			f.left++
			f.ends++
			c.Loop.Send(i, l)
		}
	}
	if mine := &f.legs[c.Loop.ID]; mine.any {
		f.left++
		f.ends++
		mine.try()
	}
	f.legTold()
}

// Retry is shard.Waiter's.
func (f *fetchCall) Retry() { f.start() }

// Deliver is the first try on its core. The credit it took is held until the leg has gone.
func (l *fetchLeg) Deliver(*shard.Loop) { l.try() }

// Deliver is a further try.
func (m *fetchTry) Deliver(*shard.Loop) { m.leg.try() }

// try reads what there is.
func (l *fetchLeg) try() {
	l.drop()
	f := l.call
	l.bytes, l.failed, l.poked = 0, false, false
	l.left = 1
	budget := f.budget()
	first := true
	for i := range f.parts {
		part := &f.parts[i]
		if part.leg != l {
			continue
		}
		p, q := &f.req.Partitions[part.index], part.route.Partition
		a := &part.answer
		a.ErrorCode, a.HighWatermark, a.LastStable, a.LogStart = 0, -1, -1, -1
		part.bytes = 0
		if code := q.Left(); code != 0 {
			a.ErrorCode = code
			l.failed = true
			continue
		}
		if code := checkEpoch(p.CurrentLeaderEpoch, q.LeaderEpoch); code != 0 {
			a.ErrorCode = code
			l.failed = true
			continue
		}
		a.HighWatermark, a.LastStable, a.LogStart = q.HighWatermark(), q.LastStable(), q.Log().LogStart()
		limit := a.HighWatermark
		if f.req.ReadCommitted {
			limit = a.LastStable
			a.Aborted = noAborted
		}
		r := &part.read
		r.Offset, r.Limit, r.MaxBytes, r.MinOne, r.Done = p.Offset, limit, min(int(p.MaxBytes), budget), first, part
		if r.MaxBytes <= 0 && !first {
			continue
		}
		part.reads = true
		l.left++
		if q.Log().Read(r) {
			part.readDone()
		}
		if part.bytes > 0 {
			first = false
			budget -= part.bytes
		}
	}
	l.readEnded()
}

// budget is how many bytes of records the reply may have.
func (f *fetchCall) budget() int { return min(int(f.req.MaxBytes), f.core.FetchMax) }

var noAborted = []wire.AbortedTxn{}

// ReadDone is log.Read's: a read that had to look into files.
func (part *fetchPart) ReadDone(*log.Read) { part.readDone() }

func (part *fetchPart) readDone() {
	r, l := &part.read, part.leg
	if r.Err != nil {
		part.answer.ErrorCode = logCode(r.Err)
		l.owner.unreadable(r.Err)
		l.failed = true
	} else {
		part.bytes = r.Len
		l.bytes += part.bytes
	}
	l.readEnded()
}

func (l *fetchLeg) readEnded() {
	if l.left--; l.left > 0 {
		return
	}
	f := l.call
	if l.bytes < int(f.req.MinBytes) && !l.failed && f.req.MaxWaitMillis > 0 {
		l.watch()
	}
	first := !l.tried
	l.tried = true
	switch {
	case f.core == l.owner:
		f.legTold()
	case first:
		l.owner.Loop.Reply(f.core.Loop.ID, &l.answered)
	default:
		l.owner.Loop.Control(f.core.Loop.ID, &l.told)
	}
}

// watch asks to be woken when there is more, and looks once more for what came
// while the files were read.
func (l *fetchLeg) watch() {
	l.watched = true
	for i := range l.call.parts {
		part := &l.call.parts[i]
		if part.leg != l {
			continue
		}
		q := part.route.Partition
		part.watch.Woken = part
		q.Watch(&part.watch)
		if q.HighWatermark() > part.answer.HighWatermark || q.Left() != 0 {
			part.Wake(nil)
		}
	}
}

// Wake is replica.Watch's: a high watermark has moved.
func (part *fetchPart) Wake(*replica.Watch) {
	l := part.leg
	if l.poked {
		return
	}
	l.poked = true
	if home := l.call.core; home == l.owner {
		home.ready = append(home.ready, l)
	} else {
		l.owner.Loop.Control(home.Loop.ID, &l.poke)
	}
}

// Deliver is a poke, at home.
func (m *fetchPoke) Deliver(*shard.Loop) { m.leg.again() }

// again notes at home that a leg has more, and tries it when nothing else is under way.
func (l *fetchLeg) again() {
	l.more = true
	if f := l.call; f.state == fetchWaiting {
		f.retry()
	}
}

// retry tries the legs that have more. It says no when there are none.
func (f *fetchCall) retry() bool {
	any := false
	f.left = 1 // this function: a try may end before it does
	for i := range f.legs {
		l := &f.legs[i]
		if !l.more {
			continue
		}
		any, l.more = true, false
		f.left++
		f.setWaiting(false)
		f.state = fetchTrying
		if l.owner == f.core {
			l.try()
		} else {
			f.core.Loop.Control(i, &l.retry)
		}
	}
	if !any {
		f.left = 0
		return false
	}
	f.legTold()
	return true
}

// Deliver is the end of the first try, at home.
func (m *fetchAnswered) Deliver(at *shard.Loop) {
	at.Credit(m.leg.owner.Loop.ID)
	m.leg.call.legTold()
}

// Deliver is the end of a further try, at home.
func (m *fetchTold) Deliver(*shard.Loop) { m.leg.call.legTold() }

// legTold decides when all legs have told.
func (f *fetchCall) legTold() {
	if f.left--; f.left > 0 {
		return
	}
	total, failed, asked := 0, false, false
	for i := range f.parts {
		part := &f.parts[i]
		total += part.bytes
		// A partition that is unknown does not end the wait for the others, as in Kafka.
		asked = asked || part.leg != nil
		failed = failed || part.leg != nil && part.answer.ErrorCode != 0
	}
	now := f.core.Loop.IO.Now()
	deadline := f.begin + int64(f.req.MaxWaitMillis)*1e6
	if total >= int(f.req.MinBytes) || failed || !asked || now >= deadline || f.x.Conn.Closed() {
		f.reply()
		return
	}
	if f.retry() { // poked while others were being tried
		return
	}
	f.state = fetchWaiting
	f.setWaiting(true)
	f.core.Loop.SetTimer(&f.timer, deadline, f)
}

// setWaiting keeps the call among those that end when the connection does.
func (f *fetchCall) setWaiting(yes bool) {
	switch k := f.waiting; {
	case yes:
		k = connOf(f.x.Conn)
		f.waiting, f.older = k, k.fetches
		if f.older != nil {
			f.older.newer = f
		}
		k.fetches = f
	case k != nil:
		if f.newer == nil {
			k.fetches = f.older
		} else {
			f.newer.older = f.older
		}
		if f.older != nil {
			f.older.newer = f.newer
		}
		f.waiting, f.older, f.newer = nil, nil, nil
	}
}

// Fire is the end of the wait.
func (f *fetchCall) Fire(int64) {
	if f.state == fetchWaiting {
		f.reply()
	}
}

// refuse answers with an error for the whole request.
func (f *fetchCall) refuse(code int16) {
	f.state, f.ends = fetchReplied, 0
	b := wire.AppendResponseHeader(nil, wire.KeyFetch, f.h.Version, f.h.CorrelationID)
	b = wire.AppendFetchStart(b, f.h.Version, 0, code, 0, 0)
	b = wire.AppendFetchEnd(b, f.h.Version, nil)
	f.x.ReplyBytes(b)
	f.recycle()
}

func (f *fetchCall) reply() {
	c, x, v := f.core, f.x, f.h.Version
	f.setWaiting(false)
	f.state = fetchReplied
	c.Loop.StopTimer(&f.timer)
	// What fits: in the request's order, the first that has something always.
	budget := f.budget()
	size, elsewhere := 64, 0
	for ti := range f.req.Topics {
		t := &f.req.Topics[ti]
		size += 64 + len(t.Name)
		for i := t.First; i < t.First+t.Count; i++ {
			part := &f.parts[i]
			size += 128
			part.take = part.bytes > 0 && part.answer.ErrorCode == 0 && (elsewhere == 0 || elsewhere+part.bytes <= budget)
			if part.take {
				elsewhere += part.bytes
			}
		}
	}
	if elsewhere > math.MaxInt32-size {
		panic("BUG: api: fetch: a reply larger than a frame can be")
	}
	head := c.Loop.IO.Pool().Get(size)
	if head == nil {
		x.Conn.Fail("no memory for a reply of %d bytes", size)
		x.Reply(x.Pieces(), nil, f)
		return
	}
	out := x.Pieces()
	b := wire.AppendResponseHeader(head[:0], wire.KeyFetch, v, f.h.CorrelationID)
	b = wire.AppendFetchStart(b, v, 0, 0, 0, len(f.req.Topics))
	from := 0
	for ti := range f.req.Topics {
		t := &f.req.Topics[ti]
		b = wire.AppendFetchTopic(b, v, t.Name, t.ID, t.Count)
		for i := t.First; i < t.First+t.Count; i++ {
			part := &f.parts[i]
			n := 0
			if part.take {
				n = part.bytes
			}
			if part.answer.ErrorCode != 0 {
				c.Metrics.FetchErrors++
			}
			b = wire.AppendFetchPartition(b, v, &part.answer, n)
			if part.take {
				c.Metrics.FetchBytes += uint64(n)
				out = append(out, netio.Piece{Mem: b[from:len(b):len(b)]})
				from = len(b)
				if r := &part.read; r.N > 0 {
					c.Metrics.FetchMemory += uint64(n)
					for _, m := range r.Mem[:r.N] {
						out = append(out, netio.Piece{Mem: m})
					}
				} else {
					c.Metrics.FetchFile += uint64(n)
					out = append(out, netio.Piece{File: r.File, Pos: r.Pos, Len: int64(r.Len)})
				}
			}
			b = wire.AppendFetchPartitionEnd(b, v, &part.answer)
		}
		b = wire.AppendFetchTopicEnd(b, v)
	}
	b = wire.AppendFetchEnd(b, v, nil)
	if len(b) > cap(head) {
		panic("BUG: api: fetch: the reply outgrew its buffer")
	}
	out = append(out, netio.Piece{Mem: b[from:]})
	wire.PutSize(b, elsewhere)
	c.Metrics.FetchTime.Record(c.Loop.IO.Stamp() - f.begin)
	x.Reply(out, head, f)
}

// Sent is netio.Sent's: the records are on their way, what they lay in may go.
func (f *fetchCall) Sent(*netio.Exchange) {
	f.x = nil
	c := f.core
	if f.ends == 0 {
		f.recycle()
		return
	}
	for i := range f.legs {
		if l := &f.legs[i]; l.any && l.owner != c {
			c.Loop.Control(i, &l.ended)
		}
	}
	if mine := &f.legs[c.Loop.ID]; mine.any {
		mine.drop()
		f.legGone()
	}
}

// Deliver ends a leg on its core.
func (m *fetchEnd) Deliver(*shard.Loop) {
	l := m.leg
	l.drop()
	l.owner.Loop.Control(l.call.core.Loop.ID, &l.gone)
}

// drop gives back what was read, and the watches.
func (l *fetchLeg) drop() {
	for i := range l.call.parts {
		part := &l.call.parts[i]
		if part.leg != l {
			continue
		}
		if l.watched {
			part.watch.Unwatch()
		}
		if part.reads {
			part.reads = false
			part.route.Partition.Log().Release(&part.read)
		}
	}
	l.watched = false
}

// Deliver is the last that home hears of a leg. It comes behind every poke.
func (m *fetchGone) Deliver(*shard.Loop) { m.leg.call.legGone() }

func (f *fetchCall) legGone() {
	if f.ends--; f.ends == 0 {
		f.recycle()
	}
}

func (f *fetchCall) recycle() {
	c := f.core
	if l := &f.legs[c.Loop.ID]; l.poked { // it may still be among the woken
		for i := range c.ready {
			if c.ready[i] == l {
				c.ready[i] = nil
			}
		}
		for i := range c.woken {
			if c.woken[i] == l {
				c.woken[i] = nil
			}
		}
	}
	clear(f.parts)
	if cap(f.parts) > partsKept {
		f.parts, f.req = nil, wire.FetchRequest{}
	}
	f.x = nil
	f.next = c.freeFetch
	c.freeFetch = f
}
