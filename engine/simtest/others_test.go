package simtest

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// topics draws the topics and their first policies.
func (r *run) topics() {
	r.steady = []string{"steady0", "steady1", "steady2"}
	r.names = append([]string{"fleeting0", "fleeting1"}, r.steady...)
	r.first = map[string]string{"steady0": ""}
	for _, name := range r.names {
		if name != "steady0" {
			r.first[name] = pick(r, "", "os", "interval", "write", "file", "journal")
		}
	}
}

// firstPolicy is the flush.policy that a topic is made with.
func (r *run) firstPolicy(name string) string { return r.first[name] }

// fleeting says that a topic is deleted now and then.
func fleeting(name string) bool { return strings.HasPrefix(name, "fleeting") }

// admin makes, changes and deletes topics.
type admin struct{ *client }

func (r *run) addAdmin(name string) {
	a := &admin{r.client(name)}
	a.After(0, func() { a.redial(a.create, func(error) {}) })
}

func (a *admin) next() { a.later(2*a.think(), a.act) }

func (a *admin) act() {
	if !a.run.loading {
		return
	}
	switch a.below(6) {
	case 0, 1:
		a.create()
	case 2:
		a.alter()
	case 3:
		a.deleteTopic()
	case 4:
		a.deleteRecords()
	default:
		a.grow()
	}
}

// create makes what is missing.
func (a *admin) create() {
	a.metadata(func(found []*topic) {
		q := kmsg.NewPtrCreateTopicsRequest()
		q.Version, q.TimeoutMillis = 7, 1000
		for _, name := range a.run.names {
			missing := true
			for _, t := range found {
				missing = missing && t.name != name
			}
			if !missing {
				continue
			}
			t := kmsg.NewCreateTopicsRequestTopic()
			t.Topic, t.NumPartitions, t.ReplicationFactor = name, 2, 1
			if p := a.run.first[name]; p != "" {
				c := kmsg.NewCreateTopicsRequestTopicConfig()
				c.Name, c.Value = "flush.policy", &p
				t.Configs = append(t.Configs, c)
			}
			q.Topics = append(q.Topics, t)
		}
		a.conn.Call(q, func(r kmsg.Response, err error) {
			if err != nil {
				return
			}
			for _, t := range r.(*kmsg.CreateTopicsResponse).Topics {
				if t.ErrorCode == 0 {
					a.run.model.topic(t.Topic, t.TopicID, 2)
				}
			}
			a.next()
		})
	})
}

// known is a live topic that the model knows.
func (a *admin) known(name string) *topic {
	for _, t := range a.run.model.topics {
		if t.name == name && !t.deleteAsked {
			return t
		}
	}
	return nil
}

// alter switches a topic's policy.
func (a *admin) alter() {
	t := a.known(a.run.steady[1+a.below(2)])
	if t == nil {
		a.create()
		return
	}
	q := kmsg.NewPtrIncrementalAlterConfigsRequest()
	q.Version = 1
	policy := []string{"", "os", "interval", "write", "file", "journal"}[a.below(6)]
	c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	c.Name, c.Op, c.Value = "flush.policy", kmsg.IncrementalAlterConfigOpSet, &policy
	if policy == "" {
		c.Op, c.Value = kmsg.IncrementalAlterConfigOpDelete, nil
	}
	x := kmsg.NewIncrementalAlterConfigsRequestResource()
	x.ResourceType, x.ResourceName = kmsg.ConfigResourceTypeTopic, t.name
	x.Configs = append(x.Configs, c)
	q.Resources = append(q.Resources, x)
	m, now := a.run.model, a.run.world.Now()
	at := len(t.policies)
	t.policies = append(t.policies, span{policy: policy, from: now, until: never, life: a.run.broker.lives})
	a.conn.Call(q, func(r kmsg.Response, err error) {
		if err != nil || r.(*kmsg.IncrementalAlterConfigsResponse).Resources[0].ErrorCode != 0 {
			a.next()
			return
		}
		a.run.note("%s: flush.policy=%q", t.name, policy)
		t.policies[at].answered = true
		for i := range t.policies[:at] { // one without an answer may still come, in its life
			if s := &t.policies[i]; s.answered || s.life < a.run.broker.lives {
				s.until = min(s.until, m.run.world.Now())
			}
		}
		a.next()
	})
}

func (a *admin) deleteTopic() {
	t := a.known(fmt.Sprintf("fleeting%d", a.below(2)))
	if t == nil || a.below(2) == 0 {
		a.create()
		return
	}
	q := kmsg.NewPtrDeleteTopicsRequest()
	q.Version, q.TimeoutMillis = 6, 1000
	x := kmsg.NewDeleteTopicsRequestTopic()
	x.TopicID = t.id
	q.Topics = append(q.Topics, x)
	t.deleteAsked = true
	a.conn.Call(q, func(r kmsg.Response, err error) {
		if err == nil && r.(*kmsg.DeleteTopicsResponse).Topics[0].ErrorCode == 0 {
			t.deleted = true
		}
		if err == nil {
			a.next()
		}
	})
}

func (a *admin) deleteRecords() {
	t := a.known(a.run.names[a.below(len(a.run.names))])
	if t == nil || fleeting(t.name) {
		a.create()
		return
	}
	p := t.parts[a.below(len(t.parts))]
	to := p.start + int64(a.below(int(max(1, p.end-p.start+1))))
	q := kmsg.NewPtrDeleteRecordsRequest()
	q.Version, q.TimeoutMillis = a.version(wire.KeyDeleteRecords, 0), 1000
	x := kmsg.NewDeleteRecordsRequestTopic()
	x.Topic = t.name
	x.Partitions = []kmsg.DeleteRecordsRequestTopicPartition{{Partition: int32(p.index), Offset: to}}
	q.Topics = append(q.Topics, x)
	p.asked = max(p.asked, to)
	a.conn.Call(q, func(r kmsg.Response, err error) {
		if err != nil {
			return
		}
		x := r.(*kmsg.DeleteRecordsResponse).Topics[0].Partitions[0]
		switch {
		case x.ErrorCode == 0 && x.LowWatermark < to:
			a.run.fail("DeleteRecords of %v to %d: low watermark %d", p, to, x.LowWatermark)
		case x.ErrorCode == 0:
			a.run.note("%v: records below %d are deleted", p, to)
			p.start = max(p.start, to)
		case !wire.Retriable(x.ErrorCode):
			a.run.fail("DeleteRecords of %v to %d: %s", p, to, wire.CodeName(x.ErrorCode))
		}
		a.next()
	})
}

// grow gives a topic a third partition.
func (a *admin) grow() {
	t := a.known("steady2")
	if t == nil || len(t.parts) > 2 || a.below(4) > 0 {
		a.create()
		return
	}
	q := kmsg.NewPtrCreatePartitionsRequest()
	q.Version, q.TimeoutMillis = a.version(wire.KeyCreatePartitions, 0), 1000
	x := kmsg.NewCreatePartitionsRequestTopic()
	x.Topic, x.Count = t.name, 3
	q.Topics = append(q.Topics, x)
	a.conn.Call(q, func(r kmsg.Response, err error) {
		if err != nil {
			return
		}
		if r.(*kmsg.CreatePartitionsResponse).Topics[0].ErrorCode == 0 {
			a.run.model.topic(t.name, t.id, 3)
		}
		a.next()
	})
}

// visitor connects, asks something, and goes.
type visitor struct{ *client }

func (r *run) addVisitor(name string) {
	v := &visitor{r.client(name)}
	v.After(r.between(0, time.Second), v.visit)
}

// visited are the APIs that an empty request does no harm to.
var visited = []int16{wire.KeyListOffsets, wire.KeyMetadata, wire.KeyOffsetCommit, wire.KeyOffsetFetch, wire.KeyJoinGroup, wire.KeyHeartbeat,
	wire.KeyLeaveGroup, wire.KeySyncGroup, wire.KeyDescribeGroups, wire.KeyListGroups, wire.KeyAPIVersions, wire.KeyCreateTopics,
	wire.KeyDeleteTopics, wire.KeyDeleteRecords, wire.KeyOffsetForLeaderEpoch, wire.KeyDescribeConfigs, wire.KeyDescribeLogDirs,
	wire.KeyCreatePartitions, wire.KeyDeleteGroups, wire.KeyIncrementalAlterConfigs, wire.KeyListPartitionReassignments,
	wire.KeyDescribeCluster, wire.KeyDescribeTopicPartitions}

func (v *visitor) visit() {
	if !v.run.loading || v.stopped {
		return
	}
	again := func() { v.After(v.think(), v.visit) }
	v.dial(func() {
		if v.below(4) == 0 {
			v.conn.End(errStopped)
			return
		}
		left := 1 + v.below(4)
		for range left {
			key := visited[v.below(len(visited))]
			q := kmsg.RequestForKey(key)
			q.SetVersion(v.version(key, 0))
			switch q := q.(type) {
			case *kmsg.DescribeLogDirsRequest:
				q.Topics = nil
			case *kmsg.MetadataRequest:
				q.Topics = nil
			}
			v.conn.Call(q, func(kmsg.Response, error) {
				if left--; left == 0 && v.conn != nil {
					v.conn.End(errStopped)
				}
			})
			if v.conn == nil {
				return
			}
		}
		if v.below(4) == 0 { // it does not wait for its answers
			v.conn.End(errStopped)
		}
	}, func(error) { again() })
}

// vandal sends what is no request.
type vandal struct{ *client }

func (r *run) addVandal(name string) {
	v := &vandal{r.client(name)}
	v.After(r.between(0, time.Second), v.attack)
}

func (v *vandal) attack() {
	if !v.run.loading || v.stopped {
		return
	}
	v.dial(func() {
		n := v.conn
		b := make([]byte, 4+v.below(3000))
		for i := range b {
			b[i] = byte(v.IO.Random())
		}
		binary.BigEndian.PutUint32(b, uint32(len(b)-4))
		switch v.below(6) {
		case 0: // noise
		case 1: // a size that nobody would send
			binary.BigEndian.PutUint32(b, uint32(v.IO.Random()))
		case 2: // a frame that does not end
			binary.BigEndian.PutUint32(b, uint32(len(b)+v.below(1<<19)))
		case 3: // a header, and noise
			key := int16(v.below(len(wire.APIs)))
			b = wire.AppendRequestHeader(b[:0], key, v.version(key, 0), 1, "vandal")
			for range v.below(200) {
				b = append(b, byte(v.IO.Random()))
			}
			wire.PutSize(b, 0)
		case 4: // a request that is cut short or has a byte changed
			q := wire.FetchRequest{Version: 12, ReplicaID: -1, MaxWaitMillis: 100, MaxBytes: 1 << 20,
				Topics:     []wire.FetchTopic{{Name: []byte("steady0"), Count: 1}},
				Partitions: []wire.FetchPartition{{CurrentLeaderEpoch: -1, MaxBytes: 1 << 20, Flushed: -1}}}
			b = wire.AppendRequestHeader(b[:0], wire.KeyFetch, q.Version, 1, "vandal")
			b = q.AppendTo(b)
			wire.PutSize(b, 0)
			if v.below(2) == 0 {
				b = b[:v.below(len(b))]
			} else {
				b[4+v.below(len(b)-4)] ^= byte(1 + v.below(255))
			}
		default: // pieces, one at a time
			b = b[:v.below(len(b))]
		}
		n.Deaf = true
		v.After(time.Duration(v.below(1000))*time.Millisecond, func() { n.End(errStopped) })
		n.Write(b)
	}, func(error) { v.After(v.think(), v.attack) })
}
