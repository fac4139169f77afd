package wire

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func randomProduce(rng *rand.Rand, version int16) *kmsg.ProduceRequest {
	r := kmsg.NewPtrProduceRequest()
	r.Version = version
	fill(rng, reflect.ValueOf(r).Elem(), true)
	return r
}

func TestProduceRequest(t *testing.T) {
	var got ProduceRequest
	eachVersion(t, KeyProduce, func(t *testing.T, rng *rand.Rand, version int16) {
		want := randomProduce(rng, version)
		body := want.AppendTo(nil)
		everyPrefix(t, body, func(b []byte) error { return got.Parse(version, b) })

		var id []byte
		if want.TransactionID != nil {
			id = []byte(*want.TransactionID)
		}
		if !bytes.Equal(got.TransactionalID, id) || (got.TransactionalID == nil) != (id == nil) ||
			got.Acks != want.Acks || got.TimeoutMillis != want.TimeoutMillis || got.TopicCount != len(want.Topics) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		topics, partitions := got.Topics(), 0
		for i := range want.Topics {
			w := &want.Topics[i]
			partitions += len(w.Partitions)
			if !topics.Next() || topics.PartitionCount != len(w.Partitions) {
				t.Fatalf("topic %d: got %d partitions, want %d", i, topics.PartitionCount, len(w.Partitions))
			}
			if version >= 13 && topics.ID != w.TopicID || version < 13 && string(topics.Name) != w.Topic {
				t.Errorf("topic %d: got %q %x, want %q %x", i, topics.Name, topics.ID, w.Topic, w.TopicID)
			}
			if rng.IntN(4) == 0 {
				continue // Next skips what is left
			}
			for j := range w.Partitions {
				if !topics.NextPartition() || topics.Partition != w.Partitions[j].Partition || !bytes.Equal(topics.Records, w.Partitions[j].Records) {
					t.Errorf("partition %d of topic %d: got %d %q", j, i, topics.Partition, topics.Records)
				}
			}
			if topics.NextPartition() {
				t.Error("a partition too many")
			}
		}
		if topics.Next() || got.PartitionCount != partitions {
			t.Errorf("a topic too many, or %d partitions instead of %d", got.PartitionCount, partitions)
		}
	})
}

func TestProduceNullRecords(t *testing.T) {
	r := kmsg.NewPtrProduceRequest()
	r.Version = 9
	r.Topics = []kmsg.ProduceRequestTopic{{Topic: "t", Partitions: []kmsg.ProduceRequestTopicPartition{{}, {Records: []byte{}}}}}
	var got ProduceRequest
	if err := got.Parse(9, r.AppendTo(nil)); err != nil {
		t.Fatal(err)
	}
	topics := got.Topics()
	if !topics.Next() || !topics.NextPartition() || topics.Records != nil {
		t.Errorf("null: got %v", topics.Records)
	}
	if !topics.NextPartition() || topics.Records == nil || len(topics.Records) != 0 {
		t.Errorf("empty: got %v", topics.Records)
	}
}

func TestProduceResponse(t *testing.T) {
	eachVersion(t, KeyProduce, func(t *testing.T, rng *rand.Rand, version int16) {
		want := kmsg.NewPtrProduceResponse()
		want.Version = version
		fill(rng, reflect.ValueOf(want).Elem(), false)
		if version < 10 {
			want.Brokers = nil
		}
		got := AppendProduceStart(nil, version, len(want.Topics))
		for i := range want.Topics {
			w := &want.Topics[i]
			got = AppendProduceTopic(got, version, []byte(w.Topic), w.TopicID, len(w.Partitions))
			for j := range w.Partitions {
				wp := &w.Partitions[j]
				p := ProducePartition{
					Partition: wp.Partition, ErrorCode: wp.ErrorCode, BaseOffset: wp.BaseOffset,
					LogAppendTime: wp.LogAppendTime, LogStart: wp.LogStartOffset, Message: text(wp.ErrorMessage),
				}
				for _, e := range wp.ErrorRecords {
					p.RecordErrors = append(p.RecordErrors, RecordError{e.RelativeOffset, text(e.ErrorMessage)})
				}
				if version < 10 || rng.IntN(2) == 0 {
					wp.CurrentLeader.Default()
				}
				if version >= 10 && wp.CurrentLeader.LeaderID != -1 {
					p.Leader = &CurrentLeader{wp.CurrentLeader.LeaderID, wp.CurrentLeader.LeaderEpoch}
				}
				got = AppendProducePartition(got, version, &p)
			}
			got = AppendProduceTopicEnd(got, version)
		}
		got = AppendProduceEnd(got, version, want.ThrottleMillis, endpoints(want.Brokers))
		if w := want.AppendTo(nil); !bytes.Equal(got, w) {
			t.Errorf("got  %x\nwant %x", got, w)
		}
	})
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func endpoints(brokers []kmsg.ProduceResponseBroker) (e []NodeEndpoint) {
	for _, b := range brokers {
		e = append(e, NodeEndpoint{b.NodeID, b.Host, b.Port, text(b.Rack)})
	}
	return e
}

func TestProduceAllocatesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	body := randomProduce(rng, 13).AppendTo(nil)
	var r ProduceRequest
	dst := make([]byte, 0, 4096)
	leader := CurrentLeader{1, 2}
	p := ProducePartition{Leader: &leader}
	sum := 0
	if n := testing.AllocsPerRun(100, func() {
		if r.Parse(13, body) != nil {
			t.Fatal("parse")
		}
		for topics := r.Topics(); topics.Next(); {
			for topics.NextPartition() {
				sum += len(topics.Records)
			}
		}
		dst = AppendResponseHeader(dst[:0], KeyProduce, 13, 7)
		dst = AppendProduceStart(dst, 13, 1)
		dst = AppendProduceTopic(dst, 13, nil, [16]byte{1}, 1)
		dst = AppendProducePartition(dst, 13, &p)
		dst = AppendProduceTopicEnd(dst, 13)
		dst = AppendProduceEnd(dst, 13, 0, nil)
		PutSize(dst, 0)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if sum == 0 {
		t.Error("no records were seen")
	}
}

func FuzzProduceRequest(f *testing.F) {
	for v := int16(3); v <= 13; v++ {
		f.Add(v, randomProduce(rand.New(rand.NewPCG(uint64(v), 0)), v).AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, version int16, body []byte) {
		if !Served(KeyProduce, version) {
			return
		}
		var r ProduceRequest
		if r.Parse(version, body) != nil {
			return
		}
		topics, partitions := 0, 0
		it := r.Topics()
		for it.Next() {
			topics++
			for it.NextPartition() {
				partitions++
			}
		}
		if it.d.bad || topics != r.TopicCount || partitions != r.PartitionCount {
			t.Errorf("walked %d topics, %d partitions of %d, %d; bad: %v", topics, partitions, r.TopicCount, r.PartitionCount, it.d.bad)
		}
	})
}
