package log

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/millrace/millrace/ring"
)

// checkEpochs holds the leader epochs of the checkpoint, which has no CRC, against the batches that they
// start with. Where they do not agree, or the file cannot be read, the epochs are found
// again from the headers of all batches.
func (r *recovery) checkEpochs(end int64) error {
	l := r.log
	good := !r.badEpochs
	if n := len(l.epochs.list); good && l.logStart < end && (n == 0 || l.epochs.list[0].Start > l.logStart) {
		var err error // nothing is said of the first batch: it must have none
		if good, err = r.epochIs(l.logStart, Epoch{Epoch: -1}); err != nil {
			return err
		}
	}
	for i, e := range l.epochs.list {
		start := max(e.Start, l.logStart)
		if !good || start >= end || i+1 < len(l.epochs.list) && l.epochs.list[i+1].Start <= start {
			continue // nothing can be said of an epoch without records
		}
		agrees, err := r.epochIs(start, e)
		if err != nil {
			return err
		}
		good = good && agrees
	}
	if good {
		return nil
	}
	r.report.Mended = append(r.report.Mended, epochsName)
	return r.findEpochs()
}

// epochIs says whether the batch that holds an offset has the epoch, and begins where that does. Where that cannot
// be seen, there is nothing against it.
func (r *recovery) epochIs(offset int64, e Epoch) (bool, error) {
	w, err := r.batchAt(offset)
	if err != nil || w == nil {
		return true, err
	}
	if w.batch.BaseOffset() > offset { // compaction took what was there, and perhaps all of the epoch
		first := r.log.epochs.list
		return w.batch.LeaderEpoch() >= e.Epoch && (e.Epoch >= 0 || w.batch.LeaderEpoch() < 0 || len(first) > 0 && w.batch.BaseOffset() >= first[0].Start), nil
	}
	return w.batch.LeaderEpoch() == e.Epoch && (w.batch.BaseOffset() >= e.Start || e.Start <= r.log.logStart), nil
}

// batchAt is a walker at the batch that holds an offset, or the first behind it; nil where none can be seen.
func (r *recovery) batchAt(offset int64) (*walker, error) {
	s := r.log.segmentOf(offset)
	size, err := r.host.Size(s.fd)
	if err != nil {
		return nil, err
	}
	f := lookup{host: r.host, fd: s.fd, index: s.path(suffixIndex), base: s.base, size: size, entries: -1}
	at, _, err := f.seek(offset)
	if err != nil {
		return nil, err
	}
	w := &walker{host: r.host, fd: s.fd, size: size, at: at}
	for w.next() {
		if w.batch.LastOffset() >= offset {
			return w, nil
		}
	}
	if errors.Is(w.err, errDamage) {
		return nil, nil
	}
	return nil, w.err
}

// findEpochs takes them from the headers. The epoch of a batch is not under its CRC: one that is above
// those of the next two is not believed.
func (r *recovery) findEpochs() error {
	l := r.log
	l.epochs = epochs{}
	for _, s := range l.segments {
		w := walker{host: r.host, fd: s.fd, size: s.size}
		for w.next() {
			l.epochs.see(w.batch.LeaderEpoch(), w.batch.BaseOffset())
		}
		if w.err != nil && !errors.Is(w.err, errDamage) {
			return w.err
		}
	}
	return nil
}

// see takes in the epoch of the batch at offset start, as a scan finds it.
func (e *epochs) see(epoch int32, start int64) {
	switch latest := e.latest(); {
	case epoch < -1: // no epoch: the header is damaged
	case epoch > latest:
		e.assign(epoch, start)
		e.below = 0
	case epoch == latest || start < e.list[len(e.list)-1].Start:
		e.below = 0
	case e.below == 0:
		e.below = 1
	default: // the second one after it: it was never begun
		e.list = slices.DeleteFunc(e.list, func(x Epoch) bool { return x.Epoch > epoch })
		e.below = 0
		if e.latest() < epoch {
			e.assign(epoch, start)
		}
	}
}

// Refuse fences the log before it has a core: a file of it says what cannot be. What is there can be read.
func (l *Log) Refuse(file string, cause error) {
	if l.fence == nil {
		l.fence, l.damaged = &ErrFenced{File: file, Cause: cause}, true
		l.published.Fenced.Store(l.fence)
	}
}

// Nameless is why the log's topic id is not known; nil: it is.
func (l *Log) Nameless() error { return l.nameless }

// Adopt gives a nameless log its topic's id, durably. Blocking; before Attach.
func (d *Dir) Adopt(l *Log, id [16]byte) error {
	if err := ring.WriteFileAtomic(d.host, filepath.Join(l.path, metadataName), encodeMetadata(id)); err != nil {
		return err
	}
	l.topicID, l.nameless = id, nil
	return nil
}

// LimitEpochs says up to where leader epochs can have been begun. One without records that is above
// is damage of the checkpoint, and dropped; one with records is damage of a batch's header or
// of the metadata: the log is fenced. Before Attach.
func (l *Log) LimitEpochs(most int32) {
	if l.epochs.latest() <= most {
		return
	}
	last := l.epochs.list[len(l.epochs.list)-1]
	if last.Start >= l.logEnd {
		l.epochs.cutEnd(last.Start)
		l.LimitEpochs(most)
		return
	}
	l.Refuse(filepath.Join(l.path, epochsName), fmt.Errorf("leader epoch %d begins at offset %d, in %s, and the metadata knows none above %d",
		last.Epoch, last.Start, l.segmentOf(last.Start).path(suffixLog), most))
}
