package api

import (
	"errors"
	"fmt"
	"io"

	"github.com/millrace/millrace/engine/cluster"
	"github.com/millrace/millrace/engine/group"
	"github.com/millrace/millrace/engine/log"
	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/engine/replica"
	"github.com/millrace/millrace/engine/shard"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// SetupGroups makes the core's group coordinator. Before the core's first step.
func (c *Core) SetupGroups() {
	cfg := c.Config.Load()
	c.Groups = group.New(group.Config{
		InitialDelay: cfg.Int("group.initial.rebalance.delay.ms"),
		MinSession:   cfg.Int("group.min.session.timeout.ms"), MaxSession: cfg.Int("group.max.session.timeout.ms"),
		MaxSize:          int(cfg.Int("group.max.size")),
		OffsetsRetention: cfg.Int("offsets.retention.minutes") * 60e3,
		CheckInterval:    cfg.Int("offsets.retention.check.interval.ms"),
		MetadataMax:      int(cfg.Int("offset.metadata.max.bytes")),
	}, groupEnv{c})
}

// groupEnv is the coordinator's world: this core.
type groupEnv struct{ c *Core }

// groupAppend is a coordinator's batch on its way.
type groupAppend struct {
	replica.Produce
	done func(code int16)
}

// Produced tells the coordinator.
func (a *groupAppend) Produced(*replica.Produce) { a.done(a.Code) }

// Append is group.Env's. The partition is on this core: that is what makes it the
// coordinator's.
func (e groupEnv) Append(partition int32, batch []byte, done func(code int16)) {
	route, _ := e.c.route(cluster.OffsetsTopic, partition)
	if route == nil || route.Core != e.c.Loop.ID {
		done(wire.UnknownTopicOrPartition) // deleted
		return
	}
	a := &groupAppend{done: done}
	a.Records, a.Acks, a.Origin, a.Done = batch, -1, log.Coordinator, a
	e.c.Append(route.Partition, &a.Produce)
}

func (e groupEnv) Now() int64        { return e.c.Loop.IO.Now() }
func (e groupEnv) WallMillis() int64 { return e.c.Loop.IO.WallMillis() }
func (e groupEnv) Random() uint64    { return e.c.Loop.IO.Random() }

func (e groupEnv) SetTimer(t *shard.Timer, when int64, f interface{ Fire(now int64) }) {
	e.c.Loop.SetTimer(t, when, f)
}
func (e groupEnv) StopTimer(t *shard.Timer) { e.c.Loop.StopTimer(t) }

func (e groupEnv) Partitions(topic string) int {
	if t := e.c.Image.Load().Topics[topic]; t != nil {
		return len(t.Partitions)
	}
	return 0
}

func (e groupEnv) Topic(id [16]byte) (string, bool) {
	t := e.c.Image.Load().ByID[id]
	if t == nil {
		return "", false
	}
	return t.Name, true
}

func (e groupEnv) TopicID(name string) [16]byte {
	if t := e.c.Image.Load().Topics[name]; t != nil {
		return t.ID
	}
	return [16]byte{}
}

// groupCore is the core that coordinates a group; this one, which will say that it
// does not, while there is no __consumer_offsets.
func (c *Core) groupCore(id string) int {
	t := c.Routes.Load().ByName[cluster.OffsetsTopic]
	if t == nil {
		return c.Loop.ID
	}
	return t.Partitions[group.PartitionOf(id, int32(len(t.Partitions)))].Core
}

// atGroup runs f on the core that coordinates a group, with what brings its answer
// back and sends it.
func (c *call) atGroup(id string, f func(g *group.Coordinator, reply func(kmsg.Response))) {
	c.On(c.groupCore(id), func(at *Core) {
		f(at.Groups, func(r kmsg.Response) { c.back(at, func() { c.reply(r) }) })
	})
}

// LoadGroups replays a partition of __consumer_offsets that lives on this core, from
// its start to its end (this broker leads alone: what is in the log stays there), and
// then begins to coordinate its groups.
func (c *Core) LoadGroups(partition, count int32, done func(error)) {
	c.Groups.SetPartitions(count)
	route, _ := c.route(cluster.OffsetsTopic, partition)
	c.Groups.BeginLoad(partition)
	l := &groupLoad{core: c, partition: partition, log: route.Partition.Log(), done: done, codec: record.NewDecompressor(record.DecompressedMaxDefault)}
	l.until = l.log.LogEnd()
	l.at = l.log.LogStart()
	l.next()
}

type groupLoad struct {
	core      *Core
	partition int32
	log       *log.Log
	at, until int64
	read      log.Read
	codec     *record.Decompressor
	done      func(error)
}

func (l *groupLoad) next() {
	for l.at < l.until {
		l.read.Offset, l.read.Limit, l.read.MaxBytes, l.read.MinOne, l.read.Done = l.at, l.until, 1<<20, true, l
		if !l.log.Read(&l.read) {
			return
		}
		if !l.take() {
			return
		}
	}
	if err := l.log.Err(); err != nil { // damaged: what it cannot show may be what groups have committed
		l.done(fmt.Errorf("__consumer_offsets-%d: %w", l.partition, err))
		return
	}
	l.core.Groups.EndLoad(l.partition)
	l.done(nil)
}

// ReadDone is log.Read's.
func (l *groupLoad) ReadDone(*log.Read) {
	if l.take() {
		l.next()
	}
}

// take replays what was read; it says no when that takes a worker, or failed.
func (l *groupLoad) take() bool {
	r := &l.read
	if r.Err != nil {
		l.done(fmt.Errorf("__consumer_offsets-%d at offset %d: %w", l.partition, l.at, r.Err))
		return false
	}
	if r.Len == 0 {
		l.log.Release(r)
		l.at = l.until
		return true
	}
	if r.N > 0 {
		var err error
		for _, m := range r.Mem[:r.N] {
			if err == nil {
				err = l.replay(m)
			}
		}
		return l.replayed(err)
	}
	b := make([]byte, r.Len)
	host, fd, pos := l.core.Loop.IO.Host(), r.File, r.Pos
	l.core.Task(func() error {
		_, err := host.ReadAt(fd, b, pos)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}, func(err error) {
		if err == nil {
			err = l.replay(b)
		}
		if l.replayed(err) {
			l.next()
		}
	})
	return false
}

func (l *groupLoad) replayed(err error) bool {
	next := l.read.Next
	l.log.Release(&l.read)
	if err != nil {
		l.done(fmt.Errorf("__consumer_offsets-%d at offset %d: %w", l.partition, l.at, err))
		return false
	}
	l.at = next
	return true
}

func (l *groupLoad) replay(b []byte) error {
	for len(b) > 0 {
		batch, rest, err := record.Next(b)
		if err != nil {
			return err
		}
		if err := l.core.Groups.Load(l.partition, batch, l.codec); err != nil {
			return err
		}
		b = rest
	}
	return nil
}
