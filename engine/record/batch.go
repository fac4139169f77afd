// Package record is Kafka's RecordBatch v2 as a view over bytes: header fields,
// CRC-32C, what a leader validates before it appends, reading and building.
//
// A Batch is the bytes themselves, as they came from the socket and as they lie
// in the segment; nothing is copied or decoded to look at it. Nothing in this
// package locks; what holds buffers (Decompressor, Reader, Builder) belongs to
// one goroutine, usually one shard.
package record

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math"
)

// HeaderSize is the size of a batch's header, bytes. A batch is never smaller.
const HeaderSize = 61

// PrefixSize is how many bytes of a batch tell its size: base offset and length.
const PrefixSize = 12

// Where the fields are (Kafka's DefaultRecordBatch). All integers are big endian.
const (
	baseOffsetAt      = 0
	lengthAt          = 8 // bytes after this field: the whole batch less PrefixSize
	leaderEpochAt     = 12
	magicAt           = 16
	crcAt             = 17
	attributesAt      = 21 // the CRC covers everything from here to the end
	lastOffsetDeltaAt = 23
	baseTimestampAt   = 27
	maxTimestampAt    = 35
	producerIDAt      = 43
	producerEpochAt   = 51
	baseSequenceAt    = 53
	countAt           = 57
)

// Magic is the only format version this package knows.
const Magic = 2

// Bits of a batch's attributes.
const (
	codecMask        = 0x07
	logAppendTimeBit = 0x08
	transactionalBit = 0x10
	controlBit       = 0x20
)

// NoTimestamp is the timestamp of a record without one. NoProducerID,
// NoProducerEpoch and NoSequence stand in batches of producers that are not
// idempotent.
const (
	NoTimestamp     int64 = -1
	NoProducerID    int64 = -1
	NoProducerEpoch int16 = -1
	NoSequence      int32 = -1
)

// Codec says how the records of a batch are compressed.
type Codec uint8

const (
	None Codec = iota
	Gzip
	Snappy
	LZ4
	Zstd
)

func (c Codec) String() string {
	if int(c) < len(codecNames) {
		return codecNames[c]
	}
	return "unknown"
}

var codecNames = [...]string{"none", "gzip", "snappy", "lz4", "zstd"}

// ParseCodec is the codec of that name, as Kafka's compression.type spells it.
func ParseCodec(name string) (Codec, bool) {
	for c, n := range codecNames {
		if n == name {
			return Codec(c), true
		}
	}
	return None, false
}

// TimestampType says who sets a record's timestamp (message.timestamp.type).
type TimestampType uint8

const (
	CreateTime    TimestampType = iota // the producer
	LogAppendTime                      // the leader, at append
)

// Batch is one whole batch: header and records. Its methods need len(b) >=
// HeaderSize; what Next and Validate return has that, and ends where the batch ends.
type Batch []byte

// BaseOffset is the offset of the first record, or of where it was before
// compaction removed it. It is outside the CRC.
func (b Batch) BaseOffset() int64 { return int64(binary.BigEndian.Uint64(b[baseOffsetAt:])) }

// SetBaseOffset places the batch in the log. The CRC stays valid.
func (b Batch) SetBaseOffset(offset int64) {
	binary.BigEndian.PutUint64(b[baseOffsetAt:], uint64(offset))
}

// LastOffset is the offset of the last record. The next batch starts above it.
func (b Batch) LastOffset() int64 { return b.BaseOffset() + int64(b.LastOffsetDelta()) }

// Size is the size that the header claims, header included, bytes.
func (b Batch) Size() int { return PrefixSize + int(int32(binary.BigEndian.Uint32(b[lengthAt:]))) }

// LeaderEpoch is the epoch of the leader that appended the batch. It is outside the CRC.
func (b Batch) LeaderEpoch() int32 { return int32(binary.BigEndian.Uint32(b[leaderEpochAt:])) }

// SetLeaderEpoch stamps the leader's epoch. The CRC stays valid.
func (b Batch) SetLeaderEpoch(epoch int32) {
	binary.BigEndian.PutUint32(b[leaderEpochAt:], uint32(epoch))
}

// Magic is the format version: 2.
func (b Batch) Magic() int8 { return int8(b[magicAt]) }

// CRC is the stored CRC-32C of everything after it.
func (b Batch) CRC() uint32 { return binary.BigEndian.Uint32(b[crcAt:]) }

// Attributes are the batch's flags: codec, timestamp type, transactional, control.
func (b Batch) Attributes() int16 { return int16(binary.BigEndian.Uint16(b[attributesAt:])) }

// Codec is how the records are compressed. Values above Zstd are not defined.
func (b Batch) Codec() Codec { return Codec(b[attributesAt+1] & codecMask) }

// TimestampType says who set the timestamps.
func (b Batch) TimestampType() TimestampType {
	if b[attributesAt+1]&logAppendTimeBit != 0 {
		return LogAppendTime
	}
	return CreateTime
}

// Transactional says whether the batch belongs to a transaction.
func (b Batch) Transactional() bool { return b[attributesAt+1]&transactionalBit != 0 }

// Control says whether the batch holds a control record (see Marker), which no
// consumer sees.
func (b Batch) Control() bool { return b[attributesAt+1]&controlBit != 0 }

// LastOffsetDelta is LastOffset less BaseOffset.
func (b Batch) LastOffsetDelta() int32 { return int32(binary.BigEndian.Uint32(b[lastOffsetDeltaAt:])) }

// BaseTimestamp is what the records' timestamp deltas are relative to, ms since 1970.
func (b Batch) BaseTimestamp() int64 { return int64(binary.BigEndian.Uint64(b[baseTimestampAt:])) }

// MaxTimestamp is the largest timestamp of the batch, ms since 1970. With
// LogAppendTime it is the timestamp of every record.
func (b Batch) MaxTimestamp() int64 { return int64(binary.BigEndian.Uint64(b[maxTimestampAt:])) }

// ProducerID is the idempotent producer's, or NoProducerID.
func (b Batch) ProducerID() int64 { return int64(binary.BigEndian.Uint64(b[producerIDAt:])) }

// ProducerEpoch is the idempotent producer's, or NoProducerEpoch.
func (b Batch) ProducerEpoch() int16 { return int16(binary.BigEndian.Uint16(b[producerEpochAt:])) }

// BaseSequence is the first record's sequence number, or NoSequence.
func (b Batch) BaseSequence() int32 { return int32(binary.BigEndian.Uint32(b[baseSequenceAt:])) }

// LastSequence is the last record's sequence number, or NoSequence. Sequence
// numbers wrap from 2^31-1 to 0.
func (b Batch) LastSequence() int32 {
	base := b.BaseSequence()
	if base == NoSequence {
		return NoSequence
	}
	return AddSequence(base, b.LastOffsetDelta())
}

// AddSequence is the sequence number n records after seq: 0 follows 2^31-1.
// Both are >= 0.
func AddSequence(seq, n int32) int32 { return int32((int64(seq) + int64(n)) & math.MaxInt32) }

// Count is how many records the header claims.
func (b Batch) Count() int32 { return int32(binary.BigEndian.Uint32(b[countAt:])) }

// Records are the batch's records as stored: one blob when Codec is not None.
func (b Batch) Records() []byte { return b[HeaderSize:] }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CheckCRC says whether the stored CRC is right for len(b) bytes.
func (b Batch) CheckCRC() bool { return crc32.Checksum(b[attributesAt:], castagnoli) == b.CRC() }

// UpdateCRC stores the CRC of what the batch now holds.
func (b Batch) UpdateCRC() {
	binary.BigEndian.PutUint32(b[crcAt:], crc32.Checksum(b[attributesAt:], castagnoli))
}

// SetLogAppendTime makes now (ms since 1970) the timestamp of every record, as
// message.timestamp.type=LogAppendTime wants. It costs one pass of CRC.
func (b Batch) SetLogAppendTime(now int64) {
	b[attributesAt+1] |= logAppendTimeBit
	binary.BigEndian.PutUint64(b[maxTimestampAt:], uint64(now))
	b.UpdateCRC()
}

// setMaxTimestamp corrects the header's maximum and with it the CRC.
func (b Batch) setMaxTimestamp(ts int64) {
	binary.BigEndian.PutUint64(b[maxTimestampAt:], uint64(ts))
	b.UpdateCRC()
}

// ErrCorrupt is returned where bytes cannot be a batch of version 2.
var ErrCorrupt = errors.New("record: not a batch: impossible size or magic")

// PeekSize is the size, header included, of the batch that starts at b, from its
// first PrefixSize bytes. ok is false when there are fewer, or when the size is
// impossible: below HeaderSize or above 2^31-1.
func PeekSize(b []byte) (size int, ok bool) {
	if len(b) < PrefixSize {
		return 0, false
	}
	n := int64(int32(binary.BigEndian.Uint32(b[lengthAt:]))) + PrefixSize
	if n < HeaderSize || n > math.MaxInt32 {
		return 0, false
	}
	return int(n), true
}

// Next splits the first batch off b. At the end the error is io.EOF; when only a
// part of a batch is left, io.ErrUnexpectedEOF, and rest is that part; when b does
// not start with a batch, ErrCorrupt. The CRC is not checked.
func Next(b []byte) (batch Batch, rest []byte, err error) {
	if len(b) == 0 {
		return nil, nil, io.EOF
	}
	if len(b) < PrefixSize {
		return nil, b, io.ErrUnexpectedEOF
	}
	size, ok := PeekSize(b)
	if !ok || len(b) > magicAt && b[magicAt] != Magic {
		return nil, b, ErrCorrupt
	}
	if len(b) < size {
		return nil, b, io.ErrUnexpectedEOF
	}
	return Batch(b[:size:size]), b[size:], nil
}
