package record

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const now = 1_700_000_000_000

// golden is a batch as franz-go's kmsg encodes it: one record per value.
func golden(values ...string) Batch {
	batch := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, LastOffsetDelta: int32(len(values) - 1),
		FirstTimestamp: now, MaxTimestamp: now + int64(len(values)-1),
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: int32(len(values)),
	}
	for i, v := range values {
		r := kmsg.Record{
			TimestampDelta64: int64(i), OffsetDelta: int32(i), Key: []byte("key"), Value: []byte(v),
			Headers: []kmsg.Header{{Key: "h", Value: []byte(v)}, {Key: "null"}},
		}
		r.Length = int32(len(r.AppendTo(nil)) - 1) // the placeholder 0 takes a byte
		batch.Records = r.AppendTo(batch.Records)
	}
	b := batch.AppendTo(nil)
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// build is the same batch by Builder.
func build(b *Builder, codec Codec, values ...string) Batch {
	b.Begin(nil, codec)
	for i, v := range values {
		b.Add(now+int64(i), []byte("key"), []byte(v), Header{"h", []byte(v)}, Header{Key: "null"})
	}
	return b.Finish()
}

func TestBuilderIsKafkas(t *testing.T) {
	var b Builder
	for _, values := range [][]string{{""}, {"a"}, {"a", "bb", "ccc"}, {string(make([]byte, 100_000)), "b"}} {
		if got, want := build(&b, None, values...), golden(values...); !bytes.Equal(got, want) {
			t.Errorf("%d values: got\n%x\nwant\n%x", len(values), got, want)
		}
	}
}

func TestHeaderFields(t *testing.T) {
	var b Builder
	b.Begin([]byte("before"), None)
	b.SetProducer(1<<40, 7, math.MaxInt32-1, true)
	b.Add(now+5, nil, []byte("v"))
	b.Add(now-5, []byte{}, nil)
	b.AddAt(4, now+9, []byte("k"), []byte{})
	dst := b.Finish()
	if string(dst[:6]) != "before" {
		t.Fatalf("dst starts with %q", dst[:6])
	}
	h := Batch(dst[6:])
	h.SetBaseOffset(1 << 33)
	h.SetLeaderEpoch(12)
	if !h.CheckCRC() {
		t.Error("offset and epoch are under the CRC")
	}
	want := kmsg.RecordBatch{
		FirstOffset: 1 << 33, Length: int32(len(h) - 12), PartitionLeaderEpoch: 12, Magic: 2, CRC: int32(h.CRC()),
		Attributes: 0x10, LastOffsetDelta: 4, FirstTimestamp: now + 5, MaxTimestamp: now + 9,
		ProducerID: 1 << 40, ProducerEpoch: 7, FirstSequence: math.MaxInt32 - 1, NumRecords: 3, Records: h.Records(),
	}
	if w := want.AppendTo(nil); !bytes.Equal(h, w) {
		t.Errorf("got\n%x\nwant\n%x", h, w)
	}
	for _, c := range []struct {
		name      string
		got, want int64
	}{
		{"base offset", h.BaseOffset(), want.FirstOffset},
		{"last offset", h.LastOffset(), want.FirstOffset + 4},
		{"size", int64(h.Size()), int64(len(h))},
		{"leader epoch", int64(h.LeaderEpoch()), 12},
		{"magic", int64(h.Magic()), 2},
		{"attributes", int64(h.Attributes()), 0x10},
		{"base timestamp", h.BaseTimestamp(), now + 5},
		{"max timestamp", h.MaxTimestamp(), now + 9},
		{"producer id", h.ProducerID(), 1 << 40},
		{"producer epoch", int64(h.ProducerEpoch()), 7},
		{"base sequence", int64(h.BaseSequence()), math.MaxInt32 - 1},
		{"last sequence", int64(h.LastSequence()), 2}, // max-1, max, 0, 1, 2
		{"count", int64(h.Count()), 3},
		{"codec", int64(h.Codec()), int64(None)},
		{"timestamp type", int64(h.TimestampType()), int64(CreateTime)},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, c.got, c.want)
		}
	}
	if !h.Transactional() || h.Control() {
		t.Error("transactional or control")
	}

	var r Reader
	r.Reset(h, nil)
	for i, w := range []Record{
		{Offset: 1 << 33, Timestamp: now + 5, Value: []byte("v")},
		{Offset: 1<<33 + 1, Timestamp: now - 5, Key: []byte{}},
		{Offset: 1<<33 + 4, Timestamp: now + 9, Key: []byte("k"), Value: []byte{}},
	} {
		if !r.Next() || r.Offset != w.Offset || r.Timestamp != w.Timestamp ||
			!bytes.Equal(r.Key, w.Key) || (r.Key == nil) != (w.Key == nil) ||
			!bytes.Equal(r.Value, w.Value) || (r.Value == nil) != (w.Value == nil) {
			t.Errorf("record %d: got %+v, want %+v", i, r.Record, w)
		}
	}
	if r.Next() || r.Err() != nil {
		t.Errorf("a fourth record, or %v", r.Err())
	}

	h.SetLogAppendTime(now + 100)
	if !h.CheckCRC() || h.TimestampType() != LogAppendTime || h.MaxTimestamp() != now+100 {
		t.Error("log append time")
	}
	r.Reset(h, nil)
	for r.Next() {
		if r.Timestamp != now+100 {
			t.Errorf("offset %d has timestamp %d", r.Offset, r.Timestamp)
		}
	}
}

func TestNext(t *testing.T) {
	a, b := golden("a"), golden("b", "c")
	all := append(append(Batch{}, a...), b...)
	first, rest, err := Next(all)
	if err != nil || !bytes.Equal(first, a) || !bytes.Equal(rest, b) {
		t.Fatalf("got %x, %x, %v", first, rest, err)
	}
	if len(append(first, 0)) != len(a)+1 || all[len(a)] != b[0] {
		t.Error("appending to a batch overwrites the next one")
	}
	second, rest, err := Next(rest)
	if err != nil || !bytes.Equal(second, b) || len(rest) != 0 {
		t.Fatalf("got %x, %x, %v", second, rest, err)
	}
	if _, _, err := Next(rest); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	for n := 1; n < len(a); n++ {
		if _, rest, err := Next(a[:n:n]); err != io.ErrUnexpectedEOF || len(rest) != n {
			t.Fatalf("%d of %d bytes: %d left, %v", n, len(a), len(rest), err)
		}
	}
	for _, length := range []int32{-1, 0, HeaderSize - PrefixSize - 1, math.MaxInt32, math.MaxInt32 - 11, math.MinInt32} {
		bad := append(Batch{}, a...)
		binary.BigEndian.PutUint32(bad[8:], uint32(length))
		if _, _, err := Next(bad); err != ErrCorrupt {
			t.Errorf("length %d: %v", length, err)
		}
		if size, ok := PeekSize(bad); ok {
			t.Errorf("length %d: size %d", length, size)
		}
	}
	old := append(Batch{}, a...)
	old[16] = 1
	if _, _, err := Next(old); err != ErrCorrupt {
		t.Errorf("magic 1: %v", err)
	}
}

func TestMarker(t *testing.T) {
	for _, m := range []Marker{{Abort, 0}, {Commit, 7}, {Commit, math.MaxInt32}} {
		b := Batch(AppendMarker(nil, 99, 3, m, now))
		if !b.CheckCRC() || !b.Control() || !b.Transactional() || b.ProducerID() != 99 || b.ProducerEpoch() != 3 ||
			b.BaseSequence() != NoSequence || b.LastSequence() != NoSequence || b.Count() != 1 || b.MaxTimestamp() != now {
			t.Errorf("batch %x", b)
		}
		if got, err := ParseMarker(b); err != nil || got != m {
			t.Errorf("got %+v, %v; want %+v", got, err, m)
		}
		var key kmsg.ControlRecordKey
		var value kmsg.EndTxnMarker
		var r Reader
		r.Reset(b, nil)
		if !r.Next() || key.ReadFrom(r.Key) != nil || value.ReadFrom(r.Value) != nil ||
			key.Version != 0 || int16(key.Type) != int16(m.Type) || value.Version != 0 || value.CoordinatorEpoch != m.CoordinatorEpoch {
			t.Errorf("kmsg reads %+v %+v", key, value)
		}
		for n := HeaderSize; n < len(b); n++ {
			if _, err := ParseMarker(b[:n]); err == nil {
				t.Errorf("%d of %d bytes accepted", n, len(b))
			}
		}
	}
	if _, err := ParseMarker(golden("a")); err == nil {
		t.Error("a data batch was accepted")
	}
}

func TestVarint(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 10_000 {
		long := int64(rng.Uint64()) >> rng.IntN(64)
		if v, n := varlong(appendVarlong(nil, long)); v != long || n != varintSize(long) {
			t.Fatalf("%d: got %d of %d bytes", long, v, n)
		}
		short := int32(long)
		if v, n := varint(appendVarint(nil, short)); v != short || n != varintSize(int64(short)) {
			t.Fatalf("%d: got %d of %d bytes", short, v, n)
		}
	}
	for _, c := range []struct {
		b         string
		v         int64
		nInt, nLg int
	}{
		{"", 0, 0, 0},
		{"\x80", 0, 0, 0},
		{"\x80\x00", 0, 2, 2}, // needless, but harmless
		{"\xff\xff\xff\xff\x0f", math.MinInt32, 5, 0},
		{"\xff\xff\xff\xff\x1f", 0, 0, 5}, // 33 bits
		{"\x80\x80\x80\x80\x80\x00", 0, 0, 6},
		{"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", math.MinInt64, 0, 10},
		{"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x03", 0, 0, 0},
		{"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", 0, 0, 0},
	} {
		if v, n := varint([]byte(c.b)); n != c.nInt || n > 0 && int64(v) != c.v {
			t.Errorf("varint %x: got %d of %d bytes", c.b, v, n)
		}
		if v, n := varlong([]byte(c.b)); n != c.nLg && c.nLg != 0 || n > 0 && c.v != 0 && c.nInt == 0 && v != c.v {
			t.Errorf("varlong %x: got %d of %d bytes", c.b, v, n)
		}
	}
}

func TestAddSequence(t *testing.T) {
	for _, c := range [][3]int32{{0, 0, 0}, {0, 5, 5}, {math.MaxInt32, 0, math.MaxInt32}, {math.MaxInt32, 1, 0}, {math.MaxInt32 - 1, 4, 2}} {
		if got := AddSequence(c[0], c[1]); got != c[2] {
			t.Errorf("%d + %d: got %d, want %d", c[0], c[1], got, c[2])
		}
	}
}

func TestFindTimestamp(t *testing.T) {
	var b Builder
	d := NewDecompressor(1 << 20)
	for codec := None; codec <= Zstd; codec++ {
		b.Begin(nil, codec)
		for _, ts := range []int64{10, 5, 20, 20, 15} {
			b.Add(ts, nil, []byte("v"))
		}
		batch := Batch(b.Finish())
		batch.SetBaseOffset(100)
		for _, c := range []struct {
			ts, offset, found int64
			ok                bool
		}{{-1, 100, 10, true}, {10, 100, 10, true}, {11, 102, 20, true}, {20, 102, 20, true}, {21, 0, 0, false}} {
			offset, found, ok, err := FindTimestamp(batch, c.ts, d)
			if offset != c.offset || found != c.found || ok != c.ok || err != nil {
				t.Errorf("%s: %d: got %d %d %v %v, want %+v", codec, c.ts, offset, found, ok, err, c)
			}
		}
	}
	lie := Batch(append([]byte{}, golden("a")...))
	lie.setMaxTimestamp(now + 10)
	if _, _, ok, err := FindTimestamp(lie, now+5, nil); ok || err != nil {
		t.Errorf("a maximum that no record has: %v %v", ok, err)
	}
}
