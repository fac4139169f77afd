package group

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// What lies in __consumer_offsets: keys of version 0 and 1 are committed offsets, of
// version 2 groups; other versions are of other group protocols. A record without
// a value takes its key back. Values are written in version 3, which every Apache
// Kafka since 2.3 reads (4.3 writes offsets in 4), and read in all.

// builder gathers records into one batch.
type builder struct {
	record.Builder
	now int64
}

func (c *Coordinator) build() *builder {
	b := &builder{now: c.env.WallMillis()}
	b.Begin(nil, record.None)
	return b
}

func (b *builder) offset(group string, tp topicPartition, o *offset) {
	k := kmsg.OffsetCommitKey{Version: 1, Group: group, Topic: tp.topic, Partition: tp.partition}
	if o == nil {
		b.Add(b.now, k.AppendTo(nil), nil)
		return
	}
	v := kmsg.NewOffsetCommitValue()
	v.Version, v.Offset, v.LeaderEpoch, v.Metadata, v.CommitTimestamp = 3, o.offset, o.leaderEpoch, o.metadata, o.timestamp
	b.Add(b.now, k.AppendTo(nil), v.AppendTo(nil))
}

func (b *builder) group(g *group) {
	k := kmsg.GroupMetadataKey{Version: 2, Group: g.id}
	v := kmsg.NewGroupMetadataValue()
	v.Version, v.ProtocolType, v.Generation, v.CurrentStateTimestamp = 3, g.protocolType, g.generation, b.now
	if len(g.members) > 0 {
		v.Protocol, v.Leader = &g.protocol, &g.leader
	}
	for _, m := range g.members {
		x := kmsg.NewGroupMetadataValueMember()
		x.MemberID, x.InstanceID, x.ClientID, x.ClientHost = m.id, m.instance, m.clientID, m.host
		x.RebalanceTimeoutMillis, x.SessionTimeoutMillis = int32(m.rebalance), int32(m.session)
		x.Subscription, x.Assignment = m.metadata(g.protocol), m.assignment
		v.Members = append(v.Members, x)
	}
	b.Add(b.now, k.AppendTo(nil), v.AppendTo(nil))
}

func (b *builder) noGroup(id string) {
	k := kmsg.GroupMetadataKey{Version: 2, Group: id}
	b.Add(b.now, k.AppendTo(nil), nil)
}

// record writes the group down as it is now.
func (g *group) record(done func(code int16)) {
	b := g.c.build()
	b.group(g)
	g.append(b, done)
}

func (g *group) append(b *builder, done func(code int16)) {
	g.c.env.Append(g.part.id, b.Finish(), func(code int16) { done(appendCode(code)) })
}

// appendCode is what a client is told of an append that failed, as Kafka's
// coordinator tells it.
func appendCode(code int16) int16 {
	switch code {
	case wire.UnknownTopicOrPartition, wire.NotEnoughReplicas, wire.NotEnoughReplicasAfterAppend, wire.RequestTimedOut:
		return wire.CoordinatorNotAvailable
	case wire.NotLeaderOrFollower, wire.KafkaStorageError:
		return wire.NotCoordinator
	case wire.MessageTooLarge, wire.RecordListTooLarge, wire.InvalidRecord:
		return wire.UnknownServerError
	}
	return code
}

// SetPartitions says how many partitions __consumer_offsets has. Another number than
// before (0: there is none any more) sends every group away: each partition that is
// here is to be loaded anew.
func (c *Coordinator) SetPartitions(n int32) {
	if n == c.count {
		return
	}
	for _, p := range c.sortedParts() {
		c.unload(p)
	}
	c.count = n
}

// BeginLoad begins to coordinate the groups of a partition: until EndLoad requests
// are answered COORDINATOR_LOAD_IN_PROGRESS.
func (c *Coordinator) BeginLoad(partition int32) {
	c.parts[partition] = &part{id: partition, loading: true}
}

// Loaded is how many records Load has replayed.
func (c *Coordinator) Loaded() uint64 { return c.loaded }

// Load replays a batch, which may go afterwards. An error names the record; what is
// of another protocol or a later version is passed over.
func (c *Coordinator) Load(partition int32, b record.Batch, d *record.Decompressor) error {
	p := c.parts[partition]
	if b.Control() {
		return nil
	}
	var r record.Reader
	r.Reset(b, d)
	for r.Next() {
		c.loaded++
		if err := c.load(p, r.Key, r.Value); err != nil {
			return fmt.Errorf("__consumer_offsets-%d: record at offset %d: %w", partition, r.Offset, err)
		}
	}
	return r.Err()
}

func (c *Coordinator) load(p *part, key, value []byte) error {
	if len(key) < 2 {
		return fmt.Errorf("a key of %d bytes", len(key))
	}
	switch version := int16(key[0])<<8 | int16(key[1]); version {
	case 0, 1:
		var k kmsg.OffsetCommitKey
		if err := k.ReadFrom(key); err != nil {
			return fmt.Errorf("offset key: %w", err)
		}
		tp := topicPartition{k.Topic, k.Partition}
		g := c.groups[k.Group]
		if value == nil {
			if g != nil {
				delete(g.offsets, tp)
			}
			return nil
		}
		var v kmsg.OffsetCommitValue
		if err := v.ReadFrom(value); err != nil {
			return fmt.Errorf("offset value: %w", err)
		}
		if g == nil {
			g = c.add(p, k.Group)
		}
		o := &offset{offset: v.Offset, leaderEpoch: -1, metadata: v.Metadata, timestamp: v.CommitTimestamp}
		if v.Version >= 3 {
			o.leaderEpoch = v.LeaderEpoch
		}
		g.offsets[tp] = o
	case 2:
		var k kmsg.GroupMetadataKey
		if err := k.ReadFrom(key); err != nil {
			return fmt.Errorf("group key: %w", err)
		}
		g := c.groups[k.Group]
		if value == nil {
			if g != nil {
				c.forget(g)
			}
			return nil
		}
		var v kmsg.GroupMetadataValue
		if err := v.ReadFrom(bytes.Clone(value)); err != nil { // members keep views of it
			return fmt.Errorf("group value: %w", err)
		}
		if g == nil {
			g = c.add(p, k.Group)
		}
		g.restore(&v)
	}
	return nil
}

// restore takes a group as it was written down.
func (g *group) restore(v *kmsg.GroupMetadataValue) {
	g.protocolType, g.generation, g.since = v.ProtocolType, v.Generation, v.CurrentStateTimestamp
	g.protocol, g.leader, g.members, g.state = "", "", nil, empty
	if v.Protocol != nil {
		g.protocol = *v.Protocol
	}
	if v.Leader != nil {
		g.leader = *v.Leader
	}
	for i := range v.Members {
		x := &v.Members[i]
		m := &member{
			id: x.MemberID, instance: x.InstanceID, clientID: x.ClientID, host: x.ClientHost,
			session: int64(x.SessionTimeoutMillis), rebalance: int64(x.RebalanceTimeoutMillis),
			protocols:  []kmsg.JoinGroupRequestProtocol{{Name: g.protocol, Metadata: x.Subscription}},
			assignment: x.Assignment,
		}
		if v.Version == 0 {
			m.rebalance = m.session
		}
		g.members = append(g.members, m)
		g.state = stable
	}
}

// EndLoad begins to serve: members' sessions start anew. Groups of which nothing is
// left are dropped; what is above the size, which may have been set since, is to
// join again.
func (c *Coordinator) EndLoad(partition int32) {
	p := c.parts[partition]
	p.loading = false
	for _, g := range slices.Clone(p.groups) {
		for _, m := range g.members {
			g.beat(m)
		}
		if len(g.members) > c.cfg.MaxSize {
			g.prepare()
		}
		g.vacate()
	}
	if c.expiry.f == nil {
		c.expireLoop()
	}
}
