package simtest

import (
	"fmt"
	"hash/crc32"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"github.com/millrace/millrace/engine/cluster"
	"github.com/millrace/millrace/engine/log"
	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/engine/replica"
	"github.com/millrace/millrace/ring"
)

// model is what the clients were told, and so what must be true.
type model struct {
	run     *run
	topics  []*topic // in the order in which they became known
	byID    map[[16]byte]*topic
	batches map[uint64]*batch // everything that was ever sent, by its content
	looked  map[*replica.Partition]*mark
	groups  map[commitKey]*register
	ids     map[int64]bool // producer ids

	registers []*register // of groups, in their order

	acked, lost, read, commits int
}

// topic is one incarnation of a topic.
type topic struct {
	name        string
	id          [16]byte
	parts       []*part
	deleteAsked bool
	deleted     bool // and that was answered
	policies    []span
}

// span is a policy that was, or may have been, in force for a while.
type span struct {
	policy      string
	from, until int64 // virtual, ns
	answered    bool
	life        int // of the broker when it was asked for
}

// part is a partition.
type part struct {
	topic *topic
	index int
	known map[int64]*known // by base offset
	bases []int64          // of known, sorted when sorted is set
	end   int64            // what is below was acknowledged or read
	start int64            // the log starts here at least: DeleteRecords was answered
	asked int64            // the log may start here: DeleteRecords was asked for
	cuts  []cut            // where power losses have cut it

	// As they were when the broker was last looked at, or recovered.
	flushed, written, hw int64
	fenced               bool
}

// cut is the end of a log when a life began, after a power loss.
type cut struct {
	life int
	end  int64
}

// known is a batch at its place.
type known struct {
	base, last int64
	content    uint64
	sum        uint32 // of all its bytes; 0: they were not seen
	policy     log.Policy
	at         int64 // when it was told
	bytes      int
}

// batch is one as its producer made it.
type batch struct {
	producer   *producer
	lane       *lane
	number     int // of its producer
	bytes      []byte
	count      int
	content    uint64
	idempotent bool
	pid        int64
	sentAt     int64
	sentLife   int
	refused    bool // it must not be in the log
	acked      bool
}

func (b *batch) String() string { return fmt.Sprintf("%s's batch %d", b.producer.name, b.number) }

func newModel(r *run) *model {
	return &model{run: r, byID: map[[16]byte]*topic{}, batches: map[uint64]*batch{}, looked: map[*replica.Partition]*mark{}, groups: map[commitKey]*register{},
		ids: map[int64]bool{}}
}

// contentOf tells batches apart by what the broker does not change.
func contentOf(b record.Batch) uint64 {
	h := uint64(0xcbf29ce484222325)
	for _, c := range b.Records() {
		h = (h ^ uint64(c)) * 0x100000001b3
	}
	return h ^ uint64(b.Count())<<32 ^ uint64(b.ProducerID())<<40 ^ uint64(b.BaseSequence())
}

func sumOf(b record.Batch) uint32 { return crc32.ChecksumIEEE(b) | 1 }

// topic is the incarnation with that id.
func (m *model) topic(name string, id [16]byte, partitions int) *topic {
	t := m.byID[id]
	if t == nil {
		t = &topic{name: name, id: id, policies: []span{{policy: m.run.firstPolicy(name), until: never, answered: true}}}
		m.byID[id] = t
		m.topics = append(m.topics, t)
	}
	if t.name != name {
		m.run.fail("topic %x is %s and %s", id, t.name, name)
	}
	for len(t.parts) < partitions {
		t.parts = append(t.parts, &part{topic: t, index: len(t.parts), known: map[int64]*known{}})
	}
	return t
}

const never = 1<<63 - 1

// weakest is the weakest policy that may have been in force in a time.
func (m *model) weakest(t *topic, from, to int64) log.Policy {
	least := log.Journal
	for _, s := range t.policies {
		if s.from <= to && s.until >= from {
			p, err := log.ParsePolicy(m.run.resolve(s.policy))
			if err != nil {
				m.run.fail("%v", err)
			}
			least = min(least, p)
		}
	}
	return least
}

// resolve is a topic's policy: the broker's where it has none.
func (r *run) resolve(policy string) string {
	if policy == "" {
		return r.policy
	}
	return policy
}

func (p *part) String() string { return fmt.Sprintf("%s-%d", p.topic.name, p.index) }

// add takes a batch in that was told of in a life of the broker. The news may be so
// late that it has been lost since.
func (m *model) add(p *part, k *known, life int) {
	for _, c := range p.cuts {
		if c.life > life && k.last >= c.end {
			if k.policy.Synchronous() {
				m.run.fail("%v: %v at %d-%d was told of by life %d and lost to life %d, policy %v", p, m.batches[k.content], k.base, k.last, life, c.life, k.policy)
			}
			m.lost++
			return
		}
	}
	if old := p.known[k.base]; old != nil {
		if old.content != k.content || old.last != k.last {
			m.run.fail("%v: %v was told of at %d-%d by life %d, where %v lies, at %d-%d", p, m.batches[k.content], k.base, k.last, life, m.batches[old.content], old.base, old.last)
		}
		return
	}
	p.known[k.base] = k
	p.bases = append(p.bases, k.base)
	p.end = max(p.end, k.last+1)
}

// ack is the acknowledgement of a batch.
func (m *model) ack(p *part, b *batch, base int64, life int) {
	now := m.run.world.Now()
	if !b.acked {
		m.acked++
	}
	b.acked = true
	policy := m.weakest(p.topic, b.sentAt, now)
	last := base + int64(b.count) - 1
	if k := p.known[base]; k != nil && life == m.run.broker.lives {
		if k.content != b.content || k.last != last {
			m.run.fail("%v: %v is acknowledged at %d-%d, where another batch lies, at %d-%d", p, b, base, last, k.base, k.last)
		}
		k.policy = max(k.policy, policy)
		return
	}
	m.add(p, &known{base: base, last: last, content: b.content, policy: policy, at: now, bytes: len(b.bytes)}, life)
}

// saw is a batch that a consumer was given.
func (m *model) saw(p *part, raw record.Batch, life int) {
	m.read++
	content, sum := contentOf(raw), sumOf(raw)
	b := m.batches[content]
	switch {
	case b == nil:
		m.run.fail("%v: the batch at %d is nobody's", p, raw.BaseOffset())
	case b.refused:
		m.run.fail("%v: %v at %d was refused", p, b, raw.BaseOffset())
	case b.lane.name != p.topic.name || b.lane.index != p.index:
		m.run.fail("%v: %v at %d is of %s-%d", p, b, raw.BaseOffset(), b.lane.name, b.lane.index)
	}
	k := p.known[raw.BaseOffset()]
	if k == nil || life != m.run.broker.lives {
		now := m.run.world.Now()
		m.add(p, &known{base: raw.BaseOffset(), last: raw.LastOffset(), content: content, sum: sum,
			policy: m.weakest(p.topic, b.sentAt, now), at: now, bytes: len(raw)}, life)
		return
	}
	m.same(p, k, raw, content, sum)
	k.sum = sum
}

// same says that what lies at a place is what was told to lie there.
func (m *model) same(p *part, k *known, raw record.Batch, content uint64, sum uint32) {
	if k.content != content || k.last != raw.LastOffset() || k.sum != 0 && k.sum != sum {
		m.run.fail("%v: the batch at %d-%d is another one than before: %v, it was %v at %d-%d (bytes %08x, were %08x)",
			p, raw.BaseOffset(), raw.LastOffset(), m.batches[content], m.batches[k.content], k.base, k.last, sum, k.sum)
	}
}

// part is a partition that clients know of; nil: they do not.
func (m *model) part(q *replica.Partition) *part {
	if t := m.byID[q.ID]; t != nil && int(q.Index) < len(t.parts) {
		return t.parts[q.Index]
	}
	return nil
}

// mark is what was last seen of a partition in this life.
type mark struct {
	part                 *part
	lw, hw, leo, flushed int64
	policy               log.Policy
	gap                  int64 // was in the log when the policy changed
	fenced               bool
}

// look checks the ladder of offsets.
func (m *model) look(q *replica.Partition) {
	l := q.Log()
	r := m.run
	lw, lso, hw, leo, flushed := l.LogStart(), q.LastStable(), q.HighWatermark(), l.LogEnd(), l.Flushed()
	policy := l.Config().Policy
	k := m.looked[q]
	if k == nil {
		k = &mark{lw: lw, hw: hw, leo: leo, flushed: flushed, policy: policy}
		m.looked[q] = k
		if q.Topic == cluster.OffsetsTopic { // nobody is told of it
			m.topic(q.Topic, q.ID, int(q.Index)+1)
		}
		if p := m.part(q); p != nil && hw < p.hw {
			r.fail("%s-%d: high watermark %d in a new life, %d before", q.Topic, q.Index, hw, p.hw)
		}
	} else if k.part != nil && k.lw == lw && k.hw == hw && k.leo == leo && k.flushed == flushed && k.policy == policy && k.fenced == (l.Err() != nil) {
		return
	}
	where := func() string {
		return fmt.Sprintf("%s-%d (%v): logStart %d, lastStable %d, highWatermark %d, logEnd %d, flushed %d, stable %d, written %d; before: %d, -, %d, %d, %d",
			q.Topic, q.Index, policy, lw, lso, hw, leo, flushed, l.Stable(), l.Written(), k.lw, k.hw, k.leo, k.flushed)
	}
	if policy != k.policy {
		k.gap = k.leo
	}
	switch {
	case lw > lso || lso > hw || hw > leo || flushed > leo:
		r.fail("the ladder is broken: %s", where())
	case lw < k.lw || hw < k.hw || leo < k.leo || flushed < k.flushed:
		r.fail("an offset goes back: %s", where())
	case hw > k.hw && policy == k.policy && policy.Synchronous() && hw > flushed:
		r.fail("the high watermark moves beyond what is on disk: %s", where())
	case hw > k.hw && policy == k.policy && policy == log.Interval && hw-flushed > l.Config().FlushMessages:
		r.fail("the high watermark moves %d beyond what is on disk, flush.messages is %d: %s", hw-flushed, l.Config().FlushMessages, where())
	}
	if hw > k.hw && policy == k.policy && hw > flushed && flushed < k.gap {
		r.fail("the high watermark moves, and what was there before the policy changed, up to %d, is not on disk: %s", k.gap, where())
	}
	if err := l.Err(); err != nil && !k.fenced {
		if !r.broker.pardon {
			r.fail("%s-%d is fenced, and nothing was broken: %v", q.Topic, q.Index, err)
		}
		r.broker.fences++
		r.note("%s-%d: %v", q.Topic, q.Index, err)
		k.fenced = true
	}
	k.lw, k.hw, k.leo, k.flushed, k.policy = lw, hw, leo, flushed, policy
	if k.part == nil { // it may not have been answered yet, and is taken back if the disk is full
		k.part = m.part(q)
	}
	p := k.part
	if p == nil {
		return
	}
	p.flushed, p.written, p.hw, p.fenced = flushed, l.Written(), hw, k.fenced
}

// crashed ends a life, clean or not: what was looked at last is what the next one
// is held to.
func (m *model) crashed(b *broker) {
	if b.b != nil {
		for _, c := range b.b.Shared().Cores {
			for _, q := range c.Partitions() {
				m.look(q)
			}
		}
	}
	clear(m.looked)
	if b.power {
		for _, t := range m.topics {
			for _, p := range t.parts {
				p.hw = min(p.hw, p.flushed)
			}
		}
		m.powerLost()
	}
}

// recovered holds the disk, as recovery left it, against what was told.
func (m *model) recovered(b *broker, report *log.RecoveryReport) {
	r := m.run
	for i := range report.Logs {
		if l := &report.Logs[i]; l.Damage != nil {
			r.fail("%s-%d comes up damaged: %v", l.Topic, l.Partition, l.Damage)
		}
	}
	im := b.b.Shared().Image.Load()
	for _, t := range m.topics {
		is := im.ByID[cluster.ID(t.id)]
		switch {
		case is == nil && !t.deleteAsked:
			r.fail("topic %s (%x) is gone after a restart", t.name, t.id)
		case is == nil:
			t.deleted = true
			continue
		case t.deleted:
			r.fail("topic %s (%x) was deleted, and is back after a restart", t.name, t.id)
		case len(is.Partitions) < len(t.parts):
			r.fail("topic %s has %d partitions after a restart, it had %d", t.name, len(is.Partitions), len(t.parts))
		}
		if t.name != cluster.OffsetsTopic {
			m.checkPolicy(t, is.Config["flush.policy"])
		}
		for _, p := range t.parts {
			m.checkDisk(b, p)
		}
	}
}

// checkPolicy says that the policy after a restart is one that may be in force.
func (m *model) checkPolicy(t *topic, policy string) {
	for _, s := range t.policies {
		if s.until == never && s.policy == policy {
			return
		}
	}
	m.run.fail("topic %s has flush.policy %q after a restart; it may be %+v", t.name, policy, t.policies)
}

// onDisk is what recovery left of a partition.
type onDisk struct {
	batches map[int64]record.Batch
	bases   []int64
	end     int64
}

// checkDisk reads a partition's segments and holds them against the model.
func (m *model) checkDisk(b *broker, p *part) {
	r := m.run
	d := m.readDisk(b, p)
	switch {
	case d.end < p.start:
		r.fail("%v: ends at %d after a restart, and records up to %d had been deleted", p, d.end, p.start)
	case p.written > d.end && !b.power:
		r.fail("%v: ends at %d after a restart without a power loss, %d had been written", p, d.end, p.written)
	case p.flushed > d.end:
		r.fail("%v: ends at %d after a restart, %d had been flushed", p, d.end, p.flushed)
	}
	if p.topic.name != cluster.OffsetsTopic {
		m.checkSent(p, d)
		m.checkKnown(b, p, d)
	}
	if b.power {
		p.cuts = append(p.cuts, cut{b.lives, d.end})
	}
	p.end = min(p.end, d.end)
	p.flushed, p.written, p.hw, p.fenced = d.end, d.end, min(p.hw, d.end), false
}

// checkSent says that what is on disk was sent, and by idempotent producers once.
func (m *model) checkSent(p *part, d *onDisk) {
	r := m.run
	type identity struct {
		producer *producer
		id       int64
	}
	numbers := map[identity]int{}
	seen := map[uint64]int64{}
	for _, base := range d.bases {
		raw := d.batches[base]
		content := contentOf(raw)
		x := m.batches[content]
		switch {
		case x == nil:
			r.fail("%v: the batch at %d on disk is nobody's", p, base)
		case x.refused:
			r.fail("%v: %v was refused, and is on disk at %d", p, x, base)
		case x.lane.name != p.topic.name || x.lane.index != p.index:
			r.fail("%v: %v at %d on disk is of %s-%d", p, x, base, x.lane.name, x.lane.index)
		}
		if !x.idempotent {
			continue
		}
		if at, twice := seen[content]; twice {
			r.fail("%v: %v is on disk twice, at %d and %d", p, x, at, base)
		}
		seen[content] = base
		who := identity{x.producer, x.pid}
		if x.number < numbers[who] {
			r.fail("%v: %v at %d on disk is behind batch %d", p, x, base, numbers[who])
		}
		numbers[who] = x.number
	}
}

// checkKnown says that what was acknowledged or read is on disk, or may be lost.
func (m *model) checkKnown(b *broker, p *part, d *onDisk) {
	r := m.run
	sort.Slice(p.bases, func(i, j int) bool { return p.bases[i] < p.bases[j] })
	kept := p.bases[:0]
	count, bytes := int64(0), 0
	first := d.end
	if len(d.bases) > 0 {
		first = d.bases[0]
	}
	for _, base := range p.bases {
		k := p.known[base]
		raw := d.batches[base]
		switch {
		case k.last < p.start || k.last < first && first <= p.asked: // deleted
			delete(p.known, base)
			continue
		case raw != nil:
			sum := sumOf(raw)
			m.same(p, k, raw, contentOf(raw), sum)
			k.sum = sum
			kept = append(kept, base)
			continue
		}
		lost := fmt.Sprintf("%v: %v at %d-%d is lost; the disk has %d-%d, flushed was %d, written %d, policy %v", p, m.batches[k.content], k.base, k.last, first, d.end, p.flushed, p.written, k.policy)
		count += k.last - k.base + 1
		bytes += k.bytes
		age := (b.diedAt - k.at) / 1e6
		switch {
		case k.last < d.end:
			r.fail("%s: and something else lies there", lost)
		case !b.power:
			r.fail("%s: and the power was not", lost)
		case k.last < p.flushed:
			r.fail("%s: it had been flushed", lost)
		case k.policy.Synchronous():
			r.fail("%s", lost)
		case k.policy == log.Interval && count > r.flushCount:
			r.fail("%s: the %dth, flush.messages is %d", lost, count, r.flushCount)
		case k.policy == log.Interval && int64(bytes) > r.flushBytes:
			r.fail("%s: %d bytes by now, flush.bytes is %d", lost, bytes, r.flushBytes)
		case k.policy == log.Interval && !p.fenced && age > r.flushMs+flushSlack:
			r.fail("%s: it was %d ms old, flush.ms is %d", lost, age, r.flushMs)
		}
		m.lost++
		delete(p.known, base)
	}
	p.bases = kept
}

// flushSlack is what a sync that began in time may take, ms.
const flushSlack = 150

// readDisk reads the segments of a partition.
func (m *model) readDisk(b *broker, p *part) *onDisk {
	r := m.run
	d := &onDisk{batches: map[int64]record.Batch{}}
	dir := filepath.Join(dataDir, fmt.Sprintf("%s-%d", p.topic.name, p.index))
	entries, err := b.host.ReadDir(dir)
	if err != nil {
		return d // a crash came between the store and the disk: it is made in the boot
	}
	next := int64(-1)
	compacted := p.topic.name == cluster.OffsetsTopic // then it may have gaps, within segments
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name, ".log")
		if !ok {
			continue
		}
		base, err := strconv.ParseInt(name, 10, 64)
		if err != nil {
			r.fail("%s/%s: %v", dir, e.Name, err)
		}
		if next >= 0 && base != next {
			r.fail("%s/%s: the segment before ends at %d", dir, e.Name, next)
		}
		next = base
		rest, err := ring.ReadFile(b.host, filepath.Join(dir, e.Name))
		if err != nil {
			r.fail("%v", err)
		}
		for len(rest) > 0 {
			var raw record.Batch
			if raw, rest, err = record.Next(rest); err != nil {
				r.fail("%s/%s: at offset %d: %v", dir, e.Name, next, err)
			}
			if raw.BaseOffset() != next && !(compacted && raw.BaseOffset() > next) || !raw.CheckCRC() {
				r.fail("%s/%s: a batch at offset %d, want %d; CRC right: %v", dir, e.Name, raw.BaseOffset(), next, raw.CheckCRC())
			}
			d.batches[raw.BaseOffset()] = raw
			d.bases = append(d.bases, raw.BaseOffset())
			next = raw.LastOffset() + 1
		}
	}
	d.end = max(next, 0)
	return d
}
