package engine_test

import (
	"testing"
	"time"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A partition of each core in one request: produced, then fetched.
func TestAcrossCores(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		r := start(t, backend, 2)
		r.topic("t", 2)
		c := r.dial()
		for _, a := range c.put("t", map[int32][]byte{0: batch(3, 10), 1: batch(4, 10)}) {
			if a.ErrorCode != 0 || a.BaseOffset != 0 {
				t.Fatalf("produce: %+v", a)
			}
		}
		for i, a := range c.get(fetch("t", 0, 1, map[int32]int64{0: 0, 1: 0})) {
			if n := records(t, a.RecordBatches); a.ErrorCode != 0 || n != 3+i || a.HighWatermark != int64(3+i) {
				t.Fatalf("fetch: partition %d: error %d, %d records, high watermark %d", i, a.ErrorCode, n, a.HighWatermark)
			}
		}
	})
}

// A fetch waits as long as it says, on every core, though nothing happens there. Who is
// late only because the machine is busy is asked again.
func TestMaxWait(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		r := start(t, backend, 2)
		r.topic("t", 2)
		c := r.dial()
		for p := range int32(2) {
			for try := 1; ; try++ {
				begin := time.Now()
				a := c.get(fetch("t", 150, 1, map[int32]int64{p: 0}))
				took := time.Since(begin)
				if took < 150*time.Millisecond || took > 2*time.Second && try == 5 || len(a[0].RecordBatches) != 0 {
					t.Fatalf("partition %d: %v for a wait of 150 ms", p, took)
				}
				if took <= 2*time.Second {
					break
				}
			}
		}
	})
}

// forever is a wait that outlasts the client's patience: a fetch that is answered was
// not answered because its time was up.
const forever = 600000

// A waiting fetch is answered by a produce, whichever core it arrives at.
func TestLongPoll(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		r := start(t, backend, 2)
		r.topic("t", 2)
		waiter, producer := r.dial(), r.dial()
		offsets := map[int32]int64{0: 0, 1: 0}
		for i := range 20 {
			p := int32(i % 2)
			q := fetch("t", forever, 1, offsets)
			waiter.send(q)
			if a := producer.put("t", map[int32][]byte{p: batch(1, 10)}); a[0].ErrorCode != 0 {
				t.Fatalf("produce: %+v", a)
			}
			waiter.r.Helper()
			_, err := waiter.frame()
			r.must(err)
			offsets[p]++
		}
		// Many bytes are waited for until they are there.
		q := fetch("t", forever, 5000, offsets)
		waiter.send(q)
		for range 6 {
			producer.put("t", map[int32][]byte{0: batch(1, 1000)})
		}
		n := 0
		for _, a := range waiter.receive(q).(*fetchResponse).Topics[0].Partitions {
			n += len(a.RecordBatches)
		}
		if n < 5000 {
			t.Fatalf("%d bytes, wanted 5000", n)
		}
	})
}

// A connection's end ends what it waits for.
func TestFetchEndsWithItsConnection(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		r := start(t, backend, 2)
		r.topic("t", 2)
		for range 4 {
			c := r.dial()
			c.send(fetch("t", 600000, 1, map[int32]int64{0: 0, 1: 0}))
			c.send(fetch("t", 600000, 1, map[int32]int64{1: 0}))
			r.until("the fetches arrive", func() bool { return r.requests(wire.KeyFetch) > 0 })
			c.conn.Close()
		}
		begin := time.Now()
		r.close() // every read has to be given back
		if took := time.Since(begin); took > patience {
			t.Fatalf("closing took %v", took)
		}
	})
}

// Closing is not held up by those who wait.
func TestCloseWithLongPolls(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		r := start(t, backend, 2)
		r.topic("t", 2)
		c := r.dial()
		c.put("t", map[int32][]byte{0: batch(1, 10), 1: batch(1, 10)})
		c.send(fetch("t", 600000, 1000000, map[int32]int64{0: 0, 1: 0}))
		r.until("the fetch arrives", func() bool { return r.requests(wire.KeyFetch) > 0 })
		begin := time.Now()
		r.close()
		if took := time.Since(begin); took > patience {
			t.Fatalf("closing took %v", took)
		}
		if err := c.closed(); err != nil {
			t.Fatal(err)
		}
	})
}

// What has left the memory comes from the files, all of it and in order.
func TestFetchFromFiles(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		r := start(t, backend, 2, "tail.bytes=1048576")
		r.topic("t", 2, "segment.bytes=1048576")
		c := r.dial()
		const batches, each = 120, 20
		for range batches {
			for _, a := range c.put("t", map[int32][]byte{0: batch(each, 1000), 1: batch(each, 1000)}) {
				if a.ErrorCode != 0 {
					t.Fatalf("produce: %+v", a)
				}
			}
		}
		offsets, seen := map[int32]int64{0: 0, 1: 0}, 0
		for seen < 2*batches*each {
			for _, a := range c.get(fetch("t", 5000, 1, offsets)) {
				if a.ErrorCode != 0 {
					t.Fatalf("fetch: %+v", a.ErrorCode)
				}
				for b := a.RecordBatches; len(b) > 0; {
					x, rest, err := record.Next(b)
					r.must(err)
					if x.BaseOffset() != offsets[a.Partition] || !x.CheckCRC() {
						t.Fatalf("partition %d: a batch at %d, wanted %d", a.Partition, x.BaseOffset(), offsets[a.Partition])
					}
					offsets[a.Partition] = x.LastOffset() + 1
					seen += int(x.Count())
					b = rest
				}
			}
		}
		file := uint64(0)
		for _, s := range r.Stats() {
			file += s.API.FetchFile
		}
		if file < batches*each*1000 {
			t.Fatalf("%d bytes came from files", file)
		}
	})
}

// Several hundred partitions in one request, of which a few have something.
func TestFetchManyPartitions(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		r := start(t, backend, 2)
		const n = 150
		r.topic("t", n)
		c, producer := r.dial(), r.dial()
		offsets := map[int32]int64{}
		for p := range int32(n) {
			offsets[p] = 0
		}
		for round := range int64(3) {
			q := fetch("t", forever, 3*70, offsets)
			c.send(q)
			for p := int32(7); p < n; p += 50 {
				if a := producer.put("t", map[int32][]byte{p: batch(1, 10)}); a[0].ErrorCode != 0 {
					t.Fatalf("produce: %+v", a)
				}
			}
			got := 0
			parts := c.receive(q).(*fetchResponse).Topics[0].Partitions
			for i, a := range parts {
				if a.Partition != int32(i) || a.ErrorCode != 0 {
					t.Fatalf("answer %d: partition %d, error %d", i, a.Partition, a.ErrorCode)
				}
				if k := records(t, a.RecordBatches); k > 0 {
					got += k
					offsets[a.Partition] = round + 1
				}
			}
			if len(parts) != n || got != 3 {
				t.Fatalf("%d records of %d partitions", got, len(parts))
			}
		}
	})
}

// The bounds of a request: in bytes, over all partitions and for each.
func TestFetchBounds(t *testing.T) {
	r := start(t, "posix", 2)
	r.topic("t", 2)
	c := r.dial()
	for range 10 {
		c.put("t", map[int32][]byte{0: batch(1, 1000), 1: batch(1, 1000)})
	}
	one := len(batch(1, 1000))
	for _, x := range []struct {
		name            string
		total, each     int32
		batches0, both1 int
	}{
		{"both", 1 << 20, 1 << 20, 10, 10},
		{"per partition", 1 << 20, int32(3*one + 10), 3, 3},
		{"less than a batch: one at least", 100, 1 << 20, 1, 0},
		{"nothing: one at least", 0, 0, 1, 0},
		{"negative: one at least", -1, -1, 1, 0},
	} {
		q := fetch("t", 0, 1, map[int32]int64{0: 0, 1: 0})
		q.MaxBytes = x.total
		for i := range q.Topics[0].Partitions {
			q.Topics[0].Partitions[i].PartitionMaxBytes = x.each
		}
		a := c.get(q)
		if n, m := records(t, a[0].RecordBatches), records(t, a[1].RecordBatches); n != x.batches0 || m > x.both1 {
			t.Errorf("%s: %d and %d records", x.name, n, m)
		}
	}
	// The sum over partitions of both cores is bounded too.
	q := fetch("t", 0, 1, map[int32]int64{0: 0, 1: 0})
	q.MaxBytes = int32(12*one + 10)
	total := 0
	for _, a := range c.get(q) {
		total += len(a.RecordBatches)
	}
	if total < 10*one || total > 12*one+10 {
		t.Errorf("%d bytes", total)
	}
}

func TestFetchErrors(t *testing.T) {
	r := start(t, "posix", 2)
	id := r.topic("t", 1)
	c := r.dial()
	c.put("t", map[int32][]byte{0: batch(5, 10)})
	for _, x := range []struct {
		name    string
		version int16
		change  func(q *kmsg.FetchRequest)
		code    int16
	}{
		{"offset above the end", 12, func(q *kmsg.FetchRequest) { q.Topics[0].Partitions[0].FetchOffset = 6 }, wire.OffsetOutOfRange},
		{"negative offset", 12, func(q *kmsg.FetchRequest) { q.Topics[0].Partitions[0].FetchOffset = -1 }, wire.OffsetOutOfRange},
		{"older epoch", 12, func(q *kmsg.FetchRequest) { q.Topics[0].Partitions[0].CurrentLeaderEpoch = 0 }, wire.FencedLeaderEpoch},
		{"newer epoch", 12, func(q *kmsg.FetchRequest) { q.Topics[0].Partitions[0].CurrentLeaderEpoch = 9 }, wire.UnknownLeaderEpoch},
		{"unknown partition", 12, func(q *kmsg.FetchRequest) { q.Topics[0].Partitions[0].Partition = 1 }, wire.UnknownTopicOrPartition},
		{"unknown topic", 4, func(q *kmsg.FetchRequest) { q.Topics[0].Topic = "none" }, wire.UnknownTopicOrPartition},
		{"unknown topic id", 13, func(q *kmsg.FetchRequest) { q.Topics[0].TopicID[0] ^= 1 }, wire.UnknownTopicID},
		{"read committed", 12, func(q *kmsg.FetchRequest) { q.IsolationLevel = 1 }, 0},
		{"a new session in place of an old one", 12, func(q *kmsg.FetchRequest) { q.SessionID, q.SessionEpoch = 17, 0 }, 0},
		{"the highest version", 18, func(q *kmsg.FetchRequest) {}, 0},
	} {
		if x.name == "older epoch" {
			r.restart() // a start is a new epoch
			c = r.dial()
		}
		q := fetch("t", forever, 1, map[int32]int64{0: 0}) // none of them waits
		q.Topics[0].TopicID, q.Version = id, x.version
		x.change(q)
		a := c.get(q)[0]
		if a.ErrorCode != x.code {
			t.Errorf("%s: error %d", x.name, a.ErrorCode)
		}
		if x.code == 0 && (records(t, a.RecordBatches) != 5 || a.LastStableOffset != 5) {
			t.Errorf("%s: %+v", x.name, a)
		}
	}
	// One partition that is unknown does not end the wait for the other.
	q := fetch("t", 300, 1, map[int32]int64{0: 5, 1: 0})
	begin := time.Now()
	if a := c.get(q); a[1].ErrorCode != wire.UnknownTopicOrPartition || time.Since(begin) < 300*time.Millisecond {
		t.Errorf("after %v: %+v", time.Since(begin), a)
	}
	// Nor is there anything to wait for where nothing is asked.
	q.Topics, q.MaxWaitMillis = nil, forever
	if a := c.get(q); len(a) != 0 {
		t.Errorf("nothing: %+v", a)
	}
	q = fetch("t", 0, 1, map[int32]int64{0: 0})
	q.SessionID, q.SessionEpoch = 17, 3
	if a := c.do(q).(*fetchResponse); a.ErrorCode != wire.FetchSessionIDNotFound {
		t.Errorf("a session nobody has: %+v", a)
	}
}

// More fetches wait on the other core than there are credits: a producer still gets through.
func TestProduceBesideManyLongPolls(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		r := start(t, backend, 2)
		r.topic("t", 2)
		frame := wire.AppendRequest(nil, 1, "poll", fetch("t", 600000, 1<<20, map[int32]int64{0: 0, 1: 0}))
		var all []byte
		for range 240 {
			all = append(all, frame...)
		}
		for range 16 {
			r.dial().write(all)
		}
		r.until("the fetches arrive", func() bool { return r.requests(wire.KeyFetch) == 16*240 })
		for range 10 {
			c := r.dial() // its patience is shorter than the fetches' wait
			for _, a := range c.put("t", map[int32][]byte{0: batch(1, 10), 1: batch(1, 10)}) {
				if a.ErrorCode != 0 {
					t.Fatalf("produce: %+v", a)
				}
			}
		}
	})
}

// A consumer that asks and does not read holds nobody up for long.
func TestConsumerThatDoesNotRead(t *testing.T) {
	r := start(t, "posix", 2, "tail.bytes=33554432", "memory.bytes=134217728")
	r.topic("t", 2)
	c := r.dial()
	both := map[int32][]byte{0: batch(100, 5000), 1: batch(100, 5000)}
	fill := func(n int) {
		for range n {
			for _, a := range c.put("t", both) {
				if a.ErrorCode != 0 {
					t.Fatalf("produce: %+v", a)
				}
			}
		}
	}
	begin := time.Now()
	fill(28) // 28 MB: what the memory holds
	undisturbed := time.Since(begin)
	for range 4 {
		q := fetch("t", 0, 1, map[int32]int64{0: 0, 1: 0})
		for i := range q.Topics[0].Partitions {
			q.Topics[0].Partitions[i].PartitionMaxBytes = 50 << 20
		}
		lazy := r.dial()
		for range 20 {
			lazy.send(q)
		}
	}
	// Until they have been closed, and what it takes this machine to write so much, today.
	bound := patience + 20*undisturbed
	begin = time.Now()
	fill(80)
	if took := time.Since(begin); took > bound {
		t.Fatalf("80 MB took %v, and 28 MB before them %v", took, undisturbed)
	}
}
