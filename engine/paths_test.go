package engine_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kadm"
	"golang.org/x/sys/unix"
)

// fetchPaths are the values of fetch.path that force a way.
var fetchPaths = []string{"copy", "sendfile", "splice"}

// segments are the files of a partition, in order.
func segments(t testing.TB, dir, partition string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, partition, "*.log"))
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: %d segments, %v", partition, len(names), err)
	}
	slices.Sort(names)
	return names
}

// evict drops files from the page cache. False: the file system keeps them.
func evict(t testing.TB, names []string) (cold bool) {
	t.Helper()
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			t.Fatal(err)
		}
		var stat unix.Cachestat_t
		if err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{Len: 1 << 40}, &stat, 0); err == nil && stat.Cache == 0 {
			cold = true
		}
		f.Close()
	}
	return cold
}

// Whichever way records go, warm or cold, they are the bytes that lie in the segments.
func TestFetchPaths(t *testing.T) {
	for _, path := range append([]string{"auto"}, fetchPaths...) {
		for _, drop := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/drop=%v", path, drop), func(t *testing.T) {
				eachBackend(t, func(t *testing.T, backend string) { fetchByPath(t, backend, path, drop) })
			})
		}
	}
}

func fetchByPath(t *testing.T, backend, path string, drop bool) {
	r := start(t, backend, 2, "tail.bytes=1048576", "fetch.path="+path, "flush.policy=os", fmt.Sprintf("fetch.drop.behind=%v", drop), "fetch.readahead.bytes=1048576")
	r.topic("t", 2, "segment.bytes=3000000")
	c := r.dial()
	for i := range 60 {
		b := batch(1+i%30, 5000+i)
		for _, a := range c.put("t", map[int32][]byte{0: b, 1: b}) {
			if a.ErrorCode != 0 {
				t.Fatalf("produce: %+v", a)
			}
		}
	}
	for _, cold := range []bool{false, true} {
		for p := range int32(2) {
			names := segments(t, r.dir, fmt.Sprintf("t-%d", p))
			if cold && !evict(t, names) {
				t.Log("this file system keeps its files in memory")
			}
			var got []byte
			for offset, end := int64(0), int64(1); offset < end; {
				a := c.get(fetch("t", 0, 1, map[int32]int64{p: offset}))[0]
				if a.ErrorCode != 0 || len(a.RecordBatches) == 0 {
					t.Fatalf("fetch at offset %d of %d: error %d, %d bytes", offset, end, a.ErrorCode, len(a.RecordBatches))
				}
				got, end = append(got, a.RecordBatches...), a.HighWatermark
				for b := a.RecordBatches; len(b) > 0; {
					x, rest, err := record.Next(b)
					r.must(err)
					offset, b = x.LastOffset()+1, rest
				}
			}
			var want []byte
			for _, name := range names {
				b, err := os.ReadFile(name)
				r.must(err)
				want = append(want, b...)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("partition %d, cold %v: %d bytes came, %d lie in the segments, or they differ", p, cold, len(got), len(want))
			}
		}
	}
	ways := map[string]uint64{}
	var file, counted uint64
	for _, s := range r.Stats() {
		ways["copy"] += s.Net.Read
		ways["sendfile"] += s.Ring.SendFileIn
		ways["splice"] += s.Ring.SendFileSpl
		file += s.API.FetchFile
	}
	for _, n := range ways {
		counted += n
	}
	t.Logf("%v", ways)
	if file < 4<<20 || counted != file {
		t.Errorf("%d bytes from segments, by way %v", file, ways)
	}
	if path == "copy" && ways["copy"] != file || path == "splice" && ways["splice"] != file || path == "sendfile" && ways["sendfile"] == 0 {
		t.Errorf("fetch.path=%s: %v", path, ways)
	}
}

// A reply that nobody takes holds its segment: what is removed meanwhile arrives whole.
func TestFetchOfWhatIsRemoved(t *testing.T) {
	for _, path := range fetchPaths {
		t.Run(path, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, backend string) {
				r := start(t, backend, 2, "tail.bytes=1048576", "fetch.path="+path, "flush.policy=os", "log.segment.delete.delay.ms=0")
				r.topic("t", 1, "segment.bytes=20000000", "file.delete.delay.ms=0")
				c := r.dial()
				for range 70 {
					c.put("t", map[int32][]byte{0: batch(100, 5000)})
				}
				name := segments(t, r.dir, "t-0")[0]
				want, err := os.ReadFile(name)
				r.must(err)
				q := fetch("t", 0, 1, map[int32]int64{0: 0})
				q.Topics[0].Partitions[0].PartitionMaxBytes = 40 << 20 // more than sockets hold
				lazy := r.dial()
				before := r.requests(wire.KeyFetch)
				lazy.send(q)
				r.until("the fetch arrives", func() bool { return r.requests(wire.KeyFetch) > before })
				adm := kadm.NewClient(r.kafka())
				ends, err := adm.ListEndOffsets(context.Background(), "t")
				r.must(err)
				end, _ := ends.Lookup("t", 0)
				var offsets kadm.Offsets
				offsets.Add(kadm.Offset{Topic: "t", Partition: 0, At: end.Offset, LeaderEpoch: -1})
				_, err = adm.DeleteRecords(context.Background(), offsets)
				r.must(err)
				r.until("the segment is removed", func() bool {
					_, err := os.Stat(name)
					return os.IsNotExist(err)
				})
				a := lazy.receive(q).(*fetchResponse).Topics[0].Partitions[0]
				if n := len(a.RecordBatches); n < 10<<20 || !bytes.Equal(a.RecordBatches, want[:n]) {
					t.Fatalf("error %d, %d bytes of %d, or they differ", a.ErrorCode, n, len(want))
				}
			})
		})
	}
}

// A connection that ends in the middle of a reply leaves nothing behind, whatever was under way.
func TestFetchCutOff(t *testing.T) {
	for _, path := range fetchPaths {
		t.Run(path, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, backend string) {
				r := start(t, backend, 2, "tail.bytes=1048576", "fetch.path="+path, "flush.policy=os")
				r.topic("t", 2)
				c := r.dial()
				for range 40 {
					c.put("t", map[int32][]byte{0: batch(100, 3000), 1: batch(100, 3000)})
				}
				q := fetch("t", 0, 1, map[int32]int64{0: 0, 1: 0})
				for i := range q.Topics[0].Partitions {
					q.Topics[0].Partitions[i].PartitionMaxBytes = 10 << 20
				}
				buf := make([]byte, 1<<20)
				for i := range 24 {
					evict(t, append(segments(t, r.dir, "t-0"), segments(t, r.dir, "t-1")...))
					x := r.dial()
					x.send(q)
					for left := i * 60_000; left > 0; {
						n, err := x.conn.Read(buf[:min(left, len(buf))])
						r.must(err)
						left -= n
					}
					x.conn.Close()
				}
				begin := time.Now()
				r.close() // every read has to be given back
				if took := time.Since(begin); took > patience {
					t.Fatalf("closing took %v", took)
				}
			})
		})
	}
}

// The thread of a core reads nothing from the disk, whatever is evicted under its feet:
// the kernel counts the blocks that each thread has to read.
func TestColdReadsAreNotTheCores(t *testing.T) {
	for _, path := range fetchPaths {
		t.Run(path, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, backend string) {
				h := newHand(t, backend, "tail.bytes=1048576", "fetch.path="+path, "flush.policy=os")
				h.topic("t")
				end, size := int64(0), len(batch(10, 5000))
				for range 200 {
					end = h.put(ways[2], batch(10, 5000))
				}
				names := append(segments(t, h.Shared().LogDir, "t-0"), segments(t, h.Shared().LogDir, "t-1")...)
				if !evict(t, names) {
					t.Log("this file system keeps its files in memory: nothing is cold there")
					return
				}
				blocks := func() int64 {
					var use unix.Rusage
					h.must(unix.Getrusage(unix.RUSAGE_THREAD, &use))
					return use.Inblock
				}
				before := blocks()
				for offset := int64(0); offset+400 < end; offset += 100 {
					h.send(ways[2].fetch(0, 1, func(int32) int64 { return offset }))
					if n := len(h.receive()); n < size {
						t.Fatalf("%d bytes at offset %d", n, offset)
					}
					if n := blocks() - before; n > 0 {
						t.Fatalf("at offset %d the core has read %d blocks", offset, n)
					}
					if offset%500 == 0 {
						evict(t, names)
						before = blocks() // the test's own
					}
				}
			})
		})
	}
}
