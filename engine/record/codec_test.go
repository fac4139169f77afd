package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kgo"
)

var codecs = []Codec{None, Gzip, Snappy, LZ4, Zstd}

// franz compresses as franz-go's producer does.
func franz(t testing.TB, codec Codec, raw []byte) []byte {
	t.Helper()
	if codec == None {
		return raw
	}
	c, err := kgo.DefaultCompressor([]kgo.CompressionCodec{
		kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression(),
	}[codec])
	if err != nil {
		t.Fatal(err)
	}
	out, used := c.Compress(new(bytes.Buffer), raw)
	if used != kgo.CompressionCodecType(codec) {
		t.Fatalf("franz-go used codec %d", used)
	}
	return bytes.Clone(out)
}

// wrap puts what a codec produced into a batch with a good CRC.
func wrap(codec Codec, blob []byte) Batch {
	var b Builder
	b.Begin(nil, None)
	b.Add(now, nil, nil)
	batch := Batch(append(b.Finish()[:HeaderSize], blob...))
	binary.BigEndian.PutUint32(batch[lengthAt:], uint32(len(batch)-PrefixSize))
	batch[attributesAt+1] |= byte(codec)
	batch.UpdateCRC()
	return batch
}

func samples() [][]byte {
	rng := rand.New(rand.NewPCG(1, 1))
	noise := make([]byte, 300_000)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	return [][]byte{{}, []byte("a"), noise[:100], noise, []byte(strings.Repeat("what is said twice ", 50_000))}
}

func TestCodecsAgreeWithFranz(t *testing.T) {
	d := NewDecompressor(DecompressedMaxDefault)
	theirs := kgo.DefaultDecompressor()
	var b Builder
	for round := range 2 { // decoders and buffers are used again
		for _, codec := range codecs {
			for i, raw := range samples() {
				if len(raw) == 0 && codec == Snappy {
					continue // franz-go writes no blocks at all, and refuses them
				}
				got, err := d.Records(wrap(codec, franz(t, codec, raw)))
				if err != nil || !bytes.Equal(got, raw) {
					t.Errorf("round %d, %s, sample %d: got %d bytes, %v", round, codec, i, len(got), err)
				}
				b.Begin(nil, codec)
				b.Add(now, nil, raw)
				batch := Batch(b.Finish())
				got, err = theirs.Decompress(batch.Records(), kgo.CompressionCodecType(codec))
				var r Record
				if err != nil || r.parse(got) != len(got) || !bytes.Equal(r.Value, raw) {
					t.Errorf("round %d, %s, sample %d: franz-go reads %d bytes, %v", round, codec, i, len(got), err)
				}
			}
		}
	}
}

func TestSnappyWithoutFraming(t *testing.T) {
	d := NewDecompressor(1 << 20)
	for _, raw := range samples() {
		got, err := d.Records(wrap(Snappy, snappy.Encode(nil, raw)))
		if err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%d bytes: got %d, %v", len(raw), len(got), err)
		}
	}
}

// A window of 128 MiB is legal (level 22) and must cost nothing for a small batch.
func TestZstdLargeWindow(t *testing.T) {
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(128<<20), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	// Flushed at once, the frame cannot say its size and must declare the window.
	z.Write([]byte("small"))
	z.Flush()
	z.Write([]byte(" batch"))
	z.Close()
	var h zstd.Header
	if err := h.Decode(out.Bytes()); err != nil || h.WindowSize != 128<<20 {
		t.Fatalf("window of %d, %v", h.WindowSize, err)
	}
	d := NewDecompressor(1 << 20)
	if allocated(func() {
		got, err := d.Records(wrap(Zstd, out.Bytes()))
		if err != nil || string(got) != "small batch" {
			t.Errorf("got %q, %v", got, err)
		}
	}) > 16<<20 {
		t.Error("the window was allocated")
	}
}

func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestBombs(t *testing.T) {
	const bound = 1 << 20
	zeros := make([]byte, 64<<20)
	hugeSnappy := binary.AppendUvarint(nil, 1<<32-1)
	xerial := append(append([]byte{}, xerialHeader...), 0, 0, 0, 1, 0, 0, 0, 1)
	hugeBlock := append(append([]byte{}, xerial...), 0x7f, 0xff, 0xff, 0xff, 0)
	manyBlocks := xerial
	block := snappy.Encode(nil, zeros[:64<<10])
	for range 64 {
		manyBlocks = binary.BigEndian.AppendUint32(manyBlocks, uint32(len(block)))
		manyBlocks = append(manyBlocks, block...)
	}
	sized, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	var lz bytes.Buffer
	w := lz4.NewWriter(&lz)
	if err := w.Apply(lz4.ConcurrencyOption(1), lz4.BlockSizeOption(lz4.Block4Mb), lz4.SizeOption(64<<20)); err != nil {
		t.Fatal(err)
	}
	w.Write(zeros)
	w.Close()
	for _, c := range []struct {
		name  string
		codec Codec
		blob  []byte
		want  error // nil: any
	}{
		{"gzip", Gzip, franz(t, Gzip, zeros), ErrTooLarge},
		{"lz4", LZ4, franz(t, LZ4, zeros), ErrTooLarge},
		{"lz4, blocks of 4 MiB", LZ4, lz.Bytes(), ErrTooLarge},
		{"zstd", Zstd, franz(t, Zstd, zeros), ErrTooLarge},
		{"zstd with its size", Zstd, sized.EncodeAll(zeros, nil), ErrTooLarge},
		{"zstd, frame after frame", Zstd, bytes.Repeat(sized.EncodeAll(zeros[:bound/2], nil), 100), ErrTooLarge},
		{"snappy", Snappy, snappy.Encode(nil, zeros), ErrTooLarge},
		{"snappy that lies", Snappy, hugeSnappy, nil},
		{"snappy that lies within the bound", Snappy, binary.AppendUvarint(nil, bound), nil},
		{"xerial block that lies", Snappy, hugeBlock, nil},
		{"xerial, block after block", Snappy, manyBlocks, ErrTooLarge},
		{"gzip, empty", Gzip, nil, nil},
		{"snappy, empty", Snappy, nil, nil},
		{"lz4, not lz4", LZ4, []byte("not at all what it says"), nil},
		{"zstd, not zstd", Zstd, []byte("not at all what it says"), nil},
	} {
		d := NewDecompressor(bound)
		batch := wrap(c.codec, c.blob)
		used := allocated(func() {
			got, err := d.Records(batch)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%s: got %d bytes, %v", c.name, len(got), err)
			}
		})
		if used > 16<<20 { // the decoders' own tables and an lz4 block
			t.Errorf("%s: %d MiB allocated", c.name, used>>20)
		}
		// The decoder must be none the worse for it.
		var b Builder
		good := build(&b, c.codec, "a", "b")
		var r Reader
		r.Reset(good, d)
		if !r.Next() || string(r.Value) != "a" || !r.Next() || string(r.Value) != "b" || r.Next() || r.Err() != nil {
			t.Errorf("%s: afterwards: %v", c.name, r.Err())
		}
	}
}

func TestBoundIsExact(t *testing.T) {
	raw := bytes.Repeat([]byte("0123456789"), 20_000)
	for _, codec := range codecs[1:] {
		blob := wrap(codec, franz(t, codec, raw))
		if got, err := NewDecompressor(len(raw)).Records(blob); err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%s: at the bound: %v", codec, err)
		}
		if _, err := NewDecompressor(len(raw) - 1).Records(blob); err != ErrTooLarge {
			t.Errorf("%s: a byte above it: %v", codec, err)
		}
	}
}

func TestReaderNeedsDecompressor(t *testing.T) {
	var b Builder
	var r Reader
	r.Reset(build(&b, LZ4, "a"), nil)
	if r.Next() || r.Err() == nil {
		t.Error("a compressed batch without a decompressor")
	}
	r.Reset(wrap(5, nil), NewDecompressor(1))
	if r.Next() || r.Err() == nil {
		t.Error("codec 5")
	}
}

func FuzzReader(f *testing.F) {
	var b Builder
	for _, codec := range codecs {
		batch := build(&b, codec, "a", "bb")
		f.Add(uint8(codec), int32(2), []byte(batch.Records()))
	}
	d := NewDecompressor(1 << 16)
	f.Fuzz(func(t *testing.T, codec uint8, count int32, blob []byte) {
		batch := wrap(Codec(codec&codecMask), blob)
		binary.BigEndian.PutUint32(batch[countAt:], uint32(count))
		var r Reader
		n := int32(0)
		for r.Reset(batch, d); r.Next(); n++ {
			headers := 0
			for range r.Headers() {
				headers++
			}
			if headers != r.HeaderCount() {
				t.Errorf("%d headers of %d", headers, r.HeaderCount())
			}
		}
		if r.Err() == nil && n != max(count, 0) {
			t.Errorf("%d records of %d", n, count)
		}
	})
}
