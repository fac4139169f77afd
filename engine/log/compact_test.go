package log

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring/sim"
)

// newCleaned is a rig whose core compacts.
func newCleaned(t testing.TB, seed uint64) *rig {
	r := newRigWithout(t, seed)
	r.cores.Cleaner = CleanerConfig{Enabled: true, DedupeBytes: 1 << 20, BackoffMs: 50}
	r.config.Compacted, r.config.MinDirtyRatio, r.config.DeleteRetentionMs, r.config.MaxCompactionLagMs = true, 0.01, 1e12, Never
	r.config.Policy, r.config.SegmentBytes, r.config.IndexIntervalBytes = File, 900, 150
	return r
}

// keyed is the model of a compacted topic: what was appended, by offset.
type keyed struct {
	*rig
	log     *Log
	key     map[int64]string // by offset
	value   map[int64]string // "" is a tombstone
	aborted map[int64]bool
	txn     map[int64]int64 // whose transaction it is of, or 0
	seq     int32
	n       int
	codec   record.Codec
}

func newKeyed(r *rig) *keyed {
	return &keyed{rig: r, key: map[int64]string{}, value: map[int64]string{}, aborted: map[int64]bool{}, txn: map[int64]int64{}}
}

// put appends a batch of a few keys; false: the machine is down.
func (k *keyed) put(txn int64) bool {
	var b record.Builder
	b.Begin(nil, k.codec)
	if txn != 0 {
		b.SetProducer(txn, 0, k.seq, true)
	} else if k.n%3 == 0 {
		b.SetProducer(7, 0, k.seq, false)
	}
	type kv struct{ key, value string }
	var all []kv
	for i := range 1 + k.n%4 {
		p := kv{fmt.Sprintf("key %d", (k.n*7+i*3)%9), fmt.Sprintf("value %d/%d of the key", k.n, i)}
		value := []byte(p.value)
		if (k.n+i)%11 == 5 {
			p.value, value = "", nil
		}
		all = append(all, p)
		b.Add(int64(1000+k.n*10+i), []byte(p.key), value, record.Header{Key: "h", Value: []byte("x")})
	}
	how := Client
	if txn != 0 || k.n%3 == 0 {
		how = Coordinator // sequences are not the matter here
	}
	k.n++
	base := k.log.LogEnd()
	for i, p := range all {
		k.key[base+int64(i)], k.value[base+int64(i)] = p.key, p.value
		delete(k.aborted, base+int64(i)) // of what a crash took
		k.txn[base+int64(i)] = txn
	}
	if _, err := k.log.Append(b.Finish(), how, 0, k.io.WallMillis()); err != nil {
		if k.disk.Crashed() {
			return false
		}
		k.t.Fatalf("append: %v", err)
	}
	return k.safe()
}

func (k *keyed) safe() bool {
	ok := k.until("stable", func() bool { return k.log.Stable() == k.log.LogEnd() })
	if ok {
		k.log.SetHighWatermark(k.log.Stable())
	}
	return ok
}

// mark ends a transaction.
func (k *keyed) mark(txn int64, from int64, how record.ControlType) bool {
	if p := k.log.producer.byID[txn]; p != nil && p.txnStart >= 0 { // a crash has left it open, perhaps
		from = p.txnStart
	}
	if how == record.Abort {
		for o := from; o < k.log.LogEnd(); o++ {
			k.aborted[o] = k.txn[o] == txn
		}
	}
	if _, err := k.log.Append(record.AppendMarker(nil, txn, 0, record.Marker{Type: how}, 1), Coordinator, 0, 0); err != nil {
		if k.disk.Crashed() {
			return false
		}
		k.t.Fatal(err)
	}
	return k.safe()
}

// some appends so much, transactions among it.
func (k *keyed) some(n int) bool {
	for i := range n {
		if i%8 == 3 {
			from, how := k.log.LogEnd(), record.ControlType(i/8%2)
			if !k.put(99) || !k.put(99) || !k.mark(99, from, how) {
				return false
			}
			continue
		}
		if !k.put(0) {
			return false
		}
	}
	return true
}

// cleanings waits until so many passes are done.
func (k *keyed) cleanings(n uint64) bool {
	return k.until("cleaned", func() bool { return k.core.stats.Cleanings >= n })
}

// committed is how a consumer of what is committed finds out (Kafka's FetchCollector).
type committed struct {
	aborted []AbortedTxn // by their start
	of      map[int64]bool
}

func (c *committed) skips(b record.Batch) bool {
	for len(c.aborted) > 0 && c.aborted[0].FirstOffset <= b.LastOffset() {
		c.of[c.aborted[0].ProducerID] = true
		c.aborted = c.aborted[1:]
	}
	if b.Control() {
		if m, err := record.ParseMarker(b); b.Count() > 0 && err == nil && m.Type == record.Abort {
			delete(c.of, b.ProducerID())
		}
		return true
	}
	return b.Transactional() && c.of[b.ProducerID()]
}

// check compares what can be read with the model: nothing that was not written, in order;
// and of each key the last value.
func (k *keyed) check(l *Log) (records int, err error) {
	k.dropTail()
	b, err := k.all(l, l.LogEnd())
	if err != nil {
		return 0, err
	}
	got := map[string]string{}
	d := record.NewDecompressor(1 << 20)
	next := l.LogStart()
	newest := int64(-1)
	consumer := committed{aborted: l.AppendAborted(nil, next, l.LogEnd()), of: map[int64]bool{}}
	for len(b) > 0 {
		var batch record.Batch
		batch, b, _ = record.Next(b)
		if batch.BaseOffset() < next {
			return 0, fmt.Errorf("batch at %d after %d", batch.BaseOffset(), next)
		}
		next = batch.LastOffset() + 1
		skips := consumer.skips(batch)
		if batch.Control() {
			continue
		}
		var r record.Reader
		r.Reset(batch, d)
		for r.Next() {
			records++
			if k.key[r.Offset] != string(r.Key) || k.value[r.Offset] != string(r.Value) || r.HeaderCount() != 1 {
				return 0, fmt.Errorf("offset %d: %q=%q, was %q=%q", r.Offset, r.Key, r.Value, k.key[r.Offset], k.value[r.Offset])
			}
			newest = max(newest, r.Timestamp)
			if skips != k.aborted[r.Offset] && r.Offset < l.producer.firstUnstable() {
				return 0, fmt.Errorf("offset %d: a consumer of what is committed passes over it: %v, it was aborted: %v", r.Offset, skips, k.aborted[r.Offset])
			}
			if !k.aborted[r.Offset] {
				got[string(r.Key)] = string(r.Value)
			}
		}
		if r.Err() != nil {
			return 0, r.Err()
		}
	}
	if next != l.LogEnd() {
		return 0, fmt.Errorf("the last batch ends at %d of %d", next, l.LogEnd())
	}
	want := map[string]string{}
	for o := range l.LogEnd() {
		if key, ok := k.key[o]; ok && !k.aborted[o] {
			want[key] = k.value[o]
		}
	}
	for key, v := range want {
		if got[key] != v {
			return 0, fmt.Errorf("%s is %q, not %q", key, got[key], v)
		}
	}
	for key, v := range got {
		if want[key] != v {
			return 0, fmt.Errorf("%s is %q, not %q", key, v, want[key])
		}
	}
	for _, s := range l.segments[:len(l.segments)-1] {
		if s.finished && s.end == s.base {
			return 0, fmt.Errorf("segment %d is empty", s.base)
		}
	}
	var told timeDone
	q := &TimeQuery{Max: true, Done: &told}
	if !l.FindTimestamp(q) && !k.until("search", func() bool { return told.done }) {
		return 0, sim.ErrCrashed
	}
	if q.Err != nil || newest >= 0 && q.Found != newest {
		return 0, fmt.Errorf("largest timestamp %d at %d, not %d: %v", q.Found, q.Offset, newest, q.Err)
	}
	return records, nil
}

// TestCompaction: of each key the last value stays, whatever the codec, with transactions,
// over restarts; what was cleaned is not dirty afterwards.
func TestCompaction(t *testing.T) {
	for codec := record.None; codec <= record.Zstd; codec++ {
		t.Run(codec.String(), func(t *testing.T) {
			r := newCleaned(t, uint64(codec))
			defer r.world.Close()
			r.open()
			k := newKeyed(r)
			k.codec, k.log = codec, r.create("t")
			before := 0
			for round := range 4 {
				k.some(60)
				r.idle(k.log)
				r.dir.Checkpoint()
				before = int(k.log.Size())
				k.cleanings(k.core.stats.Cleanings + 1)
				r.idle(k.log)
				n, err := k.check(k.log)
				if err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
				if int(k.log.Size()) >= before || n > 120 {
					t.Fatalf("round %d: %d bytes of %d, %d records", round, k.log.Size(), before, n)
				}
				if k.log.cleaned == 0 || k.log.published.cleaned.Load() != k.log.cleaned {
					t.Fatalf("first dirty offset %d", k.log.cleaned)
				}
				at := k.log.cleaned
				if round%2 == 0 {
					if err := r.closeAll(); err != nil {
						t.Fatal(err)
					}
				} else {
					r.dir.Checkpoint()
					r.disk.Crash(sim.PowerLoss)
					r.disk.Restart()
				}
				r.open()
				k.log = r.find("t")
				if len(r.report.Logs[0].Mended) > 0 {
					t.Fatalf("made again: %v", r.report.Logs[0].Mended)
				}
				if k.log.Err() != nil || k.log.cleaned != at || r.report.Logs[0].CutAt != "" {
					t.Fatalf("first dirty offset %d, was %d: %v", k.log.cleaned, at, r.report)
				}
				if _, err := k.check(k.log); err != nil {
					t.Fatalf("round %d, after a start: %v", round, err)
				}
				k.log.SetHighWatermark(k.log.LogEnd())
			}
			if strings.Contains(r.listing(), suffixCleaned+" ") || strings.Contains(r.listing(), suffixSwap) {
				t.Fatal(r.listing())
			}
		})
	}
}

// TestTombstones: one goes when delete.retention.ms is over, counted from the first cleaning, and
// never before the values that it deletes.
func TestTombstones(t *testing.T) {
	r := newCleaned(t, 1)
	defer r.world.Close()
	r.config.DeleteRetentionMs = 10_000
	r.open()
	l := r.create("t")
	add := func(key string, value []byte) {
		var b record.Builder
		b.Begin(nil, record.None)
		b.Add(1000, []byte(key), value)
		r.add(l, b.Finish())
		r.until("stable", func() bool { return l.Stable() == l.LogEnd() })
		l.SetHighWatermark(l.Stable())
	}
	fill := func() {
		for i := range 20 {
			add(fmt.Sprintf("other %d", i%2), bytes.Repeat([]byte{'x'}, 60))
		}
		r.idle(l)
		r.dir.Checkpoint()
		n := r.core.stats.Cleanings
		r.until("cleaned", func() bool { return r.core.stats.Cleanings > n })
	}
	holds := func(key string) (n int) {
		r.dropTail()
		b, err := r.all(l, l.LogEnd())
		if err != nil {
			t.Fatal(err)
		}
		for len(b) > 0 {
			var batch record.Batch
			batch, b, _ = record.Next(b)
			var rd record.Reader
			for rd.Reset(batch, nil); rd.Next(); {
				if string(rd.Key) == key {
					n++
				}
			}
		}
		return n
	}
	add("gone", []byte("v"))
	fill()
	if n := holds("gone"); n != 1 {
		t.Fatalf("%d records", n)
	}
	add("gone", nil)
	fill()
	if n := holds("gone"); n != 1 {
		t.Fatalf("%d records, not the tombstone alone", n)
	}
	begin := r.io.Now()
	r.until("time passes", func() bool { return r.io.Now() > begin+11e9 })
	fill()
	if n := holds("gone"); n != 0 {
		t.Fatalf("%d records after delete.retention.ms", n)
	}
}
