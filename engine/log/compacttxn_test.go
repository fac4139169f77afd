package log

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring/sim"
)

// txnRig is a log with transactions, compacted on demand.
type txnRig struct {
	*rig
	log *Log
	seq int32
}

func newTxnRig(t *testing.T) *txnRig {
	r := newCleaned(t, 1)
	t.Cleanup(func() { r.world.Close() })
	r.config.DeleteRetentionMs = 10_000
	r.open()
	x := &txnRig{rig: r, log: r.create("t")}
	x.pause()
	return x
}

func (x *txnRig) data(producer int64, keys ...string) {
	x.t.Helper()
	var b record.Builder
	b.Begin(nil, record.None)
	b.SetProducer(producer, 0, x.seq, true)
	for _, k := range keys {
		b.Add(1000, []byte(k), fmt.Appendf(nil, "of %d", producer))
	}
	x.seq += int32(len(keys))
	x.append1(x.log, b.Finish(), Coordinator)
}

func (x *txnRig) end(producer int64, how record.ControlType) {
	x.t.Helper()
	x.append1(x.log, record.AppendMarker(nil, producer, 0, record.Marker{Type: how}, 1), Coordinator)
}

// others rolls the segment, with keys of its own.
func (x *txnRig) others() {
	x.t.Helper()
	for i := range 8 {
		x.append1(x.log, valued(1000, fmt.Sprint("other ", i%2), 200), Client)
	}
}

func (x *txnRig) compact() {
	x.t.Helper()
	x.settle(x.log)
	x.resume()
	x.passes(1, x.log)
	x.pause()
}

// shows is the log's batches of transactions: "12:a,b" is data, "14:abort" a marker, "14:-" a batch without records.
func (x *txnRig) shows() string {
	x.t.Helper()
	x.dropTail()
	all, err := x.all(x.log, x.log.LogEnd())
	if err != nil {
		x.t.Fatal(err)
	}
	var s []string
	for len(all) > 0 {
		var b record.Batch
		b, all, _ = record.Next(all)
		if !b.Transactional() {
			continue
		}
		what := "-"
		if b.Control() && b.Count() > 0 {
			m, err := record.ParseMarker(b)
			if err != nil {
				x.t.Fatal(err)
			}
			what = [...]string{"abort", "commit"}[m.Type]
		} else if b.Count() > 0 {
			var keys []string
			var r record.Reader
			for r.Reset(b, nil); r.Next(); {
				keys = append(keys, string(r.Key))
			}
			what = strings.Join(keys, ",")
		}
		s = append(s, fmt.Sprintf("%d:%s", b.BaseOffset(), what))
	}
	return strings.Join(s, " ")
}

func (x *txnRig) wants(when, batches string, aborted ...int64) {
	x.t.Helper()
	if got := x.shows(); got != batches {
		x.t.Fatalf("%s: %q, not %q", when, got, batches)
	}
	var got []int64
	for _, t := range x.log.AppendAborted(nil, 0, x.log.LogEnd()) {
		got = append(got, t.LastOffset)
	}
	if !slices.Equal(got, aborted) {
		x.t.Fatalf("%s: aborted transactions end at %v, not at %v", when, got, aborted)
	}
}

func (x *txnRig) sleep(ms int64) {
	until := x.io.Now() + ms*1e6
	x.until("time passes", func() bool { return x.io.Now() > until })
}

// restart crashes the machine and starts it again, without snapshots: producers come from the batches.
func (x *txnRig) restart() {
	x.t.Helper()
	x.settle(x.log)
	x.disk.Crash(sim.PowerLoss)
	x.disk.Restart()
	for line := range strings.Lines(x.listing()) {
		if name := strings.Fields(line); len(name) > 0 && strings.HasSuffix(name[0], suffixSnapshot) {
			if err := x.disk.Remove(name[0]); err != nil {
				x.t.Fatal(err)
			}
		}
	}
	x.open()
	x.log = x.find("t")
	if x.log.Err() != nil || len(x.report.Logs[0].Mended) > 0 {
		x.t.Fatalf("%v; made again: %v", x.log.Err(), x.report.Logs[0].Mended)
	}
	x.log.SetHighWatermark(x.log.LogEnd())
	x.pause()
}

// TestMarkers: a marker stays while there is anything of its transaction, then for delete.retention.ms. Data of an aborted one
// goes, and its entry in the .txnindex before the marker.
func TestMarkers(t *testing.T) {
	x := newTxnRig(t)
	x.data(1, "a", "b") // 0
	x.end(1, record.Commit)
	x.data(2, "a", "c") // 3
	x.end(2, record.Abort)
	x.data(1, "d") // 6; so that 0 is not the last one of its producer
	x.end(1, record.Commit)
	x.data(2, "d") // 8
	x.end(2, record.Commit)
	x.others()
	x.compact()
	x.wants("the first time", "0:a,b 2:commit 5:abort 6:- 7:commit 8:d 9:commit", 5)
	x.others()
	x.compact()
	x.wants("nothing of the aborted one was met", "0:a,b 2:commit 5:abort 6:- 7:commit 8:d 9:commit")
	x.others()
	x.compact()
	x.wants("before delete.retention.ms", "0:a,b 2:commit 5:abort 6:- 7:commit 8:d 9:commit")
	x.restart()
	x.wants("after a start", "0:a,b 2:commit 5:abort 6:- 7:commit 8:d 9:commit")
	x.sleep(10_001)
	x.append1(x.log, valued(1000, "a", 10), Client)
	x.append1(x.log, valued(1000, "b", 10), Client)
	x.others()
	x.compact()
	x.wants("after delete.retention.ms", "2:commit 6:- 7:commit 8:d 9:commit")
	x.others()
	x.compact()
	x.sleep(10_001)
	x.others()
	x.compact()
	// Of the last batch of a producer the header stays, and with it its marker.
	x.wants("after two times delete.retention.ms", "6:- 7:commit 8:d 9:commit")
	x.restart()
	x.wants("after another start", "6:- 7:commit 8:d 9:commit")
	if open := x.log.LastStable(); open != x.log.LogEnd() {
		t.Fatalf("a transaction is open at %d", open)
	}
}

// TestEntriesGo: a .txnindex that has had entries and needs none any more goes with the segments, wherever a crash
// comes: no consumer is told of an aborted transaction whose marker is gone.
func TestEntriesGo(t *testing.T) {
	for n := 1; ; n++ {
		x := newTxnRig(t)
		x.data(2, "a", "c")
		x.end(2, record.Abort)
		x.data(2, "d")
		x.end(2, record.Commit)
		x.others()
		x.compact()
		x.wants("before", "2:abort 3:d 4:commit", 2)
		x.others()
		x.settle(x.log)
		x.resume()
		x.world.CrashAfter(x.disk, n, sim.PowerLoss)
		more := !x.until("cleaned", func() bool { return x.core.stats.Cleanings == 2 })
		if !more {
			x.disk.Crash(sim.PowerLoss)
		}
		x.disk.Restart()
		x.world.CrashAfter(x.disk, 0, sim.PowerLoss)
		x.open()
		x.log = x.find("t")
		x.pause()
		x.log.SetHighWatermark(x.log.LogEnd())
		if aborted := x.log.AppendAborted(nil, 0, x.log.LogEnd()); len(aborted) > 0 {
			x.wants("crash before the exchange", "2:abort 3:d 4:commit", 2)
		} else {
			x.wants("crash after the exchange", "2:abort 3:d 4:commit")
		}
		if !more {
			if len(x.log.segments[0].aborted) > 0 || strings.Contains(x.listing(), suffixTxn) {
				t.Fatalf("the entry is still there:%s", x.listing())
			}
			return
		}
	}
}

// TestUnsettledTransactions: a transaction whose marker a power loss may take pushes nothing out. Under os a marker is seen
// by consumers before it is on disk.
func TestUnsettledTransactions(t *testing.T) {
	x := newTxnRig(t)
	x.config.Policy = OS
	if err := x.log.SetConfig(x.config); err != nil {
		t.Fatal(err)
	}
	x.append1(x.log, valued(1000, "a", 10), Client)
	x.others()
	from := x.log.LogEnd()
	x.data(1, "a")
	x.others()
	x.others()
	x.settle(x.log)
	if d := x.log.dirt(0); d.to > from || d.to == 0 {
		t.Fatalf("to be cleaned up to %d, a transaction is open from %d", d.to, from)
	}
	x.end(1, record.Abort)
	if stable := x.log.LastStable(); stable != x.log.LogEnd() || x.log.Flushed() == stable {
		t.Fatalf("last stable offset %d of %d, flushed %d: this tests nothing", stable, x.log.LogEnd(), x.log.Flushed())
	}
	if d := x.log.dirt(0); d.to > from {
		t.Fatalf("to be cleaned up to %d, the marker of a transaction from %d is not on disk", d.to, from)
	}
	x.must("flush", x.log.Flush)
	x.settle(x.log)
	x.log.dirt(0)
	if d := x.log.dirt(0); d.to <= from {
		t.Fatalf("to be cleaned up to %d, the transaction from %d has ended", d.to, from)
	}
}

// TestProducerSurvivesCompaction: of an idempotent producer whose records have all been pushed out the sequence is known, also when
// it has to come from the batches, and as long as of any other.
func TestProducerSurvivesCompaction(t *testing.T) {
	x := newTxnRig(t)
	wall := x.io.WallMillis()
	one := func(seq int32) []byte {
		var b record.Builder
		b.Begin(nil, record.None)
		b.SetProducer(7, 3, seq, false)
		b.Add(wall, []byte("k"), []byte("v"))
		return b.Finish()
	}
	x.append1(x.log, one(0), Client)
	x.append1(x.log, one(1), Client)
	x.append1(x.log, valued(1000, "k", 10), Client)
	x.others()
	x.compact()
	x.config.ProducerExpirationMs = 3600_000
	x.restart()
	x.log.Retain()
	a, err := x.log.Append(one(1), Client, 0, x.io.WallMillis())
	if err != nil || !a.Duplicate || a.BaseOffset != 1 {
		t.Fatalf("a batch that was there: %+v, %v", a, err)
	}
	if _, err := x.log.Append(one(5), Client, 0, x.io.WallMillis()); err == nil {
		t.Fatal("a gap in the sequence is taken")
	}
}

// TestEpochsSurviveCompaction: an epoch of which no batch is left, or not the first one, starts where it did.
func TestEpochsSurviveCompaction(t *testing.T) {
	x := newTxnRig(t)
	for epoch := range int32(4) {
		x.must("epoch", func(d Done) { x.log.StartEpoch(epoch, d) })
		for range 6 {
			x.append1(x.log, valued(1000, "k", 200), Client)
		}
	}
	x.others()
	want := fmt.Sprint(x.log.epochs.list)
	x.compact()
	for range 2 {
		x.restart()
		if got := fmt.Sprint(x.log.epochs.list); got != want {
			t.Fatalf("epochs %s, were %s", got, want)
		}
	}
}
