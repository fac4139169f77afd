package record

import "encoding/binary"

// deleteHorizonBit says that the base timestamp is a time after which the batch's tombstones
// may go (KIP-534). The records' timestamp deltas are relative to it all the same.
const deleteHorizonBit = 0x40

// DeleteHorizon is the time, ms since 1970, after which compaction may remove the
// tombstones of the batch; ok is false where none has been set.
func (b Batch) DeleteHorizon() (ms int64, ok bool) {
	return b.BaseTimestamp(), b[attributesAt+1]&deleteHorizonBit != 0
}

// Rewrite appends to dst what src is without the records for which keep is false: for
// compaction. Offsets, epoch, producer and codec stay, and so does the last offset, whether its record does
// or not. r has been Reset on src and not read from; keep has an element for each record. A
// horizon of 0 or above becomes the batch's delete horizon. Where no record is kept
// the batch is a header only; its timestamps are src's largest one, by which its producer expires.
func (b *Builder) Rewrite(dst []byte, src Batch, r Reader, keep []bool, horizon int64) ([]byte, error) {
	start := len(dst)
	b.Begin(dst, src.Codec())
	b.attributes = src.Attributes()
	base := src.BaseTimestamp()
	if horizon >= 0 {
		base = horizon
		b.attributes |= deleteHorizonBit
	}
	newest, count := NoTimestamp, int32(0)
	for i := 0; r.Next(); i++ {
		if !keep[i] {
			continue
		}
		count++
		newest = max(newest, r.Timestamp)
		b.copy(&r.Record, src.BaseTimestamp()+r.timestampDelta-base)
	}
	if r.err != nil {
		return dst, r.err
	}
	if count == 0 {
		b.codec, base, newest = None, src.MaxTimestamp(), src.MaxTimestamp()
		b.attributes &^= codecMask | deleteHorizonBit
	}
	b.producerID, b.producerEpoch, b.baseSequence = src.ProducerID(), src.ProducerEpoch(), src.BaseSequence()
	b.lastDelta, b.base, b.max = src.LastOffsetDelta(), base, newest
	b.count = max(count, 1)
	dst = b.Finish()
	out := Batch(dst[start:])
	out.SetBaseOffset(src.BaseOffset())
	out.SetLeaderEpoch(src.LeaderEpoch())
	if count == 0 {
		binary.BigEndian.PutUint32(out[countAt:], 0)
		out.UpdateCRC()
	}
	return dst, nil
}

// Empty appends to dst a batch without records, of no producer, that takes the offsets from base up to end, which is not in it.
func (b *Builder) Empty(dst []byte, base, end int64, epoch int32, timestamp int64) []byte {
	start := len(dst)
	b.Begin(dst, None)
	b.lastDelta, b.base, b.max, b.count = int32(end-1-base), timestamp, timestamp, 1
	dst = b.Finish()
	out := Batch(dst[start:])
	out.SetBaseOffset(base)
	out.SetLeaderEpoch(epoch)
	binary.BigEndian.PutUint32(out[countAt:], 0)
	out.UpdateCRC()
	return dst
}

// copy adds a record as it is, at another timestamp delta.
func (b *Builder) copy(r *Record, timestampDelta int64) {
	size := 1 + varintSize(timestampDelta) + varintSize(int64(r.offsetDelta)) +
		bytesSize(r.Key) + bytesSize(r.Value) + varintSize(int64(r.headerCount)) + len(r.headers)
	p := &b.raw
	if b.codec == None {
		p = &b.dst
	}
	dst := appendVarint(*p, int32(size))
	dst = append(dst, 0)
	dst = appendVarlong(dst, timestampDelta)
	dst = appendVarint(dst, r.offsetDelta)
	dst = appendVarintBytes(dst, r.Key)
	dst = appendVarintBytes(dst, r.Value)
	dst = appendVarint(dst, r.headerCount)
	*p = append(dst, r.headers...)
}
