package record

import (
	"fmt"
	"math"
)

// Kafka's error codes for what is wrong with a batch (common/protocol/Errors.java).
const (
	codeCorruptMessage         int16 = 2
	codeMessageTooLarge        int16 = 10
	codeInvalidTimestamp       int16 = 32
	codeUnsupportedCompression int16 = 76
	codeInvalidRecord          int16 = 87
)

// Error says why a batch was refused, in the terms of a Produce response.
type Error struct {
	Code  int16  // Kafka's error code
	Index int32  // the record's place in the batch, from 0; -1: the batch as a whole
	Msg   string // for a human
}

func (e *Error) Error() string {
	if e.Index < 0 {
		return e.Msg
	}
	return fmt.Sprintf("record %d: %s", e.Index, e.Msg)
}

// The refusals of whole batches. They are not to be changed.
var (
	errNoBatch      = &Error{codeInvalidRecord, -1, "no whole record batch"}
	errMoreBatches  = &Error{codeInvalidRecord, -1, "more than exactly one record batch"}
	errSize         = &Error{codeCorruptMessage, -1, "impossible batch length"}
	errMagic        = &Error{codeCorruptMessage, -1, "unknown magic"}
	errOldMagic     = &Error{codeInvalidRecord, -1, "only record batches with magic 2 may be produced"}
	errZstd         = &Error{codeUnsupportedCompression, -1, "zstd needs Produce version 7"}
	errCodec        = &Error{codeUnsupportedCompression, -1, "unknown compression codec"}
	errBaseOffset   = &Error{codeInvalidRecord, -1, "base offset is not 0"}
	errTooLarge     = &Error{codeMessageTooLarge, -1, "batch is larger than max.message.bytes"}
	errCRC          = &Error{codeCorruptMessage, -1, "CRC-32C does not match"}
	errCount        = &Error{codeInvalidRecord, -1, "count of records is not above 0, or not the last offset delta plus 1"}
	errControl      = &Error{codeInvalidRecord, -1, "clients may not write control records"}
	errSequence     = &Error{codeInvalidRecord, -1, "producer id without a base sequence"}
	errAppendTime   = &Error{codeInvalidTimestamp, -1, "producers may not set the timestamp type to LogAppendTime"}
	errAfterMax     = &Error{codeInvalidTimestamp, -1, "timestamp is later than message.timestamp.after.max.ms allows"}
	errDecompress   = &Error{codeCorruptMessage, -1, "records cannot be decompressed"}
	errDecompressed = &Error{codeMessageTooLarge, -1, "records decompress to more than is allowed"}
	errMoreRecords  = &Error{codeInvalidRecord, -1, "bytes left after the last record"}
)

// Limits are a topic's and the broker's terms for a produced batch. One value can
// be used for many batches; nothing in it changes.
type Limits struct {
	MaxBytes  int32 // max.message.bytes: the whole batch, header included
	Compacted bool  // the topic is compacted: every record needs a key

	Now           int64 // ms since 1970
	BeforeMax     int64 // message.timestamp.before.max.ms, ms; math.MaxInt64: no bound
	AfterMax      int64 // message.timestamp.after.max.ms, ms
	LogAppendTime bool  // message.timestamp.type=LogAppendTime: records' timestamps do not matter

	RefuseZstd bool // the request's version is below 7 (KIP-110)

	// InspectCompressed has compressed batches decompressed and their records
	// checked like any others. Without it, only the header is checked, unless the
	// topic is compacted: then they are always inspected.
	InspectCompressed bool
	// Decompressor does that; it bounds the decompressed size. Needed whenever
	// a compressed batch can be inspected.
	Decompressor *Decompressor
}

// Validate checks what a producer sent for one partition as Kafka's leader does
// (LogValidator, UnifiedLog.analyzeAndValidateRecords, ProduceRequest.validateRecords):
// exactly one whole batch of version 2; base offset 0; size; CRC; count and
// offsets; no control batch; a sequence with a producer id; and every record: whole,
// offsets consecutive, a key where the topic is compacted, timestamp in bounds.
//
// It returns the batch, a view of b, or an *Error with Kafka's error code. Success
// allocates nothing (compressed batches: nothing once the decompressor is warm).
// With CreateTime it corrects the header's maximum timestamp, and then the CRC,
// where it is not the records' maximum. It does not stamp LogAppendTime:
// SetLogAppendTime does, at append.
//
// Stricter than Kafka, which would rewrite the batch or look away: offsets that
// are not consecutive, bytes after the batch, LogAppendTime set by the producer.
func Validate(b []byte, l *Limits) (Batch, error) {
	batch, err := validateHeader(b, l)
	if err != nil {
		return nil, err
	}
	records := batch.Records()
	if batch.Codec() != None {
		if !l.InspectCompressed && !l.Compacted {
			if !l.LogAppendTime && batch.MaxTimestamp() > addSaturating(l.Now, l.AfterMax) {
				return nil, errAfterMax
			}
			return batch, nil
		}
		if records, err = l.Decompressor.Records(batch); err != nil {
			if err == ErrTooLarge {
				return nil, errDecompressed
			}
			return nil, errDecompress
		}
	}
	if err := validateRecords(batch, records, l); err != nil {
		return nil, err
	}
	return batch, nil
}

func validateHeader(b []byte, l *Limits) (Batch, error) {
	if len(b) > magicAt && b[magicAt] != Magic {
		if b[magicAt] < Magic {
			return nil, errOldMagic
		}
		return nil, errMagic
	}
	if len(b) < PrefixSize {
		return nil, errNoBatch
	}
	size, ok := PeekSize(b)
	switch {
	case !ok:
		return nil, errSize
	case len(b) < size:
		return nil, errNoBatch
	case len(b) > size:
		return nil, errMoreBatches
	}
	batch := Batch(b[:size:size])
	switch {
	case l.RefuseZstd && batch.Codec() == Zstd:
		return nil, errZstd
	case batch.BaseOffset() != 0:
		return nil, errBaseOffset
	case int64(size) > int64(l.MaxBytes):
		return nil, errTooLarge
	case !batch.CheckCRC():
		return nil, errCRC
	case batch.Codec() > Zstd:
		return nil, errCodec
	case batch.Count() <= 0 || int64(batch.LastOffsetDelta())+1 != int64(batch.Count()):
		return nil, errCount
	case batch.Control():
		return nil, errControl
	case batch.ProducerID() > NoProducerID && batch.BaseSequence() < 0:
		return nil, errSequence
	case batch.TimestampType() == LogAppendTime:
		return nil, errAppendTime
	}
	return batch, nil
}

func validateRecords(batch Batch, b []byte, l *Limits) error {
	base, count := batch.BaseTimestamp(), batch.Count()
	earliest, latest := subSaturating(l.Now, l.BeforeMax), addSaturating(l.Now, l.AfterMax)
	newest := NoTimestamp
	var r Record
	for i := int32(0); i < count; i++ {
		n := r.parse(b)
		if n == 0 {
			return &Error{codeInvalidRecord, i, fmt.Sprintf("malformed, or missing: %d bytes left of the batch", len(b))}
		}
		b = b[n:]
		if r.offsetDelta != i {
			return &Error{codeInvalidRecord, i, fmt.Sprintf("offset delta is %d", r.offsetDelta)}
		}
		if l.Compacted && r.Key == nil {
			return &Error{codeInvalidRecord, i, "compacted topics accept no record without a key"}
		}
		ts := base + r.timestampDelta
		if !l.LogAppendTime && ts != NoTimestamp && (ts < earliest || ts > latest) {
			return &Error{codeInvalidTimestamp, i, fmt.Sprintf("timestamp %d is not within [%d, %d]", ts, earliest, latest)}
		}
		newest = max(newest, ts)
	}
	if len(b) != 0 {
		return errMoreRecords
	}
	if !l.LogAppendTime && newest != batch.MaxTimestamp() {
		batch.setMaxTimestamp(newest)
	}
	return nil
}

func addSaturating(a, b int64) int64 {
	if b > 0 && a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

func subSaturating(a, b int64) int64 {
	if b > 0 && a < math.MinInt64+b {
		return math.MinInt64
	}
	return a - b
}
