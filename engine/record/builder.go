package record

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Header is a record's header to be written. A nil value is null.
type Header struct {
	Key   string
	Value []byte
}

// Builder builds batches of version 2 from records: the coordinators' records,
// the tools', the tests'. Begin, Add and so on, Finish. The zero value is ready;
// it belongs to one goroutine and allocates, once warm, only for dst and, with
// some codecs, inside the codec.
type Builder struct {
	dst   []byte // what the caller gave, then the header, then uncompressed records
	start int    // where the batch starts in dst
	raw   []byte // records to be compressed
	codec Codec

	attributes    int16
	producerID    int64
	producerEpoch int16
	baseSequence  int32

	count     int32
	lastDelta int32
	base, max int64 // timestamps

	out   bytes.Buffer
	gzip  *gzip.Writer
	lz4   *lz4.Writer
	zstd  *zstd.Encoder
	block []byte // one compressed snappy block
}

// Begin starts a batch that Finish appends to dst. Base offset is 0, leader epoch
// -1 (SetBaseOffset and SetLeaderEpoch change them later without a new CRC), no
// producer, CreateTime.
func (b *Builder) Begin(dst []byte, codec Codec) {
	if codec > Zstd {
		panic(fmt.Sprintf("BUG: builder: codec %d", codec))
	}
	b.start = len(dst)
	b.dst = append(dst, make([]byte, HeaderSize)...)
	b.raw = b.raw[:0]
	b.codec = codec
	b.attributes = int16(codec)
	b.producerID, b.producerEpoch, b.baseSequence = NoProducerID, NoProducerEpoch, NoSequence
	b.count, b.lastDelta, b.base, b.max = 0, -1, NoTimestamp, NoTimestamp
}

// SetProducer makes the batch an idempotent producer's, and a transaction's.
func (b *Builder) SetProducer(id int64, epoch int16, baseSequence int32, transactional bool) {
	b.producerID, b.producerEpoch, b.baseSequence = id, epoch, baseSequence
	b.attributes &^= transactionalBit
	if transactional {
		b.attributes |= transactionalBit
	}
}

// Add adds a record at the next offset. A nil key or value is null; timestamp is
// in ms since 1970, or NoTimestamp. The bytes are copied.
func (b *Builder) Add(timestamp int64, key, value []byte, headers ...Header) {
	b.AddAt(b.lastDelta+1, timestamp, key, value, headers...)
}

// AddAt is Add at an offset delta of the caller's choice, above the last one:
// compaction leaves gaps.
func (b *Builder) AddAt(offsetDelta int32, timestamp int64, key, value []byte, headers ...Header) {
	if offsetDelta <= b.lastDelta {
		panic(fmt.Sprintf("BUG: builder: offset delta %d after %d", offsetDelta, b.lastDelta))
	}
	if b.count == 0 {
		b.base = timestamp
	}
	b.max = max(b.max, timestamp)
	b.lastDelta = offsetDelta
	b.count++
	delta := timestamp - b.base
	size := 1 + varintSize(delta) + varintSize(int64(offsetDelta)) +
		bytesSize(key) + bytesSize(value) + varintSize(int64(len(headers)))
	for i := range headers {
		size += varintSize(int64(len(headers[i].Key))) + len(headers[i].Key) + bytesSize(headers[i].Value)
	}
	p := &b.raw
	if b.codec == None {
		p = &b.dst
	}
	dst := appendVarint(*p, int32(size))
	dst = append(dst, 0) // attributes: none are defined
	dst = appendVarlong(dst, delta)
	dst = appendVarint(dst, offsetDelta)
	dst = appendVarintBytes(dst, key)
	dst = appendVarintBytes(dst, value)
	dst = appendVarint(dst, int32(len(headers)))
	for i := range headers {
		dst = appendVarint(dst, int32(len(headers[i].Key)))
		dst = append(dst, headers[i].Key...)
		dst = appendVarintBytes(dst, headers[i].Value)
	}
	*p = dst
}

// Count is how many records have been added since Begin.
func (b *Builder) Count() int { return int(b.count) }

// Size is how large the batch is so far, before compression, bytes.
func (b *Builder) Size() int { return len(b.dst) - b.start + len(b.raw) }

// Finish completes the batch and returns dst with it at the end. It panics when
// no record was added or when the batch exceeds 2^31-1 bytes: callers bound both.
func (b *Builder) Finish() []byte {
	if b.count == 0 {
		panic("BUG: builder: batch without records")
	}
	if b.codec != None {
		b.compress()
	}
	size := len(b.dst) - b.start
	if size > math.MaxInt32 {
		panic(fmt.Sprintf("BUG: builder: batch of %d bytes", size))
	}
	h := Batch(b.dst[b.start:])
	binary.BigEndian.PutUint64(h[baseOffsetAt:], 0)
	binary.BigEndian.PutUint32(h[lengthAt:], uint32(size-PrefixSize))
	h.SetLeaderEpoch(-1)
	h[magicAt] = Magic
	binary.BigEndian.PutUint16(h[attributesAt:], uint16(b.attributes))
	binary.BigEndian.PutUint32(h[lastOffsetDeltaAt:], uint32(b.lastDelta))
	binary.BigEndian.PutUint64(h[baseTimestampAt:], uint64(b.base))
	binary.BigEndian.PutUint64(h[maxTimestampAt:], uint64(b.max))
	binary.BigEndian.PutUint64(h[producerIDAt:], uint64(b.producerID))
	binary.BigEndian.PutUint16(h[producerEpochAt:], uint16(b.producerEpoch))
	binary.BigEndian.PutUint32(h[baseSequenceAt:], uint32(b.baseSequence))
	binary.BigEndian.PutUint32(h[countAt:], uint32(b.count))
	h.UpdateCRC()
	dst := b.dst
	b.dst = nil
	return dst
}

func bytesSize(v []byte) int {
	if v == nil {
		return 1
	}
	return varintSize(int64(len(v))) + len(v)
}

func appendVarintBytes(dst, v []byte) []byte {
	if v == nil {
		return append(dst, 1) // -1
	}
	return append(appendVarint(dst, int32(len(v))), v...)
}

// compress appends the compressed records to dst. Writers into memory do not
// fail: an error is our mistake.
func (b *Builder) compress() {
	var err error
	b.out.Reset()
	switch b.codec {
	case Gzip:
		if b.gzip == nil {
			b.gzip = gzip.NewWriter(nil)
		}
		b.gzip.Reset(&b.out)
		if _, err = b.gzip.Write(b.raw); err == nil {
			err = b.gzip.Close()
		}
	case LZ4:
		if b.lz4 == nil {
			b.lz4 = lz4.NewWriter(nil)
			// Kafka's own block size: a reader's buffer is as large as a block.
			err = b.lz4.Apply(lz4.ConcurrencyOption(1), lz4.BlockSizeOption(lz4.Block64Kb))
		}
		if err == nil {
			b.lz4.Reset(&b.out)
			if _, err = b.lz4.Write(b.raw); err == nil {
				err = b.lz4.Close()
			}
		}
	case Zstd:
		if b.zstd == nil {
			b.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
		}
		if err == nil {
			b.dst = b.zstd.EncodeAll(b.raw, b.dst)
		}
	case Snappy:
		b.dst = b.appendXerial(b.dst, b.raw)
	}
	if err != nil {
		panic(fmt.Sprintf("BUG: builder: %s: %v", b.codec, err))
	}
	b.dst = append(b.dst, b.out.Bytes()...)
}

// xerialBlock is how much of the records goes into one block, as in snappy-java.
const xerialBlock = 32 << 10

func (b *Builder) appendXerial(dst, raw []byte) []byte {
	dst = append(dst, xerialHeader...)
	dst = binary.BigEndian.AppendUint32(dst, 1) // version, and the oldest that can read it
	dst = binary.BigEndian.AppendUint32(dst, 1)
	if b.block == nil {
		b.block = make([]byte, snappy.MaxEncodedLen(xerialBlock))
	}
	for len(raw) > 0 {
		n := min(len(raw), xerialBlock)
		block := snappy.Encode(b.block, raw[:n])
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(block)))
		dst = append(dst, block...)
		raw = raw[n:]
	}
	return dst
}
