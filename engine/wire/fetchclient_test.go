package wire

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestFetchRequestAppendTo(t *testing.T) {
	var parsed, again FetchRequest
	eachVersion(t, KeyFetch, func(t *testing.T, rng *rand.Rand, version int16) {
		if err := parsed.Parse(version, randomFetch(rng, version).AppendTo(nil)); err != nil {
			t.Fatal(err)
		}
		if version < 17 { // tags that kmsg writes at every flexible version
			for i := range parsed.Partitions {
				p := &parsed.Partitions[i]
				p.DirectoryID, p.HighWatermark = [16]byte{}, 1<<63-1
			}
		} else if version < 18 {
			for i := range parsed.Partitions {
				parsed.Partitions[i].HighWatermark = 1<<63 - 1
			}
		}
		if version < 15 {
			parsed.ReplicaEpoch = -1
		}
		body := parsed.AppendTo(nil)
		if err := again.Parse(version, body); err != nil || !equalFetch(&again, &parsed) {
			t.Errorf("%v\ngot  %+v\nwant %+v", err, again, parsed)
		}
		theirs := kmsg.NewPtrFetchRequest()
		theirs.Version = version
		if err := theirs.ReadFrom(body); err != nil || !bytes.Equal(theirs.AppendTo(nil), body) {
			t.Errorf("kmsg: %v\ngot  %x\nwant %x", err, theirs.AppendTo(nil), body)
		}
	})
}

// equalFetch compares what a request says; empty slices are equal to nil ones.
func equalFetch(a, b *FetchRequest) bool {
	return a.ReplicaID == b.ReplicaID && a.ReplicaEpoch == b.ReplicaEpoch && a.MaxWaitMillis == b.MaxWaitMillis &&
		a.MinBytes == b.MinBytes && a.MaxBytes == b.MaxBytes && a.ReadCommitted == b.ReadCommitted &&
		a.SessionID == b.SessionID && a.SessionEpoch == b.SessionEpoch &&
		bytes.Equal(a.ClusterID, b.ClusterID) && bytes.Equal(a.Rack, b.Rack) &&
		equalSlices(a.Topics, b.Topics) && equalSlices(a.Partitions, b.Partitions) &&
		equalSlices(a.Forgotten, b.Forgotten) && equalSlices(a.ForgottenPartitions, b.ForgottenPartitions)
}

func equalSlices[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || reflect.DeepEqual(a, b))
}

func TestFetchResponseParse(t *testing.T) {
	var got FetchResponse
	eachVersion(t, KeyFetch, func(t *testing.T, rng *rand.Rand, version int16) {
		body := randomFetchResponse(rng, version).AppendTo(nil)
		everyPrefix(t, body, func(b []byte) error { return got.Parse(version, b) })
		want := kmsg.NewPtrFetchResponse()
		want.Version = version
		if err := want.ReadFrom(body); err != nil {
			t.Fatal(err)
		}
		if got.ThrottleMillis != want.ThrottleMillis || got.ErrorCode != want.ErrorCode || got.SessionID != want.SessionID ||
			len(got.Topics) != len(want.Topics) || got.Endpoints != len(want.Brokers) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		for i, topic := range got.Topics {
			w := &want.Topics[i]
			if string(topic.Name) != w.Topic || topic.ID != w.TopicID || topic.Count != len(w.Partitions) {
				t.Fatalf("topic %d: got %+v, want %+v", i, topic, w)
			}
			for j, p := range got.Partitions[topic.First : topic.First+topic.Count] {
				w := &w.Partitions[j]
				if p.Partition != w.Partition || p.ErrorCode != w.ErrorCode || p.HighWatermark != w.HighWatermark ||
					p.LastStable != w.LastStableOffset || p.LogStart != w.LogStartOffset || p.PreferredReplica != w.PreferredReadReplica ||
					p.Diverging != (EpochEnd{w.DivergingEpoch.Epoch, w.DivergingEpoch.EndOffset}) ||
					p.Leader != (CurrentLeader{w.CurrentLeader.LeaderID, w.CurrentLeader.LeaderEpoch}) ||
					!bytes.Equal(p.Records, w.RecordBatches) || p.AbortedCount != len(w.AbortedTransactions) {
					t.Errorf("topic %d partition %d: got %+v, want %+v", i, j, p, w)
				}
				for k, a := range got.Aborted[p.AbortedFirst : p.AbortedFirst+p.AbortedCount] {
					if w := w.AbortedTransactions[k]; a != (AbortedTxn{w.ProducerID, w.FirstOffset}) {
						t.Errorf("aborted %d: got %+v, want %+v", k, a, w)
					}
				}
			}
		}
	})
}

func TestFetchClientAllocatesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var request FetchRequest
	if err := request.Parse(18, randomFetch(rng, 18).AppendTo(nil)); err != nil {
		t.Fatal(err)
	}
	body := randomFetchResponse(rng, 18).AppendTo(nil)
	var response FetchResponse
	dst := make([]byte, 0, 64<<10)
	if n := testing.AllocsPerRun(100, func() {
		dst = AppendRequestHeader(dst[:0], KeyFetch, 18, 1, "follower")
		dst = request.AppendTo(dst)
		PutSize(dst, 0)
		if response.Parse(18, body) != nil {
			t.Fatal("parse")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzFetchResponse(f *testing.F) {
	for v := int16(4); v <= 18; v++ {
		f.Add(v, randomFetchResponse(rand.New(rand.NewPCG(uint64(v), 0)), v).AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, version int16, body []byte) {
		if !Served(KeyFetch, version) {
			return
		}
		var r FetchResponse
		if r.Parse(version, body) != nil {
			return
		}
		for _, topic := range r.Topics {
			for _, p := range r.Partitions[topic.First : topic.First+topic.Count] {
				_ = r.Aborted[p.AbortedFirst : p.AbortedFirst+p.AbortedCount]
			}
		}
	})
}
