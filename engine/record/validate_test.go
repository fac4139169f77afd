package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
)

func limits() *Limits {
	return &Limits{
		MaxBytes: 1 << 20, Now: now, BeforeMax: math.MaxInt64, AfterMax: 3_600_000,
		InspectCompressed: true, Decompressor: NewDecompressor(1 << 20),
	}
}

func TestValidateGood(t *testing.T) {
	var b Builder
	for _, codec := range codecs {
		batch := build(&b, codec, "a", "bb", "ccc")
		got, err := Validate(batch, limits())
		if err != nil || &got[0] != &batch[0] || len(got) != len(batch) || !got.CheckCRC() {
			t.Errorf("%s: %v", codec, err)
		}
	}
}

// raw builds a batch from records that are already encoded, none of them checked.
func raw(count int32, records ...string) Batch {
	b := wrap(None, []byte(strings.Join(records, "")))
	binary.BigEndian.PutUint32(b[countAt:], uint32(count))
	binary.BigEndian.PutUint32(b[lastOffsetDeltaAt:], uint32(count-1))
	b.UpdateCRC()
	return b
}

func TestValidateRefuses(t *testing.T) {
	var builder Builder
	good := func(codec Codec) Batch { return build(&builder, codec, "a", "b", "c") }
	edit := func(f func(b Batch)) []byte {
		b := good(None)
		f(b)
		b.UpdateCRC()
		return b
	}
	put32 := func(at int, v int32) []byte {
		return edit(func(b Batch) { binary.BigEndian.PutUint32(b[at:], uint32(v)) })
	}
	stamps := func(codec Codec, ts ...int64) []byte {
		builder.Begin(nil, codec)
		for _, ts := range ts {
			builder.Add(ts, nil, []byte("v"))
		}
		return builder.Finish()
	}
	noKey := func(codec Codec) []byte {
		builder.Begin(nil, codec)
		builder.Add(now, []byte{}, nil) // an empty key is a key
		builder.Add(now, nil, nil)
		return builder.Finish()
	}
	for _, c := range []struct {
		name  string
		b     []byte
		set   func(l *Limits)
		code  int16
		index int32
	}{
		{"nothing", nil, nil, 87, -1},
		{"11 bytes", good(None)[:11], nil, 87, -1},
		{"a byte short", good(None)[:len(good(None))-1], nil, 87, -1},
		{"a byte more", append(good(None), 0), nil, 87, -1},
		{"two batches", append(good(None), good(None)...), nil, 87, -1},
		{"length 0", put32(lengthAt, 0), nil, 2, -1},
		{"length -1", put32(lengthAt, -1), nil, 2, -1},
		{"length 48", put32(lengthAt, 48), nil, 2, -1},
		{"length 2^31-1", put32(lengthAt, math.MaxInt32), nil, 2, -1},
		{"magic 0", edit(func(b Batch) { b[magicAt] = 0 }), nil, 87, -1},
		{"magic 1", edit(func(b Batch) { b[magicAt] = 1 }), nil, 87, -1},
		{"magic 3", edit(func(b Batch) { b[magicAt] = 3 }), nil, 2, -1},
		{"magic -1", edit(func(b Batch) { b[magicAt] = 255 }), nil, 2, -1},
		{"base offset 1", edit(func(b Batch) { b.SetBaseOffset(1) }), nil, 87, -1},
		{"base offset before size", edit(func(b Batch) { b.SetBaseOffset(1) }), func(l *Limits) { l.MaxBytes = 70 }, 87, -1},
		{"too large", good(None), func(l *Limits) { l.MaxBytes = int32(len(good(None)) - 1) }, 10, -1},
		{"too large before CRC", flip(good(None)), func(l *Limits) { l.MaxBytes = 70 }, 10, -1},
		{"CRC", flip(good(None)), nil, 2, -1},
		{"CRC before count", flip(put32(countAt, 0)), nil, 2, -1},
		{"count 0", put32(countAt, 0), nil, 87, -1},
		{"count -1", put32(countAt, -1), nil, 87, -1},
		{"count 2 of 3", put32(countAt, 2), nil, 87, -1},
		{"last delta 3", put32(lastOffsetDeltaAt, 3), nil, 87, -1},
		{"last delta and count -", raw(math.MinInt32), nil, 87, -1},
		{"last delta 2^31-1", edit(func(b Batch) {
			binary.BigEndian.PutUint32(b[lastOffsetDeltaAt:], math.MaxInt32)
			binary.BigEndian.PutUint32(b[countAt:], 1<<31)
		}), nil, 87, -1},
		{"control", edit(func(b Batch) { b[attributesAt+1] |= controlBit }), nil, 87, -1},
		{"producer without sequence", edit(func(b Batch) { binary.BigEndian.PutUint64(b[producerIDAt:], 5) }), nil, 87, -1},
		{"log append time by the producer", edit(func(b Batch) { b[attributesAt+1] |= logAppendTimeBit }), nil, 32, -1},
		{"codec 5", edit(func(b Batch) { b[attributesAt+1] |= 5 }), nil, 76, -1},
		{"codec 7", edit(func(b Batch) { b[attributesAt+1] |= 7 }), nil, 76, -1},
		{"zstd before version 7", good(Zstd), func(l *Limits) { l.RefuseZstd = true }, 76, -1},

		{"count above", raw(2, "\x0c\x00\x00\x00\x01\x01\x00"), nil, 87, 1},
		{"count below", raw(1, "\x0c\x00\x00\x00\x01\x01\x00", "\x0c\x00\x00\x02\x01\x01\x00"), nil, 87, -1},
		{"count 2^31-1", raw(math.MaxInt32, "\x0c\x00\x00\x00\x01\x01\x00"), nil, 87, 1},
		{"no records", raw(1), nil, 87, 0},
		{"offset delta 1 first", raw(1, "\x0c\x00\x00\x02\x01\x01\x00"), nil, 87, 0},
		{"offset delta twice", raw(2, "\x0c\x00\x00\x00\x01\x01\x00", "\x0c\x00\x00\x00\x01\x01\x00"), nil, 87, 1},
		{"record length 0", raw(1, "\x00"), nil, 87, 0},
		{"record length -1", raw(1, "\x01"), nil, 87, 0},
		{"record longer than the batch", raw(1, "\x0e\x00\x00\x00\x01\x01\x00"), nil, 87, 0},
		{"record shorter than its fields", raw(1, "\x0a\x00\x00\x00\x01\x01\x00"), nil, 87, 0},
		{"record longer than its fields", raw(1, "\x0e\x00\x00\x00\x01\x01\x00\x00"), nil, 87, 0},
		{"record length of 6 bytes", raw(1, "\x8c\x80\x80\x80\x80\x00\x00\x00\x00\x01\x01\x00"), nil, 87, 0},
		{"key of -2 bytes", raw(1, "\x0c\x00\x00\x00\x03\x01\x00"), nil, 87, 0},
		{"key too long", raw(1, "\x0c\x00\x00\x00\x7e\x01\x00"), nil, 87, 0},
		{"value too long", raw(1, "\x0c\x00\x00\x00\x01\x7e\x00"), nil, 87, 0},
		{"headers -1", raw(1, "\x0c\x00\x00\x00\x01\x01\x01"), nil, 87, 0},
		{"headers that are not there", raw(1, "\x0c\x00\x00\x00\x01\x01\x02"), nil, 87, 0},
		{"headers 2^31-1", raw(1, "\x14\x00\x00\x00\x01\x01\xfe\xff\xff\xff\x0f"), nil, 87, 0},
		{"header without a key", raw(1, "\x10\x00\x00\x00\x01\x01\x02\x01\x01"), nil, 87, 0},

		{"no key, compacted", noKey(None), func(l *Limits) { l.Compacted = true }, 87, 1},
		{"no key, compacted, gzip uninspected", noKey(Gzip), func(l *Limits) { l.Compacted, l.InspectCompressed = true, false }, 87, 1},
		{"too late", stamps(None, now, now+3_600_001), nil, 32, 1},
		{"too late, lz4", stamps(LZ4, now, now+3_600_001), nil, 32, 1},
		{"too late, lz4 uninspected", stamps(LZ4, now, now+3_600_001), func(l *Limits) { l.InspectCompressed = false }, 32, -1},
		{"too early", stamps(None, now-11), func(l *Limits) { l.BeforeMax = 10 }, 32, 0},
		{"far too late", stamps(None, math.MaxInt64), nil, 32, 0},
		{"far too early", stamps(None, math.MinInt64), func(l *Limits) { l.BeforeMax = 10 }, 32, 0},
		{"not gzip", wrap(Gzip, []byte("nonsense")), nil, 2, -1},
		{"a bomb", wrap(Gzip, franz(t, Gzip, make([]byte, 2<<20))), nil, 10, -1},
		{"gzip of a malformed record", wrap(Gzip, franz(t, Gzip, []byte("\x0c\x00\x00\x00\x01\x7e\x00"))), nil, 87, 0},
	} {
		l := limits()
		if c.set != nil {
			c.set(l)
		}
		got, err := Validate(c.b, l)
		var refusal *Error
		if !errors.As(err, &refusal) || refusal.Code != c.code || refusal.Index != c.index || got != nil {
			t.Errorf("%s: got %v (%+v)", c.name, err, refusal)
		}
		if refusal != nil && refusal.Error() == "" {
			t.Errorf("%s: no text", c.name)
		}
	}
}

func flip(b []byte) []byte {
	b[len(b)-1] ^= 1
	return b
}

func TestValidateAccepts(t *testing.T) {
	var builder Builder
	stamped := func(ts ...int64) []byte {
		builder.Begin(nil, None)
		for _, ts := range ts {
			builder.Add(ts, nil, nil)
		}
		return builder.Finish()
	}
	for _, c := range []struct {
		name string
		b    []byte
		set  func(l *Limits)
	}{
		{"exactly as large as allowed", golden("a"), func(l *Limits) { l.MaxBytes = int32(len(golden("a"))) }},
		{"latest timestamp", stamped(now + 3_600_000), nil},
		{"earliest timestamp", stamped(now - 10), func(l *Limits) { l.BeforeMax = 10 }},
		{"no bounds", stamped(0, math.MaxInt64), func(l *Limits) { l.AfterMax = math.MaxInt64 }},
		{"no timestamp", stamped(NoTimestamp), func(l *Limits) { l.BeforeMax = 10 }},
		{"any timestamp, with log append time", stamped(math.MaxInt64, math.MinInt64), func(l *Limits) { l.LogAppendTime = true }},
		{"a needlessly long varint", raw(1, "\x8c\x00\x00\x00\x00\x01\x01\x00"), nil},
		{"record attributes", raw(1, "\x0c\x07\x00\x00\x01\x01\x00"), nil},
		{"uninspected nonsense", wrap(Zstd, []byte("nonsense")), func(l *Limits) { l.InspectCompressed = false }},
	} {
		l := limits()
		if c.set != nil {
			c.set(l)
		}
		if _, err := Validate(c.b, l); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestValidateCorrectsMaxTimestamp(t *testing.T) {
	var b Builder
	for _, codec := range codecs {
		batch := build(&b, codec, "a", "b")
		batch.setMaxTimestamp(now - 77)
		got, err := Validate(batch, limits())
		if err != nil || got.MaxTimestamp() != now+1 || !got.CheckCRC() {
			t.Errorf("%s: max timestamp %d, %v", codec, got.MaxTimestamp(), err)
		}
	}
}

func TestValidateAllocatesNothing(t *testing.T) {
	var b Builder
	l := limits()
	for _, codec := range codecs {
		batch := build(&b, codec, "a", "bb", strings.Repeat("c", 1000))
		if _, err := Validate(batch, l); err != nil { // warm
			t.Fatal(err)
		}
		n := testing.AllocsPerRun(100, func() {
			if _, err := Validate(batch, l); err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("%s: %v", codec, n)
		if n != 0 {
			t.Errorf("%s: %v allocations", codec, n)
		}
	}
	var r Reader
	batch := golden("a", "b")
	if n := testing.AllocsPerRun(100, func() {
		for r.Reset(batch, nil); r.Next(); {
			for range r.Headers() {
			}
		}
	}); n != 0 {
		t.Errorf("reader: %v allocations", n)
	}
}

func FuzzValidate(f *testing.F) {
	var builder Builder
	for _, codec := range codecs {
		f.Add([]byte(build(&builder, codec, "a", "bb")), false)
	}
	f.Add(AppendMarker(nil, 1, 1, Marker{Commit, 1}, now), true)
	l := limits()
	l.Decompressor = NewDecompressor(1 << 16)
	f.Fuzz(func(t *testing.T, b []byte, compacted bool) {
		if len(b) >= HeaderSize { // past the CRC, where it gets interesting
			Batch(b).UpdateCRC()
		}
		l.Compacted = compacted
		batch, err := Validate(b, l)
		if err != nil {
			var refusal *Error
			if !errors.As(err, &refusal) || refusal.Code <= 0 {
				t.Errorf("not a refusal: %v", err)
			}
			return
		}
		var r Reader
		n, newest := int32(0), NoTimestamp
		for r.Reset(batch, l.Decompressor); r.Next(); n++ {
			if r.Offset != int64(n) || compacted && r.Key == nil {
				t.Errorf("record %d: %+v", n, r.Record)
			}
			newest = max(newest, r.Timestamp)
		}
		if r.Err() != nil || n != batch.Count() || newest != batch.MaxTimestamp() || !batch.CheckCRC() {
			t.Errorf("%d records of %d, newest %d of %d: %v", n, batch.Count(), newest, batch.MaxTimestamp(), r.Err())
		}
	})
}

func BenchmarkValidate(b *testing.B) {
	var builder Builder
	for _, codec := range codecs {
		for _, size := range []int{100, 1024} {
			for _, count := range []int{1, 100} {
				builder.Begin(nil, codec)
				value := []byte(strings.Repeat("benchmark ", size/10))
				for range count {
					builder.Add(now, []byte("key"), value)
				}
				batch := builder.Finish()
				l := limits()
				b.Run(fmt.Sprintf("%s/%dx%d", codec, count, size), func(b *testing.B) {
					b.SetBytes(int64(count * size))
					b.ReportAllocs()
					for b.Loop() {
						if _, err := Validate(batch, l); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
