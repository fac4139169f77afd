package record

import (
	"errors"
	"fmt"
	"iter"
)

// Record is one record, a view of its batch's (decompressed) bytes.
type Record struct {
	Offset    int64
	Timestamp int64  // ms since 1970, or NoTimestamp
	Key       []byte // nil: null
	Value     []byte // nil: null

	headers     []byte
	headerCount int32

	offsetDelta    int32
	timestampDelta int64
}

// HeaderCount is how many headers the record has.
func (r *Record) HeaderCount() int { return int(r.headerCount) }

// Headers yields the record's headers in order, views of the same bytes. A nil
// value is null.
func (r *Record) Headers() iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		b := r.headers
		for i := int32(0); i < r.headerCount; i++ {
			var key, value []byte
			key, b, _ = varintBytes(b)
			value, b, _ = varintBytes(b)
			if !yield(key, value) {
				return
			}
		}
	}
}

// varintBytes reads a length and as many bytes; length -1 is nil.
func varintBytes(b []byte) (v, rest []byte, ok bool) {
	size, n := varint(b)
	if n == 0 || size < -1 || int(size) > len(b)-n {
		return nil, nil, false
	}
	if size < 0 {
		return nil, b[n:], true
	}
	end := n + int(size)
	return b[n:end:end], b[end:], true
}

// parse reads the record that b starts with and returns its size, length prefix
// included, or 0 when it is malformed: every field and every header must be there
// and fill the record's length exactly. It sets neither Offset nor Timestamp.
func (r *Record) parse(b []byte) int {
	size, n := varint(b)
	if n == 0 || size < 0 || int(size) > len(b)-n {
		return 0
	}
	end := n + int(size)
	body := b[n:end]
	if len(body) == 0 {
		return 0
	}
	body = body[1:] // the record's attributes: none are defined
	if r.timestampDelta, n = varlong(body); n == 0 {
		return 0
	}
	body = body[n:]
	if r.offsetDelta, n = varint(body); n == 0 {
		return 0
	}
	var ok bool
	if r.Key, body, ok = varintBytes(body[n:]); !ok {
		return 0
	}
	if r.Value, body, ok = varintBytes(body); !ok {
		return 0
	}
	if r.headerCount, n = varint(body); n == 0 || r.headerCount < 0 {
		return 0
	}
	body = body[n:]
	r.headers = body
	for i := int32(0); i < r.headerCount; i++ {
		var key []byte
		if key, body, ok = varintBytes(body); !ok || key == nil {
			return 0
		}
		if _, body, ok = varintBytes(body); !ok {
			return 0
		}
	}
	if len(body) != 0 {
		return 0
	}
	return end
}

// Reader reads the records of a batch, one after the other:
//
//	r.Reset(batch, decompressor)
//	for r.Next() {
//		use(&r.Record)
//	}
//	if err := r.Err(); err != nil { ... }
//
// It belongs to one goroutine and can be used again. It allocates nothing for
// uncompressed batches.
type Reader struct {
	Record // the current one; valid until the decompressor's next use

	batch Batch
	rest  []byte
	read  int32
	err   error
}

// Reset starts on a batch, which is not checked against its CRC. d may be nil
// where the batch is not compressed; the records are views of its buffer until it
// is used again.
func (r *Reader) Reset(b Batch, d *Decompressor) {
	*r = Reader{batch: b, rest: b.Records()}
	if b.Codec() == None {
		return
	}
	if d == nil {
		r.err = errors.New("record: compressed batch, and nothing to decompress it")
		return
	}
	r.rest, r.err = d.Records(b)
}

// Next moves to the next record. It is false at the end and on the first error.
func (r *Reader) Next() bool {
	if r.err != nil {
		return false
	}
	if r.read >= r.batch.Count() {
		if len(r.rest) != 0 {
			r.err = fmt.Errorf("record: batch at offset %d: %d bytes left after %d records", r.batch.BaseOffset(), len(r.rest), r.read)
		}
		return false
	}
	n := r.parse(r.rest)
	if n == 0 {
		r.err = fmt.Errorf("record: batch at offset %d: record %d of %d is malformed", r.batch.BaseOffset(), r.read, r.batch.Count())
		return false
	}
	r.rest = r.rest[n:]
	r.read++
	r.Offset = r.batch.BaseOffset() + int64(r.offsetDelta)
	r.Timestamp = r.batch.BaseTimestamp() + r.timestampDelta
	if r.batch.TimestampType() == LogAppendTime {
		r.Timestamp = r.batch.MaxTimestamp()
	}
	return true
}

// Err is why Next stopped early, or nil.
func (r *Reader) Err() error { return r.err }

// FindTimestamp is the first record of b whose timestamp is at least ts (ms since
// 1970), as ListOffsets asks for; found is false when there is none. With
// b.MaxTimestamp() it finds the record that has the maximum.
func FindTimestamp(b Batch, ts int64, d *Decompressor) (offset, timestamp int64, found bool, err error) {
	if b.MaxTimestamp() < ts {
		return 0, 0, false, nil
	}
	var r Reader
	r.Reset(b, d)
	for r.Next() {
		if r.Timestamp >= ts {
			return r.Offset, r.Timestamp, true, nil
		}
	}
	return 0, 0, false, r.Err()
}
