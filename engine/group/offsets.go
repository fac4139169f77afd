package group

import (
	"cmp"
	"slices"

	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

type topicPartition struct {
	topic     string
	partition int32
}

// offset is a committed one.
type offset struct {
	offset      int64
	leaderEpoch int32
	metadata    string
	timestamp   int64 // of the commit, wall clock ms
}

// partitions are those with a committed offset, and those with one on its way, sorted.
func (g *group) partitions() []topicPartition {
	all := make([]topicPartition, 0, len(g.offsets))
	for tp := range g.offsets {
		all = append(all, tp)
	}
	for tp := range g.pending {
		if g.offsets[tp] == nil {
			all = append(all, tp)
		}
	}
	slices.SortFunc(all, func(a, b topicPartition) int {
		return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.partition, b.partition))
	})
	return all
}

// Commit is OffsetCommit (key 8). It is answered when the offsets are acknowledged
// in __consumer_offsets.
func (c *Coordinator) Commit(q *kmsg.OffsetCommitRequest, reply func(*kmsg.OffsetCommitResponse)) {
	r := q.ResponseKind().(*kmsg.OffsetCommitResponse)
	for i := range q.Topics {
		t := &q.Topics[i]
		a := kmsg.NewOffsetCommitResponseTopic()
		a.Topic, a.TopicID = t.Topic, t.TopicID
		for j := range t.Partitions {
			a.Partitions = append(a.Partitions, kmsg.OffsetCommitResponseTopicPartition{Partition: t.Partitions[j].Partition})
		}
		r.Topics = append(r.Topics, a)
	}
	setAll := func(code int16) {
		for i := range r.Topics {
			for j := range r.Topics[i].Partitions {
				if p := &r.Topics[i].Partitions[j]; p.ErrorCode == 0 {
					p.ErrorCode = code
				}
			}
		}
	}
	g, code := c.committer(q)
	if code != 0 {
		setAll(code)
		reply(r)
		return
	}
	type commit struct {
		tp topicPartition
		o  *offset
	}
	var commits []commit
	b := c.build()
	for i := range q.Topics {
		t := &q.Topics[i]
		name, known := t.Topic, true
		if q.Version >= 10 {
			name, known = c.env.Topic(t.TopicID)
		}
		partitions := c.env.Partitions(name)
		for j := range t.Partitions {
			p, a := &t.Partitions[j], &r.Topics[i].Partitions[j]
			switch {
			case !known:
				a.ErrorCode = wire.UnknownTopicID
				continue
			case p.Partition < 0 || int(p.Partition) >= partitions:
				a.ErrorCode = wire.UnknownTopicOrPartition
				continue
			case p.Metadata != nil && len(*p.Metadata) > c.cfg.MetadataMax:
				a.ErrorCode = wire.OffsetMetadataTooLarge
				continue
			}
			o := &offset{offset: p.Offset, leaderEpoch: p.LeaderEpoch, timestamp: b.now}
			if q.Version < 6 {
				o.leaderEpoch = -1
			}
			if p.Metadata != nil {
				o.metadata = *p.Metadata
			}
			tp := topicPartition{name, p.Partition}
			commits = append(commits, commit{tp, o})
			b.offset(q.Group, tp, o)
		}
	}
	if len(commits) == 0 {
		reply(r)
		return
	}
	if g == nil {
		g, _ = c.create(q.Group)
	}
	for _, x := range commits {
		g.pending[x.tp]++
	}
	g.append(b, func(code int16) {
		for _, x := range commits {
			if g.pending[x.tp]--; g.pending[x.tp] == 0 {
				delete(g.pending, x.tp)
			}
		}
		if code == 0 && c.parts[g.part.id] != g.part { // given up meanwhile
			code = wire.NotCoordinator
		}
		if code != 0 {
			setAll(code)
			reply(r)
			g.vacate()
			return
		}
		to := c.groups[g.id] // g, unless a tombstone before us took it
		if to == nil {
			to = c.add(g.part, g.id)
		}
		for _, x := range commits {
			to.offsets[x.tp] = x.o
		}
		reply(r)
	})
}

// committer finds the group that a commit is for and checks that it may commit; nil
// without an error when its first commit is to make it.
func (c *Coordinator) committer(q *kmsg.OffsetCommitRequest) (*group, int16) {
	g, code := c.find(q.Group)
	switch {
	case code != 0:
		return nil, code
	case q.Generation < 0 && (g == nil || g.state == empty): // a simple consumer or an administrator
		return g, 0
	case g == nil && q.Version < 9: // of a group that is gone
		return nil, wire.IllegalGeneration
	case g == nil:
		return nil, wire.GroupIDNotFound
	case q.Generation < 0 && q.MemberID == "" && q.InstanceID == nil: // somebody else's offsets
		return nil, wire.UnknownMemberID
	}
	m, code := g.known(q.MemberID, q.InstanceID)
	switch {
	case code != 0:
		return nil, code
	case q.Generation != g.generation:
		return nil, wire.IllegalGeneration
	case g.state == completing:
		return nil, wire.RebalanceInProgress
	}
	g.beat(m)
	return g, 0
}

// Fetch is OffsetFetch (key 9) for one group: topics nil asks for everything that was
// committed. A partition without a committed offset gets -1. version is the request's.
// Member id and epoch are of the newer protocol's groups; classic ones have no use for them.
func (c *Coordinator) Fetch(q *kmsg.OffsetFetchRequestGroup, version int16) kmsg.OffsetFetchResponseGroup {
	r := kmsg.NewOffsetFetchResponseGroup()
	r.Group = q.Group
	g, code := c.find(q.Group)
	if code != 0 {
		r.ErrorCode = code
		return r
	}
	none := func(partition int32, code int16) kmsg.OffsetFetchResponseGroupTopicPartition {
		return kmsg.OffsetFetchResponseGroupTopicPartition{Partition: partition, Offset: -1, LeaderEpoch: -1, Metadata: new(string), ErrorCode: code}
	}
	one := func(tp topicPartition) kmsg.OffsetFetchResponseGroupTopicPartition {
		if g == nil || g.offsets[tp] == nil {
			return none(tp.partition, 0)
		}
		o := g.offsets[tp]
		return kmsg.OffsetFetchResponseGroupTopicPartition{Partition: tp.partition, Offset: o.offset, LeaderEpoch: o.leaderEpoch, Metadata: &o.metadata}
	}
	if q.Topics == nil {
		if g == nil {
			return r
		}
		for _, tp := range g.partitions() {
			if g.offsets[tp] == nil || version >= 10 && c.env.TopicID(tp.topic) == [16]byte{} { // only an id would name it
				continue
			}
			if n := len(r.Topics); n == 0 || r.Topics[n-1].Topic != tp.topic {
				t := kmsg.NewOffsetFetchResponseGroupTopic()
				t.Topic, t.TopicID = tp.topic, c.env.TopicID(tp.topic)
				r.Topics = append(r.Topics, t)
			}
			t := &r.Topics[len(r.Topics)-1]
			t.Partitions = append(t.Partitions, one(tp))
		}
		return r
	}
	for i := range q.Topics {
		t := &q.Topics[i]
		a := kmsg.NewOffsetFetchResponseGroupTopic()
		a.Topic, a.TopicID = t.Topic, t.TopicID
		name, known := t.Topic, true
		if version >= 10 {
			name, known = c.env.Topic(t.TopicID)
		}
		for _, p := range t.Partitions {
			if !known {
				a.Partitions = append(a.Partitions, none(p, wire.UnknownTopicID))
				continue
			}
			a.Partitions = append(a.Partitions, one(topicPartition{name, p}))
		}
		r.Topics = append(r.Topics, a)
	}
	return r
}

// tombstonesMax is how many offsets one batch takes back: what a group of many
// partitions has committed must fit max.message.bytes.
const tombstonesMax = 1000

// tombstones takes committed offsets back, and the group with them where gone is
// said. They vanish when that is acknowledged. As in the log, what was appended
// before goes, and what is appended after stays. done gets the first error.
func (g *group) tombstones(old []topicPartition, gone bool, done func(code int16)) {
	batches := max(1, (len(old)+tombstonesMax-1)/tombstonesMax)
	left, failed := batches, int16(0)
	for i := range batches {
		some := old[i*tombstonesMax : min(len(old), (i+1)*tombstonesMax)]
		last := i == batches-1
		b := g.c.build()
		for _, tp := range some {
			b.offset(g.id, tp, nil)
		}
		if gone && last {
			b.noGroup(g.id)
		}
		g.append(b, func(code int16) {
			if at := g.c.groups[g.id]; code == 0 && at != nil { // g, unless it was forgotten and made anew
				for _, tp := range some {
					delete(at.offsets, tp)
				}
				if gone && last && at.state == empty && len(at.offsets) == 0 {
					g.c.forget(at)
				}
			}
			failed = cmp.Or(failed, code)
			if left--; left == 0 {
				done(failed)
			}
		})
	}
}

// Delete is DeleteGroups (key 42) for one group.
func (c *Coordinator) Delete(id string, done func(code int16)) {
	g, code := c.find(id)
	switch {
	case code != 0:
		done(code)
	case g == nil:
		done(wire.GroupIDNotFound)
	case g.state != empty:
		done(wire.NonEmptyGroup)
	default:
		g.tombstones(g.partitions(), true, done)
	}
}

// DeleteOffsets is OffsetDelete (key 47).
func (c *Coordinator) DeleteOffsets(q *kmsg.OffsetDeleteRequest, reply func(*kmsg.OffsetDeleteResponse)) {
	r := q.ResponseKind().(*kmsg.OffsetDeleteResponse)
	g, code := c.need(q.Group, wire.GroupIDNotFound)
	switch {
	case code != 0:
		r.ErrorCode = code
	case g.state != empty && g.protocolType != "consumer": // it cannot be told who reads what
		r.ErrorCode = wire.NonEmptyGroup
	}
	if r.ErrorCode != 0 {
		reply(r)
		return
	}
	var old []topicPartition
	for _, t := range q.Topics {
		a := kmsg.NewOffsetDeleteResponseTopic()
		a.Topic = t.Topic
		for _, p := range t.Partitions {
			x := kmsg.OffsetDeleteResponseTopicPartition{Partition: p.Partition}
			tp := topicPartition{t.Topic, p.Partition}
			switch {
			case g.subscribes(t.Topic):
				x.ErrorCode = wire.GroupSubscribedToTopic
			case p.Partition < 0 || int(p.Partition) >= c.env.Partitions(t.Topic):
				x.ErrorCode = wire.UnknownTopicOrPartition
			case g.offsets[tp] != nil || g.pending[tp] > 0:
				old = append(old, tp)
			}
			a.Partitions = append(a.Partitions, x)
		}
		r.Topics = append(r.Topics, a)
	}
	if len(old) == 0 {
		reply(r)
		return
	}
	g.tombstones(old, false, func(code int16) {
		r.ErrorCode = code
		reply(r)
	})
}
