package simtest

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/engine/log"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

type commitKey struct {
	group, topic string
	partition    int32
}

// register is one committed offset: every commit has a value of its own.
type register struct{ commits []*commit }

// commit is one attempt.
type commit struct {
	value    int64
	sent     int64
	answered int64 // never: it may still take effect
	acked    bool
	refused  bool // it took no effect and never will
	lost     bool // it may have gone with the power
}

func (m *model) register(k commitKey) *register {
	g := m.groups[k]
	if g == nil {
		g = &register{}
		m.groups[k] = g
		m.registers = append(m.registers, g)
	}
	return g
}

// commit notes an attempt.
func (m *model) commit(k commitKey) *commit {
	m.commits++
	x := &commit{value: int64(m.commits), sent: m.run.world.Now(), answered: never}
	g := m.register(k)
	g.commits = append(g.commits, x)
	return x
}

// result is its answer.
func (m *model) result(x *commit, code int16) {
	switch code {
	case 0:
		if !x.lost { // else the answer was on its way when the power went
			x.acked, x.answered = true, m.run.world.Now()
		}
	case wire.IllegalGeneration, wire.UnknownMemberID, wire.RebalanceInProgress, wire.CoordinatorLoadInProgress:
		x.refused = true
	}
}

// committed checks an answer to a request that was sent at asked: a commit that was
// not replaced by then by one that was sent after it had been answered.
func (m *model) committed(k commitKey, value, asked int64) {
	g := m.register(k)
	var is *commit
	for _, x := range g.commits {
		if x.value == value {
			is = x
		}
	}
	after := int64(-1)
	switch {
	case value == -1:
	case is == nil || is.refused:
		m.run.fail("%+v: committed offset %d, which nobody committed", k, value)
	default:
		after = is.answered
	}
	for _, x := range g.commits {
		if x.acked && x.sent > after && x.answered < asked {
			m.run.fail("%+v: committed offset %d, and %d was acknowledged after it, at %.6f", k, value, x.value, float64(x.answered)/1e9)
		}
	}
}

// powerLost forgets the answers to commits that may be lost with the power.
func (m *model) powerLost() {
	if p, _ := log.ParsePolicy(m.run.policy); p.Synchronous() {
		return
	}
	for _, g := range m.registers {
		for _, x := range g.commits {
			x.acked, x.answered, x.lost = false, never, true
		}
	}
}

// producerID checks that an id was never given before.
func (m *model) producerID(id int64) {
	if m.ids[id] {
		m.run.fail("producer id %d was given out twice", id)
	}
	m.ids[id] = true
}

// member is a member of a consumer group.
type member struct {
	*client
	group      string
	id         string
	generation int32
	leader     bool
	members    []kmsg.JoinGroupResponseMember
}

func (r *run) addMember(name, group string) {
	m := &member{client: r.client(name), group: group}
	m.After(r.between(0, time.Second), func() {
		m.redial(m.find, func(error) {})
	})
}

// addCommitter adds a client that commits without being a member.
func (r *run) addCommitter(name string) {
	m := &member{client: r.client(name), group: "simple", generation: -1}
	m.After(r.between(0, time.Second), func() {
		m.redial(m.find, func(error) {})
	})
}

// find asks for the coordinator: the first to do so makes __consumer_offsets.
func (m *member) find() {
	q := kmsg.NewPtrFindCoordinatorRequest()
	q.Version = m.version(wire.KeyFindCoordinator, 1)
	q.CoordinatorKey, q.CoordinatorKeys = m.group, []string{m.group}
	m.conn.Call(q, func(a kmsg.Response, err error) {
		if err != nil {
			return
		}
		r := a.(*kmsg.FindCoordinatorResponse)
		code := r.ErrorCode
		if q.Version >= 4 {
			code = r.Coordinators[0].ErrorCode
		}
		if code != 0 {
			m.later(m.think(), m.find)
			return
		}
		m.fetch()
	})
}

// fetch looks what is committed, and joins.
func (m *member) fetch() {
	q := kmsg.NewPtrOffsetFetchRequest()
	q.Version = m.version(wire.KeyOffsetFetch, 1)
	if q.Version > 9 {
		q.Version = 9 // by name
	}
	q.Group = m.group
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group, g.MemberEpoch = m.group, -1
	for _, name := range m.run.steady {
		t := kmsg.NewOffsetFetchRequestTopic()
		t.Topic, t.Partitions = name, []int32{0, 1}
		q.Topics = append(q.Topics, t)
		u := kmsg.NewOffsetFetchRequestGroupTopic()
		u.Topic, u.Partitions = name, []int32{0, 1}
		g.Topics = append(g.Topics, u)
	}
	q.Groups = append(q.Groups, g)
	asked := m.run.world.Now()
	m.conn.Call(q, func(a kmsg.Response, err error) {
		if err != nil {
			return
		}
		r := a.(*kmsg.OffsetFetchResponse)
		code := r.ErrorCode
		if q.Version >= 8 {
			code = r.Groups[0].ErrorCode
		}
		check := func(topic string, partition int32, offset int64, code int16) {
			if code == 0 {
				m.run.model.committed(commitKey{m.group, topic, partition}, offset, asked)
			}
		}
		if code == 0 {
			for _, t := range r.Topics {
				for _, p := range t.Partitions {
					check(t.Topic, p.Partition, p.Offset, p.ErrorCode)
				}
			}
			for i := range r.Groups {
				for _, t := range r.Groups[i].Topics {
					for _, p := range t.Partitions {
						check(t.Topic, p.Partition, p.Offset, p.ErrorCode)
					}
				}
			}
		}
		if m.generation < 0 {
			m.later(m.think(), m.commit)
			return
		}
		m.join()
	})
}

func (m *member) join() {
	q := kmsg.NewPtrJoinGroupRequest()
	q.Version = m.version(wire.KeyJoinGroup, 0)
	q.Group, q.MemberID, q.ProtocolType = m.group, m.id, "consumer"
	q.SessionTimeoutMillis, q.RebalanceTimeoutMillis = int32(500+m.below(3000)), 1500
	meta := kmsg.NewConsumerMemberMetadata()
	meta.Topics = m.run.steady
	q.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: meta.AppendTo(nil)}}
	m.conn.Call(q, func(a kmsg.Response, err error) {
		if err != nil {
			return
		}
		r := a.(*kmsg.JoinGroupResponse)
		switch r.ErrorCode {
		case 0:
			if m.id != "" && r.MemberID != m.id || r.Generation < 0 {
				m.run.fail("%s: joined as %q in generation %d, asked as %q", m.name, r.MemberID, r.Generation, m.id)
			}
			m.id, m.generation, m.leader, m.members = r.MemberID, r.Generation, r.LeaderID == r.MemberID, r.Members
			m.sync()
		case wire.MemberIDRequired:
			m.id = r.MemberID
			m.join()
		case wire.UnknownMemberID:
			m.id = ""
			m.later(m.think(), m.join)
		default:
			if !wire.Retriable(r.ErrorCode) {
				m.run.fail("%s: JoinGroup: %s", m.name, wire.CodeName(r.ErrorCode))
			}
			m.later(m.think(), m.find)
		}
	})
}

func (m *member) sync() {
	q := kmsg.NewPtrSyncGroupRequest()
	q.Version = m.version(wire.KeySyncGroup, 0)
	q.Group, q.MemberID, q.Generation = m.group, m.id, m.generation
	kind, protocol := "consumer", "range"
	q.ProtocolType, q.Protocol = &kind, &protocol
	if m.leader {
		for _, x := range m.members {
			q.GroupAssignment = append(q.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{
				MemberID: x.MemberID, MemberAssignment: fmt.Appendf(nil, "%s in %d", x.MemberID, m.generation)})
		}
	}
	m.conn.Call(q, func(a kmsg.Response, err error) {
		if err != nil {
			return
		}
		r := a.(*kmsg.SyncGroupResponse)
		if r.ErrorCode != 0 {
			m.lost("SyncGroup", r.ErrorCode)
			return
		}
		if want := fmt.Sprintf("%s in %d", m.id, m.generation); string(r.MemberAssignment) != want {
			m.run.fail("%s: assigned %q, want %q", m.name, r.MemberAssignment, want)
		}
		m.later(m.think(), m.beat)
	})
}

// lost goes back to where a member begins again.
func (m *member) lost(what string, code int16) {
	switch {
	case code == wire.UnknownMemberID:
		m.id = ""
	case code == wire.IllegalGeneration || code == wire.RebalanceInProgress:
	case !wire.Retriable(code):
		m.run.fail("%s: %s: %s", m.name, what, wire.CodeName(code))
	}
	m.later(m.think(), m.find)
}

func (m *member) beat() {
	switch m.below(12) {
	case 0:
		m.later(m.think(), m.find)
		return
	case 1:
		m.leave()
		return
	}
	q := kmsg.NewPtrHeartbeatRequest()
	q.Version = m.version(wire.KeyHeartbeat, 0)
	q.Group, q.MemberID, q.Generation = m.group, m.id, m.generation
	m.conn.Call(q, func(a kmsg.Response, err error) {
		if err != nil {
			return
		}
		if code := a.(*kmsg.HeartbeatResponse).ErrorCode; code != 0 {
			m.lost("Heartbeat", code)
			return
		}
		m.later(m.think(), m.commit)
	})
}

func (m *member) leave() {
	q := kmsg.NewPtrLeaveGroupRequest()
	q.Version = m.version(wire.KeyLeaveGroup, 0)
	q.Group, q.MemberID = m.group, m.id
	q.Members = []kmsg.LeaveGroupRequestMember{{MemberID: m.id}}
	m.conn.Call(q, func(a kmsg.Response, err error) {
		if err == nil {
			m.id = ""
			m.later(m.think(), m.find)
		}
	})
}

func (m *member) commit() {
	q := kmsg.NewPtrOffsetCommitRequest()
	q.Version = min(9, m.version(wire.KeyOffsetCommit, 2))
	q.Group, q.MemberID, q.Generation = m.group, m.id, m.generation
	var keys []commitKey
	var commits []*commit
	for _, name := range m.run.steady {
		if m.below(2) == 0 {
			continue
		}
		t := kmsg.NewOffsetCommitRequestTopic()
		t.Topic = name
		for i := range int32(2) {
			k := commitKey{m.group, name, i}
			x := m.run.model.commit(k)
			keys, commits = append(keys, k), append(commits, x)
			p := kmsg.NewOffsetCommitRequestTopicPartition()
			p.Partition, p.Offset, p.LeaderEpoch = i, x.value, -1
			t.Partitions = append(t.Partitions, p)
		}
		q.Topics = append(q.Topics, t)
	}
	m.conn.Call(q, func(a kmsg.Response, err error) {
		if err != nil {
			return
		}
		at, worst := 0, int16(0)
		for _, t := range a.(*kmsg.OffsetCommitResponse).Topics {
			for _, p := range t.Partitions {
				if k := keys[at]; k.topic != t.Topic || k.partition != p.Partition {
					m.run.fail("%s: OffsetCommit: %s-%d in the place of %+v", m.name, t.Topic, p.Partition, k)
				}
				m.run.model.result(commits[at], p.ErrorCode)
				at++
				// The topic may not be made yet.
				if p.ErrorCode != 0 && p.ErrorCode != wire.UnknownTopicOrPartition {
					worst = p.ErrorCode
				}
			}
		}
		switch {
		case worst != 0:
			m.lost("OffsetCommit", worst)
		case m.generation < 0:
			m.later(m.think(), m.find)
		default:
			m.later(m.think(), m.beat)
		}
	})
}
