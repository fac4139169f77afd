package group

import (
	"slices"

	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Sync is SyncGroup (key 14): the leader says who reads what, everybody gets their
// share. The assignment is recorded before anybody is told.
func (c *Coordinator) Sync(q *kmsg.SyncGroupRequest, reply func(*kmsg.SyncGroupResponse)) {
	answer := func(r *kmsg.SyncGroupResponse) {
		r.Version = q.Version
		reply(r)
	}
	refuse := func(code int16) {
		r := kmsg.NewPtrSyncGroupResponse()
		r.ErrorCode = code
		answer(r)
	}
	g, code := c.need(q.Group, wire.UnknownMemberID)
	if code != 0 {
		refuse(code)
		return
	}
	m, code := g.known(q.MemberID, q.InstanceID)
	switch {
	case code != 0:
		refuse(code)
		return
	case q.Version >= 5 && (q.ProtocolType == nil || q.Protocol == nil):
		refuse(wire.InconsistentGroupProtocol)
		return
	case q.Generation != g.generation:
		refuse(wire.IllegalGeneration)
		return
	case q.ProtocolType != nil && *q.ProtocolType != g.protocolType, q.Protocol != nil && *q.Protocol != g.protocol && g.state != preparing:
		refuse(wire.InconsistentGroupProtocol)
		return
	}
	switch g.state {
	case preparing:
		refuse(wire.RebalanceInProgress)
	case stable:
		g.saw(m)
		m.sync = answer
		g.answerSync(m, 0)
	case completing:
		if m.sync != nil { // it asks again: the first question is not waited for any more
			g.answerSync(m, wire.RebalanceInProgress)
		}
		g.saw(m)
		m.sync = answer
		if m.id == g.leader && !g.assigned {
			g.assign(q.GroupAssignment)
		}
	default:
		refuse(wire.UnknownMemberID)
	}
}

// saw notes that a member has asked for its assignment.
func (g *group) saw(m *member) {
	g.beat(m)
	m.synced = true
	if !slices.ContainsFunc(g.members, func(m *member) bool { return !m.synced }) {
		g.c.stop(&g.syncTimeout)
	}
}

// assign takes the leader's assignment.
func (g *group) assign(shares []kmsg.SyncGroupRequestGroupAssignment) {
	g.assigned = true
	for _, m := range g.members {
		m.assignment = []byte{}
	}
	for i := range shares {
		if m := g.member(shares[i].MemberID); m != nil {
			m.assignment = shares[i].MemberAssignment
		}
	}
	generation := g.generation
	g.record(func(code int16) {
		if g.generation != generation || g.state != completing {
			return // a rebalance began meanwhile, and answered the syncs
		}
		if code != 0 {
			g.answerSyncs(code)
			g.prepare()
			return
		}
		g.state = stable
		g.answerSyncs(0)
	})
}

// answerSyncs answers all who wait for their assignment; their sessions start anew.
func (g *group) answerSyncs(code int16) {
	for _, m := range slices.Clone(g.members) {
		if m.sync != nil {
			g.answerSync(m, code)
			g.beat(m)
		}
	}
}

func (g *group) answerSync(m *member, code int16) {
	r := kmsg.NewPtrSyncGroupResponse()
	r.ErrorCode = code
	if code == 0 {
		protocolType, protocol := g.protocolType, g.protocol
		r.ProtocolType, r.Protocol, r.MemberAssignment = &protocolType, &protocol, m.assignment
	}
	sync := m.sync
	m.sync = nil
	sync(r)
}

// Heartbeat is Heartbeat (key 12): Kafka's error code, or 0.
func (c *Coordinator) Heartbeat(q *kmsg.HeartbeatRequest) int16 {
	g, code := c.need(q.Group, wire.UnknownMemberID)
	if code == wire.CoordinatorLoadInProgress {
		return 0 // clients take that for the end; as Kafka does
	}
	if code != 0 {
		return code
	}
	m, code := g.known(q.MemberID, q.InstanceID)
	switch {
	case code != 0:
		return code
	case q.Generation != g.generation:
		return wire.IllegalGeneration
	}
	g.beat(m)
	if g.state == preparing {
		return wire.RebalanceInProgress
	}
	return 0
}

// Leave is LeaveGroup (key 13).
func (c *Coordinator) Leave(q *kmsg.LeaveGroupRequest) *kmsg.LeaveGroupResponse {
	r := q.ResponseKind().(*kmsg.LeaveGroupResponse)
	g, code := c.need(q.Group, wire.UnknownMemberID)
	if code != 0 && code != wire.UnknownMemberID {
		r.ErrorCode = code
		return r
	}
	leaving := q.Members
	if q.Version < 3 {
		leaving = []kmsg.LeaveGroupRequestMember{{MemberID: q.MemberID}}
	}
	before := 0
	if g != nil {
		before = len(g.members)
	}
	for _, x := range leaving {
		a := kmsg.NewLeaveGroupResponseMember()
		a.MemberID, a.InstanceID = x.MemberID, x.InstanceID
		a.ErrorCode = wire.UnknownMemberID
		if g != nil {
			a.ErrorCode = g.leave(x.MemberID, x.InstanceID)
		}
		r.Members = append(r.Members, a)
	}
	if g != nil { // once for all of them
		if len(g.members) < before {
			g.shrunk()
		}
		g.maybeComplete()
		g.vacate()
	}
	if q.Version < 3 {
		r.ErrorCode, r.Members = r.Members[0].ErrorCode, nil
	}
	return r
}

func (g *group) leave(id string, instance *string) int16 {
	if instance != nil && id == "" { // by an administrator, who knows only the instance
		m := g.static(*instance)
		if m == nil {
			return wire.UnknownMemberID
		}
		g.drop(m, wire.UnknownMemberID)
		return 0
	}
	if instance == nil && g.dropAwaited(id) {
		return 0
	}
	m, code := g.known(id, instance)
	if code == 0 {
		g.drop(m, wire.UnknownMemberID)
	}
	return code
}
