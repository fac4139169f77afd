// Package group coordinates consumer groups: who is in, who reads what, and how far
// each has committed. It is Kafka's classic protocol (JoinGroup, SyncGroup, Heartbeat,
// LeaveGroup, OffsetCommit, OffsetFetch).
//
// A [Coordinator] belongs to one core. It coordinates the groups whose id hashes to a
// partition of __consumer_offsets that lives there, and keeps what must last in
// that partition, in Kafka's record layout: a committed offset is answered, and
// seen by OffsetFetch, only when its record is acknowledged there, so after a
// crash the replay ([Coordinator.Load]) gives everything that was ever answered.
// A group's generation and assignments are recorded before its members get them.
//
// It is a state machine: requests, timers and acknowledgements go in, answers and
// records come out. It knows no clock and no randomness but its [Env], and
// nothing of it depends on the order of a map, so it runs in simulation as it is.
package group

import (
	"fmt"
	"slices"
	"sort"
	"unicode/utf16"

	"github.com/millrace/millrace/engine/cluster"
	"github.com/millrace/millrace/engine/shard"
	"github.com/millrace/millrace/engine/wire"
)

// Config of a coordinator. Times are in ms.
type Config struct {
	InitialDelay     int64 // group.initial.rebalance.delay.ms
	MinSession       int64 // group.min.session.timeout.ms
	MaxSession       int64 // group.max.session.timeout.ms
	MaxSize          int   // group.max.size
	OffsetsRetention int64 // offsets.retention.minutes
	CheckInterval    int64 // offsets.retention.check.interval.ms
	MetadataMax      int   // offset.metadata.max.bytes
}

// Env is the world of a coordinator.
type Env interface {
	// Append adds a batch to that partition of __consumer_offsets; done is told once,
	// on this core, perhaps from inside Append: 0 when it is acknowledged, or Kafka's
	// error code. Acknowledgements come in the order of the calls; refusals, which
	// leave nothing in the log, when they like.
	Append(partition int32, batch []byte, done func(code int16))
	Now() int64 // the ring's clock, ns
	WallMillis() int64
	Random() uint64
	SetTimer(t *shard.Timer, when int64, f interface{ Fire(now int64) })
	StopTimer(t *shard.Timer)
	// Partitions of a topic; 0: there is no such topic.
	Partitions(topic string) int
	// Topic finds a name by id; TopicID an id by name.
	Topic(id [16]byte) (string, bool)
	TopicID(name string) [16]byte
}

// Coordinator coordinates groups on one core.
type Coordinator struct {
	cfg    Config
	env    Env
	count  int32 // partitions of __consumer_offsets; 0: not known yet
	parts  map[int32]*part
	groups map[string]*group
	expiry timer
	loaded uint64 // records that Load has replayed
}

// part is one partition of __consumer_offsets that lives here.
type part struct {
	id      int32
	loading bool
	groups  []*group // sorted by id
}

// New makes a coordinator without partitions.
func New(cfg Config, env Env) *Coordinator {
	return &Coordinator{cfg: cfg, env: env, parts: map[int32]*part{}, groups: map[string]*group{}}
}

// timer calls f when it is due.
type timer struct {
	shard.Timer
	f func()
}

// Fire calls f.
func (t *timer) Fire(int64) { t.f() }

// after calls f in ms, in place of what the timer was set for.
func (c *Coordinator) after(t *timer, ms int64, f func()) {
	t.f = f
	c.env.SetTimer(&t.Timer, c.env.Now()+ms*1e6, t)
}

func (c *Coordinator) stop(t *timer) { c.env.StopTimer(&t.Timer) }

// PartitionOf is the partition of __consumer_offsets that a group's state lies in:
// Java's hash of its id and the absolute value that Kafka's Utils.abs makes of it.
func PartitionOf(group string, partitions int32) int32 {
	h := int32(0)
	for _, u := range utf16.Encode([]rune(group)) {
		h = 31*h + int32(u)
	}
	if h < 0 {
		h = max(-h, 0) // the smallest number has no positive one: 0
	}
	return h % partitions
}

// owner finds the partition of a group, or says why not: COORDINATOR_LOAD_IN_PROGRESS
// or NOT_COORDINATOR.
func (c *Coordinator) owner(id string) (*part, int16) {
	if c.count == 0 {
		return nil, wire.NotCoordinator
	}
	p := c.parts[PartitionOf(id, c.count)]
	switch {
	case p == nil:
		return nil, wire.NotCoordinator
	case p.loading:
		return nil, wire.CoordinatorLoadInProgress
	}
	return p, 0
}

// find finds a group; nil without an error when there is none.
func (c *Coordinator) find(id string) (*group, int16) {
	if _, code := c.owner(id); code != 0 {
		return nil, code
	}
	return c.groups[id], 0
}

// need finds a group that must have a name and be there; else it is INVALID_GROUP_ID
// or what missing says. For old clients the offset and admin APIs do without a name.
func (c *Coordinator) need(id string, missing int16) (*group, int16) {
	if id == "" {
		return nil, wire.InvalidGroupID
	}
	g, code := c.find(id)
	if code == 0 && g == nil {
		code = missing
	}
	return g, code
}

// create finds a group or makes it.
func (c *Coordinator) create(id string) (*group, int16) {
	p, code := c.owner(id)
	if code != 0 {
		return nil, code
	}
	if g := c.groups[id]; g != nil {
		return g, 0
	}
	return c.add(p, id), 0
}

func (c *Coordinator) add(p *part, id string) *group {
	g := &group{
		c: c, part: p, id: id, state: empty, since: c.env.WallMillis(),
		offsets: map[topicPartition]*offset{}, pending: map[topicPartition]int{},
	}
	c.groups[id] = g
	at := sort.Search(len(p.groups), func(i int) bool { return p.groups[i].id >= id })
	p.groups = append(p.groups, nil)
	copy(p.groups[at+1:], p.groups[at:])
	p.groups[at] = g
	return g
}

// forget drops a group without members from memory.
func (c *Coordinator) forget(g *group) {
	for len(g.awaited) > 0 {
		g.dropAwaited(g.awaited[0].id)
	}
	g.state = dead
	delete(c.groups, g.id)
	at := sort.Search(len(g.part.groups), func(i int) bool { return g.part.groups[i].id >= g.id })
	if at == len(g.part.groups) || g.part.groups[at] != g {
		panic(fmt.Sprintf("BUG: group %q is not in its partition's list", g.id))
	}
	g.part.groups = append(g.part.groups[:at], g.part.groups[at+1:]...)
}

// all are the groups of this core, by partition and id. What is still being loaded is
// left out: it is not yet what it will be.
func (c *Coordinator) all() []*group {
	var out []*group
	for _, p := range c.sortedParts() {
		if !p.loading {
			out = append(out, p.groups...)
		}
	}
	return out
}

// unload ceases to coordinate the groups of a partition: who waits is sent away.
func (c *Coordinator) unload(p *part) {
	for _, g := range slices.Clone(p.groups) {
		for len(g.members) > 0 {
			g.drop(g.members[0], wire.NotCoordinator)
		}
		c.stop(&g.rebalance)
		c.stop(&g.syncTimeout)
		c.forget(g)
	}
	delete(c.parts, p.id)
}

func (c *Coordinator) sortedParts() []*part {
	parts := make([]*part, 0, len(c.parts))
	for _, p := range c.parts {
		parts = append(parts, p)
	}
	sort.Slice(parts, func(i, j int) bool { return parts[i].id < parts[j].id })
	return parts
}

// newMemberID makes an id as Kafka's coordinator does: the client's, and a UUID.
func (c *Coordinator) newMemberID(client string) string {
	a, b := c.env.Random(), c.env.Random()
	a = a&^0xf000 | 0x4000
	b = b&^(3<<62) | 1<<63
	return fmt.Sprintf("%s-%08x-%04x-%04x-%04x-%012x", client, a>>32, a>>16&0xffff, a&0xffff, b>>48, b&(1<<48-1))
}

// expireLoop removes what nobody reads any more, now and then.
func (c *Coordinator) expireLoop() {
	c.after(&c.expiry, c.cfg.CheckInterval, func() {
		c.expire()
		c.expireLoop()
	})
}

// expire removes committed offsets whose time is over: of a group without members,
// counted from when it became empty or the commit, if that was later; of a group that
// never had any (a simple consumer), from each commit; of a group with members, those
// of topics that nobody in it reads, from each commit. What is being committed anew
// stays. A group without members and offsets goes.
func (c *Coordinator) expire() {
	now := c.env.WallMillis()
	for _, g := range c.all() {
		var old []topicPartition
		for _, tp := range g.partitions() {
			if g.pending[tp] > 0 {
				continue
			}
			from := g.offsets[tp].timestamp
			switch {
			case g.state == empty && g.protocolType != "":
				from = max(from, g.since)
			case g.state == stable && g.protocolType == "consumer" && !g.subscribes(tp.topic):
			case g.protocolType == "" && g.state == empty:
			default:
				continue
			}
			if now-from >= c.cfg.OffsetsRetention {
				old = append(old, tp)
			}
		}
		gone := g.state == empty && len(old) == len(g.offsets) && len(g.pending) == 0 && len(g.awaited) == 0
		if len(old) > 0 || gone {
			g.tombstones(old, gone, func(int16) {})
		}
	}
}

// TopicDeleted removes the committed offsets of a topic. When it is __consumer_offsets
// itself, nothing is coordinated until that is made anew and loaded.
func (c *Coordinator) TopicDeleted(topic string) {
	if topic == cluster.OffsetsTopic {
		c.SetPartitions(0)
		return
	}
	for _, g := range c.all() {
		var old []topicPartition
		for _, tp := range g.partitions() {
			if tp.topic == topic {
				old = append(old, tp)
			}
		}
		if len(old) > 0 {
			g.tombstones(old, false, func(int16) {})
		}
	}
}
