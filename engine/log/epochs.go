package log

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/millrace/millrace/ring"
)

const epochsName = "leader-epoch-checkpoint"

// Epoch says where a leader's epoch starts in the log.
type Epoch struct {
	Epoch int32
	Start int64
}

// epochs are the leader epochs of a log, both numbers ascending (Kafka's
// LeaderEpochFileCache).
type epochs struct {
	list  []Epoch
	below int // how many batches in a row a scan has seen with an older epoch
}

// latest is the last epoch, or -1.
func (e *epochs) latest() int32 {
	if len(e.list) == 0 {
		return -1
	}
	return e.list[len(e.list)-1].Epoch
}

// assign adds an epoch that is above the latest. Epochs that start at or above its
// start have no records and go.
func (e *epochs) assign(epoch int32, start int64) {
	for len(e.list) > 0 && e.list[len(e.list)-1].Start >= start {
		e.list = e.list[:len(e.list)-1]
	}
	e.list = append(e.list, Epoch{epoch, start})
}

// cutEnd forgets what starts at or above end.
func (e *epochs) cutEnd(end int64) {
	e.list = slices.DeleteFunc(e.list, func(x Epoch) bool { return x.Start >= end })
}

// cutStart forgets what ends at or below start; the epoch that start is in then
// begins there.
func (e *epochs) cutStart(start int64) bool {
	n := 0
	for n+1 < len(e.list) && e.list[n+1].Start <= start {
		n++
	}
	changed := n > 0
	e.list = slices.Delete(e.list, 0, n)
	if len(e.list) > 0 && e.list[0].Start < start {
		e.list[0].Start = start
		changed = true
	}
	return changed
}

// end is Kafka's endOffsetFor.
func (e *epochs) end(epoch int32, logEnd int64) (int32, int64) {
	n := len(e.list)
	switch {
	case n == 0 || epoch < 0 || epoch > e.list[n-1].Epoch:
		return -1, -1
	case epoch == e.list[n-1].Epoch:
		return epoch, logEnd
	}
	i, _ := slices.BinarySearchFunc(e.list, epoch+1, func(x Epoch, want int32) int { return int(x.Epoch) - int(want) })
	if i == 0 { // before the first: its records are gone
		return epoch, e.list[0].Start
	}
	return e.list[i-1].Epoch, e.list[i].Start
}

// encode is the leader-epoch-checkpoint file.
func (e *epochs) encode() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "0\n%d\n", len(e.list))
	for _, x := range e.list {
		fmt.Fprintf(&b, "%d %d\n", x.Epoch, x.Start)
	}
	return []byte(b.String())
}

func decodeEpochs(b []byte) (epochs, error) {
	var e epochs
	lines, err := checkpointLines(b)
	if err != nil {
		return e, err
	}
	for i, line := range lines {
		var x Epoch
		if n, err := fmt.Sscanf(line, "%d %d", &x.Epoch, &x.Start); n != 2 || err != nil {
			return e, fmt.Errorf("line %d: %q is no epoch and offset", i+3, line)
		}
		if last := len(e.list) - 1; last >= 0 && (e.list[last].Epoch >= x.Epoch || e.list[last].Start > x.Start) {
			return e, fmt.Errorf("line %d: epoch %d at offset %d after epoch %d at %d", i+3, x.Epoch, x.Start, e.list[last].Epoch, e.list[last].Start)
		}
		e.list = append(e.list, x)
	}
	return e, nil
}

// LatestEpoch is the newest leader epoch the log knows, or -1.
func (l *Log) LatestEpoch() int32 { return l.epochs.latest() }

// Epochs is a copy of the leader epochs.
func (l *Log) Epochs() []Epoch { return slices.Clone(l.epochs.list) }

// EpochEnd is where the largest epoch at or below the one asked for ends: what
// OffsetsForLeaderEpoch and diverging fetches answer. -1, -1: not known.
func (l *Log) EpochEnd(epoch int32) (epochFound int32, endOffset int64) {
	return l.epochs.end(epoch, l.logEnd)
}

// EpochAt is the epoch of the record at offset, or of the last record below it; -1: none.
func (l *Log) EpochAt(offset int64) int32 {
	for i := len(l.epochs.list) - 1; i >= 0; i-- {
		if l.epochs.list[i].Start <= offset {
			return l.epochs.list[i].Epoch
		}
	}
	return -1
}

// StartEpoch records that a leader's epoch starts at the log's end. When done is
// told without an error it is durable and in force. An epoch that is already in
// force is no error, an older one is.
func (l *Log) StartEpoch(epoch int32, done Done) {
	h, path := l.host(), filepath.Join(l.path, epochsName)
	var next epochs
	j := &job{name: "start epoch"}
	j.start = func() {
		// Nothing is appended until the epoch is in force: it starts here.
		l.starting = true
		next = epochs{list: slices.Clone(l.epochs.list)}
		if epoch > next.latest() {
			next.assign(epoch, l.logEnd)
		}
	}
	j.run = func() error { return ring.WriteFileAtomic(h, path, next.encode()) }
	j.done = func(err error) {
		l.starting = false
		switch {
		case err == nil && epoch < l.epochs.latest():
			err = errEpochFenced
		case err == nil:
			l.epochs = next
		case l.fence == nil && !isNoSpace(err):
			l.fail(path, err)
		}
		l.tell(done, err)
	}
	l.enqueue(j)
}

// metaDirty notes that epochs or aborted transactions of records from offset on are
// not in their files.
func (l *Log) metaDirty(offset int64) {
	switch {
	case l.metaFrom < 0:
		l.metaFrom = offset
	case l.metaBusy && l.metaNext < 0:
		l.metaNext = offset
	}
}

// file is a small file to be replaced as a whole.
type file struct {
	path string
	b    []byte
}

func writeFiles(h ring.Host, files []file) error {
	for _, f := range files {
		if err := ring.WriteFileAtomic(h, f.path, f.b); err != nil {
			return err
		}
	}
	return nil
}

// metaFiles are the epoch file and the transaction indexes that have grown.
func (l *Log) metaFiles() []file {
	files := []file{{filepath.Join(l.path, epochsName), l.epochs.encode()}}
	for _, s := range l.segments {
		if s.abortedOld == len(s.aborted) {
			continue
		}
		var b []byte
		for _, t := range s.aborted {
			b = appendAborted(b, t)
		}
		s.abortedOld = len(s.aborted)
		files = append(files, file{s.path(suffixTxn), b})
	}
	return files
}

// kickMeta writes them behind the appends: the recovery point waits for that,
// nobody else does.
func (l *Log) kickMeta() {
	if l.metaFrom < 0 || l.metaBusy || l.fence != nil || l.cutting || l.closing {
		return
	}
	l.metaBusy, l.metaNext = true, -1
	h := l.host()
	var files []file
	l.enqueue(&job{name: "write epochs", retry: true,
		start: func() {
			files = l.metaFiles()
			l.metaNext = -1 // what came in since the job was queued is in them
		},
		run: func() error { return writeFiles(h, files) },
		done: func(err error) {
			l.metaBusy = false
			if err != nil {
				l.fail(filepath.Join(l.path, epochsName), err)
				return
			}
			l.metaFrom = l.metaNext
			l.publishRecoveryPoint()
		}})
}
