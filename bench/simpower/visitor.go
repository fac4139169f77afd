package simpower

import (
	"errors"
	"fmt"
	"io"

	"github.com/millrace/millrace/bench"
	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/engine/simclient"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// topic is what everything is produced to.
const topic = "power"

// visitor is a client that asks one thing at a time: it makes the topic, switches its
// policy, and reads it back. What fails it asks again.
type visitor struct {
	*simclient.Machine
	history *history
	conn    *simclient.Conn
	up      bool
	task    func(done func(ok bool)) // nil: nothing to do
	busy    bool
}

func newVisitor(h *history) *visitor {
	v := &visitor{Machine: simclient.New(h.world, "visitor", clientIP(0)), history: h}
	v.After(0, v.dial)
	return v
}

func (v *visitor) dial() {
	v.conn = v.Dial(simclient.Config{
		Addr: v.history.broker.addr(), ClientID: v.Host.Name(),
		Up:     func() { v.up = true; v.kick() },
		Closed: func() { v.conn, v.up = nil, false },
		Down:   func(error) { v.After(redialMin, v.dial) },
		Fail:   v.history.fail,
	})
}

// ask has a task done, again and again until it says ok. idle tells when it is through.
func (v *visitor) ask(task func(done func(ok bool))) {
	v.task = task
	v.kick()
}

func (v *visitor) idle() bool { return v.task == nil && !v.busy }

func (v *visitor) kick() {
	if v.task == nil || v.busy || !v.up {
		return
	}
	v.busy = true
	v.task(func(ok bool) {
		v.busy = false
		if ok {
			v.task = nil
			return
		}
		v.After(retryBackoff, v.kick)
	})
}

// create makes the topic.
func (v *visitor) create(done func(ok bool)) {
	q := kmsg.NewPtrCreateTopicsRequest()
	q.Version, q.TimeoutMillis = 7, 1000
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = topic, int32(v.history.Partitions), 1
	q.Topics = append(q.Topics, t)
	v.conn.Call(q, func(a kmsg.Response, err error) {
		if err != nil {
			done(false)
			return
		}
		code := a.(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode
		done(code == 0 || code == wire.TopicAlreadyExists)
	})
}

// alter sets the topic's flush policy.
func (v *visitor) alter(policy string) func(done func(ok bool)) {
	return func(done func(ok bool)) {
		q := kmsg.NewPtrIncrementalAlterConfigsRequest()
		q.Version = 1
		c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		c.Name, c.Op, c.Value = "flush.policy", kmsg.IncrementalAlterConfigOpSet, &policy
		x := kmsg.NewIncrementalAlterConfigsRequestResource()
		x.ResourceType, x.ResourceName = kmsg.ConfigResourceTypeTopic, topic
		x.Configs = append(x.Configs, c)
		q.Resources = append(q.Resources, x)
		v.conn.Call(q, func(a kmsg.Response, err error) {
			done(err == nil && a.(*kmsg.IncrementalAlterConfigsResponse).Resources[0].ErrorCode == 0)
		})
	}
}

// reading is a reading back, partition by partition from offset 0.
type reading struct {
	*visitor
	compared  *bench.PowerComparison
	ends      map[int32]int64
	partition int
	offset    int64
	refused   int // how often in a row
	done      func(ok bool)
}

// refusedMax is how often a partition refuses to be read before it is left out: what is in it counts as lost.
const refusedMax = 20

// read hands every record there is to compared, and fills in the partitions' ends.
func (v *visitor) read(compared *bench.PowerComparison, ends map[int32]int64) func(done func(ok bool)) {
	r := &reading{visitor: v, compared: compared, ends: ends}
	return func(done func(ok bool)) { // goes on where it was
		r.done = done
		r.fetch()
	}
}

const fetchBytes = 1 << 20

func (r *reading) fetch() {
	if r.partition == r.history.Partitions {
		r.done(true)
		return
	}
	q := kmsg.NewPtrFetchRequest()
	q.Version, q.MaxWaitMillis, q.MaxBytes, q.SessionEpoch = 12, 100, fetchBytes, -1
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = int32(r.partition), r.offset, fetchBytes
	t := kmsg.NewFetchRequestTopic()
	t.Topic = topic
	t.Partitions = append(t.Partitions, p)
	q.Topics = append(q.Topics, t)
	r.conn.Call(q, func(a kmsg.Response, err error) {
		if err != nil {
			r.done(false)
			return
		}
		f := a.(*kmsg.FetchResponse)
		switch {
		case f.ErrorCode != 0 || len(f.Topics) != 1 || len(f.Topics[0].Partitions) != 1:
			r.done(false)
		case wire.Retriable(f.Topics[0].Partitions[0].ErrorCode):
			if r.refused++; r.refused == refusedMax {
				r.partition, r.offset, r.refused = r.partition+1, 0, 0
			}
			r.done(false)
		default:
			r.refused = 0
			r.take(&f.Topics[0].Partitions[0])
		}
	})
}

func (r *reading) take(p *kmsg.FetchResponseTopicPartition) {
	if p.ErrorCode != 0 {
		r.history.fail("partition %d cannot be read at %d: %s", p.Partition, r.offset, wire.CodeName(p.ErrorCode))
	}
	if err := r.batches(p.RecordBatches); err != nil {
		r.history.fail("partition %d, at %d: %v", p.Partition, r.offset, err)
	}
	if r.offset >= p.HighWatermark {
		r.ends[p.Partition] = p.HighWatermark
		r.partition, r.offset = r.partition+1, 0
	}
	r.fetch()
}

func (r *reading) batches(rest []byte) error {
	for len(rest) > 0 {
		b, after, err := record.Next(rest)
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		case !b.CheckCRC():
			return fmt.Errorf("the CRC of the batch at %d is wrong", b.BaseOffset())
		}
		rest = after
		var rd record.Reader
		for rd.Reset(b, nil); rd.Next(); {
			if rd.Offset >= r.offset {
				r.compared.Visit(int32(r.partition), rd.Value)
			}
		}
		if err := rd.Err(); err != nil {
			return err
		}
		r.offset = max(r.offset, b.LastOffset()+1)
	}
	return nil
}
