package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// ErrTooLarge is returned when records decompress to more than the decompressor's bound.
var ErrTooLarge = errors.New("record: records decompress to more than is allowed")

var errSnappy = errors.New("record: malformed snappy block")

// DecompressedMaxDefault is a sensible bound for what one batch decompresses to, bytes.
const DecompressedMaxDefault = 64 << 20

const (
	// decompressedKept is the largest buffer that a Decompressor keeps for the
	// next batch: one large batch must not pin its memory for ever.
	decompressedKept = 4 << 20
	decompressedMin  = 64 << 10
)

// Decompressor decompresses the records of batches. It owns one decoder of each
// kind and one buffer, all reused, and starts no goroutine; it belongs to one
// shard. What a batch claims about its size allocates nothing above the bound.
type Decompressor struct {
	max  int
	buf  []byte
	src  bytes.Reader
	gzip *gzip.Reader
	lz4  *lz4.Reader
	zstd *zstd.Decoder
}

// NewDecompressor makes one that refuses records of more than maxBytes, decompressed.
func NewDecompressor(maxBytes int) *Decompressor {
	if maxBytes <= 0 {
		panic(fmt.Sprintf("BUG: decompressor bounded to %d bytes", maxBytes))
	}
	return &Decompressor{max: maxBytes}
}

// Records are the decompressed records of a batch: ErrTooLarge above the bound,
// other errors for what the codec does not accept. They are valid until the next
// call; those of an uncompressed batch are the batch's own bytes.
func (d *Decompressor) Records(b Batch) ([]byte, error) {
	if cap(d.buf) > decompressedKept {
		d.buf = nil
	}
	src := b.Records()
	switch b.Codec() {
	case None:
		return src, nil
	case Gzip:
		return d.ungzip(src)
	case Snappy:
		return d.unsnappy(src)
	case LZ4:
		return d.unlz4(src)
	case Zstd:
		return d.unzstd(src)
	}
	return nil, fmt.Errorf("record: unknown compression codec %d", b.Codec())
}

func (d *Decompressor) ungzip(src []byte) ([]byte, error) {
	d.src.Reset(src)
	if d.gzip == nil {
		d.gzip = new(gzip.Reader)
	}
	if err := d.gzip.Reset(&d.src); err != nil {
		return nil, fmt.Errorf("record: gzip: %w", err)
	}
	return d.readAll(d.gzip)
}

func (d *Decompressor) unlz4(src []byte) ([]byte, error) {
	d.src.Reset(src)
	if d.lz4 == nil {
		d.lz4 = lz4.NewReader(nil)
		if err := d.lz4.Apply(lz4.ConcurrencyOption(1)); err != nil {
			return nil, fmt.Errorf("record: lz4: %w", err)
		}
	}
	d.lz4.Reset(&d.src)
	return d.readAll(d.lz4)
}

// zstdWindowMax is the largest window that a frame may declare, bytes. It is what
// zstd's own decoders accept by default, and what level 22 declares.
const zstdWindowMax = 128 << 20

// unzstd decodes straight into the buffer, which is the decoder's window too: a
// large one, declared, costs nothing. Frames need not say how much is in them, so
// a buffer that proves too small is doubled and the work begun again; once warm
// the buffer is large enough.
func (d *Decompressor) unzstd(src []byte) ([]byte, error) {
	if d.zstd == nil {
		z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true),
			zstd.WithDecoderMaxMemory(max(zstdWindowMax, uint64(d.max))), zstd.WithDecoderMaxWindow(zstdWindowMax))
		if err != nil {
			return nil, fmt.Errorf("record: zstd: %w", err)
		}
		d.zstd = z
	}
	if d.buf == nil {
		d.grow(nil, 1)
	}
	for {
		room := min(cap(d.buf), d.max)
		out, err := d.zstd.DecodeAll(src, d.buf[:0:room])
		switch {
		case err == nil:
			return out, nil
		case !errors.Is(err, zstd.ErrDecoderSizeExceeded):
			return nil, fmt.Errorf("record: zstd: %w", err)
		case room == d.max:
			return nil, ErrTooLarge
		}
		d.grow(d.buf[:0], cap(d.buf)+1)
	}
}

// xerialHeader starts the framing of snappy-java, which Kafka's Java client and
// most others write: then two int32 of version, then blocks with int32 lengths.
var xerialHeader = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

const xerialHeaderSize = 16

func (d *Decompressor) unsnappy(src []byte) ([]byte, error) {
	if len(src) < xerialHeaderSize || !bytes.HasPrefix(src, xerialHeader) {
		return d.unsnappyBlock(d.buf[:0], src)
	}
	src = src[xerialHeaderSize:]
	out, err := d.buf[:0], error(nil)
	for len(src) > 0 {
		if len(src) < 4 {
			return nil, errSnappy
		}
		n := int(int32(binary.BigEndian.Uint32(src)))
		if n <= 0 || n > len(src)-4 {
			return nil, errSnappy
		}
		if out, err = d.unsnappyBlock(out, src[4:4+n]); err != nil {
			return nil, err
		}
		src = src[4+n:]
	}
	return out, nil
}

// unsnappyBlock appends one block to out, which is the start of d.buf.
func (d *Decompressor) unsnappyBlock(out, block []byte) ([]byte, error) {
	n, err := snappy.DecodedLen(block)
	if err != nil {
		return nil, errSnappy
	}
	// A snappy block expands at most 64 bytes out of 3: more is a lie.
	if n > d.max-len(out) {
		return nil, ErrTooLarge
	}
	if n/22 > len(block) {
		return nil, errSnappy
	}
	out = d.grow(out, n)
	at := len(out)
	if _, err := snappy.DecodeStrict(out[at:at+n:at+n], block); err != nil {
		return nil, errSnappy
	}
	return out[:at+n], nil
}

// readAll reads r to its end into the buffer, up to the bound.
func (d *Decompressor) readAll(r io.Reader) ([]byte, error) {
	out := d.buf[:0]
	for {
		if len(out) == cap(out) {
			out = d.grow(out, 1)
		}
		n, err := r.Read(out[len(out):cap(out)])
		out = out[:len(out)+n]
		if len(out) > d.max {
			return nil, ErrTooLarge
		}
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("record: decompress: %w", err)
		}
	}
}

// grow gives out, the start of d.buf, room for n more bytes. The buffer doubles,
// but never exceeds the bound by more than a byte, which tells too large from full.
func (d *Decompressor) grow(out []byte, n int) []byte {
	need := len(out) + n
	if need <= cap(out) {
		return out
	}
	size := max(need, min(max(2*cap(out), decompressedMin), d.max+1))
	d.buf = append(make([]byte, 0, size), out...)
	return d.buf
}
