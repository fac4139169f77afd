package group

import (
	"slices"

	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

type state uint8

const (
	empty      state = iota // no members
	preparing               // members are to join again
	completing              // the leader is to say who reads what
	stable
	dead
)

var stateNames = [...]string{"Empty", "PreparingRebalance", "CompletingRebalance", "Stable", "Dead"}

func (s state) String() string { return stateNames[s] }

// group is one consumer group.
type group struct {
	c     *Coordinator
	part  *part
	id    string
	state state
	since int64 // wall clock ms of the last change to or from empty

	protocolType string
	protocol     string // chosen in this generation
	generation   int32
	leader       string    // member id
	members      []*member // in the order in which they joined
	awaited      []*awaited

	rebalance   timer
	first       bool  // the first rebalance, which waits for more members
	delayLeft   int64 // ms that it may still be put off
	newcomers   bool  // somebody joined since it was put off last
	assigned    bool  // the leader has said who reads what, and that is being recorded
	syncTimeout timer

	offsets map[topicPartition]*offset
	pending map[topicPartition]int // commits under way
}

// member is one member.
type member struct {
	id         string
	instance   *string // static membership
	clientID   string
	host       string
	session    int64 // ms
	rebalance  int64 // ms
	protocols  []kmsg.JoinGroupRequestProtocol
	assignment []byte
	join       func(*kmsg.JoinGroupResponse) // waits for the rebalance to complete
	sync       func(*kmsg.SyncGroupResponse) // waits for the leader's assignment
	fresh      bool                          // has not been told a generation yet
	synced     bool                          // its SyncGroup of this generation is not waited for
	heartbeat  timer
}

// awaited is a member id that was given out and has not come back to join.
type awaited struct {
	id      string
	timeout timer
}

func (g *group) member(id string) *member {
	for _, m := range g.members {
		if m.id == id {
			return m
		}
	}
	return nil
}

func (g *group) static(instance string) *member {
	for _, m := range g.members {
		if m.instance != nil && *m.instance == instance {
			return m
		}
	}
	return nil
}

// known finds the member a request is from, or says what is wrong with it.
func (g *group) known(id string, instance *string) (*member, int16) {
	if instance != nil {
		m := g.static(*instance)
		switch {
		case m == nil:
			return nil, wire.UnknownMemberID
		case m.id != id:
			return nil, wire.FencedInstanceID
		}
		return m, 0
	}
	if m := g.member(id); m != nil {
		return m, 0
	}
	return nil, wire.UnknownMemberID
}

func (g *group) dropAwaited(id string) bool {
	for i, a := range g.awaited {
		if a.id == id {
			g.c.stop(&a.timeout)
			g.awaited = append(g.awaited[:i], g.awaited[i+1:]...)
			return true
		}
	}
	return false
}

// freshMax is how long the first join of a member may wait, ms. A client that gave up
// may have joined again under another id, so we cannot wait for it as long as the
// rebalance may take. Kafka's constant.
const freshMax = 5 * 60e3

// beat restarts a member's session.
func (g *group) beat(m *member) {
	ms := m.session
	if m.fresh {
		ms = freshMax
	}
	g.c.after(&m.heartbeat, ms, func() { g.expired(m) })
}

// expired is the end of a member's session. Who waits for us has not gone.
func (g *group) expired(m *member) {
	if !m.fresh && (m.join != nil || m.sync != nil) {
		g.beat(m)
		return
	}
	g.remove(m)
}

// remove takes a member out and has the others share its work.
func (g *group) remove(m *member) {
	g.drop(m, wire.UnknownMemberID)
	g.shrunk()
}

// drop takes a member out. What it waits for is answered with code.
func (g *group) drop(m *member, code int16) {
	g.c.stop(&m.heartbeat)
	for i, x := range g.members {
		if x == m {
			g.members = append(g.members[:i], g.members[i+1:]...)
			break
		}
	}
	if m.join != nil {
		g.answerJoin(m, code)
	}
	if m.sync != nil {
		g.answerSync(m, code)
	}
	if g.leader == m.id && len(g.members) > 0 {
		g.leader = g.members[0].id
	}
}

// shrunk has those who are left share the work of those who were dropped.
func (g *group) shrunk() {
	switch g.state {
	case stable, completing:
		g.prepare()
	case preparing:
		g.maybeComplete()
	}
}

// vacate forgets a group in which nothing came of what it was made for. There is
// nothing of it in the log.
func (g *group) vacate() {
	if g.state == empty && g.generation == 0 && len(g.awaited)+len(g.offsets)+len(g.pending) == 0 {
		g.c.forget(g)
	}
}

// metadata is what a member said of itself for a protocol.
func (m *member) metadata(protocol string) []byte {
	for i := range m.protocols {
		if m.protocols[i].Name == protocol {
			return m.protocols[i].Metadata
		}
	}
	return nil
}

// supports says whether all members know one of the protocols.
func (g *group) supports(protocolType string, protocols []kmsg.JoinGroupRequestProtocol) bool {
	if len(g.members) == 0 {
		return protocolType != "" && len(protocols) > 0
	}
	if protocolType != g.protocolType {
		return false
	}
	for i := range protocols {
		if g.common(protocols[i].Name) {
			return true
		}
	}
	return false
}

func (g *group) common(protocol string) bool {
	for _, m := range g.members {
		if !m.knows(protocol) {
			return false
		}
	}
	return true
}

func (m *member) knows(protocol string) bool {
	for i := range m.protocols {
		if m.protocols[i].Name == protocol {
			return true
		}
	}
	return false
}

// choose is the protocol that all know and most prefer; of equals, the one
// that the earliest member prefers.
func (g *group) choose() string {
	type votes struct {
		name string
		n    int
	}
	var all []votes
	for _, m := range g.members {
		for i := range m.protocols {
			name := m.protocols[i].Name
			if !g.common(name) {
				continue
			}
			at := len(all)
			for j := range all {
				if all[j].name == name {
					at = j
				}
			}
			if at == len(all) {
				all = append(all, votes{name: name})
			}
			all[at].n++
			break
		}
	}
	best := votes{}
	for _, v := range all {
		if v.n > best.n {
			best = v
		}
	}
	return best.name
}

// subscribes says whether any member reads the topic, as far as members of
// consumer groups say.
func (g *group) subscribes(topic string) bool {
	if g.protocolType != "consumer" {
		return false
	}
	for _, m := range g.members {
		topics, ok := topicsOf(m.metadata(g.protocol))
		if !ok || slices.Contains(topics, topic) { // not to be understood: better not to say that nobody does
			return true
		}
	}
	return false
}

// topicsOf are the topics that a member of a consumer group reads, sorted; false when
// its metadata is not to be understood.
func topicsOf(metadata []byte) ([]string, bool) {
	var m kmsg.ConsumerMemberMetadata
	if m.ReadFrom(metadata) != nil {
		return nil, false
	}
	slices.Sort(m.Topics)
	return m.Topics, true
}
