// Package replica is a partition in its role: it takes what producers send, says
// when that is acknowledged, and lets consumers see what they may.
//
// A Partition belongs to the core that owns it; nothing here locks. Its marks:
//
//	logStart (LW) <= lastStable <= highWatermark (HW) <= logEnd (LEO)
//
// The high watermark is the smallest, over the in-sync replicas, of what is
// safe there: below flushed where the flush policy is synchronous, else
// below what has been written to the page cache. This package holds the
// single replica's case, where the ISR is the leader alone; followers join in
// advance and nowhere else.
package replica

import (
	"errors"

	"github.com/millrace/millrace/engine/log"
	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/engine/wire"
)

// Partition is one partition on its core.
type Partition struct {
	Topic string
	ID    [16]byte
	Index int32

	// LeaderEpoch is the epoch under which this broker leads. New at each start.
	LeaderEpoch int32

	// Say takes one line for people. To be set before Start.
	Say func(format string, args ...any)

	log           *log.Log
	highWatermark int64

	acks    produceList // appended, not yet below the high watermark; by offset
	parked  produceList // not yet appended, because the log is too far behind: in order
	watches Watch       // list head: who waits for the high watermark to move
	left    int16       // Kafka's error: deleted, or no longer led; 0: it is here
}

// Produce is one batch on its way in. It is embedded in the request that carries
// it; the owner fills the first part, and is told by Done.
type Produce struct {
	Records []byte
	Acks    int16
	Origin  log.Origin
	Done    Produced

	Code       int16 // Kafka's error code
	Message    string
	Index      int32 // of the record that was refused; -1
	BaseOffset int64
	LastOffset int64
	AppendTime int64 // ms; -1 unless the broker sets the time
	LogStart   int64

	// When it was appended, when what made it stable was submitted and done, and when it was
	// acknowledged, on the ring's clock, ns. Where there is no error.
	Appended, Submitted, Flushed, Acknowledged int64

	next *Produce
}

// Produced is told, once, that a batch is acknowledged or refused. It is called on
// the partition's core, perhaps from inside Produce.
type Produced interface{ Produced(w *Produce) }

// New takes a log in. The log must be attached with this Partition as its owner.
func New(topic string, id [16]byte, index, leaderEpoch int32, l *log.Log) *Partition {
	p := &Partition{Topic: topic, ID: id, Index: index, LeaderEpoch: leaderEpoch, log: l, Say: func(string, ...any) {}}
	p.watches.next, p.watches.prev = &p.watches, &p.watches
	return p
}

// Start is called when the log has been attached: the marks are taken over. A log
// that came up damaged is fenced from the start.
func (p *Partition) Start() {
	if err := p.log.Err(); err != nil {
		p.Failed(p.log, err)
	}
	p.highWatermark = p.log.HighWatermark()
	p.advance()
}

// Log is the partition's log.
func (p *Partition) Log() *log.Log { return p.log }

// HighWatermark is the offset below which consumers see records.
func (p *Partition) HighWatermark() int64 { return p.highWatermark }

// LastStable is the offset below which no transaction is open.
func (p *Partition) LastStable() int64 { return min(p.highWatermark, p.log.LastStable()) }

// Left is Kafka's error for who still comes for a partition that has been deleted or
// is no longer led; 0: it is here.
func (p *Partition) Left() int16 { return p.left }

// Produce takes a batch. now is the wall clock, ms. It ends in w.Done.
func (p *Partition) Produce(w *Produce, now int64) {
	if p.left != 0 {
		refuse(w, p.left, "the partition has gone")
		return
	}
	if p.parked.head != nil || !p.append(w, now) { // order: who came first goes first
		p.parked.push(w)
	}
}

// append ends in w.Done, now or later, or says no when the batch has to be parked.
func (p *Partition) append(w *Produce, now int64) bool {
	a, err := p.log.Append(w.Records, w.Origin, p.LeaderEpoch, now)
	if errors.Is(err, log.ErrPressure) {
		return false
	}
	if w == p.parked.head {
		p.parked.pop() // before Done is told: it may bring the next batch
	}
	if err != nil {
		p.refuse(w, err)
		return true
	}
	w.Code, w.Message, w.Index = 0, "", -1
	w.BaseOffset, w.LastOffset, w.AppendTime, w.LogStart = a.BaseOffset, a.LastOffset, a.LogAppendTime, p.log.LogStart()
	w.Appended = p.log.Stamp()
	w.Submitted, w.Flushed, w.Acknowledged = w.Appended, w.Appended, w.Appended
	if w.Acks == 0 || a.LastOffset < p.highWatermark { // a duplicate may be acknowledged already
		w.Done.Produced(w)
		return true
	}
	// acks=1 and acks=all are the same here: the ISR is this broker. A duplicate of
	// something still on its way waits like the original; the list stays in
	// order of offsets because it is put where it belongs.
	p.acks.insert(w)
	return true
}

func (p *Partition) refuse(w *Produce, err error) {
	var bad *record.Error
	switch {
	case errors.As(err, &bad):
		w.Index = int32(bad.Index)
		w.Code, w.Message = bad.Code, bad.Msg
		w.BaseOffset, w.LastOffset, w.AppendTime, w.LogStart = -1, -1, -1, p.log.LogStart()
		w.Done.Produced(w)
	default:
		refuse(w, wire.KafkaStorageError, err.Error())
	}
}

func refuse(w *Produce, code int16, message string) {
	w.Code, w.Message, w.Index = code, message, -1
	w.BaseOffset, w.LastOffset, w.AppendTime, w.LogStart = -1, -1, -1, -1
	w.Done.Produced(w)
}

// Advanced is log.Owner's: more is written or flushed.
func (p *Partition) Advanced(*log.Log) { p.advance() }

// Failed is log.Owner's: the log acknowledges nothing more. What was safe can still
// be read. (Metadata says that nobody leads: see log.Published.Fenced.)
func (p *Partition) Failed(_ *log.Log, err error) {
	p.Say("PARTITION FAILED: %s-%d takes no more records: %v", p.Topic, p.Index, err)
	p.drop(wire.KafkaStorageError, err.Error())
	p.wake()
}

// CleaningFailed is log.Owner's.
func (p *Partition) CleaningFailed(_ *log.Log, err error, again bool) {
	if again {
		p.Say("compaction of %s-%d failed, and is tried again: %v", p.Topic, p.Index, err)
		return
	}
	p.Say("PARTITION NOT COMPACTED: %s-%d grows until a restart: %v", p.Topic, p.Index, err)
}

// advance moves the high watermark and tells who waited for it.
func (p *Partition) advance() {
	if stable := p.log.Stable(); stable > p.highWatermark {
		p.highWatermark = stable
		p.log.SetHighWatermark(stable)
		submitted, done := p.log.LastFlight()
		now := int64(0)
		for w := p.acks.head; w != nil && w.LastOffset < stable; w = p.acks.head {
			p.acks.pop()
			if now == 0 {
				now = p.log.Stamp()
			}
			w.Submitted, w.Flushed, w.Acknowledged = submitted, done, now
			w.Done.Produced(w)
		}
		p.wake()
	}
}

// Relieved tries parked batches again, in order. The core calls it at the end of its
// steps while Parked. now is the wall clock, ms.
func (p *Partition) Relieved(now int64) {
	for p.parked.head != nil && p.append(p.parked.head, now) {
	}
}

// Parked says whether batches wait to be appended.
func (p *Partition) Parked() bool { return p.parked.head != nil }

// Leave ends the role: everybody who waits is refused with code.
func (p *Partition) Leave(code int16, message string) {
	p.left = code
	p.drop(code, message)
	p.wake()
}

func (p *Partition) drop(code int16, message string) {
	for w := p.acks.pop(); w != nil; w = p.acks.pop() {
		refuse(w, code, message)
	}
	for w := p.parked.pop(); w != nil; w = p.parked.pop() {
		refuse(w, code, message)
	}
}

// Watch waits for the high watermark to move, or the partition to fail or go. It is
// embedded in what waits. Wake must not add or take back watches: it makes a note.
type Watch struct {
	Woken      interface{ Wake(w *Watch) }
	next, prev *Watch
}

// Watch adds a watch. It stays until Unwatch.
func (p *Partition) Watch(w *Watch) {
	w.prev, w.next = p.watches.prev, &p.watches
	w.prev.next, w.next.prev = w, w
}

// Unwatch takes it back. It is no error when it is not there.
func (w *Watch) Unwatch() {
	if w.next != nil {
		w.prev.next, w.next.prev = w.next, w.prev
		w.next, w.prev = nil, nil
	}
}

func (p *Partition) wake() {
	for w := p.watches.next; w != &p.watches; {
		next := w.next
		w.Woken.Wake(w)
		w = next
	}
}

// produceList is a list by Produce.next.
type produceList struct{ head, tail *Produce }

func (l *produceList) push(w *Produce) {
	w.next = nil
	if l.tail == nil {
		l.head = w
	} else {
		l.tail.next = w
	}
	l.tail = w
}

// insert keeps the list in order of LastOffset: nearly always at the end.
func (l *produceList) insert(w *Produce) {
	if l.tail == nil || l.tail.LastOffset <= w.LastOffset {
		l.push(w)
		return
	}
	at := &l.head
	for (*at).LastOffset <= w.LastOffset {
		at = &(*at).next
	}
	w.next = *at
	*at = w
}

func (l *produceList) pop() *Produce {
	w := l.head
	if w == nil {
		return nil
	}
	if l.head = w.next; l.head == nil {
		l.tail = nil
	}
	w.next = nil
	return w
}
