package log

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"testing"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
)

// FuzzRecover opens a partition whose files hold whatever they hold. It must come
// up or be refused, never panic, and never give out a batch that is not whole from
// what it has checked.
func FuzzRecover(f *testing.F) {
	r := newRig(f, 1).open()
	l := r.create("t")
	r.fill(l, 4)
	r.add(l, sequenced(1, 0, 0, 2, true))
	r.idle(l)
	if err := r.closeAll(); err != nil {
		f.Fatal(err)
	}
	read := func(name string) []byte {
		b, err := ring.ReadFile(r.disk, "/data/t-0/00000000000000000000"+name)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	log, index, times := read(suffixLog), read(suffixIndex), read(suffixTime)
	snapshot, err := ring.ReadFile(r.disk, "/data/t-0/00000000000000000010.snapshot")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(log, index, times, snapshot, int64(0), false)
	f.Add(log, index, times, snapshot, int64(10), true)
	f.Add(log[:len(log)-7], index[:5], times, snapshot[:len(snapshot)/2], int64(4), false)
	f.Add(append(bytes.Clone(log), make([]byte, 100)...), make([]byte, 80), make([]byte, 60), []byte{}, int64(6), false)
	long := bytes.Clone(log)
	long[8] = 0x7f
	f.Add(long, index, times, snapshot, int64(0), false)
	for _, epoch := range []string{"\x80\x00\x00\x00", "\xff\xff\xff\xfe"} { // below any there can be
		odd := bytes.Clone(log)
		copy(odd[12:], epoch)
		f.Add(odd, index, times, snapshot, int64(0), false)
		f.Add(odd, index, times, snapshot, int64(10), true)
	}
	for _, odd := range oddHeaders(log) {
		f.Add(odd, index, times, snapshot, int64(0), false)
		f.Add(odd, index, times, snapshot, int64(10), false)
		f.Add(odd, index, times, snapshot, int64(10), true)
	}
	f.Fuzz(func(t *testing.T, log, index, times, snapshot []byte, point int64, clean bool) {
		r := newRig(t, 1).open()
		l := r.create("t")
		r.fill(l, 1)
		r.idle(l)
		if err := r.closeAll(); err != nil {
			t.Fatal(err)
		}
		put := func(name string, b []byte) {
			if err := ring.WriteFileAtomic(r.disk, "/data/"+name, b); err != nil {
				t.Fatal(err)
			}
		}
		put("t-0/00000000000000000000.log", log)
		put("t-0/00000000000000000000.index", index)
		put("t-0/00000000000000000000.timeindex", times)
		put("t-0/00000000000000000010.snapshot", snapshot)
		put(recoveryPointsName, []byte("0\n1\nt 0 "+strconv.FormatInt(max(point, 0), 10)+"\n"))
		if !clean {
			r.disk.Remove("/data/" + cleanName)
		}
		if err := r.tryOpen(); err != nil {
			return
		}
		l = r.find("t")
		got, err := r.all(l, l.LogEnd())
		// What is below the recovery point (after a clean stop, everything) is not checked
		// at the start: a reader is told of damage where it shows, and the client checks
		// the CRC, as with Kafka.
		believed := clean || point > 0
		if err != nil && l.Err() == nil && !believed {
			t.Fatalf("%v\n%v", err, r.report)
		}
		damaged := err != nil
		for rest := got; len(rest) > 0; {
			var b record.Batch
			if b, rest, err = record.Next(rest); err != nil || !b.CheckCRC() && !believed {
				t.Fatalf("a bad batch was read: %v", err)
			}
			if !bytes.Contains(log, b) {
				t.Fatal("a batch was read that is not in the file")
			}
		}
		if !damaged { // it may fail: a batch whose CRC is right can hold nonsense
			var d timeDone
			if q := (TimeQuery{Timestamp: 1, Done: &d}); !l.FindTimestamp(&q) {
				r.until("timestamp", func() bool { return d.done })
			}
		}
		if l.Err() == nil {
			end := l.LogEnd()
			r.fill(l, 3)
			r.idle(l)
			if _, err := r.read(l, end, end+6, 1<<20); err != nil {
				t.Fatalf("after appends: %v", err)
			}
			if _, err := r.all(l, end+6); err != nil && !damaged {
				t.Fatalf("after appends: %v", err)
			}
			if err := r.closeAll(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// oddHeaders are a segment's bytes, each time with one number in the header of the second or the last batch at an end of its
// range. Where a CRC covers it, it is right.
func oddHeaders(log []byte) (all [][]byte) {
	for n, at := 0, 0; at < len(log); {
		size, _ := record.PeekSize(log[at:])
		if n++; n != 2 && at+size < len(log) {
			at += size
			continue
		}
		for _, f := range []struct{ at, size int }{
			{0, 8},  // base offset
			{8, 4},  // length
			{21, 2}, // attributes
			{23, 4}, // last offset delta
			{27, 8}, // base timestamp
			{35, 8}, // maximum timestamp
			{43, 8}, // producer id
			{51, 2}, // producer epoch
			{53, 4}, // base sequence
			{57, 4}, // count of records
		} {
			for _, v := range []uint64{0, 1, 1<<64 - 1, 1 << 63, 1<<63 - 1, 1<<31 - 1, 1 << 31, 1<<63 - 1<<31} {
				odd := bytes.Clone(log)
				var b [8]byte
				binary.BigEndian.PutUint64(b[:], v)
				if top := v >> 32; f.size < 8 && (top == 1<<31 || top == 1<<31-1) { // the ends of the smaller range
					copy(odd[at+f.at:], b[:f.size])
				} else {
					copy(odd[at+f.at:], b[8-f.size:])
				}
				record.Batch(odd[at : at+size]).UpdateCRC()
				all = append(all, odd)
			}
		}
		at += size
	}
	return all
}
