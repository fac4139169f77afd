package log

import (
	"path/filepath"

	"github.com/millrace/millrace/engine/journal"
	"github.com/millrace/millrace/ring"
)

// entryOp takes batches from the tail to the core's journal, under Journal. One is
// in flight for each log and covers all that was appended since the last.
type entryOp struct {
	journal.Entry
	log    *Log
	busy   bool
	bufs   [ring.IOVMax][]byte
	chunks [ring.IOVMax]*chunk
	to     [ring.IOVMax]int // how much of each chunk is in the journal then
	n      int
}

// kickJournal submits what is in the tail and not in the journal.
func (l *Log) kickJournal() {
	e := &l.entry
	if e.busy || l.cfg.Policy != Journal || l.fence != nil || l.cutting || l.deleting {
		return
	}
	t := &l.tail
	for t.fresh < t.len() && t.at(t.fresh).journaled == len(t.at(t.fresh).buf) {
		t.fresh++
	}
	if t.fresh == t.len() {
		return
	}
	if l.synced < l.journalGap { // flushed is a prefix: what came before goes first
		l.syncWanted = max(l.syncWanted, l.journalGap)
		return
	}
	entryMax := l.core.journal.EntryMax()
	e.n, e.Size = 0, 0
	for i := t.fresh; i < t.len() && e.n < ring.IOVMax; i++ {
		k := t.at(i)
		to, end := k.walk(k.journaled, k.end, entryMax-e.Size)
		if to == k.journaled {
			break
		}
		if e.n == 0 {
			e.Base, e.Prev = k.batchAt(k.journaled).BaseOffset(), l.journalEnd
		}
		k.retain()
		e.chunks[e.n], e.bufs[e.n], e.to[e.n] = k, k.buf[k.journaled:to:to], to
		e.n++
		e.Size += to - k.journaled
		e.End = end
		if to < len(k.buf) {
			break
		}
	}
	if e.n == 0 {
		// One batch that is too large: it, and all that is behind it by now,
		// goes round the journal.
		for i := t.fresh; i < t.len(); i++ {
			t.at(i).journaled = len(t.at(i).buf)
		}
		t.fresh = t.len()
		l.journalGap, l.journalEnd = l.logEnd, l.logEnd
		l.syncWanted = max(l.syncWanted, l.logEnd)
		l.kickSync()
		return
	}
	e.busy = true
	e.Key, e.LeaderEpoch, e.Bufs, e.Stake, e.Done = l.JournalKey(), l.epochs.latest(), e.bufs[:e.n], &l.stake, e
	l.journalEnd = e.End
	l.core.journal.Submit(&e.Entry)
}

// renew gives the log's directory a new incarnation: what the journal holds of the old
// one is not replayed any more. Everything that is to stay is on disk in the files. On a worker.
func renew(h ring.Host, dir string, from, to uint64) error {
	if err := h.Rename(filepath.Join(dir, incarnationName(from)), filepath.Join(dir, incarnationName(to))); err != nil {
		return err
	}
	return h.SyncDir(dir)
}

// renewed makes it so in memory.
func (l *Log) renewed(incarnation uint64) {
	l.core.journal.Detach(&l.stake)
	l.incarnation = incarnation
	l.core.journal.Attach(l, &l.stake)
}

// Durable moves flushed.
func (e *entryOp) Durable(_ *journal.Entry, err error) {
	l := e.log
	e.busy = false
	for i, k := range e.chunks[:e.n] {
		k.journaled = max(k.journaled, e.to[i]) // all of it went round, where the policy has changed
		e.chunks[i], e.bufs[i] = nil, nil
		l.core.unretain(k)
	}
	if err != nil {
		l.fail("journal", err)
	} else if l.fence == nil && l.synced >= l.journalGap {
		l.advanceFlushed(e.End)
		l.owner.Advanced(l)
	}
	l.step()
}
