package log

import "sync/atomic"

// Published is what any goroutine may read of a log: for checkpoints, metrics,
// status pages and tools. Each value is right by itself; two of them need not be
// of the same moment.
type Published struct {
	LogStart      atomic.Int64
	LogEnd        atomic.Int64
	Written       atomic.Int64
	Flushed       atomic.Int64
	Stable        atomic.Int64
	HighWatermark atomic.Int64
	// RecoveryPoint: what is below is on disk, the files derived from it included.
	RecoveryPoint atomic.Int64
	Size          atomic.Int64 // bytes of all segments
	In            atomic.Int64 // bytes appended since the start
	Segments      atomic.Int64
	FirstSegment  atomic.Int64 // base of the first segment
	Fenced        atomic.Pointer[ErrFenced]
	Uncleanable   atomic.Pointer[error] // why compaction has given the log up; nil: it has not

	cleaned      atomic.Int64 // the first dirty offset
	closed       atomic.Bool
	checkpointed atomic.Int64 // the recovery point as the checkpoint file has it
	startWanted  atomic.Int64 // a log start that is being made durable
}

// Published shows the log to other goroutines.
func (l *Log) Published() *Published { return &l.published }

// publish stores everything: after recovery and after what changes much.
func (l *Log) publish() {
	p := &l.published
	p.LogStart.Store(l.logStart)
	p.LogEnd.Store(l.logEnd)
	p.Written.Store(l.written)
	p.Flushed.Store(l.flushed)
	p.Stable.Store(l.stable)
	p.HighWatermark.Store(l.highWatermark)
	p.Size.Store(l.size)
	p.Segments.Store(int64(len(l.segments)))
	p.FirstSegment.Store(l.segments[0].base)
	if l.fence != nil {
		p.Fenced.Store(l.fence)
	}
	l.publishRecoveryPoint()
}

// publishRecoveryPoint: what has been synced, but not past an epoch or an aborted
// transaction that is not in its file: recovery trusts those below the point. (Of a
// rolled segment it trusts the indexes only where there is a producer snapshot of its
// end or a later one, and enqueueFinish writes that last.)
func (l *Log) publishRecoveryPoint() {
	to := l.synced
	if l.metaFrom >= 0 {
		to = min(to, l.metaFrom)
	}
	if to < l.published.RecoveryPoint.Load() && l.fence == nil && !l.cutting {
		return
	}
	l.published.RecoveryPoint.Store(to)
}
