package log

import (
	"fmt"
	"io"

	"github.com/millrace/millrace/engine/record"
)

// Origin says who made a batch.
type Origin uint8

const (
	// Client: a producer. One batch, base offset 0, checked in full.
	Client Origin = iota
	// Coordinator: this broker's group or transaction coordinator. One batch;
	// control batches are allowed; sequence numbers are not checked.
	Coordinator
	// Replica: the leader. Whole batches with their offsets and epochs.
	Replica
)

// Appended says where a batch went.
type Appended struct {
	BaseOffset    int64
	LastOffset    int64
	LogAppendTime int64 // ms since 1970; -1 where the producer's timestamps stand
	Duplicate     bool  // it had been appended before: these are the offsets of then
}

var (
	errEpochFenced = &record.Error{Code: codeFencedLeaderEpoch, Index: -1, Msg: "log: appended under an older leader epoch"}
	errTooLarge    = &record.Error{Code: codeRecordListTooLarge, Index: -1, Msg: "log: batch is larger than segment.bytes"}
	errMessage     = &record.Error{Code: codeMessageTooLarge, Index: -1, Msg: "log: batch is larger than max.message.bytes"}
	errNotBatch    = &record.Error{Code: codeCorruptMessage, Index: -1, Msg: "log: not one whole record batch"}
	errCRC         = &record.Error{Code: codeCorruptMessage, Index: -1, Msg: "log: CRC-32C does not match"}
	errSpan        = &record.Error{Code: codeInvalidRecord, Index: -1, Msg: "log: impossible last offset delta"}
)

// Append adds what b holds to the end of the log: it validates, checks sequence
// numbers, assigns offsets, copies into the memory tail and starts the write. It
// never blocks, and allocates nothing once the log is warm. now is the wall clock,
// ms. b is the caller's again on return; with CreateTime its header may have been
// corrected (see record.Validate).
//
// leaderEpoch is the epoch appended under; for Replica the epoch of the fetch:
// batches of a later one are left out (KAFKA-18723), as is a partial one at the
// end, and what was taken stands in Appended (LastOffset < BaseOffset: nothing).
//
// Errors: *record.Error with Kafka's code, ErrPressure, ErrNoSpace, ErrClosed,
// *ErrFenced. Nothing was appended then, except with Replica, where the batches
// before the bad one were.
func (l *Log) Append(b []byte, how Origin, leaderEpoch int32, now int64) (Appended, error) {
	if err := l.refusal(); err != nil {
		return Appended{}, err
	}
	if how == Replica {
		return l.appendReplica(b, leaderEpoch, now)
	}
	var batch record.Batch
	var err error
	if how == Client {
		l.limits.Now = now
		batch, err = record.Validate(b, &l.limits)
	} else {
		batch, err = l.checkCoordinators(b)
	}
	if err != nil {
		return Appended{}, err
	}
	if leaderEpoch < l.epochs.latest() {
		return Appended{}, errEpochFenced
	}
	if len(batch) > int(l.cfg.SegmentBytes) {
		return Appended{}, errTooLarge
	}
	var marker record.Marker
	if batch.Control() {
		if marker, err = record.ParseMarker(batch); err != nil {
			return Appended{}, &record.Error{Code: codeCorruptMessage, Index: -1, Msg: err.Error()}
		}
	}
	if batch.ProducerID() >= 0 {
		duplicate, err := l.producer.check(batch, marker, how)
		if err != nil {
			return Appended{}, err
		}
		if duplicate != nil {
			l.core.stats.Duplicates++
			a := Appended{BaseOffset: duplicate.baseOffset(), LastOffset: duplicate.lastOffset, LogAppendTime: -1, Duplicate: true}
			if l.cfg.LogAppendTime {
				a.LogAppendTime = duplicate.timestamp
			}
			return a, nil
		}
	}
	base := l.logEnd
	last := base + int64(batch.LastOffsetDelta())
	k, err := l.place(len(batch), int64(last-base)+1, last, batch.MaxTimestamp(), how, now)
	if err != nil {
		return Appended{}, err
	}
	in := k.put(batch)
	in.SetBaseOffset(base)
	in.SetLeaderEpoch(leaderEpoch)
	a := Appended{BaseOffset: base, LastOffset: last, LogAppendTime: -1}
	if l.cfg.LogAppendTime {
		in.SetLogAppendTime(now)
		a.LogAppendTime = now
	}
	l.appended(k, in, marker, now)
	l.kick()
	return a, nil
}

// refusal is why nothing can be appended now, or nil.
func (l *Log) refusal() error {
	switch {
	case l.fence != nil:
		return l.fence
	case l.closing:
		return ErrClosed
	case l.noSpace:
		return ErrNoSpace
	case l.cutting || l.starting:
		return ErrPressure
	}
	return nil
}

// checkCoordinators checks what this broker made itself: less than what clients send.
func (l *Log) checkCoordinators(b []byte) (record.Batch, error) {
	batch, rest, err := record.Next(b)
	switch {
	case err != nil || len(rest) > 0:
		return nil, errNotBatch
	case int64(len(batch)) > int64(l.cfg.MaxMessageBytes):
		return nil, errMessage
	case !batch.CheckCRC():
		return nil, errCRC
	case batch.LastOffsetDelta() < 0:
		return nil, errSpan
	}
	return batch, nil
}

func (l *Log) appendReplica(b []byte, leaderEpoch int32, now int64) (Appended, error) {
	a := Appended{BaseOffset: l.logEnd, LastOffset: l.logEnd - 1, LogAppendTime: -1}
	var failed error
	for first := true; ; first = false {
		batch, rest, err := record.Next(b)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			failed = errNotBatch
			break
		}
		b = rest
		if batch.LeaderEpoch() > leaderEpoch {
			break
		}
		if failed = l.checkReplicas(batch); failed != nil {
			break
		}
		var marker record.Marker
		if batch.Control() {
			if marker, err = record.ParseMarker(batch); err != nil {
				failed = &record.Error{Code: codeCorruptMessage, Index: -1, Msg: err.Error()}
				break
			}
		}
		last := batch.LastOffset()
		k, err := l.place(len(batch), last+1-l.logEnd, last, batch.MaxTimestamp(), Replica, now)
		if err != nil {
			failed = err
			break
		}
		in := k.put(batch)
		l.appended(k, in, marker, now)
		if first {
			a.BaseOffset = in.BaseOffset()
		}
		a.LastOffset = last
	}
	l.kick()
	return a, failed
}

// checkReplicas: offsets go up, epochs do not go back, and the bytes are what the
// leader has.
func (l *Log) checkReplicas(batch record.Batch) error {
	switch {
	case !batch.CheckCRC():
		return errCRC
	case batch.BaseOffset() < l.logEnd:
		return &record.Error{Code: codeInvalidRecord, Index: -1,
			Msg: fmt.Sprintf("log: batch at offset %d, but the log ends at %d", batch.BaseOffset(), l.logEnd)}
	case batch.LastOffsetDelta() < 0 || batch.BaseOffset() > baseOffsetMax:
		return errSpan
	case batch.LeaderEpoch() < l.epochs.latest():
		return errEpochFenced
	}
	return nil
}

// place finds room for a batch of n bytes that takes the log forward by count
// offsets, rolling first where the active segment is full. Nothing has been changed
// when it fails, but the segment may have been rolled.
func (l *Log) place(n int, count, last, timestamp int64, how Origin, now int64) (*chunk, error) {
	if l.tooFarAhead(n, count) {
		l.core.stats.Refused++
		l.syncWanted = l.logEnd
		l.kick()
		return nil, ErrPressure
	}
	if l.rollDue(n, last, timestamp, now) {
		if !l.canRoll() {
			l.core.stats.Refused++
			return nil, ErrPressure
		}
		l.roll(now)
	} else if l.spareDue(timestamp, now) && l.canRoll() {
		l.makeSpare()
	}
	if how == Client && !l.core.space.take(n, l.core.unwritten) {
		return nil, ErrNoSpace
	}
	k := l.room(n, how)
	if k == nil {
		if how == Client {
			l.core.space.left += int64(n) // it was not taken
		}
		l.core.stats.Refused++
		l.core.press()
		return nil, ErrPressure
	}
	return k, nil
}

// put copies a batch to the end of the chunk.
func (k *chunk) put(b record.Batch) record.Batch {
	at := len(k.buf)
	k.buf = append(k.buf, b...)
	return record.Batch(k.buf[at:len(k.buf):len(k.buf)])
}

// appended takes a batch that lies at the end of chunk k into the log.
func (l *Log) appended(k *chunk, b record.Batch, marker record.Marker, now int64) {
	s, n, last := k.seg, int64(len(b)), b.LastOffset()
	if epoch := b.LeaderEpoch(); epoch > l.epochs.latest() {
		l.epochs.assign(epoch, b.BaseOffset())
		l.metaDirty(b.BaseOffset())
	}
	if b.ProducerID() >= 0 {
		if aborted, ok := l.producer.update(b, marker, now); ok {
			s.aborted = append(s.aborted, aborted)
			l.metaDirty(b.BaseOffset())
		}
	}
	s.observe(b, len(b), s.size, l.cfg.IndexIntervalBytes)
	if l.oversize(n, last+1-l.logEnd) {
		l.gap = last + 1
	}
	k.end = last + 1
	l.tail.dirty = min(l.tail.dirty, l.tail.len()-1)
	l.tail.fresh = min(l.tail.fresh, l.tail.len()-1)
	l.logEnd = last + 1
	l.size += n
	l.bytesIn += n
	l.core.unwritten += int(n)
	l.core.unscanned += n
	if l.age.pending == 0 {
		l.age.pending = l.core.io.Now()
		l.behindAt = l.age.pending + writeBehindNanos
		if l.cfg.FlushMs != Never || l.cfg.Policy == Journal {
			l.setDue()
		}
	}
	l.core.stats.Batches++
	l.core.stats.Bytes += uint64(n)
	l.published.LogEnd.Store(l.logEnd)
	l.published.Size.Store(l.size)
	l.published.In.Store(l.bytesIn)
}
