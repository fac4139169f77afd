package engine_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestAcks(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		r := start(t, backend, 2)
		r.topic("t", 2)
		c := r.dial()
		both := map[int32][]byte{0: batch(2, 10), 1: batch(2, 10)}
		for i, acks := range []int16{1, -1} {
			for _, a := range c.do(produce("t", acks, both)).(*produceResponse).Topics[0].Partitions {
				if a.ErrorCode != 0 || a.BaseOffset != int64(2*i) || a.LogAppendTime != -1 || a.LogStartOffset != 0 {
					t.Fatalf("acks %d: %+v", acks, a)
				}
			}
		}
		c.send(produce("t", 0, both)) // no answer: the next one is another request's
		for _, a := range c.put("t", both) {
			if a.ErrorCode != 0 || a.BaseOffset != 6 {
				t.Fatalf("after acks 0: %+v", a)
			}
		}
		for _, a := range c.do(produce("t", 2, both)).(*produceResponse).Topics[0].Partitions {
			if a.ErrorCode != wire.InvalidRequiredAcks || a.BaseOffset != -1 {
				t.Fatalf("acks 2: %+v", a)
			}
		}
		c.send(produce("none", 0, both)) // an error can only be told by the end
		if err := c.closed(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestRefusedBatches(t *testing.T) {
	r := start(t, "posix", 2, "auto.create.topics.enable=false")
	r.topic("t", 2)
	r.topic("compacted", 1, "cleanup.policy=compact")
	c := r.dial()
	coordinator := kmsg.NewPtrFindCoordinatorRequest() // makes __consumer_offsets
	coordinator.CoordinatorKey = "g"
	c.do(coordinator)
	build := func(codec record.Codec, keys ...string) []byte {
		var b record.Builder
		b.Begin(nil, codec)
		for _, k := range keys {
			if k == "" {
				b.Add(timestamp, nil, []byte("value"))
			} else {
				b.Add(timestamp, []byte(k), []byte("value"))
			}
		}
		return b.Finish()
	}
	torn := batch(1, 100)
	torn[80] ^= 1
	txn := "transaction"
	for _, x := range []struct {
		name    string
		topic   string
		part    int32
		version int16
		txn     *string
		records []byte
		code    int16
		index   int32 // of the refused record; -1: none is named
	}{
		{"zstd at version 6", "t", 0, 6, nil, build(record.Zstd, "k"), wire.UnsupportedCompressionType, -1},
		{"zstd at version 7", "t", 0, 7, nil, build(record.Zstd, "k"), 0, -1},
		{"gzip at version 3", "t", 0, 3, nil, build(record.Gzip, "k"), 0, -1},
		{"no key", "compacted", 0, 9, nil, build(record.None, "a", "", "c"), wire.InvalidRecord, 1},
		{"no key, version 8", "compacted", 0, 8, nil, build(record.None, "a", "b", ""), wire.InvalidRecord, 2},
		{"CRC", "t", 1, 9, nil, torn, wire.CorruptMessage, -1},
		{"no batch", "t", 1, 9, nil, []byte{}, wire.InvalidRecord, -1},
		{"null", "t", 1, 9, nil, nil, wire.InvalidRecord, -1},
		{"half a batch", "t", 1, 9, nil, torn[:40], wire.InvalidRecord, -1},
		{"two batches", "t", 1, 9, nil, append(batch(1, 1), batch(1, 1)...), wire.InvalidRecord, -1},
		{"too large", "t", 1, 9, nil, batch(1, 1<<20), wire.MessageTooLarge, -1},
		{"unknown topic", "none", 0, 9, nil, batch(1, 1), wire.UnknownTopicOrPartition, -1},
		{"unknown topic id", "none", 0, 13, nil, batch(1, 1), wire.UnknownTopicID, -1},
		{"unknown partition", "t", 2, 9, nil, batch(1, 1), wire.UnknownTopicOrPartition, -1},
		{"negative partition", "t", -1, 9, nil, batch(1, 1), wire.UnknownTopicOrPartition, -1},
		{"the broker's own topic", "__consumer_offsets", 0, 9, nil, batch(1, 1), wire.InvalidTopicException, -1},
		{"transaction", "t", 0, 9, &txn, batch(1, 1), wire.TransactionalIDAuthorizationFailed, -1},
	} {
		q := produce(x.topic, -1, map[int32][]byte{0: x.records})
		q.Topics[0].Partitions[0].Partition = x.part
		q.Version, q.TransactionID = x.version, x.txn
		a := c.do(q).(*produceResponse).Topics[0].Partitions[0]
		if a.ErrorCode != x.code || a.Partition != x.part || (a.BaseOffset < 0) != (x.code != 0) {
			t.Errorf("%s: %+v", x.name, a)
		}
		if x.index < 0 && len(a.ErrorRecords) > 0 ||
			x.index >= 0 && (len(a.ErrorRecords) != 1 || a.ErrorRecords[0].RelativeOffset != x.index || deref(a.ErrorRecords[0].ErrorMessage) == "" || deref(a.ErrorMessage) == "") {
			t.Errorf("%s: errors of records: %+v, message %q", x.name, a.ErrorRecords, deref(a.ErrorMessage))
		}
	}
}

// sequenced is a batch of one record of an idempotent producer.
func sequenced(id int64, sequence int32) []byte {
	var b record.Builder
	b.Begin(nil, record.None)
	b.SetProducer(id, 0, sequence, false)
	b.Add(timestamp, nil, fmt.Appendf(nil, "%d", sequence))
	return b.Finish()
}

func TestIdempotence(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		r := start(t, backend, 2)
		r.topic("t", 2)
		c := r.dial()
		id := c.do(kmsg.NewPtrInitProducerIDRequest()).(*kmsg.InitProducerIDResponse).ProducerID
		put := func(sequence int32, code int16, offset int64) {
			t.Helper()
			for _, a := range c.put("t", map[int32][]byte{0: sequenced(id, sequence), 1: sequenced(id, sequence)}) {
				if a.ErrorCode != code || a.BaseOffset != offset {
					t.Fatalf("sequence %d: %+v", sequence, a)
				}
			}
		}
		for i := range int32(7) {
			put(i, 0, int64(i))
		}
		put(4, 0, 4) // a duplicate: where it was the first time
		put(9, wire.OutOfOrderSequenceNumber, -1)
		r.restart()
		c = r.dial()
		put(6, 0, 6)
		put(8, wire.OutOfOrderSequenceNumber, -1)
		put(7, 0, 7)
	})
}

// flood sends requests of one idempotent producer each over several connections, as
// many at a time as the broker takes, and wants all of them appended: in order, that is.
func flood(r *rig, topic string, connections, requests int) {
	r.Helper()
	clients := make([]*client, connections)
	ids := make([]int64, connections)
	for i := range clients {
		clients[i] = r.dial()
		ids[i] = clients[i].do(kmsg.NewPtrInitProducerIDRequest()).(*kmsg.InitProducerIDResponse).ProducerID
	}
	for i, c := range clients {
		var frames []byte
		for n := range requests {
			c.last++
			// Now one core, now the other, now both.
			batches := map[int32][]byte{}
			if n%3 != 1 {
				batches[0] = sequenced(ids[i], int32(n-(n+1)/3))
			}
			if n%3 != 2 {
				batches[1] = sequenced(ids[i], int32(n-n/3))
			}
			frames = wire.AppendRequest(frames, c.last, "flood", produce(topic, -1, batches))
		}
		go c.conn.Write(frames)
	}
	for i, c := range clients {
		for n := range requests {
			q := produce(topic, -1, nil)
			for _, a := range c.receive(q).(*produceResponse).Topics[0].Partitions {
				if a.ErrorCode != 0 {
					r.Fatalf("connection %d, request %d: %+v", i, n, a)
				}
			}
		}
	}
}

// Requests of one connection are appended in their order, though credits run out.
func TestOrderWithoutCredits(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		r := startFaulty(t, backend, 2, `(Sync (path "*.log") (delay 30ms))`)
		r.topic("t", 2, "flush.policy=file")
		flood(r, "t", 24, 250)
	})
}

// The same where batches are parked because the disk is behind.
func TestOrderUnderPressure(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		r := startFaulty(t, backend, 2, `(Sync (path "*.log") (delay 2ms))`)
		r.topic("t", 2, "flush.policy=interval", "flush.messages=20")
		flood(r, "t", 4, 240)
		refused := uint64(0)
		for _, s := range r.Stats() {
			refused += s.Logs.Refused
		}
		if refused == 0 {
			t.Fatal("nothing was parked")
		}
	})
}

// A change of the flush policy does not disturb who produces.
func TestAlterFlushPolicyWhileProducing(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		r := start(t, backend, 2)
		r.topic("t", 2)
		done := make(chan struct{})
		go func() {
			defer close(done)
			flood(r, "t", 2, 200)
		}()
		admin := r.dial()
		policies := []string{"file", "write", "interval", "os"}
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			q := kmsg.NewPtrIncrementalAlterConfigsRequest()
			q.Version = 1
			q.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{
				ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "t",
				Configs: []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: "flush.policy", Value: &policies[i%4]}},
			}}
			if a := admin.do(q).(*kmsg.IncrementalAlterConfigsResponse).Resources[0]; a.ErrorCode != 0 {
				t.Fatalf("%s: %+v", policies[i%4], a)
			}
		}
	})
}

// A topic goes while producers wait for the disk and consumers for records.
func TestDeleteTopicWhileWaiting(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		r := startFaulty(t, backend, 2, `(Sync (path "*.log") (from 1) (delay 400ms))`)
		r.topic("t", 2, "flush.policy=interval", "flush.messages=1000")
		c := r.dial()
		c.put("t", map[int32][]byte{0: batch(10, 10), 1: batch(10, 10)})
		// The flush begins at half of the bound, so these two wait: for the sync, and to be appended.
		r.alter("t", "flush.policy", "file")
		var producers []*client
		both := map[int32][]byte{0: batch(10, 10), 1: batch(10, 10)}
		for range 4 {
			p := r.dial()
			p.send(produce("t", -1, both))
			producers = append(producers, p)
		}
		consumer := r.dial()
		poll := fetch("t", forever, 1<<20, map[int32]int64{0: 0, 1: 0})
		consumer.send(poll)
		r.until("the fetch arrives", func() bool { return r.requests(wire.KeyFetch) > 0 })

		q := kmsg.NewPtrDeleteTopicsRequest()
		q.Version, q.TopicNames = 5, []string{"t"}
		if a := c.do(q).(*kmsg.DeleteTopicsResponse).Topics[0]; a.ErrorCode != 0 {
			t.Fatalf("delete: %+v", a)
		}
		for _, p := range producers {
			for _, a := range p.receive(produce("t", -1, nil)).(*produceResponse).Topics[0].Partitions {
				if a.ErrorCode != 0 && a.ErrorCode != wire.UnknownTopicOrPartition {
					t.Fatalf("producer: %+v", a)
				}
			}
		}
		for _, a := range consumer.receive(poll).(*fetchResponse).Topics[0].Partitions {
			if a.ErrorCode != 0 && a.ErrorCode != wire.UnknownTopicOrPartition {
				t.Fatalf("consumer: %+v", a)
			}
		}
		r.topic("t", 2)
		for _, a := range c.put("t", both) {
			if a.ErrorCode != 0 || a.BaseOffset != 0 {
				t.Fatalf("the topic anew: %+v", a)
			}
		}
	})
}

// alter sets one of a topic's configs.
func (r *rig) alter(topic, key, value string) {
	r.Helper()
	q := kmsg.NewPtrIncrementalAlterConfigsRequest()
	q.Version = 1
	q.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{
		ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: topic,
		Configs: []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: key, Value: &value}},
	}}
	if a := r.dial().do(q).(*kmsg.IncrementalAlterConfigsResponse).Resources[0]; a.ErrorCode != 0 {
		r.Fatalf("%s=%s: %d %s", key, value, a.ErrorCode, deref(a.ErrorMessage))
	}
}

// A log that cannot be synced is given up: nothing more is acknowledged, everybody
// can see it, what was safe can be read, and a restart brings it back.
func TestFailedLog(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		r := startFaulty(t, backend, 2, ``)
		r.topic("t", 2, "flush.policy=file")
		c := r.dial()
		both := map[int32][]byte{0: batch(3, 10), 1: batch(3, 10)}
		c.put("t", both)
		r.must(r.faults.Add(fmt.Sprintf(`(Sync (path "%s/t-1/*.log") EIO)`, r.dir)))
		for range 2 {
			a := c.put("t", both)
			if a[0].ErrorCode != 0 || a[1].ErrorCode != wire.KafkaStorageError {
				t.Fatalf("produce: %+v", a)
			}
		}
		if !r.logged("PARTITION FAILED", "t-1", "00000000000000000000.log", "sync", "input/output error") {
			t.Fatalf("not logged: %q", r.lines)
		}
		q := kmsg.NewPtrMetadataRequest()
		q.Version = 12
		m := kmsg.NewMetadataRequestTopic()
		m.Topic = kmsg.StringPtr("t")
		q.Topics = append(q.Topics, m)
		p := c.do(q).(*kmsg.MetadataResponse).Topics[0].Partitions
		if p[0].Leader != 1 || p[0].ErrorCode != 0 || p[1].Leader != -1 || p[1].ErrorCode != wire.LeaderNotAvailable || len(p[1].OfflineReplicas) != 1 {
			t.Fatalf("metadata: %+v", p)
		}
		if a := c.get(fetch("t", 0, 1, map[int32]int64{1: 0})); a[0].ErrorCode != 0 || records(t, a[0].RecordBatches) != 3 {
			t.Fatalf("fetch: %+v", a)
		}
		r.faults.Clear()
		r.restart()
		if a := r.dial().put("t", both); a[1].ErrorCode != 0 || a[1].BaseOffset < 3 {
			t.Fatalf("after a restart: %+v", a)
		}
	})
}

// A log that lost what had been on disk comes up, is seen by everybody, and takes nothing.
func TestDamagedLog(t *testing.T) {
	r := startFaulty(t, "posix", 2, ``)
	r.topic("t", 2, "flush.policy=file")
	c := r.dial()
	both := map[int32][]byte{0: batch(3, 1000), 1: batch(3, 1000)}
	c.put("t", both)
	c.put("t", both)
	r.close()
	r.must(os.Remove(filepath.Join(r.dir, ".kafka_cleanshutdown")))
	r.must(os.Truncate(filepath.Join(r.dir, "t-1", "00000000000000000000.log"), int64(len(both[1]))))
	r.open()
	if !r.logged("PARTITION FAILED", "t-1", "00000000000000000000.log") {
		t.Fatalf("not logged: %q", r.lines)
	}
	c = r.dial()
	if p := c.metadataOf(false, "t")[0].Partitions; p[0].Leader != 1 || p[1].Leader != -1 {
		t.Fatalf("metadata: %+v", p)
	}
	if a := c.put("t", both); a[0].ErrorCode != 0 || a[0].BaseOffset != 6 || a[1].ErrorCode != wire.KafkaStorageError {
		t.Fatalf("produce: %+v", a)
	}
	if a := c.get(fetch("t", 0, 1, map[int32]int64{1: 0})); a[0].ErrorCode != 0 || records(t, a[0].RecordBatches) != 3 {
		t.Fatalf("what is left: %+v", a)
	}
}
