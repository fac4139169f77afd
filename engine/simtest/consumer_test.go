package simtest

import (
	"errors"
	"math"
	"slices"
	"time"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var errAgain = errors.New("to be tried again")

// metadata finds the topics of the run, and tells the model of them.
func (c *client) metadata(done func([]*topic)) {
	q := kmsg.NewPtrMetadataRequest()
	q.Version = c.version(wire.KeyMetadata, 10)
	q.AllowAutoTopicCreation = false
	q.Topics = []kmsg.MetadataRequestTopic{}
	for _, name := range c.run.names {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = &name
		q.Topics = append(q.Topics, t)
	}
	c.conn.Call(q, func(a kmsg.Response, err error) {
		if err != nil {
			return
		}
		var found []*topic
		for _, t := range a.(*kmsg.MetadataResponse).Topics {
			if t.ErrorCode == 0 {
				found = append(found, c.run.model.topic(*t.Topic, t.TopicID, len(t.Partitions)))
			}
		}
		done(found)
	})
}

// consumer reads by offset, from the start or from the end.
type consumer struct {
	*client
	cursors []*cursor
	answer  wire.FetchResponse
	audit   func() // reads everything there is, and then calls this
	ids     bool   // reads fleeting topics too, by id
}

type cursor struct {
	part   *part
	offset int64 // -1: to be asked for
	told   int64 // the end of what had been told when the request was sent
	atEnd  bool
}

func (r *run) addConsumer(name string, slow bool) *consumer {
	c := &consumer{client: r.client(name), ids: slow || r.below(2) == 0}
	if slow {
		c.lag, c.recvMax = time.Duration(1+r.below(5))*time.Millisecond, 1<<10
	}
	r.consumers = append(r.consumers, c)
	if r.loading {
		c.After(r.between(0, 500*time.Millisecond), c.begin)
	}
	return c
}

func (c *consumer) begin() {
	if c.audit != nil {
		c.ids = true
	}
	c.redial(c.up, func(error) {})
}

func (c *consumer) up() {
	c.metadata(func(found []*topic) {
		c.cursors = slices.DeleteFunc(c.cursors, func(k *cursor) bool { return !slices.Contains(found, k.part.topic) })
		for _, t := range found {
			if fleeting(t.name) && !c.ids {
				continue
			}
			for _, p := range t.parts {
				if !slices.ContainsFunc(c.cursors, func(k *cursor) bool { return k.part == p }) {
					c.cursors = append(c.cursors, &cursor{part: p, offset: -1})
				}
			}
		}
		slices.SortStableFunc(c.cursors, func(a, b *cursor) int { return slices.Compare(a.part.topic.id[:], b.part.topic.id[:]) })
		c.list()
	})
}

// list asks where to begin.
func (c *consumer) list() {
	q := kmsg.NewPtrListOffsetsRequest()
	q.Version = c.version(wire.KeyListOffsets, 1)
	q.ReplicaID = -1
	type asked struct {
		*cursor
		end, start int64
	}
	var all []asked
	for _, k := range c.cursors {
		if k.offset >= 0 {
			continue
		}
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic = k.part.topic.name
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp, p.CurrentLeaderEpoch = int32(k.part.index), -2, -1
		if c.audit == nil && c.below(3) == 0 {
			p.Timestamp = -1
		}
		t.Partitions = append(t.Partitions, p)
		q.Topics = append(q.Topics, t)
		all = append(all, asked{k, k.part.end, k.part.start})
	}
	if len(all) == 0 {
		c.fetch()
		return
	}
	c.conn.Call(q, func(a kmsg.Response, err error) {
		if err != nil {
			return
		}
		r := a.(*kmsg.ListOffsetsResponse)
		if len(r.Topics) != len(all) {
			c.run.fail("%s: ListOffsets: %d topics of %d", c.name, len(r.Topics), len(all))
		}
		for i, k := range all {
			t := k.part.topic
			p := r.Topics[i].Partitions[0]
			latest := q.Topics[i].Partitions[0].Timestamp == -1
			switch {
			case p.ErrorCode == wire.UnknownTopicOrPartition && t.deleteAsked:
				c.cursors = slices.DeleteFunc(c.cursors, func(o *cursor) bool { return o == k.cursor })
			case p.ErrorCode != 0:
				c.run.fail("%s: ListOffsets of %v: %s", c.name, k.part, wire.CodeName(p.ErrorCode))
			case fleeting(t.name): // by name: it may be the one after
				k.offset = 0
				continue
			case latest && p.Offset < k.end:
				c.run.fail("%s: %v ends at %d, and %d had been told before", c.name, k.part, p.Offset, k.end)
			case p.Offset < k.start || !latest && p.Offset > k.part.asked:
				c.run.fail("%s: %v is said to start at %d; deletion to %d was answered, to %d asked for", c.name, k.part, p.Offset, k.start, k.part.asked)
			default:
				k.offset = p.Offset
			}
		}
		c.fetch()
	})
}

// fetch reads on.
func (c *consumer) fetch() {
	if c.stopped {
		return
	}
	if c.audit != nil && !slices.ContainsFunc(c.cursors, func(k *cursor) bool { return !k.atEnd }) {
		done := c.audit
		c.audit = nil
		c.stop()
		done()
		return
	}
	q := wire.FetchRequest{Version: c.version(wire.KeyFetch, 10), ReplicaID: -1, ReplicaEpoch: -1, MaxWaitMillis: int32(c.below(300)),
		MinBytes: int32(c.below(3) * c.below(20000)), MaxBytes: int32(1000 + c.below(200000)), SessionEpoch: wire.FetchSessionFinalEpoch,
		ReadCommitted: c.below(2) == 0}
	if c.ids {
		q.Version = c.version(wire.KeyFetch, 13)
	}
	asked := slices.Clone(c.cursors)
	if c.audit != nil { // one must not keep the others from being read
		at := c.below(max(1, len(asked)))
		asked = slices.DeleteFunc(asked, func(k *cursor) bool { return k.atEnd && k != asked[at] })
		q.MinBytes = 0
	}
	for i, k := range asked {
		if i == 0 || asked[i-1].part.topic != k.part.topic {
			q.Topics = append(q.Topics, wire.FetchTopic{Name: []byte(k.part.topic.name), ID: k.part.topic.id, First: i})
		}
		q.Topics[len(q.Topics)-1].Count++
		q.Partitions = append(q.Partitions, wire.FetchPartition{Partition: int32(k.part.index), CurrentLeaderEpoch: -1, Offset: k.offset,
			LastFetchedEpoch: -1, LogStart: -1, MaxBytes: int32(500 + c.below(100000)), HighWatermark: math.MaxInt64, Flushed: -1})
		k.told = k.part.end
	}
	c.conn.Raw(wire.KeyFetch, q.Version, q.AppendTo(nil), func(body []byte, err error) {
		if err != nil {
			return
		}
		if err := c.answer.Parse(q.Version, body); err != nil {
			c.run.fail("%s: Fetch version %d: %v", c.name, q.Version, err)
		}
		if c.answer.ErrorCode != 0 || len(c.answer.Partitions) != len(asked) {
			c.run.fail("%s: Fetch version %d: %s, %d partitions of %d", c.name, q.Version, wire.CodeName(c.answer.ErrorCode), len(c.answer.Partitions), len(asked))
		}
		relist := false
		for i, k := range asked {
			relist = c.took(k, &c.answer.Partitions[i]) || relist
		}
		next := c.fetch
		switch {
		case relist:
			next = c.list
		case c.audit == nil && c.below(20) == 0:
			next = c.up
		}
		if c.audit != nil {
			next()
			return
		}
		if c.below(50) == 0 { // somebody who begins again
			for _, k := range c.cursors {
				k.offset = -1
			}
			next = c.list
		}
		c.later(c.think(), next)
	})
}

// took checks what was read of one partition. It says yes when the consumer has to
// ask where to go on.
func (c *consumer) took(k *cursor, a *wire.FetchedPartition) bool {
	r, p := c.run, k.part
	switch {
	case int(a.Partition) != p.index:
		r.fail("%s: Fetch: partition %d in the place of %v", c.name, a.Partition, p)
	case a.ErrorCode == wire.OffsetOutOfRange:
		if k.offset >= p.start && k.offset >= p.asked && k.offset <= k.told {
			r.fail("%s: %v: offset %d is out of range; it was told of %d-%d, and the broker has %s", c.name, p, k.offset, p.start, k.told, r.broker.describe(p))
		}
		k.offset = -1
		return true
	case a.ErrorCode == wire.UnknownTopicOrPartition || a.ErrorCode == wire.UnknownTopicID:
		if !p.topic.deleteAsked {
			r.fail("%s: %v: %s, and nobody deleted it", c.name, p, wire.CodeName(a.ErrorCode))
		}
		c.cursors = slices.DeleteFunc(c.cursors, func(o *cursor) bool { return o == k })
		return false
	case a.ErrorCode != 0 && !wire.Retriable(a.ErrorCode):
		r.fail("%s: %v: %s", c.name, p, wire.CodeName(a.ErrorCode))
	case a.ErrorCode != 0:
		r.note("%s: %v: %s", c.name, p, wire.CodeName(a.ErrorCode))
		return false
	case a.HighWatermark < k.told:
		r.fail("%s: %v: high watermark %d, and %d had been told before", c.name, p, a.HighWatermark, k.told)
	case a.LastStable > a.HighWatermark || a.LogStart > a.LastStable:
		r.fail("%s: %v: logStart %d, lastStable %d, highWatermark %d", c.name, p, a.LogStart, a.LastStable, a.HighWatermark)
	}
	rest := a.Records
	for first := true; len(rest) > 0; first = false {
		b, next, err := record.Next(rest)
		if err != nil {
			r.fail("%s: %v: at offset %d: %v", c.name, p, k.offset, err)
		}
		rest = next
		switch base, last := b.BaseOffset(), b.LastOffset(); {
		case !b.CheckCRC():
			r.fail("%s: %v: the CRC of the batch at %d is wrong", c.name, p, base)
		case base > k.offset || last < k.offset || !first && base != k.offset:
			r.fail("%s: %v: a batch of %d-%d, want offset %d", c.name, p, base, last, k.offset)
		case last >= a.HighWatermark:
			r.fail("%s: %v: a batch of %d-%d, the high watermark is %d", c.name, p, base, last, a.HighWatermark)
		}
		r.model.saw(p, b, c.life)
		k.offset = b.LastOffset() + 1
	}
	k.atEnd = k.offset == a.HighWatermark
	return false
}
