package log

import (
	"errors"
	"fmt"
	"slices"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
)

// CleanerConfig is what compaction may take on one core.
type CleanerConfig struct {
	Enabled        bool  // log.cleaner.enable
	DedupeBytes    int64 // memory for the keys of one cleaning, bytes
	BytesPerSecond int64 // read and written; 0 or Never: no bound
	BackoffMs      int64 // how often the logs are looked at while none of them is dirty enough
}

const (
	// cleanPiece is how much one job of a cleaning reads and writes, about, bytes: a roll
	// waits no longer than for that.
	cleanPiece = 1 << 20
	// cleanAgain is when a log is cleaned again for which the disk had no room, ns. Others may fit.
	cleanAgain = 60e9
)

// cleaner compacts the logs of one core, one at a time: the dirtiest first, as Kafka's
// LogCleanerManager.grabFilthiestCompactedLog orders them.
type cleaner struct {
	CleanerConfig
	logs []*Log // those that can be cleaned
	log  *Log   // the one that is; nil: none
	at   int64  // the next look, or the next piece, ring's clock
	mute int64  // until then no owner is told of a full disk, ring's clock
}

// soon has the logs looked at within the back-off.
func (w *cleaner) soon(now int64) {
	if w.Enabled && w.log == nil && len(w.logs) > 0 {
		w.at = min(w.at, now+max(w.BackoffMs, 1)*1e6)
	}
}

// listCleanable puts the log among those that its core compacts, or takes it out and breaks
// off the cleaning of it.
func (l *Log) listCleanable() {
	w := &l.core.cleaner
	wanted := l.cfg.Compacted && !l.closing && l.uncleanable == nil && l.fence == nil
	switch {
	case wanted && !l.cleanable:
		w.logs = append(w.logs, l)
		w.soon(l.core.io.Now())
	case !wanted && l.cleanable:
		w.logs = slices.DeleteFunc(w.logs, func(o *Log) bool { return o == l })
		l.stopCleaning()
	}
	l.cleanable = wanted
}

// clean begins with the dirtiest log, or goes on with the one that is being cleaned. From
// Expire only.
func (c *Core) clean(now int64) {
	w := &c.cleaner
	w.at = ring.Forever
	if w.log != nil {
		if k := w.log.cleaning; !k.busy {
			w.log.enqueuePiece(k)
		}
		return
	}
	w.soon(now)
	var dirtiest *Log
	var most dirt
	wall := c.io.WallMillis()
	for _, l := range w.logs {
		if l.cleanAfter > now {
			continue
		}
		if d := l.dirt(wall); d.due && (dirtiest == nil || d.ratio > most.ratio) {
			dirtiest, most = l, d
		}
	}
	if dirtiest == nil {
		return
	}
	k := dirtiest.planCleaning(most, wall)
	dirtiest.cleaning, w.log, w.at = k, dirtiest, ring.Forever
	dirtiest.enqueuePiece(k)
}

// dirt is how much of a log is to be cleaned.
type dirt struct {
	segments int     // from the log's start, that a cleaning would go over
	from, to int64   // what is dirty of them
	ratio    float64 // dirty bytes to all bytes of them
	due      bool    // it is dirty enough, or has been so for long enough
}

// dirt looks at a log. Only what cannot come to be otherwise is cleaned: segments that are
// below the recovery point on disk, below every transaction whose end a power loss may take, and
// below what an entry of the journal may be made of: an exchange drops chunks of the tail.
func (l *Log) dirt(wall int64) (d dirt) {
	if l.refusal() != nil {
		return d
	}
	p := &l.published
	bound := min(l.tail.undone(l.logEnd), l.synced, p.checkpointed.Load(), p.RecoveryPoint.Load(), l.highWatermark, l.LastStable(), l.producer.unsettled(l.flushed))
	d.from = max(l.cleaned, l.segments[0].base)
	var clean, dirty int64
	late := false
	for _, s := range l.segments[:len(l.segments)-1] {
		if !s.finished || s.end > bound || len(s.aborted) != s.abortedOld {
			break
		}
		if s.end <= d.from {
			clean += s.size
			d.segments++
			continue
		}
		newest := s.maxTimestamp
		if newest < 0 {
			newest = s.created
		}
		if l.cfg.MinCompactionLagMs > 0 && newest > wall-l.cfg.MinCompactionLagMs {
			break
		}
		d.segments++
		d.to = s.end
		dirty += s.size
		if l.cfg.MaxCompactionLagMs != Never {
			l.learnFirst(s)
			late = late || s.firstTimestamp > 0 && s.firstTimestamp < wall-l.cfg.MaxCompactionLagMs
		}
	}
	if dirty > 0 {
		d.ratio = float64(dirty) / float64(clean+dirty)
		d.due = late || d.ratio > l.cfg.MinDirtyRatio
	}
	return d
}

// learnFirst has the first timestamp of a segment read that was there before the start.
func (l *Log) learnFirst(s *segment) {
	if s.firstTimestamp >= 0 || s.asked || len(l.jobs) >= jobsMax {
		return
	}
	s.asked = true
	first := record.NoTimestamp
	h, fd, size := l.host(), s.fd, s.size
	s.lease()
	l.enqueue(&job{name: "first timestamp",
		run: func() (err error) {
			first, err = firstTimestamp(h, fd, size)
			return err
		},
		done: func(err error) {
			l.unlease(s)
			if err == nil && first >= 0 {
				s.firstTimestamp = first
				l.core.cleaner.soon(l.core.io.Now())
			}
		}})
}

// stopCleaning breaks a cleaning off. What it has exchanged stays; the rest is as it was.
func (l *Log) stopCleaning() {
	c := l.cleaning
	if c == nil || c.stop.Swap(true) {
		return
	}
	if !c.busy {
		l.endCleaning(c, true)
	}
}

// endCleaning ends a cleaning, and removes what it had begun. Before whatever is queued: the
// directory may not be there afterwards.
func (l *Log) endCleaning(c *cleaning, discard bool) {
	w := &l.core.cleaner
	l.cleaning, w.log = nil, nil
	w.at = ring.Forever
	w.soon(l.core.io.Now())
	if !discard || c.out == nil {
		return
	}
	l.enqueueFirst(&job{name: "discard cleaned segment", always: true, run: func() error {
		c.discard()
		return nil
	}})
}

// enqueuePiece has the next piece done.
func (l *Log) enqueuePiece(c *cleaning) {
	c.busy = true
	if c.ready {
		l.enqueueSwap(c)
		return
	}
	budget := max(min(int64(cleanPiece), l.core.cleaner.BytesPerSecond/8), 16<<10)
	l.enqueue(&job{name: "compact",
		run: func() error { return c.piece(budget) },
		done: func(err error) {
			c.busy = false
			l.cleaningGoesOn(c, err)
		}})
}

// cleaningGoesOn decides what follows a piece.
func (l *Log) cleaningGoesOn(c *cleaning, err error) {
	w := &l.core.cleaner
	switch {
	case l.cleaning != c: // it has failed the log
	case err != nil || c.stop.Load() || !l.holds(c):
		l.endCleaning(c, true)
		l.cleaningFailed(err)
	case c.done:
		l.setCleaned(c.mapped)
		l.core.stats.Cleanings++
		l.endCleaning(c, false)
		w.at = 0 // there may be another one
	default:
		// The budget: nothing more before what has been read and written is paid for.
		w.at = l.core.io.Now() + int64(float64(c.spent)/float64(w.BytesPerSecond)*1e9)
		c.spent = 0
	}
}

// cleaningFailed says that a cleaning has failed, once: the log is not cleaned again before a
// restart, as in Kafka, since the same would come of it. A full disk passes: of all logs of a core
// that find it full one is told each cleanAgain.
func (l *Log) cleaningFailed(err error) {
	if err == nil || errors.Is(err, errCleanStopped) || l.fence != nil || l.closing {
		return
	}
	l.core.stats.CleaningsFailed++
	w, now, again := &l.core.cleaner, l.core.io.Now(), isNoSpace(err)
	if again {
		l.cleanAfter = now + cleanAgain
		if now < w.mute { // the logs of a core find the same disk full
			return
		}
		w.mute = l.cleanAfter
	} else {
		l.uncleanable = err
		l.published.Uncleanable.Store(&err)
		l.listCleanable()
	}
	l.owner.CleaningFailed(l, fmt.Errorf("%s: %w", l.path, err), again)
}

// holds says whether the segment that is read next is in the log still. (enqueueSwap looks at
// a whole group.)
func (l *Log) holds(c *cleaning) bool {
	if l.cutting || l.closing {
		return false
	}
	return c.ready || c.i >= len(c.sources) || slices.Contains(l.segments, c.sources[c.i].seg)
}

// setCleaned moves the first dirty offset.
func (l *Log) setCleaned(to int64) {
	l.cleaned = to
	l.published.cleaned.Store(to)
}
