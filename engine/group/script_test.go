package group

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

var update = flag.Bool("update", false, "write what happens into the scripts")

// TestScripts runs testdata/*.txt: blocks of commands, a line ----, and what must
// come of them, all answers in their order. New starts afresh. A client remembers
// its member id and generation; k=v says what differs. Members are named by their
// client and how many ids it has had: a#1.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			s := &script{T: t, line: 1}
			for _, block := range strings.SplitAfter(string(text), "\n\n") {
				commands, want, found := strings.Cut(block, "----\n")
				if !found {
					t.Fatalf("%s:%d: a block without ----", file, s.line)
				}
				s.at = fmt.Sprintf("%s:%d", file, s.line)
				got := s.run(commands)
				out.WriteString(commands + "----\n" + got + "\n")
				if want := strings.TrimRight(want, "\n"); !*update && strings.TrimRight(got, "\n") != want {
					t.Errorf("%s:\n%s---- want\n%s\n---- got\n%s", s.at, commands, want, got)
				}
				s.line += strings.Count(block, "\n")
			}
			s.end()
			if *update {
				if err := os.WriteFile(file, bytes.TrimSuffix(out.Bytes(), []byte("\n")), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

type script struct {
	*testing.T
	at   string
	line int

	w       *world
	clients map[string]*scriptClient
	out     strings.Builder
}

type scriptClient struct {
	name       string
	id         string
	generation int32
}

func (s *script) say(format string, args ...any) {
	s.out.WriteString(s.w.name(fmt.Sprintf(format, args...)) + "\n")
}

// end looks whether everything is answered in the end.
func (s *script) end() {
	if s.w == nil {
		return
	}
	s.w.acks = "flow"
	s.w.advance(3 * 3600e9)
	for _, x := range s.w.waiting {
		s.Errorf("%s: a %s before this is not answered", s.at, x.name)
	}
}

func (s *script) run(commands string) string {
	s.out.Reset()
	for line := range strings.Lines(commands) {
		if f := strings.Fields(line); len(f) > 0 && !strings.HasPrefix(f[0], "#") {
			s.command(f)
			if s.w != nil {
				s.w.settle()
			}
		}
	}
	return s.out.String()
}

// args are a command's: words, and k=v.
type args struct {
	s     *script
	words []string
	kv    map[string]string
}

func (a args) get(k, otherwise string) string {
	if v, ok := a.kv[k]; ok {
		return v
	}
	return otherwise
}

func (a args) int(k string, otherwise int64) int64 {
	v, ok := a.kv[k]
	if !ok {
		return otherwise
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		a.s.Fatalf("%s: %s=%s: %v", a.s.at, k, v, err)
	}
	return n
}

func (a args) ms(k string, otherwise int64) int64 {
	if v, ok := a.kv[k]; ok {
		return int64(a.s.duration(v) / time.Millisecond)
	}
	return otherwise
}

func (s *script) duration(v string) time.Duration {
	d, err := time.ParseDuration(v)
	if err != nil {
		s.Fatalf("%s: %v", s.at, err)
	}
	return d
}

func (a args) optional(k string) *string {
	if v, ok := a.kv[k]; ok {
		return &v
	}
	return nil
}

func (a args) version(otherwise int64) int16 { return int16(a.int("v", otherwise)) }
func (a args) group() string                 { return a.get("group", "g") }

func (a args) list(k string) []string {
	if a.kv[k] == "" {
		return nil
	}
	return strings.Split(a.kv[k], ",")
}

func (a args) client() *scriptClient {
	name := "-"
	if len(a.words) > 0 {
		name = a.words[0]
	}
	c := a.s.clients[name]
	if c == nil {
		c = &scriptClient{name: name, generation: -1}
		a.s.clients[name] = c
	}
	return c
}

func (a args) memberID(c *scriptClient) string {
	if v, ok := a.kv["id"]; ok {
		return a.s.w.id(v)
	}
	return c.id
}

func splitPartition(tp string) (string, int32) {
	at := strings.LastIndex(tp, "-")
	n, err := strconv.Atoi(tp[at+1:])
	if err != nil {
		panic(err)
	}
	return tp[:at], int32(n)
}

func (s *script) command(f []string) {
	a := args{s: s, kv: map[string]string{}}
	for _, x := range f[1:] {
		if k, v, ok := strings.Cut(x, "="); ok {
			a.kv[k] = v
		} else {
			a.words = append(a.words, x)
		}
	}
	w := s.w
	switch f[0] {
	case "new":
		s.end()
		s.out.Reset()
		cfg := testConfig()
		cfg.InitialDelay = a.ms("delay", cfg.InitialDelay)
		cfg.MaxSize = int(a.int("size", int64(cfg.MaxSize)))
		cfg.OffsetsRetention = a.ms("retention", cfg.OffsetsRetention)
		s.w, s.clients = newWorld(s, 1, cfg), map[string]*scriptClient{}
	case "topic":
		w.topics[a.words[0]] = int(a.int("partitions", 1))
	case "topic-deleted":
		delete(w.topics, a.words[0])
		w.c.TopicDeleted(a.words[0])
	case "advance":
		w.advance(int64(s.duration(a.words[0])))
	case "acks":
		w.acks = a.words[0]
	case "ack":
		for range a.int("n", 1) {
			w.ack(0)
		}
	case "fail":
		code := int16(1)
		for codeName(code) != a.words[0] {
			code++
		}
		w.answer(int(a.int("at", 0)), code)
	case "pending":
		s.say("pending: %d", len(w.queue))
	case "restart":
		w.cfg.MaxSize = int(a.int("size", int64(w.cfg.MaxSize)))
		w.load()
	case "load": // once more, without an end
		w.c.SetPartitions(0)
		w.c.SetPartitions(w.count)
		for p := range w.count {
			w.c.BeginLoad(p)
			w.replay(w.c, p)
		}
	case "loaded":
		for p := range w.count {
			w.c.EndLoad(p)
		}
	case "groups":
		for _, g := range w.c.all() {
			s.say("%s: %v generation=%d leader=%s members=%d offsets=%d", g.id, g.state, g.generation, g.leader, len(g.members), len(g.offsets))
		}
	case "join":
		s.join(a)
	case "sync":
		s.sync(a)
	case "heartbeat":
		c := a.client()
		q := kmsg.NewPtrHeartbeatRequest()
		q.Version, q.Group, q.MemberID, q.InstanceID = 4, a.group(), a.memberID(c), a.optional("instance")
		q.Generation = int32(a.int("generation", int64(c.generation)))
		s.say("%s heartbeat: %s", c.name, codeName(w.c.Heartbeat(q)))
	case "leave":
		s.leave(a)
	case "commit":
		s.commit(a)
	case "fetch":
		s.fetch(a)
	case "describe":
		q := kmsg.NewPtrDescribeGroupsRequest()
		q.Version = a.version(6)
		r := q.ResponseKind().(*kmsg.DescribeGroupsResponse)
		g := w.c.Describe(a.group(), q.Version)
		r.Groups = append(r.Groups, g)
		check(w, q, r)
		message := ""
		if g.ErrorMessage != nil {
			message = " " + *g.ErrorMessage
		}
		s.say("describe: %s%s state=%s type=%s protocol=%s", codeName(g.ErrorCode), message, g.State, g.ProtocolType, g.Protocol)
		for _, m := range g.Members {
			s.say("  %s instance=%s client=%s host=%s share=%s topics=%v", m.MemberID, text(m.InstanceID), m.ClientID, m.ClientHost, m.MemberAssignment, topicNames(m.ProtocolMetadata))
		}
	case "list":
		q := kmsg.NewPtrListGroupsRequest()
		q.Version, q.StatesFilter, q.TypesFilter = 5, a.list("states"), a.list("types")
		r := q.ResponseKind().(*kmsg.ListGroupsResponse)
		r.Groups, r.ErrorCode = w.c.List(q)
		check(w, q, r)
		line := "list: " + codeName(r.ErrorCode)
		for _, g := range r.Groups {
			line += fmt.Sprintf(" %s/%s/%s/%s", g.Group, g.ProtocolType, g.GroupState, g.GroupType)
		}
		s.say("%s", line)
	case "delete":
		end := w.begin("delete")
		w.c.Delete(a.group(), func(code int16) {
			end()
			s.say("delete: %s", codeName(code))
		})
	case "offset-delete":
		q := kmsg.NewPtrOffsetDeleteRequest()
		q.Group = a.group()
		for _, x := range a.words {
			name, p := splitPartition(x)
			t := kmsg.NewOffsetDeleteRequestTopic()
			t.Topic, t.Partitions = name, []kmsg.OffsetDeleteRequestTopicPartition{{Partition: p}}
			q.Topics = append(q.Topics, t)
		}
		w.c.DeleteOffsets(q, once(w, q, func(r *kmsg.OffsetDeleteResponse) {
			line := "offset-delete: " + codeName(r.ErrorCode)
			for _, t := range r.Topics {
				line += fmt.Sprintf(" %s-%d=%s", t.Topic, t.Partitions[0].Partition, codeName(t.Partitions[0].ErrorCode))
			}
			s.say("%s", line)
		}))
	default:
		s.Fatalf("%s: no command %s", s.at, f[0])
	}
}

func text(p *string) string {
	if p == nil {
		return "-"
	}
	return *p
}

func topicNames(metadata []byte) []string {
	topics, _ := topicsOf(metadata)
	return topics
}

func (s *script) join(a args) {
	c := a.client()
	q := kmsg.NewPtrJoinGroupRequest()
	q.Version, q.Group, q.MemberID, q.InstanceID = a.version(9), a.group(), a.memberID(c), a.optional("instance")
	q.ProtocolType = a.get("type", "consumer")
	q.SessionTimeoutMillis, q.RebalanceTimeoutMillis = int32(a.ms("session", 10000)), int32(a.ms("rebalance", 60000))
	for _, x := range strings.Split(a.get("protocols", "range:t"), ",") {
		name, topics, _ := strings.Cut(x, ":")
		p := kmsg.NewJoinGroupRequestProtocol()
		p.Name, p.Metadata = name, subscription(strings.Split(topics, "+")...)
		if name != "" {
			q.Protocols = append(q.Protocols, p)
		}
	}
	s.w.c.Join(q, c.name, "/127.0.0.1", once(s.w, q, func(r *kmsg.JoinGroupResponse) {
		switch codeName(r.ErrorCode) {
		case "ok":
			c.id, c.generation = r.MemberID, r.Generation
			line := fmt.Sprintf("%s join: ok me=%s generation=%d leader=%s %s", c.name, r.MemberID, r.Generation, r.LeaderID, text(r.Protocol))
			if q.Version >= 7 {
				line += "/" + text(r.ProtocolType)
			}
			for _, m := range r.Members {
				line += " " + m.MemberID
				if m.InstanceID != nil {
					line += "/" + *m.InstanceID
				}
				line += fmt.Sprint(topicNames(m.ProtocolMetadata))
			}
			if r.SkipAssignment {
				line += " skip"
			}
			s.say("%s", line)
		case "MEMBER_ID_REQUIRED":
			c.id = r.MemberID
			fallthrough
		default:
			if q.Version < 7 && r.Protocol == nil || r.Generation != -1 || len(r.Members) != 0 {
				s.Fatalf("%s: a refusal looks like this: %+v", s.at, r)
			}
			s.say("%s join: %s me=%s", c.name, codeName(r.ErrorCode), r.MemberID)
		}
	}))
}

func (s *script) sync(a args) {
	c := a.client()
	q := kmsg.NewPtrSyncGroupRequest()
	q.Version, q.Group, q.MemberID, q.InstanceID = a.version(4), a.group(), a.memberID(c), a.optional("instance")
	q.Generation = int32(a.int("generation", int64(c.generation)))
	q.ProtocolType, q.Protocol = a.optional("type"), a.optional("protocol")
	for _, x := range a.list("assign") {
		name, share, _ := strings.Cut(x, ":")
		q.GroupAssignment = append(q.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: s.w.id(name), MemberAssignment: []byte(share)})
	}
	s.w.c.Sync(q, once(s.w, q, func(r *kmsg.SyncGroupResponse) {
		if r.ErrorCode == 0 {
			s.say("%s sync: ok share=%s %s/%s", c.name, r.MemberAssignment, text(r.Protocol), text(r.ProtocolType))
		} else {
			s.say("%s sync: %s", c.name, codeName(r.ErrorCode))
		}
	}))
}

func (s *script) leave(a args) {
	q := kmsg.NewPtrLeaveGroupRequest()
	q.Version, q.Group = a.version(5), a.group()
	who := "-"
	if members := a.list("members"); members != nil { // id/instance, either may be missing
		for _, x := range members {
			id, instance, static := strings.Cut(x, "/")
			m := kmsg.NewLeaveGroupRequestMember()
			m.MemberID = s.w.id(id)
			if static {
				m.InstanceID = &instance
			}
			q.Members = append(q.Members, m)
		}
	} else {
		c := a.client()
		who = c.name
		q.MemberID = a.memberID(c)
		m := kmsg.NewLeaveGroupRequestMember()
		m.MemberID, m.InstanceID = q.MemberID, a.optional("instance")
		q.Members = append(q.Members, m)
		c.id, c.generation = "", -1
	}
	r := s.w.c.Leave(q)
	check(s.w, q, r)
	line := fmt.Sprintf("%s leave: %s", who, codeName(r.ErrorCode))
	for _, m := range r.Members {
		line += fmt.Sprintf(" %s/%s=%s", m.MemberID, text(m.InstanceID), codeName(m.ErrorCode))
	}
	s.say("%s", line)
}

func (s *script) commit(a args) {
	c := a.client()
	q := kmsg.NewPtrOffsetCommitRequest()
	q.Version, q.Group, q.MemberID, q.InstanceID = a.version(8), a.group(), a.memberID(c), a.optional("instance")
	q.Generation = int32(a.int("generation", int64(c.generation)))
	for _, x := range a.words[1:] { // topic-partition@offset:metadata
		tp, rest, _ := strings.Cut(x, "@")
		at, metadata, has := strings.Cut(rest, ":")
		name, p := splitPartition(tp)
		offset, err := strconv.ParseInt(at, 10, 64)
		if err != nil {
			s.Fatalf("%s: %s: %v", s.at, x, err)
		}
		one := kmsg.NewOffsetCommitRequestTopicPartition()
		one.Partition, one.Offset, one.LeaderEpoch = p, offset, int32(a.int("epoch", -1))
		if has {
			one.Metadata = &metadata
		}
		t := kmsg.NewOffsetCommitRequestTopic()
		t.Topic, t.TopicID, t.Partitions = name, s.w.TopicID(name), append(t.Partitions, one)
		q.Topics = append(q.Topics, t)
	}
	s.w.c.Commit(q, once(s.w, q, func(r *kmsg.OffsetCommitResponse) {
		line := c.name + " commit:"
		for i, t := range r.Topics {
			if t.TopicID != q.Topics[i].TopicID {
				s.Errorf("%s: another topic id", s.at)
			}
			line += fmt.Sprintf(" %s-%d=%s", q.Topics[i].Topic, t.Partitions[0].Partition, codeName(t.Partitions[0].ErrorCode))
		}
		s.say("%s", line)
	}))
}

func (s *script) fetch(a args) {
	q := kmsg.NewPtrOffsetFetchRequest()
	q.Version = a.version(9)
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = a.group()
	for _, x := range a.words {
		name, p := splitPartition(x)
		g.Topics = append(g.Topics, kmsg.OffsetFetchRequestGroupTopic{Topic: name, TopicID: s.w.TopicID(name), Partitions: []int32{p}})
	}
	if slices.Contains(a.words, "none") || a.kv["topics"] == "none" {
		g.Topics = []kmsg.OffsetFetchRequestGroupTopic{}
	}
	x := s.w.c.Fetch(&g, q.Version)
	r := q.ResponseKind().(*kmsg.OffsetFetchResponse)
	r.Groups = append(r.Groups, x)
	check(s.w, q, r)
	line := "fetch: " + codeName(x.ErrorCode)
	for i, t := range x.Topics {
		name := t.Topic
		if q.Version >= 10 {
			name, _ = s.w.Topic(t.TopicID)
			if name == "" {
				name = g.Topics[i].Topic
			}
		}
		for _, p := range t.Partitions {
			line += fmt.Sprintf(" %s-%d@%d", name, p.Partition, p.Offset)
			if p.LeaderEpoch >= 0 {
				line += fmt.Sprintf("/%d", p.LeaderEpoch)
			}
			if *p.Metadata != "" {
				line += ":" + *p.Metadata
			}
			if p.ErrorCode != 0 {
				line += "=" + codeName(p.ErrorCode)
			}
		}
	}
	s.say("%s", line)
}
