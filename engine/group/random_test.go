package group

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var seed = flag.Uint64("seed", 0, "run this seed of TestRandom only")

const (
	rebalanceMs = 20000 // the longest rebalance timeout
	appendMax   = 10e9  // how long an append takes at most, ns
	// answerMax is how long a join or a sync may wait here, ns.
	answerMax = rebalanceMs*1e6 + appendMax
)

// TestRandom lets random clients do random things, with acknowledgements late or
// refused, and checks after each: the state's invariants; answers once, in time;
// one leader in a generation; generations forward. In between and at the end a
// replay of the log must find what was acknowledged.
func TestRandom(t *testing.T) {
	if *seed != 0 {
		newChaos(t, *seed).run(400)
		return
	}
	answers := map[string]int{}
	for seed := uint64(1); seed <= 150; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			x := newChaos(t, seed)
			x.run(400)
			for k, n := range x.answers {
				answers[k] += n
			}
		})
	}
	// The chances must be such that everything happens.
	for _, k := range []string{
		"join ok", "join MEMBER_ID_REQUIRED", "join UNKNOWN_MEMBER_ID", "join FENCED_INSTANCE_ID", "join REBALANCE_IN_PROGRESS",
		"join INCONSISTENT_GROUP_PROTOCOL", "join GROUP_MAX_SIZE_REACHED", "join skip", "join NOT_COORDINATOR", "sync NOT_COORDINATOR", "commit NOT_COORDINATOR", "join COORDINATOR_NOT_AVAILABLE",
		"sync ok", "sync REBALANCE_IN_PROGRESS", "sync ILLEGAL_GENERATION", "sync UNKNOWN_MEMBER_ID", "sync COORDINATOR_NOT_AVAILABLE",
		"commit ok", "commit COORDINATOR_NOT_AVAILABLE", "commit REBALANCE_IN_PROGRESS", "commit UNKNOWN_MEMBER_ID",
		"commit UNKNOWN_TOPIC_OR_PARTITION", "delete ok", "delete NON_EMPTY_GROUP", "delete GROUP_ID_NOT_FOUND", "heartbeat ok", "leave ok", "compared Stable", "compared Empty",
	} {
		if answers[k] == 0 {
			t.Errorf("%s never happened", k)
		}
	}
}

func TestSameSeedSameBytes(t *testing.T) {
	for seed := uint64(1); seed <= 5; seed++ {
		a, b := newChaos(t, seed), newChaos(t, seed)
		a.run(400)
		b.run(400)
		if !bytes.Equal(a.w.appended, b.w.appended) || len(a.w.appended) == 0 {
			t.Errorf("seed %d: appended %d and %d bytes, not the same", seed, len(a.w.appended), len(b.w.appended))
		}
		if a.transcript.String() != b.transcript.String() {
			t.Errorf("seed %d: other answers", seed)
		}
	}
}

type chaos struct {
	*testing.T
	w          *world
	r          *rand.Rand
	clients    []*chaosClient
	answers    map[string]int
	transcript strings.Builder
	wild       int               // how much of what clients do is nonsense, percent
	leaders    map[string]string // by group and generation
	highest    map[*group]int32
}

type chaosClient struct {
	group      string
	name       string
	instance   *string
	id         string
	generation int32
	members    []string // when it leads
	want       string   // what a sane client does next: join, sync, beat; or it waits
}

func newChaos(t *testing.T, seed uint64) *chaos {
	cfg := testConfig()
	cfg.MaxSize = 5
	cfg.OffsetsRetention, cfg.CheckInterval = 120e3, 30e3
	x := &chaos{
		T: t, w: newWorld(t, seed, cfg), r: rand.New(rand.NewPCG(seed, 2)), answers: map[string]int{},
		leaders: map[string]string{}, highest: map[*group]int32{},
	}
	x.w.acks, x.wild = "hold", 5+x.r.IntN(60)
	for i := range 12 {
		c := &chaosClient{group: []string{"g", "h"}[i%2], name: string(rune('a' + i)), generation: -1, want: "join"}
		if i%3 == 0 {
			c.instance = &c.name
		}
		x.clients = append(x.clients, c)
	}
	return x
}

func (x *chaos) chance(percent int) bool { return x.r.IntN(100) < percent }

func (x *chaos) answered(what string, code int16) {
	k := what + " " + codeName(code)
	x.answers[k]++
	fmt.Fprintf(&x.transcript, "%d %s\n", x.w.now, k)
}

func (x *chaos) run(steps int) {
	for range steps {
		x.step()
		x.invariants()
		if x.chance(2) {
			x.replay()
		}
	}
	if x.chance(25) {
		x.unload()
		return
	}
	x.replay()
	x.w.acks = "flow"
	x.w.advance(answerMax)
	for _, q := range x.w.waiting {
		x.Errorf("a %s is never answered", q.name)
	}
	// Everybody has gone: all that remains ends by itself.
	x.w.advance(3600e9)
	if s := dump(x.w.c, true); s != "" {
		x.Errorf("an hour later there is still\n%s", s)
	}
}

// unload takes the partitions away in the middle of everything: nobody is left waiting
// for more than an append, and no timer but the expiry's is left.
func (x *chaos) unload() {
	w := x.w
	w.c.SetPartitions(0)
	for _, q := range w.waiting {
		if q.name == "JoinGroup" || q.name == "SyncGroup" {
			x.Errorf("a %s is left waiting", q.name)
		}
	}
	if len(w.alarms) != 1 || len(w.c.groups) != 0 {
		x.Errorf("%d timers and %d groups are left", len(w.alarms), len(w.c.groups))
	}
	for len(w.queue) > 0 {
		x.acknowledge()
	}
	if len(w.waiting) != 0 || len(w.c.groups) != 0 {
		x.Errorf("%d requests and %d groups are left", len(w.waiting), len(w.c.groups))
	}
}

func (x *chaos) step() {
	w, c := x.w, x.clients[x.r.IntN(len(x.clients))]
	if x.r.IntN(200) == 0 { // all of them go
		for _, d := range x.clients {
			if d.group == c.group {
				x.leave(d)
				d.id, d.generation, d.want = "", -1, "join"
			}
		}
		x.commit(c)
	}
	n := 60 + x.r.IntN(40)
	if x.chance(x.wild) {
		n = x.r.IntN(100)
	} else if x.chance(60) {
		switch c.want {
		case "join":
			x.join(c, x.chance(2))
		case "sync":
			x.sync(c)
		case "beat":
			x.heartbeat(c)
			x.commit(c)
		}
		return
	}
	switch {
	case n < 30:
		x.join(c, x.chance(20))
	case n < 48:
		x.sync(c)
	case n < 56:
		x.heartbeat(c)
	case n < 59:
		x.leave(c)
	case n < 67:
		x.commit(c)
	case n < 68: // a process dies, and another one comes
		c.id, c.generation, c.want = "", -1, "join"
	case n < 70:
		end := w.begin("delete")
		w.c.Delete(c.group, func(code int16) {
			end()
			x.answered("delete", code)
		})
	case n < 71:
		q := kmsg.NewPtrOffsetDeleteRequest()
		q.Group = c.group
		q.Topics = []kmsg.OffsetDeleteRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: int32(x.r.IntN(3))}}}}
		w.c.DeleteOffsets(q, once(w, q, func(r *kmsg.OffsetDeleteResponse) { x.answered("offset-delete", r.ErrorCode) }))
	case n < 72:
		w.c.TopicDeleted("u")
	case n < 90:
		for range x.r.IntN(4) {
			if len(w.queue) > 0 {
				x.acknowledge()
			}
		}
	default:
		ms := x.r.Int64N(2000)
		if x.chance(10) {
			ms = x.r.Int64N(9000)
		} else if x.chance(1) {
			ms = x.r.Int64N(200000)
		}
		for len(w.queue) > 0 && w.now+ms*1e6-w.queue[0].since > appendMax {
			x.acknowledge()
		}
		w.acks = "hold"
		w.advance(ms * 1e6)
		for _, q := range w.waiting {
			if w.now-q.since > answerMax {
				x.Fatalf("a %s waits for %d ms", q.name, (w.now-q.since)/1e6)
			}
		}
	}
}

func (x *chaos) acknowledge() {
	if x.chance(8) {
		x.w.answer(x.r.IntN(len(x.w.queue)), wire.NotEnoughReplicas)
		return
	}
	x.w.ack(0)
}

// failed is what a sane client makes of an error.
func (c *chaosClient) failed(code int16) {
	switch code {
	case 0:
	case wire.UnknownMemberID, wire.FencedInstanceID:
		c.id, c.generation, c.want = "", -1, "join"
	default:
		c.want = "join"
	}
}

func (x *chaos) heartbeat(c *chaosClient) {
	q := kmsg.NewPtrHeartbeatRequest()
	q.Version, q.Group, q.MemberID, q.InstanceID, q.Generation = 4, c.group, c.id, c.instance, c.generation
	code := x.w.c.Heartbeat(q)
	x.answered("heartbeat", code)
	c.failed(code)
}

func (x *chaos) join(c *chaosClient, restarted bool) {
	q := kmsg.NewPtrJoinGroupRequest()
	q.Version = []int16{0, 3, 4, 5, 8, 9, 9, 9}[x.r.IntN(8)]
	q.Group, q.MemberID = c.group, c.id
	if c.instance != nil {
		q.Version = max(q.Version, 5)
		q.InstanceID = c.instance
	}
	if restarted {
		q.MemberID = ""
	}
	c.want = ""
	q.ProtocolType = "consumer"
	if x.chance(1) {
		q.ProtocolType = "connect"
	}
	q.SessionTimeoutMillis, q.RebalanceTimeoutMillis = int32(6000+x.r.IntN(6000)), int32(5000+x.r.IntN(rebalanceMs-5000))
	for _, name := range []string{"range", "sticky", "roundrobin"} {
		if x.chance(x.wild / 4) {
			continue
		}
		topics := []string{"t"}
		if x.chance(x.wild / 4) {
			topics = append(topics, "u")
		}
		q.Protocols = append(q.Protocols, kmsg.JoinGroupRequestProtocol{Name: name, Metadata: subscription(topics...)})
	}
	x.w.c.Join(q, c.name, "/127.0.0.1", once(x.w, q, func(r *kmsg.JoinGroupResponse) {
		x.answered("join", r.ErrorCode)
		switch r.ErrorCode {
		case 0:
			c.id, c.generation, c.members, c.want = r.MemberID, r.Generation, nil, "sync"
			g := x.w.c.groups[c.group]
			if r.Generation < x.highest[g] {
				x.Fatalf("group %s went back from generation %d to %d", c.group, x.highest[g], r.Generation)
			}
			x.highest[g] = r.Generation
			if r.SkipAssignment {
				x.answers["join skip"]++
			} else if len(r.Members) > 0 {
				if r.LeaderID != r.MemberID {
					x.Fatalf("%s gets the members, and %s leads", r.MemberID, r.LeaderID)
				}
				k := fmt.Sprintf("%p/%d", g, r.Generation)
				if was := x.leaders[k]; was != "" && was != r.MemberID {
					x.Fatalf("%s and %s lead generation %d", was, r.MemberID, r.Generation)
				}
				x.leaders[k] = r.MemberID
				for _, m := range r.Members {
					c.members = append(c.members, m.MemberID)
				}
			}
		case wire.MemberIDRequired:
			c.id, c.want = r.MemberID, "join"
		default:
			c.failed(r.ErrorCode)
		}
	}))
}

func (x *chaos) sync(c *chaosClient) {
	q := kmsg.NewPtrSyncGroupRequest()
	q.Version, q.Group, q.MemberID, q.InstanceID, q.Generation = 4, c.group, c.id, c.instance, c.generation
	for _, id := range c.members {
		share := fmt.Sprintf("%s %d %d", id, c.generation, x.r.IntN(1000))
		q.GroupAssignment = append(q.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: id, MemberAssignment: []byte(share)})
	}
	id, generation := c.id, c.generation
	c.want = ""
	x.w.c.Sync(q, once(x.w, q, func(r *kmsg.SyncGroupResponse) {
		x.answered("sync", r.ErrorCode)
		if r.ErrorCode != 0 {
			c.failed(r.ErrorCode)
			return
		}
		c.want = "beat"
		// Recorded before it is told, and of this generation. A static member's
		// share was given to the id it had before it restarted.
		if s := string(r.MemberAssignment); s != "" && !strings.Contains(s, fmt.Sprintf(" %d ", generation)) ||
			s != "" && c.instance == nil && !strings.HasPrefix(s, id+" ") {
			x.Fatalf("%s gets %q in generation %d", id, s, generation)
		}
		found := len(r.MemberAssignment) == 0
		for _, b := range x.w.log[PartitionOf(c.group, x.w.count)] {
			found = found || bytes.Contains(b, r.MemberAssignment)
		}
		if !found {
			x.Fatalf("%s gets %q, which is not recorded", id, r.MemberAssignment)
		}
	}))
}

func (x *chaos) leave(c *chaosClient) {
	q := kmsg.NewPtrLeaveGroupRequest()
	q.Version, q.Group = 5, c.group
	for _, d := range x.clients {
		if d == c || d.group == c.group && x.chance(15) {
			m := kmsg.NewLeaveGroupRequestMember()
			m.MemberID, m.InstanceID = d.id, d.instance
			if d.instance != nil && x.chance(50) {
				m.MemberID = ""
			}
			q.Members = append(q.Members, m)
		}
	}
	r := x.w.c.Leave(q)
	check(x.w, q, r)
	x.answered("leave", r.ErrorCode)
}

func (x *chaos) commit(c *chaosClient) {
	q := kmsg.NewPtrOffsetCommitRequest()
	q.Version, q.Group, q.MemberID, q.InstanceID, q.Generation = 8, c.group, c.id, c.instance, c.generation
	if x.chance(30) { // a simple consumer
		q.MemberID, q.InstanceID, q.Generation = "", nil, -1
	}
	for range 1 + x.r.IntN(2) {
		topic, partition := "t", int32(x.r.IntN(4))
		if x.chance(25) {
			topic, partition = "u", 0
		}
		q.Topics = append(q.Topics, kmsg.OffsetCommitRequestTopic{Topic: topic, Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Partition: partition, Offset: x.r.Int64N(1e6)}}})
	}
	x.w.c.Commit(q, once(x.w, q, func(r *kmsg.OffsetCommitResponse) {
		for _, t := range r.Topics {
			x.answered("commit", t.Partitions[0].ErrorCode)
		}
	}))
}

// invariants are those of the state machine.
func (x *chaos) invariants() {
	x.Helper()
	w := x.w
	set := func(t *timer) bool {
		return slices.ContainsFunc(w.alarms, func(a alarm) bool { return a.t == &t.Timer })
	}
	alarms := 1 // the expiry's
	groups := w.c.all()
	if len(groups) != len(w.c.groups) {
		x.Fatalf("%d groups in the lists, %d in the map", len(groups), len(w.c.groups))
	}
	for _, g := range groups {
		bad := func(format string, args ...any) {
			x.Helper()
			x.Fatalf("%s in %v, generation %d: %s", g.id, g.state, g.generation, fmt.Sprintf(format, args...))
		}
		seen := map[string]bool{}
		for _, m := range g.members {
			instance := "-" + m.id
			if m.instance != nil {
				instance = "/" + *m.instance
			}
			if seen[m.id] || seen[instance] {
				bad("%s %s is in twice", m.id, instance)
			}
			seen[m.id], seen[instance] = true, true
			if !set(&m.heartbeat) {
				bad("%s has no session", m.id)
			}
			alarms++
			if m.sync != nil && g.state != completing {
				bad("%s waits for its share", m.id)
			}
			if m.sync != nil && !m.synced {
				bad("%s waits for its share and has not synced", m.id)
			}
			if m.join != nil && g.state != preparing && (g.state != stable || len(w.queue) == 0) {
				bad("%s waits to join", m.id)
			}
		}
		for _, a := range g.awaited {
			if seen[a.id] || !set(&a.timeout) {
				bad("%s is awaited", a.id)
			}
			alarms++
		}
		if len(g.members) > 0 {
			if !seen[g.leader] {
				bad("%q leads, who is not in", g.leader)
			}
			if g.choose() == "" {
				bad("no common protocol")
			}
		}
		unsynced := slices.ContainsFunc(g.members, func(m *member) bool { return !m.synced })
		switch g.state {
		case empty:
			if len(g.members) > 0 || set(&g.rebalance) || set(&g.syncTimeout) {
				bad("it is not quiet")
			}
			if g.generation == 0 && len(g.awaited)+len(g.pending)+len(g.offsets) == 0 && g.protocolType != "" {
				bad("it is of no use")
			}
		case preparing:
			if !set(&g.rebalance) || set(&g.syncTimeout) {
				bad("not the right timers")
			}
			alarms++
			if !g.first && len(g.awaited) == 0 && !slices.ContainsFunc(g.members, func(m *member) bool { return m.join == nil }) {
				bad("all are there")
			}
		case completing, stable:
			if len(g.members) == 0 || set(&g.rebalance) || set(&g.syncTimeout) && !unsynced {
				bad("not the right timers")
			}
			if g.protocol == "" || !g.common(g.protocol) {
				bad("protocol %q", g.protocol)
			}
			if len(g.members) > w.cfg.MaxSize {
				bad("%d members", len(g.members))
			}
			if set(&g.syncTimeout) {
				alarms++
			}
		default:
			bad("it is listed")
		}
	}
	if len(w.alarms) != alarms {
		x.Fatalf("%d timers are set, %d are known", len(w.alarms), alarms)
	}
}

// replay acknowledges what is on its way, and compares.
func (x *chaos) replay() {
	x.Helper()
	w := x.w
	for len(w.queue) > 0 {
		x.acknowledge()
	}
	again := newWorld(x, 1, w.cfg)
	again.log, again.now = w.log, w.now
	again.load()
	if live, got := dump(w.c, false), dump(again.c, false); live != got {
		x.Fatalf("offsets:\n%s\nafter a replay:\n%s", live, got)
	}
	for _, g := range w.c.all() {
		if g.state != stable && g.state != empty || w.failed[g.id] || g.protocolType == "" {
			continue
		}
		x.answers["compared "+g.state.String()]++
		r := again.c.groups[g.id]
		one := func(g *group) string {
			c := New(w.cfg, nil)
			c.parts[0] = &part{groups: []*group{g}}
			return dump(c, true)
		}
		if r == nil {
			x.Fatalf("lost in a replay:\n%s", one(g))
		}
		if live, got := one(g), one(r); live != got || g.state == empty && g.since != r.since {
			x.Fatalf("group, empty since %d:\n%s\nafter a replay, since %d:\n%s", g.since, live, r.since, got)
		}
	}
	for _, g := range again.c.all() {
		if w.c.groups[g.id] == nil && !w.failed[g.id] {
			x.Fatalf("a replay finds\n%s", dump(again.c, true))
		}
	}
}
