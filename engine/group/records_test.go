package group

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/millrace/millrace/engine/record"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// What Apache Kafka 4.3.1 writes: keys by its GroupCoordinatorRecordSerde, values by
// its generated OffsetCommitValue and GroupMetadataValue in each version.
const (
	kafkaOffsetKey = "0001000567726f757000066f726465727300000003"
	kafkaOffsetV1  = "00010000000000000005000000000000000000060000000000000007"
	kafkaOffsetV3  = "00030000011f71fb04cb0000000700046d6574610000018bcfe5687b"
	kafkaOffsetV4  = "00040000011f71fb04cb00000007056d6574610000018bcfe5687b0100100102030405060708090a0b0c0d0e0f10"
	kafkaGroupKey  = "0002000567726f7570"
	kafkaGroupV0   = "00000008636f6e73756d657200000004000572616e676500066f6e652d69640000000200066f6e652d69640006726561646572000a2f3132372e302e302e31000027100000000201020000000103000674776f2d69640006726561646572000a2f3132372e302e302e3100002710000000010400000000"
	kafkaGroupV1   = "00010008636f6e73756d657200000004000572616e676500066f6e652d69640000000200066f6e652d69640006726561646572000a2f3132372e302e302e310000ea60000027100000000201020000000103000674776f2d69640006726561646572000a2f3132372e302e302e310000ea6000002710000000010400000000"
	kafkaGroupV2   = "00020008636f6e73756d657200000004000572616e676500066f6e652d69640000018bcfe5687b0000000200066f6e652d69640006726561646572000a2f3132372e302e302e310000ea60000027100000000201020000000103000674776f2d69640006726561646572000a2f3132372e302e302e310000ea6000002710000000010400000000"
	kafkaGroupV3   = "00030008636f6e73756d657200000004000572616e676500066f6e652d69640000018bcfe5687b0000000200066f6e652d696400036f6e650006726561646572000a2f3132372e302e302e310000ea60000027100000000201020000000103000674776f2d6964ffff0006726561646572000a2f3132372e302e302e310000ea6000002710000000010400000000"
	kafkaGroupV4   = "000409636f6e73756d6572000000040672616e6765076f6e652d69640000018bcfe5687b03076f6e652d6964046f6e65077265616465720b2f3132372e302e302e310000ea60000027100301020203000774776f2d696400077265616465720b2f3132372e302e302e310000ea60000027100204010000"
	kafkaEmptyV3   = "00030008636f6e73756d657200000005ffffffff0000018bcfe5687b00000000"
)

const goldenTime = 1700000000123

func goldenGroup(c *Coordinator) *group {
	one := "one"
	return &group{
		c: c, id: "group", protocolType: "consumer", protocol: "range", generation: 4, leader: "one-id", state: stable,
		members: []*member{
			{
				id: "one-id", instance: &one, clientID: "reader", host: "/127.0.0.1", session: 10000, rebalance: 60000,
				protocols:  []kmsg.JoinGroupRequestProtocol{{Name: "other"}, {Name: "range", Metadata: []byte{1, 2}}},
				assignment: []byte{3},
			},
			{
				id: "two-id", clientID: "reader", host: "/127.0.0.1", session: 10000, rebalance: 60000,
				protocols: []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: []byte{4}}}, assignment: []byte{},
			},
		},
	}
}

func TestRecordsAreKafkas(t *testing.T) {
	w := newWorld(t, 1, testConfig())
	w.now = 123e6
	b := w.c.build()
	if b.now != goldenTime {
		t.Fatalf("the clock says %d", b.now)
	}
	g := goldenGroup(w.c)
	b.offset("group", topicPartition{"orders", 3}, &offset{offset: 1234567890123, leaderEpoch: 7, metadata: "meta", timestamp: b.now})
	b.offset("group", topicPartition{"orders", 3}, nil)
	b.group(g)
	g.members, g.generation, g.leader, g.protocol = nil, 5, "", ""
	b.group(g)
	b.noGroup("group")
	want := [][2]string{
		{kafkaOffsetKey, kafkaOffsetV3}, {kafkaOffsetKey, "null"},
		{kafkaGroupKey, kafkaGroupV3}, {kafkaGroupKey, kafkaEmptyV3}, {kafkaGroupKey, "null"},
	}
	var r record.Reader
	r.Reset(record.Batch(b.Finish()), nil)
	for i := 0; r.Next(); i++ {
		value := hex.EncodeToString(r.Value)
		if r.Value == nil {
			value = "null"
		}
		if key := hex.EncodeToString(r.Key); key != want[i][0] || value != want[i][1] || r.Timestamp != goldenTime {
			t.Errorf("record %d:\n got %s %s at %d\nwant %s %s", i, key, value, r.Timestamp, want[i][0], want[i][1])
		}
	}
	if r.Err() != nil || r.Offset != 4 {
		t.Fatal(r.Err(), r.Offset)
	}
}

// batchOf makes a batch of keys and values in hex; "null" is null.
func batchOf(t *testing.T, kvs ...string) record.Batch {
	var b record.Builder
	b.Begin(nil, record.None)
	for i := 0; i < len(kvs); i += 2 {
		key, err := hex.DecodeString(kvs[i])
		if err != nil {
			t.Fatal(err)
		}
		var value []byte
		if kvs[i+1] != "null" {
			if value, err = hex.DecodeString(kvs[i+1]); err != nil {
				t.Fatal(err)
			}
		}
		b.Add(goldenTime, key, value)
	}
	return b.Finish()
}

// loaded is a coordinator that has loaded one batch, which is wiped afterwards.
func loaded(t *testing.T, kvs ...string) *Coordinator {
	w := newWorld(t, 1, testConfig())
	w.count = 1
	w.log[0] = []record.Batch{batchOf(t, kvs...)}
	w.load()
	return w.c
}

func TestLoadReadsKafkas(t *testing.T) {
	epoch := func(o *offset) string { return fmt.Sprintf("%+v", *o) }
	for value, want := range map[string]string{
		kafkaOffsetV1: "{offset:5 leaderEpoch:-1 metadata: timestamp:6}",
		kafkaOffsetV3: "{offset:1234567890123 leaderEpoch:7 metadata:meta timestamp:1700000000123}",
		kafkaOffsetV4: "{offset:1234567890123 leaderEpoch:7 metadata:meta timestamp:1700000000123}",
	} {
		for _, key := range []string{kafkaOffsetKey, "0000" + kafkaOffsetKey[4:]} {
			c := loaded(t, key, value)
			if o := c.groups["group"].offsets[topicPartition{"orders", 3}]; epoch(o) != want {
				t.Errorf("%s: %+v, want %s", value, *o, want)
			}
		}
	}
	for version, value := range []string{kafkaGroupV0, kafkaGroupV1, kafkaGroupV2, kafkaGroupV3, kafkaGroupV4} {
		c := loaded(t, kafkaGroupKey, value)
		g := c.groups["group"]
		want := goldenGroup(c)
		want.since = goldenTime
		for _, m := range want.members {
			m.protocols = m.protocols[len(m.protocols)-1:]
			if version < 3 {
				m.instance = nil
			}
			if version < 1 {
				m.rebalance = m.session
			}
		}
		if version < 2 {
			want.since = -1
		}
		whole := func(g *group) string {
			c := New(testConfig(), nil)
			c.parts[0] = &part{groups: []*group{g}}
			return dump(c, true) + fmt.Sprint(g.since)
		}
		want.offsets = map[topicPartition]*offset{}
		if got, want := whole(g), whole(want); got != want {
			t.Errorf("version %d:\n%s\nwant\n%s", version, got, want)
		}
		for _, m := range g.members {
			if m.heartbeat.f == nil {
				t.Errorf("version %d: %s has no session", version, m.id)
			}
		}
	}
	c := loaded(t, kafkaGroupKey, kafkaGroupV3, kafkaGroupKey, kafkaEmptyV3)
	if g := c.groups["group"]; g.state != empty || g.generation != 5 || len(g.members) != 0 || g.leader != "" || g.protocol != "" {
		t.Errorf("an empty group: %s", dump(c, true))
	}
	for _, gone := range [][]string{
		{kafkaGroupKey, kafkaGroupV3, kafkaGroupKey, "null"},
		{kafkaGroupKey, "null"},
		{kafkaOffsetKey, kafkaOffsetV3, kafkaOffsetKey, "null"},
		{kafkaOffsetKey, "null"},
		{"0003000567726f7570", "0000"}, // of the newer group protocol
		{"7fff00", "0102"},
	} {
		if c := loaded(t, gone...); len(c.groups) != 0 {
			t.Errorf("%s: %s", gone, dump(c, true))
		}
	}
}

func TestLoadErrorsNameTheRecord(t *testing.T) {
	for _, bad := range []struct{ key, value, want string }{
		{"00", "00", "a key of 1 bytes"},
		{"", "null", "a key of 0 bytes"},
		{kafkaOffsetKey[:20], kafkaOffsetV3, "offset key"},
		{kafkaOffsetKey, kafkaOffsetV3[:20], "offset value"},
		{kafkaGroupKey[:10], kafkaGroupV3, "group key"},
		{kafkaGroupKey, kafkaGroupV3[:60], "group value"},
		{kafkaGroupKey, "", "group value"},
	} {
		c := New(testConfig(), newWorld(t, 1, testConfig()))
		c.SetPartitions(4)
		c.BeginLoad(2)
		b := batchOf(t, kafkaOffsetKey, kafkaOffsetV3, bad.key, bad.value)
		b.SetBaseOffset(40)
		err := c.Load(2, b, nil)
		if err == nil || !strings.HasPrefix(err.Error(), "__consumer_offsets-2: record at offset 41: "+bad.want) {
			t.Errorf("%s %s: %v", bad.key, bad.value, err)
		}
	}
	c := New(testConfig(), newWorld(t, 1, testConfig()))
	c.SetPartitions(1)
	c.BeginLoad(0)
	if err := c.Load(0, record.AppendMarker(nil, 1, 2, record.Marker{Type: record.Commit}, goldenTime), nil); err != nil {
		t.Errorf("a control batch: %v", err)
	}
}

// Whatever lies in the log, loading it must not panic.
func TestLoadAnything(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	samples := []string{kafkaOffsetKey, kafkaOffsetV1, kafkaOffsetV3, kafkaOffsetV4, kafkaGroupKey, kafkaGroupV0, kafkaGroupV1, kafkaGroupV2, kafkaGroupV3, kafkaGroupV4}
	w := newWorld(t, 1, testConfig())
	refused := 0
	for range 3000 {
		c := New(testConfig(), w)
		c.SetPartitions(1)
		c.BeginLoad(0)
		var b record.Builder
		b.Begin(nil, record.None)
		var kv [2][]byte
		for i := range kv {
			kv[i], _ = hex.DecodeString(samples[r.IntN(len(samples))])
			for range r.IntN(3) {
				kv[i][r.IntN(len(kv[i]))] = byte(r.IntN(256))
			}
			kv[i] = kv[i][:len(kv[i])-r.IntN(2)*r.IntN(len(kv[i]))]
		}
		b.Add(goldenTime, kv[0], kv[1])
		if c.Load(0, b.Finish(), nil) != nil {
			refused++
		} else {
			c.EndLoad(0)
			w.advance(1e9)
		}
		w.alarms = nil
	}
	if refused == 0 || refused == 3000 {
		t.Errorf("%d of 3000 were refused", refused)
	}
}

// Values by Java: Utils.abs(id.hashCode()) % partitions, from Apache Kafka 4.3.1.
func TestPartitionOf(t *testing.T) {
	for _, x := range []struct {
		id         string
		partitions int32
		want       int32
	}{
		{"", 50, 0}, {"a", 50, 47}, {"group", 50, 47}, {"group", 3, 2}, {"test-group", 50, 12},
		{"connect-cluster", 50, 13}, {"payments.eu-west-1", 50, 41},
		{"billing", 50, 9}, {"billing", 7, 6}, {"analytics", 50, 10}, {"schema-registry", 50, 29}, // negative
		{"fraud-detector", 50, 43}, {"AESDBQY", 50, 3}, {"inventory-service", 7, 1},
		{"polygenelubricants", 50, 0}, {"polygenelubricants", 7, 0}, // -2147483648
		{"zażółć gęślą jaźń", 50, 12}, {"グループ", 50, 20}, {"g😀", 50, 32}, {"x😀y", 50, 10},
	} {
		if got := PartitionOf(x.id, x.partitions); got != x.want {
			t.Errorf("%q of %d: %d, Kafka has %d", x.id, x.partitions, got, x.want)
		}
	}
}

// What a group of many partitions takes back comes in several batches.
func TestManyTombstones(t *testing.T) {
	w := newWorld(t, 1, testConfig())
	w.topics["wide"] = 2500
	q := kmsg.NewPtrOffsetCommitRequest()
	q.Version, q.Group, q.Generation = 8, "g", -1
	topic := kmsg.NewOffsetCommitRequestTopic()
	topic.Topic = "wide"
	for p := range 2500 {
		topic.Partitions = append(topic.Partitions, kmsg.OffsetCommitRequestTopicPartition{Partition: int32(p), Offset: 1})
	}
	q.Topics = append(q.Topics, topic)
	commit := func() {
		w.c.Commit(q, func(*kmsg.OffsetCommitResponse) {})
		w.ack(0)
	}
	w.acks = "hold"
	commit()
	code := int16(-2)
	w.c.Delete("g", func(c int16) { code = c })
	if len(w.queue) != 3 {
		t.Fatalf("%d batches", len(w.queue))
	}
	w.answer(1, 19)
	w.ack(0)
	if code != -2 {
		t.Fatal("answered before the last")
	}
	w.ack(0)
	if g := w.c.groups["g"]; code != 15 || g == nil || len(g.offsets) != 1000 {
		t.Fatalf("code %d; what was refused must stay", code)
	}
	w.c.Delete("g", func(c int16) { code = c })
	w.ack(0)
	if code != 0 || w.c.groups["g"] != nil {
		t.Fatalf("code %d, or the group is still there", code)
	}
	commit()
	w.c.Delete("g", func(c int16) { code = c })
	w.acks = "flow"
	w.settle()
	if code != 0 || w.c.groups["g"] != nil {
		t.Fatalf("code %d, or the group is still there", code)
	}
	w.load()
	if s := dump(w.c, true); s != "" {
		t.Fatalf("a replay finds\n%s", s)
	}
}
