package log

import (
	"path/filepath"

	"github.com/millrace/millrace/engine/journal"
	"github.com/millrace/millrace/ring"
)

// entryOp takes batches from the tail to the core's journal, under Journal. One is
// in flight for each log; it takes all that is there when the journal writes.
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
	first := t.at(t.fresh)
	e.Base, e.Prev = first.batchAt(first.journaled).BaseOffset(), l.journalEnd
	e.n, e.Size = 0, 0
	e.take(l.core.journal.EntryMax())
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
	e.busy, e.Began = true, 0
	e.Key, e.Stake, e.Done = l.JournalKey(), &l.stake, e
	l.core.journal.Submit(&e.Entry)
}

// take adds what follows the entry in the tail, whole batches of at most max bytes.
func (e *entryOp) take(max int) {
	l := e.log
	t := &l.tail
	i := t.fresh + e.n
	if e.n > 0 {
		i-- // the last chunk may have grown
	}
	for ; i < t.len(); i++ {
		k := t.at(i)
		slot, from := e.n, k.journaled
		if e.n > 0 && e.chunks[e.n-1] == k {
			slot, from = e.n-1, e.to[e.n-1]
		}
		if slot == len(e.chunks) {
			break
		}
		if to, end := k.walk(from, k.end, max); to > from {
			if slot == e.n {
				k.retain()
				e.chunks[slot] = k
				e.n++
			}
			e.bufs[slot], e.to[slot] = k.buf[from-len(e.bufs[slot]):to:to], to
			e.Size += to - from
			e.End, l.journalEnd = end, end
			max -= to - from
		}
		if e.n == 0 || e.to[e.n-1] < len(k.buf) {
			break
		}
	}
	e.Bufs, e.LeaderEpoch = e.bufs[:e.n], l.epochs.latest()
}

// Grow takes what was appended since the entry was submitted.
func (e *entryOp) Grow(_ *journal.Entry, max int) {
	l := e.log
	if l.cfg.Policy != Journal || l.fence != nil || l.cutting || l.deleting || l.synced < l.journalGap || l.journalEnd != e.End {
		return
	}
	e.take(max)
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
		l.flight = flight{e.Began, l.core.io.Now()}
		l.advanceFlushed(e.End)
		l.owner.Advanced(l)
	}
	l.step()
}
