package wire

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func randomFetch(rng *rand.Rand, version int16) *kmsg.FetchRequest {
	r := kmsg.NewPtrFetchRequest()
	r.Version = version
	fill(rng, reflect.ValueOf(r).Elem(), true)
	for i := range r.Topics {
		for j := range r.Topics[i].Partitions {
			if p := &r.Topics[i].Partitions[j]; rng.IntN(2) == 0 {
				p.UnknownTags.Set(FlushedTag, binary.BigEndian.AppendUint64(nil, uint64(p.FetchOffset/2)))
			}
		}
	}
	return r
}

func TestFetchRequest(t *testing.T) {
	var got FetchRequest // used again and again, on purpose
	eachVersion(t, KeyFetch, func(t *testing.T, rng *rand.Rand, version int16) {
		want := randomFetch(rng, version)
		body := want.AppendTo(nil)
		everyPrefix(t, body, func(b []byte) error { return got.Parse(version, b) })
		// What kmsg reads has the defaults of what the version does not carry.
		want = kmsg.NewPtrFetchRequest()
		want.Version = version
		if err := want.ReadFrom(body); err != nil {
			t.Fatal(err)
		}

		if got.MaxWaitMillis != want.MaxWaitMillis || got.MinBytes != want.MinBytes || got.MaxBytes != want.MaxBytes ||
			got.ReadCommitted != (want.IsolationLevel == 1) || got.SessionID != want.SessionID || got.SessionEpoch != want.SessionEpoch ||
			string(got.Rack) != want.Rack || string(got.ClusterID) != text(want.ClusterID) {
			t.Errorf("got %+v\nwant %+v", got, want)
		}
		id, epoch := want.ReplicaID, int64(-1)
		if version >= 12 && want.ReplicaState.ID != -1 {
			id, epoch = want.ReplicaState.ID, want.ReplicaState.Epoch
		}
		if got.ReplicaID != id || got.ReplicaEpoch != epoch {
			t.Errorf("replica: got %d %d, want %d %d", got.ReplicaID, got.ReplicaEpoch, id, epoch)
		}
		if len(got.Topics) != len(want.Topics) || len(got.Forgotten) != len(want.ForgottenTopics) {
			t.Fatalf("got %d topics, %d forgotten; want %d, %d", len(got.Topics), len(got.Forgotten), len(want.Topics), len(want.ForgottenTopics))
		}
		for i, topic := range got.Topics {
			w := &want.Topics[i]
			if string(topic.Name) != w.Topic || topic.ID != w.TopicID || topic.Count != len(w.Partitions) {
				t.Fatalf("topic %d: got %+v, want %+v", i, topic, w)
			}
			for j, p := range got.Partitions[topic.First : topic.First+topic.Count] {
				w := &w.Partitions[j]
				flushed := int64(-1)
				w.UnknownTags.Each(func(tag uint32, v []byte) {
					if tag == FlushedTag {
						flushed = int64(binary.BigEndian.Uint64(v))
					}
				})
				if expected := (FetchPartition{
					w.Partition, w.CurrentLeaderEpoch, w.FetchOffset, w.LastFetchedEpoch, w.LogStartOffset,
					w.PartitionMaxBytes, w.ReplicaDirectoryID, w.HighWatermark, flushed,
				}); p != expected {
					t.Errorf("topic %d partition %d: got %+v, want %+v", i, j, p, expected)
				}
			}
		}
		for i, topic := range got.Forgotten {
			w := &want.ForgottenTopics[i]
			if string(topic.Name) != w.Topic || topic.ID != w.TopicID || topic.Count != len(w.Partitions) {
				t.Fatalf("forgotten topic %d: got %+v, want %+v", i, topic, w)
			}
			for j, p := range got.ForgottenPartitions[topic.First : topic.First+topic.Count] {
				if p != w.Partitions[j] {
					t.Errorf("forgotten topic %d partition %d: got %d, want %d", i, j, p, w.Partitions[j])
				}
			}
		}
	})
}

// appendFetch encodes what kmsg describes; records come from elsewhere.
func appendFetch(r *kmsg.FetchResponse) []byte {
	v := r.Version
	dst := AppendFetchStart(nil, v, r.ThrottleMillis, r.ErrorCode, r.SessionID, len(r.Topics))
	for i := range r.Topics {
		topic := &r.Topics[i]
		dst = AppendFetchTopic(dst, v, []byte(topic.Topic), topic.TopicID, len(topic.Partitions))
		for j := range topic.Partitions {
			w := &topic.Partitions[j]
			p := FetchResponsePartition{
				Partition: w.Partition, ErrorCode: w.ErrorCode, HighWatermark: w.HighWatermark,
				LastStable: w.LastStableOffset, LogStart: w.LogStartOffset, PreferredReplica: w.PreferredReadReplica,
			}
			if w.AbortedTransactions != nil {
				p.Aborted = []AbortedTxn{}
			}
			for _, a := range w.AbortedTransactions {
				p.Aborted = append(p.Aborted, AbortedTxn{a.ProducerID, a.FirstOffset})
			}
			if w.DivergingEpoch.Epoch != -1 {
				p.DivergingEpoch = &EpochEnd{w.DivergingEpoch.Epoch, w.DivergingEpoch.EndOffset}
			}
			if w.CurrentLeader.LeaderID != -1 {
				p.Leader = &CurrentLeader{w.CurrentLeader.LeaderID, w.CurrentLeader.LeaderEpoch}
			}
			dst = AppendFetchPartition(dst, v, &p, len(w.RecordBatches))
			dst = append(dst, w.RecordBatches...)
			dst = AppendFetchPartitionEnd(dst, v, &p)
		}
		dst = AppendFetchTopicEnd(dst, v)
	}
	var e []NodeEndpoint
	for _, b := range r.Brokers {
		e = append(e, NodeEndpoint{b.NodeID, b.Host, b.Port, text(b.Rack)})
	}
	return AppendFetchEnd(dst, v, e)
}

func randomFetchResponse(rng *rand.Rand, version int16) *kmsg.FetchResponse {
	r := kmsg.NewPtrFetchResponse()
	r.Version = version
	fill(rng, reflect.ValueOf(r).Elem(), false)
	if version < 16 {
		r.Brokers = nil
	}
	for i := range r.Topics {
		for j := range r.Topics[i].Partitions {
			p := &r.Topics[i].Partitions[j]
			p.SnapshotID.Default() // KRaft's own
			if rng.IntN(2) == 0 {
				p.DivergingEpoch.Default()
			}
			if rng.IntN(2) == 0 {
				p.CurrentLeader.Default()
			}
			if rng.IntN(2) == 0 {
				p.AbortedTransactions = nil
			}
		}
	}
	return r
}

func TestFetchResponse(t *testing.T) {
	eachVersion(t, KeyFetch, func(t *testing.T, rng *rand.Rand, version int16) {
		r := randomFetchResponse(rng, version)
		if got, want := appendFetch(r), r.AppendTo(nil); !bytes.Equal(got, want) {
			t.Errorf("got  %x\nwant %x", got, want)
		}
	})
}

func TestFetchAllocatesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	body := randomFetch(rng, 18).AppendTo(nil)
	var r FetchRequest
	dst := make([]byte, 0, 4096)
	p := FetchResponsePartition{Aborted: []AbortedTxn{{1, 2}}, DivergingEpoch: &EpochEnd{1, 2}, Leader: &CurrentLeader{1, 2}}
	if n := testing.AllocsPerRun(100, func() {
		if r.Parse(18, body) != nil {
			t.Fatal("parse")
		}
		dst = AppendResponseHeader(dst[:0], KeyFetch, 18, 7)
		dst = AppendFetchStart(dst, 18, 0, 0, 1, 1)
		dst = AppendFetchTopic(dst, 18, nil, [16]byte{1}, 1)
		dst = AppendFetchPartition(dst, 18, &p, 1<<20)
		dst = AppendFetchPartitionEnd(dst, 18, &p)
		dst = AppendFetchTopicEnd(dst, 18)
		dst = AppendFetchEnd(dst, 18, nil)
		PutSize(dst, 1<<20)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if size := binary.BigEndian.Uint32(dst); int(size) != len(dst)-4+1<<20 {
		t.Errorf("size is %d, with %d bytes here and %d elsewhere", size, len(dst), 1<<20)
	}
}

func FuzzFetchRequest(f *testing.F) {
	for v := int16(4); v <= 18; v++ {
		f.Add(v, randomFetch(rand.New(rand.NewPCG(uint64(v), 0)), v).AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, version int16, body []byte) {
		if !Served(KeyFetch, version) {
			return
		}
		var r FetchRequest
		if r.Parse(version, body) != nil {
			return
		}
		if len(r.Topics) > len(body) || len(r.Partitions) > len(body) || len(r.ForgottenPartitions) > len(body) {
			t.Errorf("%d topics, %d partitions from %d bytes", len(r.Topics), len(r.Partitions), len(body))
		}
		for _, topic := range r.Topics {
			_ = r.Partitions[topic.First : topic.First+topic.Count]
		}
		for _, topic := range r.Forgotten {
			_ = r.ForgottenPartitions[topic.First : topic.First+topic.Count]
		}
		want := kmsg.NewPtrFetchRequest()
		want.Version = version
		if err := want.ReadFrom(body); err != nil {
			t.Errorf("kmsg refuses what is accepted here: %v", err)
		}
	})
}
