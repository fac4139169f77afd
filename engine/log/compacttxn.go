package log

import "github.com/millrace/millrace/engine/record"

// transactions follows the transactions of a log as a cleaning goes over it, from its start
// (Kafka's CleanedTransactionMetadata). The marker of one is needed while any batch of it is
// left, if only a header: without the marker it would be taken for open, or for a part
// of the producer's next one.
type transactions struct {
	aborted map[int64][]AbortedTxn // by producer
	open    map[int64]bool         // producers of whom a batch came since their last marker
	kept    []AbortedTxn           // of the group: those of which a batch was met
}

// add makes entries of a .txnindex known.
func (x *transactions) add(all []AbortedTxn) {
	if x.aborted == nil {
		x.aborted, x.open = map[int64][]AbortedTxn{}, map[int64]bool{}
	}
	for _, t := range all {
		x.aborted[t.ProducerID] = append(x.aborted[t.ProducerID], t)
	}
}

// isAborted says whether a batch is an aborted transaction's data.
func (x *transactions) isAborted(b record.Batch) bool {
	if !b.Transactional() || b.Control() {
		return false
	}
	for _, t := range x.aborted[b.ProducerID()] {
		if t.FirstOffset <= b.BaseOffset() && b.LastOffset() <= t.LastOffset {
			return true
		}
	}
	return false
}

// met takes note of a batch of data.
func (x *transactions) met(b record.Batch) {
	if b.Transactional() {
		x.open[b.ProducerID()] = true
	}
}

// ends takes note of a marker, and says whether it is needed. An aborted transaction of which
// nothing is left needs no entry in the .txnindex any more: that goes first, and the marker
// not before the next cleaning. So no consumer is told of one whose end it cannot see.
func (x *transactions) ends(b record.Batch) bool {
	if b.Count() == 0 {
		return false
	}
	m, err := record.ParseMarker(b)
	if err != nil || m.Type != record.Abort && m.Type != record.Commit {
		return true // none of ours
	}
	needed := x.open[b.ProducerID()]
	delete(x.open, b.ProducerID())
	if needed && m.Type == record.Abort {
		for _, t := range x.aborted[b.ProducerID()] {
			if t.LastOffset == b.LastOffset() {
				x.kept = append(x.kept, t)
			}
		}
	}
	return needed
}
