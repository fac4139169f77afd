package engine_test

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// tour visits APIs, all of them at their lowest or at their highest version.
type tour struct {
	*client
	highest bool
	topic   string
	id      [16]byte
	seen    map[int16]bool
}

// version is the version at which the tour asks for an API.
func (u *tour) version(key int16) int16 {
	if u.highest {
		return wire.APIs[key].Max
	}
	return wire.APIs[key].Min
}

// ask has a request answered, and fails the test when the answer holds an error code
// other than those that are fine.
func ask[A kmsg.Response](u *tour, q kmsg.Request, fine ...int16) A {
	u.r.Helper()
	q.SetVersion(u.version(q.Key()))
	u.seen[q.Key()] = true
	a := u.do(q)
	walk(reflect.ValueOf(a).Elem(), func(code int16) {
		for _, f := range fine {
			if code == f {
				return
			}
		}
		if code != 0 {
			u.r.Fatalf("%s version %d: %v\n%+v", wire.Name(q.Key()), q.GetVersion(), kerr.ErrorForCode(code), a)
		}
	})
	return a.(A)
}

// walk calls f for every field ErrorCode in v.
func walk(v reflect.Value, f func(code int16)) {
	switch v.Kind() {
	case reflect.Slice:
		for i := range v.Len() {
			walk(v.Index(i), f)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			walk(v.Elem(), f)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Name == "ErrorCode" {
				f(int16(v.Field(i).Int()))
			} else if v.Field(i).CanInterface() {
				walk(v.Field(i), f)
			}
		}
	}
}

func TestEveryAPI(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		r := start(t, backend, 2)
		for _, highest := range []bool{false, true} {
			u := &tour{client: r.dial(), highest: highest, topic: fmt.Sprintf("tour-%v", highest), seen: map[int16]bool{}}
			u.topics()
			u.records()
			u.groups()
			u.rest()
			for key := range wire.APIs {
				if wire.APIs[key].Name != "" && !u.seen[int16(key)] {
					t.Errorf("%s: not visited", wire.APIs[key].Name)
				}
			}
		}
	})
}

func (u *tour) topics() {
	create := kmsg.NewPtrCreateTopicsRequest()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = u.topic, 2, 1
	topic.Configs = []kmsg.CreateTopicsRequestTopicConfig{{Name: "flush.policy", Value: kmsg.StringPtr("file")}}
	create.Topics = append(create.Topics, topic)
	ask[*kmsg.CreateTopicsResponse](u, create)

	more := kmsg.NewPtrCreatePartitionsRequest()
	more.Topics = []kmsg.CreatePartitionsRequestTopic{{Topic: u.topic, Count: 3}}
	ask[*kmsg.CreatePartitionsResponse](u, more)

	all := ask[*kmsg.MetadataResponse](u, kmsg.NewPtrMetadataRequest())
	for _, m := range all.Topics {
		if *m.Topic == u.topic {
			u.id = m.TopicID
			if len(m.Partitions) != 3 || m.Partitions[2].Leader != all.Brokers[0].NodeID {
				u.r.Fatalf("metadata: %+v", m)
			}
		}
	}
	if (u.id == [16]byte{}) == u.highest {
		u.r.Fatalf("metadata: topic id %x at version %d", u.id, all.Version)
	}

	describe := kmsg.NewPtrDescribeTopicPartitionsRequest()
	describe.Topics = []kmsg.DescribeTopicPartitionsRequestTopic{{Topic: u.topic}}
	describe.ResponsePartitionLimit = 2
	page := ask[*kmsg.DescribeTopicPartitionsResponse](u, describe)
	if page.NextCursor == nil || len(page.Topics[0].Partitions) != 2 {
		u.r.Fatalf("first page: %+v", page)
	}
	describe.Cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: page.NextCursor.Topic, Partition: page.NextCursor.Partition}
	page = ask[*kmsg.DescribeTopicPartitionsResponse](u, describe)
	if page.NextCursor != nil || len(page.Topics[0].Partitions) != 1 {
		u.r.Fatalf("second page: %+v", page)
	}

	configs := kmsg.NewPtrDescribeConfigsRequest()
	configs.IncludeSynonyms, configs.IncludeDocumentation = true, true
	configs.Resources = []kmsg.DescribeConfigsRequestResource{
		{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: u.topic},
		{ResourceType: kmsg.ConfigResourceTypeBroker, ResourceName: "1"},
	}
	found := ask[*kmsg.DescribeConfigsResponse](u, configs)
	for _, c := range found.Resources[0].Configs {
		switch c.Name {
		case "flush.policy":
			if *c.Value != "file" || c.Source != kmsg.ConfigSourceDynamicTopicConfig || len(c.ConfigSynonyms) != 2 {
				u.r.Fatalf("%+v", c)
			}
		case "segment.bytes":
			if c.Source != kmsg.ConfigSourceDefaultConfig || *c.Value != "1073741824" {
				u.r.Fatalf("%+v", c)
			}
		}
	}

	alter := kmsg.NewPtrIncrementalAlterConfigsRequest()
	alter.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{
		ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: u.topic,
		Configs: []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: "retention.ms", Value: kmsg.StringPtr(" 86400000 ")}},
	}}
	ask[*kmsg.IncrementalAlterConfigsResponse](u, alter)
}

func (u *tour) records() {
	id := ask[*kmsg.InitProducerIDResponse](u, kmsg.NewPtrInitProducerIDRequest())
	if id.ProducerID < 0 {
		u.r.Fatalf("producer id %d", id.ProducerID)
	}
	put := produce(u.topic, -1, map[int32][]byte{0: batch(5, 20), 1: batch(5, 20)})
	put.Topics[0].TopicID = u.id
	ask[*kmsg.ProduceResponse](u, put)

	get := fetch(u.topic, 100, 1, map[int32]int64{0: 0, 1: 2})
	get.Topics[0].TopicID = u.id
	for _, p := range ask[*kmsg.FetchResponse](u, get).Topics[0].Partitions {
		if n := records(u.r, p.RecordBatches); n != 5 {
			u.r.Fatalf("fetched %d records", n)
		}
	}

	list := kmsg.NewPtrListOffsetsRequest()
	topic := kmsg.NewListOffsetsRequestTopic()
	topic.Topic = u.topic
	for i, at := range []int64{-1, -2} {
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp = int32(i), at
		topic.Partitions = append(topic.Partitions, p)
	}
	list.Topics = append(list.Topics, topic)
	ends := ask[*kmsg.ListOffsetsResponse](u, list).Topics[0].Partitions
	if ends[0].Offset != 5 || ends[1].Offset != 0 {
		u.r.Fatalf("offsets: %+v", ends)
	}

	epoch := kmsg.NewPtrOffsetForLeaderEpochRequest()
	et := kmsg.NewOffsetForLeaderEpochRequestTopic()
	et.Topic = u.topic
	ep := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
	et.Partitions = append(et.Partitions, ep)
	epoch.Topics = append(epoch.Topics, et)
	if p := ask[*kmsg.OffsetForLeaderEpochResponse](u, epoch).Topics[0].Partitions[0]; p.EndOffset != 5 {
		u.r.Fatalf("end of the epoch: %+v", p)
	}

	remove := kmsg.NewPtrDeleteRecordsRequest()
	remove.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: u.topic, Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Partition: 0, Offset: 3}}}}
	if p := ask[*kmsg.DeleteRecordsResponse](u, remove).Topics[0].Partitions[0]; p.LowWatermark != 3 {
		u.r.Fatalf("delete records: %+v", p)
	}
}

func (u *tour) groups() {
	group := "group-" + u.topic
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.CoordinatorKey, find.CoordinatorKeys = group, []string{group}
	ask[*kmsg.FindCoordinatorResponse](u, find)

	join := kmsg.NewPtrJoinGroupRequest()
	join.Group, join.ProtocolType, join.SessionTimeoutMillis, join.RebalanceTimeoutMillis = group, "consumer", 30000, 30000
	metadata := kmsg.NewConsumerMemberMetadata()
	metadata.Topics = []string{u.topic}
	join.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: metadata.AppendTo(nil)}}
	in := ask[*kmsg.JoinGroupResponse](u, join, wire.MemberIDRequired)
	if in.ErrorCode == wire.MemberIDRequired {
		join.MemberID = in.MemberID
		in = ask[*kmsg.JoinGroupResponse](u, join)
	}

	sync := kmsg.NewPtrSyncGroupRequest()
	sync.Group, sync.Generation, sync.MemberID = group, in.Generation, in.MemberID
	sync.ProtocolType, sync.Protocol = kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
	sync.GroupAssignment = []kmsg.SyncGroupRequestGroupAssignment{{MemberID: in.MemberID, MemberAssignment: []byte("mine")}}
	if a := ask[*kmsg.SyncGroupResponse](u, sync); string(a.MemberAssignment) != "mine" {
		u.r.Fatalf("assignment: %q", a.MemberAssignment)
	}

	beat := kmsg.NewPtrHeartbeatRequest()
	beat.Group, beat.Generation, beat.MemberID = group, in.Generation, in.MemberID
	ask[*kmsg.HeartbeatResponse](u, beat)

	commit := kmsg.NewPtrOffsetCommitRequest()
	commit.Group, commit.Generation, commit.MemberID = group, in.Generation, in.MemberID
	commit.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: u.topic, TopicID: u.id,
		Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Partition: 0, Offset: 4, LeaderEpoch: -1}}}}
	ask[*kmsg.OffsetCommitResponse](u, commit)

	fetched := kmsg.NewPtrOffsetFetchRequest()
	fetched.Group = group
	fetched.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: u.topic, Partitions: []int32{0}}}
	fg := kmsg.NewOffsetFetchRequestGroup()
	fg.Group = group
	fg.Topics = []kmsg.OffsetFetchRequestGroupTopic{{Topic: u.topic, TopicID: u.id, Partitions: []int32{0}}}
	fetched.Groups = append(fetched.Groups, fg)
	got := ask[*kmsg.OffsetFetchResponse](u, fetched)
	at := int64(-1)
	if u.highest {
		at = got.Groups[0].Topics[0].Partitions[0].Offset
	} else {
		at = got.Topics[0].Partitions[0].Offset
	}
	if at != 4 {
		u.r.Fatalf("committed: %+v", got)
	}

	describe := kmsg.NewPtrDescribeGroupsRequest()
	describe.Groups = []string{group}
	if g := ask[*kmsg.DescribeGroupsResponse](u, describe).Groups[0]; g.State != "Stable" || len(g.Members) != 1 {
		u.r.Fatalf("group: %+v", g)
	}
	ask[*kmsg.ListGroupsResponse](u, kmsg.NewPtrListGroupsRequest())

	leave := kmsg.NewPtrLeaveGroupRequest()
	leave.Group, leave.MemberID = group, in.MemberID
	leave.Members = []kmsg.LeaveGroupRequestMember{{MemberID: in.MemberID}}
	ask[*kmsg.LeaveGroupResponse](u, leave)

	forget := kmsg.NewPtrOffsetDeleteRequest()
	forget.Group = group
	forget.Topics = []kmsg.OffsetDeleteRequestTopic{{Topic: u.topic, Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: 0}}}}
	ask[*kmsg.OffsetDeleteResponse](u, forget)

	remove := kmsg.NewPtrDeleteGroupsRequest()
	remove.Groups = []string{group}
	// Without offsets and members it may be gone already.
	ask[*kmsg.DeleteGroupsResponse](u, remove, wire.GroupIDNotFound)
}

func (u *tour) rest() {
	ask[*kmsg.ApiVersionsResponse](u, kmsg.NewPtrApiVersionsRequest())
	cluster := kmsg.NewPtrDescribeClusterRequest()
	cluster.EndpointType = 1
	if a := ask[*kmsg.DescribeClusterResponse](u, cluster); len(a.Brokers) != 1 || a.ClusterID == "" {
		u.r.Fatalf("cluster: %+v", a)
	}
	if a := ask[*kmsg.DescribeLogDirsResponse](u, kmsg.NewPtrDescribeLogDirsRequest()); len(a.Dirs) != 1 || len(a.Dirs[0].Topics) == 0 {
		u.r.Fatalf("log directories: %+v", a)
	}
	ask[*kmsg.ListPartitionReassignmentsResponse](u, kmsg.NewPtrListPartitionReassignmentsRequest())

	remove := kmsg.NewPtrDeleteTopicsRequest()
	remove.TopicNames = []string{u.topic}
	remove.Topics = []kmsg.DeleteTopicsRequestTopic{{TopicID: u.id}}
	a := ask[*kmsg.DeleteTopicsResponse](u, remove)
	if a.Topics[0].Topic == nil || *a.Topics[0].Topic != u.topic {
		u.r.Fatalf("deleted: %+v", a)
	}
}

// ApiVersions is answered at every version, by a body of version 0 where it is not known.
func TestAPIVersionsOfAnyVersion(t *testing.T) {
	r := start(t, "posix", 1)
	for _, v := range []int16{-1, 6, 99, 32767} {
		c := r.dial()
		frame := []byte{0, 0, 0, 10, 0, byte(wire.KeyAPIVersions), byte(v >> 8), byte(v), 0, 0, 0, 7, 0xff, 0xff}
		if v >= 3 { // tagged fields: none
			frame = append(frame, 0)
			frame[3]++
		}
		c.write(frame)
		b, err := c.frame()
		r.must(err)
		var a kmsg.ApiVersionsResponse
		if err := a.ReadFrom(b[4:]); err != nil || b[3] != 7 || a.ErrorCode != wire.UnsupportedVersion || len(a.ApiKeys) == 0 {
			t.Fatalf("version %d: %v, %x", v, err, b)
		}
	}
}

// What is not served closes the connection and disturbs nobody.
func TestNotServed(t *testing.T) {
	r := start(t, "posix", 2)
	r.topic("t", 1)
	ok := r.dial()
	for _, q := range [][2]int16{{4, 0}, {99, 0}, {-1, 0}, {32767, 0}, {wire.KeyProduce, 2}, {wire.KeyProduce, 14}, {wire.KeyFetch, 3}, {wire.KeyMetadata, -1}, {wire.KeyMetadata, 14}} {
		c := r.dial()
		c.write([]byte{0, 0, 0, 10, byte(q[0] >> 8), byte(q[0]), byte(q[1] >> 8), byte(q[1]), 0, 0, 0, 1, 0xff, 0xff})
		if err := c.closed(); err != nil {
			t.Errorf("key %d version %d: %v", q[0], q[1], err)
		}
		if !r.logged("closed", fmt.Sprintf("(key %d) version %d", q[0], q[1]), c.conn.LocalAddr().String()) {
			t.Errorf("key %d version %d: not logged", q[0], q[1])
		}
	}
	if a := ok.put("t", map[int32][]byte{0: batch(1, 1)}); a[0].ErrorCode != 0 {
		t.Fatalf("another connection: %+v", a)
	}
}
