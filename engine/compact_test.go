package engine_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace/engine/api"
	"github.com/millrace/millrace/engine/cluster"
	"github.com/millrace/millrace/engine/record"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// compacting has logs looked at often.
func compacting(t *testing.T, backend string, overrides ...string) *rig {
	return start(t, backend, 2, append([]string{"log.cleaner.backoff.ms=20", "flush.policy=file"}, overrides...)...)
}

// cleanings counts the passes of compaction that are done.
func (r *rig) cleanings() (n uint64) {
	for _, s := range r.Stats() {
		n += s.Logs.Cleanings
	}
	return n
}

// Offsets that were committed over and over are replayed once each at a start, when
// __consumer_offsets has been compacted, and are what they were.
func TestOffsetsCompacted(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		r := compacting(t, backend, "offsets.topic.segment.bytes=1048576", "offsets.topic.num.partitions=1", "log.cleaner.min.cleanable.ratio=0.1", "log.cleaner.enable=false")
		const partitions, rounds = 100, 300
		r.topic("t", partitions)
		c := r.dial()
		find := kmsg.NewPtrFindCoordinatorRequest()
		find.CoordinatorKey = "g"
		r.until("a coordinator", func() bool { return c.do(find).(*kmsg.FindCoordinatorResponse).ErrorCode == 0 })
		metadata := string(bytes.Repeat([]byte{'m'}, 100))
		for round := range rounds {
			q := kmsg.NewPtrOffsetCommitRequest()
			q.Version, q.Group, q.Generation = 7, "g", -1
			topic := kmsg.NewOffsetCommitRequestTopic()
			topic.Topic = "t"
			for p := range int32(partitions) {
				x := kmsg.NewOffsetCommitRequestTopicPartition()
				x.Partition, x.Offset, x.Metadata = p, int64(round)*1000+int64(p), &metadata
				topic.Partitions = append(topic.Partitions, x)
			}
			q.Topics = append(q.Topics, topic)
			a := c.do(q).(*kmsg.OffsetCommitResponse)
			for _, p := range a.Topics[0].Partitions {
				r.must(kerr.ErrorForCode(p.ErrorCode))
			}
		}
		check := func() {
			q := kmsg.NewPtrOffsetFetchRequest()
			q.Version, q.Group = 7, "g"
			c := r.dial()
			var a *kmsg.OffsetFetchResponse
			r.until("offsets", func() bool {
				a = c.do(q).(*kmsg.OffsetFetchResponse)
				return a.ErrorCode == 0
			})
			if len(a.Topics) != 1 || len(a.Topics[0].Partitions) != partitions {
				t.Fatalf("%+v", a.Topics)
			}
			for _, p := range a.Topics[0].Partitions {
				if want := int64(rounds-1)*1000 + int64(p.Partition); p.Offset != want || p.Metadata == nil || *p.Metadata != metadata {
					t.Fatalf("partition %d: offset %d, want %d", p.Partition, p.Offset, want)
				}
			}
		}
		replayed := func() (n uint64) {
			for _, s := range r.Stats() {
				n += s.GroupRecords
			}
			return n
		}
		check()
		size := func() int64 {
			return r.Shared().Routes.Load().ByName[cluster.OffsetsTopic].Partitions[0].Published.Size.Load()
		}
		before := size()
		r.restart()
		first := replayed()
		if first != partitions*rounds {
			t.Fatalf("%d records replayed, committed were %d", first, partitions*rounds)
		}
		r.set[len(r.set)-1] = "log.cleaner.enable=true"
		r.restart() // what is below a recovery point on disk can be cleaned
		r.until("cleaned", func() bool { return r.cleanings() > 0 && size() < before/2 })
		r.restart()
		second := replayed()
		t.Logf("%d records replayed before, %d after compaction; %d bytes, then %d", first, second, before, size())
		// The active segment is never compacted: a MiB of records of about 170 bytes.
		if second > (1<<20)/150+2*partitions || second < partitions {
			t.Fatalf("%d records replayed after compaction, %d before", second, first)
		}
		check()
	})
}

// cleanup.policy=compact,delete: keys lose their old values, and the oldest segments go with retention; the log is right
// after a restart.
func TestCompactAndDelete(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		r := compacting(t, backend)
		r.topic("t", 1, "cleanup.policy=compact,delete", "segment.bytes=1048576", "min.cleanable.dirty.ratio=0.01", "retention.ms=3600000", "file.delete.delay.ms=0")
		c := r.dial()
		now := time.Now().UnixMilli()
		put := func(from, n int, at int64) {
			for i := from; i < from+n; i++ {
				var b record.Builder
				b.Begin(nil, record.None)
				for j := range 10 {
					b.Add(at, fmt.Appendf(nil, "%d", (i*10+j)%50), bytes.Repeat([]byte{byte(i)}, 2000))
				}
				r.must(kerr.ErrorForCode(c.put("t", map[int32][]byte{0: b.Finish()})[0].ErrorCode))
			}
		}
		put(0, 300, now-2*3600_000) // too old
		put(300, 300, now)
		log := func(f func(p *api.Route)) {
			done := make(chan bool)
			route := &r.Shared().Routes.Load().ByName["t"].Partitions[0]
			core := r.Shared().Cores[route.Core]
			core.Loop.Post(api.Func(core, func(*api.Core) { f(route); close(done) }))
			<-done
		}
		r.restart()
		c = r.dial()
		published := func() *api.Route { return &r.Shared().Routes.Load().ByName["t"].Partitions[0] }
		r.until("compacted", func() bool { return r.cleanings() > 0 && published().Published.Size.Load() < 6<<20 })
		read := func() (n int, keys map[string]int64, start int64) {
			keys = map[string]int64{}
			start = published().Published.LogStart.Load()
			end := published().Published.HighWatermark.Load()
			for at := start; at < end; {
				all := c.get(fetch("t", 100, 1, map[int32]int64{0: at}))[0].RecordBatches
				for len(all) > 0 {
					b, rest, err := record.Next(all)
					if err != nil { // cut short by the fetch's size
						break
					}
					all = rest
					var x record.Reader
					for x.Reset(b, nil); x.Next(); n++ {
						keys[string(x.Key)] = x.Offset
					}
					at = b.LastOffset() + 1
				}
			}
			return n, keys, start
		}
		n, keys, start := read()
		if n >= 3000 || len(keys) != 50 { // retention may have come by already, at its own time
			t.Fatalf("%d records, %d keys from %d", n, len(keys), start)
		}
		for key, offset := range keys {
			var k int64
			fmt.Sscan(key, &k)
			if offset%50 != k || offset < 6000-50 {
				t.Fatalf("the last record of %s is at %d", key, offset)
			}
		}
		log(func(p *api.Route) { p.Partition.Log().Retain() })
		r.until("the old segments to go", func() bool { return published().Published.LogStart.Load() > 0 })
		_, keys, start = read()
		if start > 6000-50 || len(keys) != 50 {
			t.Fatalf("%d keys from %d", len(keys), start)
		}
		r.restart()
		c = r.dial()
		_, again, at := read()
		if at != start || len(again) != 50 {
			t.Fatalf("after a restart: %d keys from %d, were from %d", len(again), at, start)
		}
		if r.logged("NOT COMPACTED") || r.logged("FAILED") {
			t.Fatal(r.lines)
		}
	})
}

// A partition that cannot be compacted is said once, with its cause, and serves.
func TestUncleanablePartition(t *testing.T) {
	r := startFaulty(t, "posix", 1, `(Create (path "*.log.cleaned") EIO)`, "log.cleaner.backoff.ms=20", "flush.policy=file")
	r.topic("t", 1, "cleanup.policy=compact", "segment.bytes=1048576", "min.cleanable.dirty.ratio=0.01")
	c := r.dial()
	for range 40 {
		r.must(kerr.ErrorForCode(c.put("t", map[int32][]byte{0: batch(10, 10000)})[0].ErrorCode))
	}
	r.restart()
	p := r.Shared().Routes.Load().ByName["t"].Partitions[0].Published
	r.until("said", func() bool { // by this start: on a slow machine it may have been before the restart too
		return p.Uncleanable.Load() != nil && r.logged("PARTITION NOT COMPACTED: t-0", "t-0", "input/output error")
	})
	if p.Uncleanable.Load() == nil || r.Stats()[0].Logs.CleaningsFailed != 1 {
		t.Fatalf("%v, %d failed", p.Uncleanable.Load(), r.Stats()[0].Logs.CleaningsFailed)
	}
	r.must(kerr.ErrorForCode(r.dial().put("t", map[int32][]byte{0: batch(10, 10)})[0].ErrorCode))
}
