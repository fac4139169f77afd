package acceptance_test

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestFranzGo(t *testing.T) {
	eachShared(t, []scenario{
		{"records", franzRecords},
		{"acks", franzAcks},
		{"sizes", franzSizes},
		{"idempotence", franzIdempotence},
		{"long-poll", franzLongPoll},
		{"reply-order", franzReplyOrder},
		{"admin", franzAdmin},
		{"admin-errors", franzAdminErrors},
		{"offsets", franzOffsets},
		{"topic-ids", franzTopicIDs},
		{"groups", franzGroups},
		{"static-member", franzStaticMember},
		{"stale-member", franzStaleMember},
		{"many-partitions", franzManyPartitions},
		{"log-append-time", franzLogAppendTime},
	})
}

// Keys, values, headers and timestamps come back as they went, with every codec.
func franzRecords(t *testing.T, b *broker) {
	topic := b.topic(t, 1, "retention.ms=-1")
	stamp := time.UnixMilli(1_700_000_000_123)
	for name, codec := range map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	} {
		c := b.client(t, kgo.ProducerBatchCompression(codec), kgo.ProducerLinger(50*time.Millisecond))
		sent := []*kgo.Record{
			{Topic: topic, Key: []byte("key"), Value: []byte(strings.Repeat(name, 500)), Timestamp: stamp,
				Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("1")}, {Key: "h", Value: nil}, {Key: "", Value: []byte{}}}},
			{Topic: topic, Key: nil, Value: nil, Timestamp: stamp.Add(time.Second)},
			{Topic: topic, Key: []byte{}, Value: []byte{}, Timestamp: stamp.Add(-time.Hour)},
		}
		first, err := c.ProduceSync(timeout(t), sent...).First()
		must(t, err)
		reader := b.client(t, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(first.Offset)}}))
		var got []*kgo.Record
		for len(got) < len(sent) {
			fetches := reader.PollFetches(timeout(t))
			must(t, fetches.Err())
			got = append(got, fetches.Records()...)
		}
		for i, want := range sent {
			g := got[i]
			if g.Offset != first.Offset+int64(i) || string(g.Key) != string(want.Key) || (g.Key == nil) != (want.Key == nil) ||
				string(g.Value) != string(want.Value) || (g.Value == nil) != (want.Value == nil) || !g.Timestamp.Equal(want.Timestamp) ||
				len(g.Headers) != len(want.Headers) {
				t.Fatalf("%s: record %d is %+v, sent was %+v", name, i, g, want)
			}
			for j, h := range want.Headers {
				if g.Headers[j].Key != h.Key || string(g.Headers[j].Value) != string(h.Value) || (g.Headers[j].Value == nil) != (h.Value == nil) {
					t.Fatalf("%s: header %d is %+v, sent was %+v", name, j, g.Headers[j], h)
				}
			}
		}
	}
}

func franzAcks(t *testing.T, b *broker) {
	for name, acks := range map[string]kgo.Acks{"0": kgo.NoAck(), "1": kgo.LeaderAck(), "all": kgo.AllISRAcks()} {
		topic := b.topic(t, 1)
		c := b.client(t, kgo.RequiredAcks(acks), kgo.DisableIdempotentWrite(), kgo.DefaultProduceTopic(topic))
		sent := numbered("acks-"+name+"-", 100)
		for _, value := range sent {
			c.Produce(timeout(t), kgo.StringRecord(value), nil)
		}
		must(t, c.Flush(timeout(t)))
		eventually(t, waitTimeout, "all records of acks="+name, func() bool {
			return slices.Equal(values(b.readAll(t, topic)[0]), sent)
		})
	}
}

// A record of nearly max.message.bytes passes, a larger one is refused; a fetch returns
// the first batch whole however small its limit is, and otherwise keeps to it.
func franzSizes(t *testing.T, b *broker) {
	topic := b.topic(t, 1, "max.message.bytes=500000")
	c := b.client(t, kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerBatchMaxBytes(1_000_000))
	must(t, c.ProduceSync(timeout(t), kgo.StringRecord(strings.Repeat("x", 499_000))).FirstErr())
	err := c.ProduceSync(timeout(t), kgo.StringRecord(strings.Repeat("x", 501_000))).FirstErr()
	if !errors.Is(err, kerr.MessageTooLarge) {
		t.Fatalf("a batch above max.message.bytes: %v", err)
	}
	for range 9 {
		must(t, c.ProduceSync(timeout(t), kgo.StringRecord(strings.Repeat("x", 1000))).FirstErr())
	}
	raw := b.dial(t)
	for _, fetch := range []struct {
		offset   int64
		maxBytes int32
		min, max int
	}{{0, 1000, 499_000, 500_500}, {1, 5000, 4000, 5000}, {1, 100_000, 9000, 11_000}} {
		response := ask[*kmsg.FetchResponse](raw, fetchRequest(topic, fetch.offset, fetch.maxBytes, 1, time.Second))
		partition := response.Topics[0].Partitions[0]
		equal(t, "error code", partition.ErrorCode, 0)
		if n := len(partition.RecordBatches); n < fetch.min || n > fetch.max {
			t.Fatalf("a fetch of %d bytes from offset %d got %d bytes", fetch.maxBytes, fetch.offset, n)
		}
	}
}

// A batch sent twice is stored once and answered with its first offset; a gap in the sequence is refused.
func franzIdempotence(t *testing.T, b *broker) {
	topic := b.topic(t, 1)
	raw := b.dial(t)
	init := kmsg.NewPtrInitProducerIDRequest()
	init.Version, init.TransactionTimeoutMillis = 4, -1
	producer := ask[*kmsg.InitProducerIDResponse](raw, init)
	equal(t, "InitProducerId error code", producer.ErrorCode, 0)
	for _, step := range []struct {
		name     string
		sequence int32
		epoch    int16
		code     int16
		base     int64
	}{
		{"first", 0, 0, 0, 0},
		{"second", 2, 0, 0, 2},
		{"second again", 2, 0, 0, 2},
		{"first again", 0, 0, 0, 0},
		{"gap", 6, 0, kerr.OutOfOrderSequenceNumber.Code, -1},
		{"third", 4, 0, 0, 4},
		{"epoch bumped", 0, 1, 0, 6},
		{"old epoch", 6, 0, kerr.InvalidProducerEpoch.Code, -1},
	} {
		batch := newBatch(step.name+"-a", step.name+"-b")
		batch.ProducerID, batch.ProducerEpoch, batch.FirstSequence = producer.ProducerID, producer.ProducerEpoch+step.epoch, step.sequence
		code, base := raw.produceRaw(topic, batch.encode())
		equal(t, step.name+": error code", code, step.code)
		equal(t, step.name+": base offset", base, step.base)
	}
	equalSlices(t, "stored", values(b.readAll(t, topic)[0]),
		[]string{"first-a", "first-b", "second-a", "second-b", "third-a", "third-b", "epoch bumped-a", "epoch bumped-b"})
}

// A fetch at the end waits for fetch.max.wait.ms, or until fetch.min.bytes are there.
func franzLongPoll(t *testing.T, b *broker) {
	topic := b.topic(t, 1)
	raw := b.dial(t)
	start := time.Now()
	response := ask[*kmsg.FetchResponse](raw, fetchRequest(topic, 0, 1<<20, 1, 700*time.Millisecond))
	if waited := time.Since(start); waited < 650*time.Millisecond || waited > 30*time.Second {
		t.Fatalf("an empty fetch of 700 ms took %v", waited)
	}
	equal(t, "bytes", len(response.Topics[0].Partitions[0].RecordBatches), 0)

	request := fetchRequest(topic, 0, 1<<20, 1500, 10*time.Minute) // longer than its answer is waited for
	raw.send(raw.frame(request))
	b.produce(t, topic, 0, strings.Repeat("x", 1000))
	b.produce(t, topic, 0, strings.Repeat("y", 1000))
	response = answer[*kmsg.FetchResponse](raw, request)
	if n := len(response.Topics[0].Partitions[0].RecordBatches); n < 2000 {
		t.Fatalf("a fetch for at least 1500 bytes got %d", n)
	}
}

// Requests sent without waiting are answered in their order, though the first has to wait.
func franzReplyOrder(t *testing.T, b *broker) {
	topic := b.topic(t, 1)
	raw := b.dial(t)
	var frames []byte
	frames = append(frames, raw.frame(fetchRequest(topic, 0, 1<<20, 1, 500*time.Millisecond))...)
	frames = append(frames, raw.frame(kmsg.NewPtrMetadataRequest())...)
	for i := range 20 {
		frames = append(frames, raw.frame(produceRequest(topic, newBatch(fmt.Sprint("v", i)).encode()))...)
	}
	frames = append(frames, raw.frame(kmsg.NewPtrApiVersionsRequest())...)
	raw.send(frames)
	for want := range raw.correlation {
		got, _, err := raw.receive()
		must(t, err)
		equal(t, "correlation id", got, want+1)
	}
	equalSlices(t, "order of the records", values(b.readAll(t, topic)[0]), numbered("v", 20))
}

func franzAdmin(t *testing.T, b *broker) {
	ctx, adm := timeout(t), kadm.NewClient(b.client(t))
	topic := b.topic(t, 2, "retention.bytes=123456")
	metadata, err := adm.BrokerMetadata(ctx)
	must(t, err)
	equal(t, "brokers", len(metadata.Brokers), 1)
	equal(t, "controller", metadata.Controller, metadata.Brokers[0].NodeID)
	if metadata.Cluster == "" {
		t.Fatal("no cluster id")
	}
	_, err = adm.UpdatePartitions(ctx, 4, topic)
	must(t, err)
	eventually(t, waitTimeout, "four partitions with a leader", func() bool {
		listed, err := adm.ListTopics(ctx, topic)
		must(t, err)
		return len(listed[topic].Partitions) == 4 && listed.Error() == nil && len(listed[topic].Partitions[3].ISR) == 1
	})

	config := func(key string) string {
		configs, err := adm.DescribeTopicConfigs(ctx, topic)
		must(t, err)
		for _, c := range configs[0].Configs {
			if c.Key == key {
				return c.MaybeValue()
			}
		}
		return "none"
	}
	equal(t, "retention.bytes as created", config("retention.bytes"), "123456")
	for _, op := range []struct {
		change kadm.AlterConfig
		want   string
	}{
		{kadm.AlterConfig{Op: kadm.SetConfig, Name: "retention.bytes", Value: kadm.StringPtr("99999")}, "99999"},
		{kadm.AlterConfig{Op: kadm.DeleteConfig, Name: "retention.bytes"}, "-1"},
	} {
		changed, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{op.change}, topic)
		must(t, errors.Join(err, changed[0].Err))
		eventually(t, waitTimeout, "retention.bytes="+op.want, func() bool { return config("retention.bytes") == op.want })
	}

	b.produce(t, topic, 0, numbered("v", 10)...)
	deleted, err := adm.DeleteRecords(ctx, kadm.Offsets{topic: {0: {Topic: topic, At: 6}}})
	must(t, errors.Join(err, deleted.Error()))
	starts, err := adm.ListStartOffsets(ctx, topic)
	must(t, errors.Join(err, starts.Error()))
	start, _ := starts.Lookup(topic, 0)
	equal(t, "log start", start.Offset, 6)
	equalSlices(t, "left", values(b.readAll(t, topic)[0]), []string{"v6", "v7", "v8", "v9"})

	dirs, err := adm.DescribeAllLogDirs(ctx, nil)
	must(t, err)
	_, found := dirs[metadata.Brokers[0].NodeID].LookupPartition(topic, 0)
	equal(t, "partition 0 in the log directories", found, true)

	_, err = adm.DeleteTopics(ctx, topic)
	must(t, err)
	eventually(t, waitTimeout, "the topic to be gone", func() bool {
		listed, err := adm.ListTopics(ctx, topic)
		must(t, err)
		return errors.Is(listed[topic].Err, kerr.UnknownTopicOrPartition)
	})
}

// Every mistake has the protocol's own error.
func franzAdminErrors(t *testing.T, b *broker) {
	ctx, adm := timeout(t), kadm.NewClient(b.client(t))
	topic := b.topic(t, 1)
	create := func(name string, partitions int32, replicas int16, configs map[string]*string) error {
		response, err := adm.CreateTopic(ctx, partitions, replicas, configs, name)
		return cmp.Or(err, response.Err)
	}
	bad := "not a number"
	for _, c := range []struct {
		name string
		err  error
		want error
	}{
		{"topic twice", create(topic, 1, 1, nil), kerr.TopicAlreadyExists},
		{"bad name", create("no/slashes", 1, 1, nil), kerr.InvalidTopicException},
		{"empty name", create("", 1, 1, nil), kerr.InvalidTopicException},
		{"name of 250", create(strings.Repeat("a", 250), 1, 1, nil), kerr.InvalidTopicException},
		{"name ..", create("..", 1, 1, nil), kerr.InvalidTopicException},
		{"no partitions", create(unique(t), 0, 1, nil), kerr.InvalidPartitions},
		{"too many replicas", create(unique(t), 1, 5, nil), kerr.InvalidReplicationFactor},
		{"unknown config", create(unique(t), 1, 1, map[string]*string{"no.such.key": &bad}), kerr.InvalidConfig},
		{"bad config", create(unique(t), 1, 1, map[string]*string{"retention.ms": &bad}), kerr.InvalidConfig},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, c.err, c.want)
		}
	}
	deleted, err := adm.DeleteTopic(ctx, "no-such-topic")
	if err = cmp.Or(err, deleted.Err); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("deleting an unknown topic: %v", err)
	}
	shrunk, err := adm.UpdatePartitions(ctx, 1, topic)
	if err = cmp.Or(err, shrunk[topic].Err); !errors.Is(err, kerr.InvalidPartitions) {
		t.Errorf("as many partitions as before: %v", err)
	}
	described, err := adm.DescribeTopicConfigs(ctx, "no-such-topic")
	must(t, err)
	if !errors.Is(described[0].Err, kerr.UnknownTopicOrPartition) {
		t.Errorf("configs of an unknown topic: %v", described[0].Err)
	}
	eventually(t, waitTimeout, "GROUP_ID_NOT_FOUND for an unknown group", func() bool { // once there is a coordinator
		gone, err := adm.DeleteGroup(ctx, "no-such-group")
		return errors.Is(cmp.Or(err, gone.Err), kerr.GroupIDNotFound)
	})
	raw := b.dial(t)
	code, _ := raw.produceRaw("no-such-topic", newBatch("v").encode())
	equal(t, "produce to an unknown topic", code, kerr.UnknownTopicOrPartition.Code)
	request := fetchRequest(topic, 5, 1<<20, 1, time.Second)
	equal(t, "fetch beyond the end", ask[*kmsg.FetchResponse](raw, request).Topics[0].Partitions[0].ErrorCode, kerr.OffsetOutOfRange.Code)
	request = fetchRequest(topic, 0, 1<<20, 1, time.Second)
	request.Topics[0].Partitions[0].Partition = 7
	equal(t, "fetch of an unknown partition", ask[*kmsg.FetchResponse](raw, request).Topics[0].Partitions[0].ErrorCode, kerr.UnknownTopicOrPartition.Code)
}

// ListOffsets in all its forms, and OffsetForLeaderEpoch at the version that librdkafka is pinned to.
func franzOffsets(t *testing.T, b *broker) {
	ctx, topic := timeout(t), b.topic(t, 1, "retention.ms=-1")
	c := b.client(t)
	adm := kadm.NewClient(c)
	const base = 1_700_000_000_000
	for _, ms := range []int64{1000, 5000, 3000, 4000} {
		must(t, c.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("v"), Timestamp: time.UnixMilli(base + ms)}).FirstErr())
	}
	at := func(listed kadm.ListedOffsets, err error) [2]int64 {
		t.Helper()
		must(t, errors.Join(err, listed.Error()))
		o, _ := listed.Lookup(topic, 0)
		return [2]int64{o.Offset, o.Timestamp}
	}
	equal(t, "earliest", at(adm.ListStartOffsets(ctx, topic))[0], 0)
	equal(t, "latest", at(adm.ListEndOffsets(ctx, topic))[0], 4)
	equal(t, "max timestamp", at(adm.ListMaxTimestampOffsets(ctx, topic)), [2]int64{1, base + 5000})
	for _, q := range [][3]int64{{0, 0, 1000}, {1000, 0, 1000}, {1001, 1, 5000}, {3500, 1, 5000}} {
		equal(t, fmt.Sprintf("at %d ms", q[0]), at(adm.ListOffsetsAfterMilli(ctx, base+q[0], topic)), [2]int64{q[1], base + q[2]})
	}
	equal(t, "after the last", at(adm.ListOffsetsAfterMilli(ctx, base+5001, topic))[0], 4) // kadm answers the end

	request := kmsg.NewPtrOffsetForLeaderEpochRequest()
	request.Version, request.ReplicaID = 2, -1
	partition := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
	partition.CurrentLeaderEpoch = -1
	request.Topics = []kmsg.OffsetForLeaderEpochRequestTopic{{Topic: topic, Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{partition}}}
	epoch := ask[*kmsg.OffsetForLeaderEpochResponse](b.dial(t), request).Topics[0].Partitions[0]
	equal(t, "OffsetForLeaderEpoch error code", epoch.ErrorCode, 0)
	equal(t, "end of epoch 0", epoch.EndOffset, 4)
}

// A topic that is created anew has another id, and the old id is unknown.
func franzTopicIDs(t *testing.T, b *broker) {
	ctx, topic := timeout(t), b.topic(t, 1)
	adm := kadm.NewClient(b.client(t))
	id := func() kadm.TopicID {
		listed, err := adm.ListTopics(ctx, topic)
		must(t, err)
		return listed[topic].ID
	}
	first := id()
	_, err := adm.DeleteTopic(ctx, topic)
	must(t, err)
	eventually(t, waitTimeout, "the topic to be created again", func() bool {
		response, err := adm.CreateTopic(ctx, 1, 1, nil, topic)
		return err == nil && response.Err == nil
	})
	eventually(t, waitTimeout, "another topic id", func() bool { return id() != first && id() != (kadm.TopicID{}) })
	request := fetchRequest(topic, 0, 1<<20, 1, time.Second)
	request.Version = 13
	request.Topics[0].TopicID = first
	partition := ask[*kmsg.FetchResponse](b.dial(t), request).Topics[0].Partitions[0]
	equal(t, "fetch with the old id", partition.ErrorCode, kerr.UnknownTopicID.Code)
}

// Three members share six partitions by each balancer; members leave; every record is read once.
func franzGroups(t *testing.T, b *broker) {
	for _, balancer := range []kgo.GroupBalancer{kgo.RangeBalancer(), kgo.RoundRobinBalancer(), kgo.StickyBalancer(), kgo.CooperativeStickyBalancer()} {
		topic, group := b.topic(t, 6), unique(t)
		adm := kadm.NewClient(b.client(t))
		var members []*groupMember
		for range 3 {
			members = append(members, b.join(t, group, topic, kgo.Balancers(balancer)))
		}
		eventually(t, waitTimeout, balancer.ProtocolName()+": two partitions each", func() bool {
			return members[0].owns() == 2 && members[1].owns() == 2 && members[2].owns() == 2
		})
		described, err := adm.DescribeGroups(timeout(t), group)
		must(t, err)
		equal(t, "state", described[group].State, "Stable")
		equal(t, "protocol", described[group].Protocol, balancer.ProtocolName())
		equal(t, "members", len(described[group].Members), 3)
		for p := range int32(6) {
			b.produce(t, topic, p, numbered(fmt.Sprintf("p%d-", p), 20)...)
		}
		eventually(t, waitTimeout, "120 records", func() bool { return members[0].count()+members[1].count()+members[2].count() == 120 })
		members[0].leave(t)
		members[1].leave(t)
		eventually(t, waitTimeout, "the last member to own all", func() bool { return members[2].owns() == 6 })
		for p := range int32(6) {
			b.produce(t, topic, p, "last")
		}
		eventually(t, waitTimeout, "6 more records", func() bool { return members[0].count()+members[1].count()+members[2].count() == 126 })
		members[2].leave(t)
		lags, err := adm.Lag(timeout(t), group)
		must(t, err)
		equal(t, "lag when all have left", lags[group].Lag.Total(), 0)
		equal(t, "state when all have left", lags[group].State, "Empty")
	}
}

// A static member that comes back within its session gets its partitions without a rebalance.
func franzStaticMember(t *testing.T, b *broker) {
	topic, group := b.topic(t, 2), unique(t)
	one := b.join(t, group, topic, kgo.InstanceID("one"))
	two := b.join(t, group, topic, kgo.InstanceID("two"))
	eventually(t, waitTimeout, "a partition each", func() bool { return one.owns() == 1 && two.owns() == 1 })
	_, generation := one.client.GroupMetadata()
	two.close() // does not leave
	two = b.join(t, group, topic, kgo.InstanceID("two"))
	eventually(t, waitTimeout, "its partition again", func() bool { return two.owns() == 1 })
	_, after := two.client.GroupMetadata()
	equal(t, "generation", after, generation)
}

// Commits of a past generation, of an unknown member and from outside a living group are refused.
func franzStaleMember(t *testing.T, b *broker) {
	topic, group := b.topic(t, 1), unique(t)
	member := b.join(t, group, topic)
	eventually(t, waitTimeout, "the partition", func() bool { return member.owns() == 1 })
	id, generation := member.client.GroupMetadata()
	commit := func(id string, generation int32) int16 {
		t.Helper()
		request := kmsg.NewPtrOffsetCommitRequest()
		request.Version, request.Group, request.MemberID, request.Generation = 8, group, id, generation
		partition := kmsg.NewOffsetCommitRequestTopicPartition()
		partition.Offset = 3
		request.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: topic, Partitions: []kmsg.OffsetCommitRequestTopicPartition{partition}}}
		return ask[*kmsg.OffsetCommitResponse](b.dial(t), request).Topics[0].Partitions[0].ErrorCode
	}
	equal(t, "old generation", commit(id, generation-1), kerr.IllegalGeneration.Code)
	equal(t, "unknown member", commit("nobody", generation), kerr.UnknownMemberID.Code)
	equal(t, "from outside", commit("", -1), kerr.UnknownMemberID.Code)
	equal(t, "the member itself", commit(id, generation), 0)
	_, err := kadm.NewClient(member.client).DeleteGroup(timeout(t), group)
	if !errors.Is(err, kerr.NonEmptyGroup) {
		t.Fatalf("deleting a group that has members: %v", err)
	}
}

func franzManyPartitions(t *testing.T, b *broker) {
	partitions := count(64, 512)
	topic := b.topic(t, int32(partitions))
	c := b.client(t, kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	var records []*kgo.Record
	for _, value := range numbered("v", 4*partitions) {
		records = append(records, kgo.StringRecord(value))
	}
	must(t, c.ProduceSync(timeout(t), records...).FirstErr())
	got := b.readAll(t, topic)
	equal(t, "partitions with records", len(got), partitions)
	for p, records := range got {
		if len(records) != 4 || records[3].Offset != 3 {
			t.Fatalf("partition %d has %v", p, values(records))
		}
	}
}

// With message.timestamp.type=LogAppendTime the broker's clock counts.
func franzLogAppendTime(t *testing.T, b *broker) {
	topic := b.topic(t, 1, "message.timestamp.type=LogAppendTime")
	before := time.Now().Add(-time.Second)
	must(t, b.client(t).ProduceSync(timeout(t), &kgo.Record{Topic: topic, Value: []byte("v"), Timestamp: time.UnixMilli(1_700_000_000_000)}).FirstErr())
	record := b.readAll(t, topic)[0][0]
	equal(t, "timestamp type", record.Attrs.TimestampType(), 1)
	if record.Timestamp.Before(before) || record.Timestamp.After(time.Now().Add(time.Second)) {
		t.Fatalf("appended now, timestamp %v", record.Timestamp)
	}
}
