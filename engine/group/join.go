package group

import (
	"bytes"
	"slices"

	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Join is JoinGroup (key 11). It is answered when the rebalance that it starts or
// takes part in has gathered everybody.
func (c *Coordinator) Join(q *kmsg.JoinGroupRequest, clientID, host string, reply func(*kmsg.JoinGroupResponse)) {
	refuse := func(code int16, memberID string) {
		r := q.ResponseKind().(*kmsg.JoinGroupResponse)
		r.ErrorCode, r.Generation, r.MemberID = code, -1, memberID
		r.Protocol = new(string)
		if q.Version >= 7 {
			r.Protocol = nil
		}
		reply(r)
	}
	if q.Group == "" {
		refuse(wire.InvalidGroupID, q.MemberID)
		return
	}
	if s := int64(q.SessionTimeoutMillis); s < c.cfg.MinSession || s > c.cfg.MaxSession {
		refuse(wire.InvalidSessionTimeout, q.MemberID)
		return
	}
	g, code := c.find(q.Group)
	if code == 0 && g == nil {
		if q.MemberID != "" { // of a group that is gone
			code = wire.UnknownMemberID
		} else {
			g, code = c.create(q.Group)
		}
	}
	if code != 0 {
		refuse(code, q.MemberID)
		return
	}
	defer g.vacate()
	if !g.accept(q) {
		refuse(wire.GroupMaxSizeReached, "")
		return
	}
	if !g.supports(q.ProtocolType, q.Protocols) {
		refuse(wire.InconsistentGroupProtocol, q.MemberID)
		return
	}
	if q.MemberID == "" {
		g.joinNew(q, clientID, host, reply, refuse)
		return
	}
	if q.InstanceID == nil && g.dropAwaited(q.MemberID) {
		g.admit(q, q.MemberID, clientID, host, reply)
		return
	}
	m, code := g.known(q.MemberID, q.InstanceID)
	if code != 0 {
		refuse(code, q.MemberID)
		return
	}
	g.rejoin(m, q, reply)
}

// accept says whether there is room for who joins, and puts it out if not. While
// members gather those count who have come, and static ones, who stay while they are
// away: so a group above its size shrinks.
func (g *group) accept(q *kmsg.JoinGroupRequest) bool {
	m := g.member(q.MemberID)
	if q.MemberID == "" && q.InstanceID != nil { // a static one that has restarted
		m = g.static(*q.InstanceID)
	}
	n := 0
	switch {
	case g.state == empty:
	case g.state != preparing:
		n = len(g.members)
	default:
		for _, x := range g.members {
			if x != m && (x.join != nil || x.instance != nil) {
				n++
			}
		}
	}
	if n < g.c.cfg.MaxSize || m != nil && (g.state != preparing || m.join != nil) {
		return true
	}
	g.dropAwaited(q.MemberID)
	if m != nil {
		g.drop(m, wire.GroupMaxSizeReached)
	}
	g.maybeComplete()
	return false
}

// joinNew is the first join of a member, or a static one's after its restart.
func (g *group) joinNew(q *kmsg.JoinGroupRequest, clientID, host string, reply func(*kmsg.JoinGroupResponse), refuse func(int16, string)) {
	c := g.c
	if q.InstanceID != nil {
		id := c.newMemberID(*q.InstanceID)
		if m := g.static(*q.InstanceID); m != nil {
			g.replace(m, id, q, clientID, host, reply)
			return
		}
		g.admit(q, id, clientID, host, reply)
		return
	}
	id := c.newMemberID(clientID)
	if q.Version >= 4 { // KIP-394: it is to come back under this id
		a := &awaited{id: id}
		g.awaited = append(g.awaited, a)
		c.after(&a.timeout, int64(q.SessionTimeoutMillis), func() {
			g.dropAwaited(id)
			g.maybeComplete()
			g.vacate()
		})
		refuse(wire.MemberIDRequired, id)
		return
	}
	g.admit(q, id, clientID, host, reply)
}

func (m *member) take(q *kmsg.JoinGroupRequest) {
	m.session, m.rebalance = int64(q.SessionTimeoutMillis), int64(q.RebalanceTimeoutMillis)
	if q.Version == 0 {
		m.rebalance = m.session
	}
	m.protocols = q.Protocols
}

// admit makes a member and starts a rebalance.
func (g *group) admit(q *kmsg.JoinGroupRequest, id, clientID, host string, reply func(*kmsg.JoinGroupResponse)) {
	m := &member{id: id, instance: q.InstanceID, clientID: clientID, host: host, fresh: true}
	m.take(q)
	m.join = g.joinReply(q, reply)
	if len(g.members) == 0 {
		g.leader = id
		g.protocolType = q.ProtocolType
	}
	g.members = append(g.members, m)
	g.newcomers = true
	g.beat(m)
	if g.state == preparing {
		g.maybeComplete()
	} else {
		g.prepare()
	}
}

// joinReply shapes a response for the version that was asked.
func (g *group) joinReply(q *kmsg.JoinGroupRequest, reply func(*kmsg.JoinGroupResponse)) func(*kmsg.JoinGroupResponse) {
	return func(r *kmsg.JoinGroupResponse) {
		r.Version = q.Version
		if r.Protocol == nil && q.Version < 7 {
			r.Protocol = new(string)
		}
		reply(r)
	}
}

// rejoin is a join of a member that the group knows.
func (g *group) rejoin(m *member, q *kmsg.JoinGroupRequest, reply func(*kmsg.JoinGroupResponse)) {
	same := sameProtocols(m.protocols, q.Protocols)
	if m.join != nil { // it asks again: the first question is not waited for any more
		g.answerJoin(m, wire.RebalanceInProgress)
	}
	answer := g.joinReply(q, reply)
	switch {
	case g.state == completing && same, g.state == stable && same && m.id != g.leader:
		// It has not got the answer, or looks whether all is well.
		m.join = answer
		g.answerJoin(m, 0)
		g.beat(m)
	case g.state == preparing:
		m.take(q)
		m.join = answer
		g.beat(m)
		g.maybeComplete()
	default:
		m.take(q)
		m.join = answer
		g.beat(m)
		g.prepare()
	}
}

// replace gives a static member that has restarted its new id (KIP-345). While the
// group is stable and the member reads what it read, nobody else notices. Only the
// topics are compared: other things in its metadata differ from start to start.
func (g *group) replace(m *member, id string, q *kmsg.JoinGroupRequest, clientID, host string, reply func(*kmsg.JoinGroupResponse)) {
	if m.join != nil {
		g.answerJoin(m, wire.FencedInstanceID)
	}
	if m.sync != nil {
		g.answerSync(m, wire.FencedInstanceID)
	}
	before, beforeID := m.metadata(g.protocol), m.id
	if g.leader == m.id {
		g.leader = id
	}
	m.id, m.clientID, m.host = id, clientID, host
	m.take(q)
	m.join = g.joinReply(q, reply)
	g.beat(m)
	switch g.state {
	case preparing:
		g.maybeComplete()
	case stable:
		was, _ := topicsOf(before)
		is, _ := topicsOf(m.metadata(g.protocol))
		if g.choose() != g.protocol || g.protocolType == "consumer" && !slices.Equal(was, is) {
			g.prepare()
			return
		}
		generation := g.generation
		g.record(func(code int16) {
			if m.join == nil || m.id != id || g.state != stable || g.generation != generation {
				return // replaced again, or a rebalance answers
			}
			if code != 0 {
				g.answerJoin(m, code)
				return
			}
			r := g.joined(m)
			if m.id == g.leader { // it must not assign again
				r.SkipAssignment = q.Version >= 9
				if q.Version < 9 { // it cannot be told, so somebody else is the leader
					r.Members, r.LeaderID = nil, beforeID
				}
			}
			g.tellJoin(m, r)
		})
	default:
		g.prepare()
	}
}

func sameProtocols(a, b []kmsg.JoinGroupRequestProtocol) bool {
	return slices.EqualFunc(a, b, func(x, y kmsg.JoinGroupRequestProtocol) bool {
		return x.Name == y.Name && bytes.Equal(x.Metadata, y.Metadata)
	})
}

// prepare starts a rebalance: everybody is to join again.
func (g *group) prepare() {
	g.c.stop(&g.syncTimeout)
	g.answerSyncs(wire.RebalanceInProgress)
	g.first = g.state == empty
	g.state = preparing
	if g.first {
		limit := g.rebalanceMax()
		wait := min(g.c.cfg.InitialDelay, limit)
		g.delayLeft = limit - wait
		g.newcomers = false
		g.c.after(&g.rebalance, wait, g.delayed)
		return
	}
	g.c.after(&g.rebalance, g.rebalanceMax(), g.complete)
	g.maybeComplete()
}

// rebalanceMax is how long members are waited for, ms.
func (g *group) rebalanceMax() int64 {
	most := int64(0)
	for _, m := range g.members {
		most = max(most, m.rebalance)
	}
	return most
}

// delayed ends the wait of a first rebalance, unless somebody came in it.
func (g *group) delayed() {
	if g.newcomers && g.delayLeft > 0 {
		g.newcomers = false
		wait := min(g.c.cfg.InitialDelay, g.delayLeft)
		g.delayLeft -= wait
		g.c.after(&g.rebalance, wait, g.delayed)
		return
	}
	g.complete()
}

// maybeComplete ends a rebalance when everybody is there.
func (g *group) maybeComplete() {
	if g.state != preparing || g.first || len(g.awaited) > 0 {
		return
	}
	for _, m := range g.members {
		if m.join == nil {
			return
		}
	}
	g.complete()
}

// complete begins the next generation with those who have joined. Static members
// who have not stay until their session ends.
func (g *group) complete() {
	c := g.c
	c.stop(&g.rebalance)
	g.first, g.assigned = false, false
	g.members = slices.DeleteFunc(g.members, func(m *member) bool {
		if m.join != nil || m.instance != nil {
			return false
		}
		c.stop(&m.heartbeat)
		return true
	})
	joined := slices.IndexFunc(g.members, func(m *member) bool { return m.join != nil })
	if joined < 0 && len(g.members) > 0 { // static ones, who may come back: nobody to lead yet
		c.after(&g.rebalance, max(g.rebalanceMax(), 1000), g.complete)
		return
	}
	g.generation++
	if len(g.members) == 0 {
		g.state, g.since, g.leader, g.protocol = empty, c.env.WallMillis(), "", ""
		g.record(func(int16) {}) // if that is lost, a replay finds members, whose sessions end
		return
	}
	if m := g.member(g.leader); m == nil || m.join == nil {
		g.leader = g.members[joined].id
	}
	g.protocol = g.choose()
	g.state = completing
	for _, m := range slices.Clone(g.members) {
		m.fresh, m.synced = false, m.join == nil // who is away is not expected
		if m.join != nil {
			g.answerJoin(m, 0)
		}
		g.beat(m)
	}
	// Who does not sync is put out, as who does not join is.
	c.after(&g.syncTimeout, g.rebalanceMax(), g.unsynced)
}

// unsynced puts out the members that did not ask for their assignment in time.
func (g *group) unsynced() {
	for _, m := range slices.Clone(g.members) {
		if !m.synced {
			g.drop(m, wire.UnknownMemberID)
		}
	}
	g.shrunk()
}

// joined is the answer to a member's join in this generation.
func (g *group) joined(m *member) *kmsg.JoinGroupResponse {
	r := kmsg.NewPtrJoinGroupResponse()
	r.Generation, r.LeaderID, r.MemberID = g.generation, g.leader, m.id
	protocolType, protocol := g.protocolType, g.protocol
	r.ProtocolType, r.Protocol = &protocolType, &protocol
	if m.id == g.leader {
		for _, x := range g.members {
			r.Members = append(r.Members, kmsg.JoinGroupResponseMember{
				MemberID: x.id, InstanceID: x.instance, ProtocolMetadata: x.metadata(g.protocol),
			})
		}
	}
	return r
}

func (g *group) answerJoin(m *member, code int16) {
	if code == 0 {
		g.tellJoin(m, g.joined(m))
		return
	}
	r := kmsg.NewPtrJoinGroupResponse()
	r.ErrorCode, r.Generation, r.MemberID = code, -1, m.id
	g.tellJoin(m, r)
}

func (g *group) tellJoin(m *member, r *kmsg.JoinGroupResponse) {
	join := m.join
	m.join = nil
	join(r)
}
