package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// exitIdle is how long --exit waits for records that do not come before it says so and fails.
const exitIdle = 5 * time.Second

func consume(c *cli, args []string) error {
	f := newFlags("consume", "TOPIC...",
		"Prints the records of topics as they come: from the end, unless told where to start; as a member of a group with "+
			"--group, which goes on from its committed offsets and commits what has been printed. --format is as kcat's: %t topic, %p partition, "+
			"%o offset, %k key, %s payload, %K and %S their lengths, %T timestamp (ms), %h headers, and \\n \\t \\\\ \\xHH. "+
			"With --durable no record is printed before it is on the broker's disk; with --exit it ends where the disk does, "+
			"and says how many records it held back.",
		"millrace consume orders --from-beginning --exit --format '%p:%o %k=%s\\n'\nmillrace consume orders --from-time -10m --print-key\n"+
			"millrace consume orders --group billing --from-beginning\nmillrace consume orders --from-beginning --durable")
	bootstrap := f.bootstrapFlag()
	topicFlag := f.list("topic", "a `topic`, where it is not an argument; may be repeated")
	group := f.String("group", "", "consume as a member of this `group`")
	f.alias("g", "group")
	beginning := f.Bool("from-beginning", false, "start at the earliest record (with --group: where nothing is committed)")
	fromTime := f.String("from-time", "", "start at this `time`: RFC 3339, ms since 1970, or how long ago as in -10m")
	offset := f.String("offset", "", "start at this `offset`: a number, -n for n before the end, earliest, latest")
	f.alias("o", "offset")
	partition := f.String("partition", "", "only these `partitions`: 0,2")
	f.alias("p", "partition")
	most := f.Int64("max-messages", 0, "end after `n` records; 0: never")
	f.alias("n", "max-messages")
	format := f.String("format", "", "how to print a record; default %s\\n")
	f.alias("f", "format")
	key := f.Bool("print-key", false, "print key and tab before the payload")
	headers := f.Bool("headers", false, "print headers and tab before the payload")
	exit := f.Bool("exit", false, "end at what was the end of the log at the start")
	f.alias("e", "exit")
	idle := f.Duration("timeout", 0, "end when nothing has come for so long; 0: never")
	committed := f.Bool("read-committed", false, "leave out records of open and aborted transactions")
	durable := f.Bool("durable", false, "hand out no record that would not survive power loss: wait until the broker has flushed it")
	if err := f.parse(c, args); err != nil {
		return err
	}
	topics := append(slices.Clone(*topicFlag), f.rest...)
	from, err := parseStart(*beginning, *fromTime, *offset)
	if err != nil {
		return err
	}
	if len(topics) == 0 {
		return usagef("no topic named")
	}
	if *group != "" && (*partition != "" || *offset != "") {
		return usagef("--partition and --offset go without --group, whose members are told what to read")
	}
	var only []int32
	if *partition != "" {
		if only, err = parsePartitions(*partition); err != nil {
			return err
		}
	}
	if *format == "" {
		*format = `%s\n`
		if *key {
			*format = `%k\t` + *format
		}
		if *headers {
			*format = `%h\t` + *format
		}
	} else if *key || *headers {
		return usagef("--format says it all: no --print-key or --headers with it")
	}
	fields, err := parseFormat(*format)
	if err != nil {
		return err
	}

	k := &consumer{cli: c, meter: newMeter(false), format: fields, most: *most, exit: *exit, idle: *idle, group: *group,
		committed: *committed, from: from, ends: map[spot]int64{}}
	asker, err := connect(c, *bootstrap)
	if err != nil {
		return err
	}
	defer asker.Close()
	adm := kadm.NewClient(asker)
	if *durable {
		k.gate = newGate(*exit, func(ctx context.Context, spots []spot) (map[spot]wire.LogDirOffsets, error) {
			return toldOffsets(ctx, asker, spots)
		})
	}
	starts, err := k.locate(adm, topics, only)
	if err != nil {
		return err
	}
	// Control records are asked for because the last record of a log may be one, and --exit must see it pass.
	opts := []kgo.Opt{kgo.KeepControlRecords(), kgo.FetchMaxWait(time.Second)}
	if *committed {
		opts = append(opts, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	}
	if *group == "" {
		opts = append(opts, kgo.ConsumePartitions(starts))
	} else {
		opts = append(opts, kgo.ConsumerGroup(*group), kgo.ConsumeTopics(topics...), kgo.AutoCommitMarks(), kgo.ConsumeResetOffset(from.reset()),
			kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, parts map[string][]int32) { k.assigned(adm, parts) }),
			kgo.OnPartitionsRevoked(func(ctx context.Context, cl *kgo.Client, parts map[string][]int32) {
				if err := cl.CommitMarkedOffsets(ctx); err != nil {
					k.warnf("millrace: consume: commit: %s", plain(err))
				}
				k.revoked(parts)
			}),
			kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, parts map[string][]int32) { k.revoked(parts) }))
	}
	cl, err := connect(c, *bootstrap, opts...)
	if err != nil {
		return err
	}
	k.client = cl
	return k.run()
}

// start is where to begin in a partition.
type start struct {
	kind string // earliest, latest, offset, before-end, time
	n    int64  // the offset, how many before the end, ms since 1970
}

func parseStart(beginning bool, at, offset string) (start, error) {
	given := 0
	for _, b := range []bool{beginning, at != "", offset != ""} {
		if b {
			given++
		}
	}
	switch {
	case given > 1:
		return start{}, usagef("--from-beginning, --from-time and --offset exclude each other")
	case beginning, offset == "earliest", offset == "beginning":
		return start{kind: "earliest"}, nil
	case at != "":
		ms, err := parseTime(at, time.Now())
		return start{"time", ms}, err
	case offset == "", offset == "latest", offset == "end":
		return start{kind: "latest"}, nil
	}
	n, err := strconv.ParseInt(offset, 10, 64)
	switch {
	case err != nil:
		return start{}, usagef("--offset %q is not a number, earliest or latest", offset)
	case n < 0:
		return start{"before-end", -n}, nil
	}
	return start{"offset", n}, nil
}

// parseTime reads RFC 3339 (UTC where there is no zone), ms since 1970, or a time before now as in -10m.
func parseTime(s string, now time.Time) (ms int64, err error) {
	if d, err := time.ParseDuration(s); err == nil && strings.HasPrefix(s, "-") {
		return now.Add(d).UnixMilli(), nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 {
		return n, nil
	}
	t, err := parseDatetime(s)
	if err != nil {
		return 0, usagef("%q is not a time like 2026-01-31T09:30:00Z, ms since 1970, or -10m", s)
	}
	return t.UnixMilli(), nil
}

// at is the offset to start at. after is the first one at or after the time, -1 where there is none.
func (s start) at(earliest, end, after int64) int64 {
	switch s.kind {
	case "earliest":
		return earliest
	case "latest":
		return end
	case "offset":
		return s.n
	case "before-end":
		return max(earliest, end-s.n)
	case "time":
		if after < 0 {
			return end
		}
		return after
	}
	panic("BUG: start " + s.kind)
}

// reset is where a group starts that has not committed.
func (s start) reset() kgo.Offset {
	switch s.kind {
	case "earliest":
		return kgo.NewOffset().AtStart()
	case "time":
		return kgo.NewOffset().AfterMilli(s.n)
	}
	return kgo.NewOffset().AtEnd()
}

// consumer prints records. ends holds the partitions that have not reached their
// end yet; group callbacks change it from another goroutine, mu guards it.
type consumer struct {
	*cli
	client    *kgo.Client
	meter     *meter
	format    recordFormat
	from      start
	group     string
	committed bool // only committed records
	most      int64
	exit      bool
	idle      time.Duration
	gate      *gate     // --durable; nil: everything passes
	came      time.Time // when something was fetched or handed out last; kept for gate

	mu       sync.Mutex
	ends     map[spot]int64
	known    bool // we know our partitions, and ends has been filled
	endsFail error
}

// locate lists the topics' partitions, and says where to start in each. It is
// also the check that they exist, which a consumer would wait for for ever.
func (k *consumer) locate(adm *kadm.Client, topics []string, only []int32) (map[string]map[int32]kgo.Offset, error) {
	earliest, err := adm.ListStartOffsets(k.ctx, topics...)
	if err != nil {
		return nil, err
	}
	ends, err := k.listEnds(adm, topics)
	if err != nil {
		return nil, err
	}
	var after kadm.ListedOffsets
	if k.from.kind == "time" {
		if after, err = adm.ListOffsetsAfterMilli(k.ctx, k.from.n, topics...); err != nil {
			return nil, err
		}
	}
	if k.gate != nil {
		var spots []spot
		earliest.Each(func(o kadm.ListedOffset) {
			if o.Partition >= 0 && (only == nil || slices.Contains(only, o.Partition)) {
				spots = append(spots, spot{o.Topic, o.Partition})
			}
		})
		if err := k.gate.learn(k.ctx, spots); err != nil {
			return nil, err
		}
	}
	starts := map[string]map[int32]kgo.Offset{}
	for _, topic := range topics {
		if o, ok := earliest.Lookup(topic, -1); ok {
			return nil, about("topic", topic, o.Err, "")
		}
		parts := only
		if parts == nil {
			parts = slices.Sorted(maps.Keys(earliest[topic]))
		}
		starts[topic] = map[int32]kgo.Offset{}
		for _, p := range parts {
			first, ok := earliest.Lookup(topic, p)
			if !ok {
				return nil, fmt.Errorf("topic %q has no partition %d", topic, p)
			}
			end := ends[topic][p]
			if err := errors.Join(first.Err, end.Err); err != nil {
				return nil, about("topic", topic, fmt.Errorf("partition %d: %w", p, err), "")
			}
			at := k.from.at(first.Offset, end.Offset, after[topic][p].Offset)
			starts[topic][p] = kgo.NewOffset().At(at)
			if k.group == "" {
				k.readTo(spot{topic, p}, at, end.Offset)
			}
		}
	}
	k.known = k.group == ""
	return starts, nil
}

// readTo notes that a partition is read from at, and how far --exit has to read.
func (k *consumer) readTo(s spot, at, end int64) {
	if k.gate != nil {
		end = k.gate.limit(s, at, end)
	}
	if at < end {
		k.ends[s] = end
	}
}

// listEnds lists the offsets up to which records can be read.
func (k *consumer) listEnds(adm *kadm.Client, topics []string) (kadm.ListedOffsets, error) {
	if k.committed {
		return adm.ListCommittedOffsets(k.ctx, topics...)
	}
	return adm.ListEndOffsets(k.ctx, topics...)
}

// assigned notes how far --exit has to read in partitions that the group has given to us.
func (k *consumer) assigned(adm *kadm.Client, parts map[string][]int32) {
	topics := slices.Sorted(maps.Keys(parts))
	var earliest, ends, after kadm.ListedOffsets
	var done kadm.OffsetResponses
	var err error
	if k.exit && len(topics) > 0 {
		if earliest, err = adm.ListStartOffsets(k.ctx, topics...); err == nil {
			ends, err = k.listEnds(adm, topics)
		}
		if err == nil && k.from.kind == "time" {
			after, err = adm.ListOffsetsAfterMilli(k.ctx, k.from.n, topics...)
		}
		if err == nil {
			done, err = adm.FetchOffsets(k.ctx, k.group)
		}
		if err == nil && k.gate != nil {
			var spots []spot
			for topic, ps := range parts {
				for _, p := range ps {
					spots = append(spots, spot{topic, p})
				}
			}
			err = k.gate.learn(k.ctx, spots)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.known = true
	k.endsFail = err
	for topic, ps := range parts {
		for _, p := range ps {
			end := ends[topic][p].Offset
			at := k.from.at(earliest[topic][p].Offset, end, after[topic][p].Offset)
			if o, ok := done.Lookup(topic, p); ok && o.At >= 0 {
				at = o.At
			}
			k.readTo(spot{topic, p}, at, end)
		}
	}
}

func (k *consumer) revoked(parts map[string][]int32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for topic, ps := range parts {
		for _, p := range ps {
			delete(k.ends, spot{topic, p})
			if k.gate != nil {
				k.gate.forget(spot{topic, p})
			}
		}
	}
}

// finished says whether --exit has nothing more to wait for.
func (k *consumer) finished() (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.exit && k.known && len(k.ends) == 0, k.endsFail
}

func (k *consumer) run() error {
	stop := func() {}
	if terminal(k.err) && !terminal(k.out) { // or the records would run through the line
		stop = k.meter.watch(k.err)
	}
	err := k.loop()
	stop()
	if k.gate != nil {
		if left := k.gate.left(); left != "" { // before the group takes our partitions back
			defer k.warnf("%s", left)
		}
	}
	if k.group != "" {
		ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
		if e := k.client.CommitMarkedOffsets(ctx); e != nil {
			err = errors.Join(err, fmt.Errorf("commit: %w", e))
		}
		cancel()
	}
	k.client.Close() // leaves the group
	k.warnf("%s", k.meter.summary("consumed"))
	return err
}

func (k *consumer) loop() error {
	out := bufio.NewWriterSize(k.out, 1<<16)
	defer out.Flush()
	var line []byte
	k.came = time.Now()
	for {
		if done, err := k.finished(); done || err != nil {
			return err
		}
		fetches, idle := k.poll()
		if k.ctx.Err() != nil {
			return nil
		}
		if idle {
			if k.idle > 0 {
				return nil
			}
			return k.stalled()
		}
		for _, e := range fetches.Errors() {
			if _, lost := errors.AsType[*kgo.ErrDataLoss](e.Err); lost {
				k.warnf("millrace: consume: %v", e.Err)
				continue
			}
			return fmt.Errorf("%s-%d: %w", e.Topic, e.Partition, e.Err)
		}
		records := fetches.Records()
		if k.gate != nil {
			var err error
			if records, err = k.filter(records); err != nil {
				return err
			}
		}
		for _, r := range records {
			if !r.Attrs.IsControl() {
				line = k.format.append(line[:0], r)
				if _, err := out.Write(line); err != nil {
					return err
				}
				k.meter.add(1, int64(len(r.Key)+len(r.Value)), 0)
			}
			k.pass(r)
			if k.most > 0 && k.meter.records >= k.most {
				if err := out.Flush(); err != nil {
					return err
				}
				k.mark(records, r)
				return nil
			}
		}
		if err := out.Flush(); err != nil {
			return err
		}
		k.mark(records, nil)
	}
}

// filter leaves those of the records, and of those held before, that are on disk.
func (k *consumer) filter(records []*kgo.Record) ([]*kgo.Record, error) {
	fetched := len(records)
	records, err := k.gate.pass(k.ctx, records)
	if k.ctx.Err() != nil {
		err = nil // interrupted while it asked
	}
	if fetched > 0 || len(records) > 0 {
		k.came = time.Now()
	}
	pause, resume := k.gate.switches()
	k.client.PauseFetchPartitions(pause)
	k.client.ResumeFetchPartitions(resume)
	for _, r := range k.gate.first() { // where the last record below the end is not there: it was removed
		k.reach(r, r.Offset)
	}
	return records, err
}

// poll waits for records; idle says that none came for as long as we wait.
func (k *consumer) poll() (fetches kgo.Fetches, idle bool) {
	wait, counts := k.patience()
	if k.gate != nil {
		wait, counts = k.wake(wait, counts)
	}
	ctx, cancel := context.WithTimeout(k.ctx, wait)
	defer cancel()
	most := math.MaxInt32
	if k.most > 0 {
		most = int(min(k.most-k.meter.records, math.MaxInt32))
	}
	fetches = k.client.PollRecords(ctx, most)
	if ctx.Err() != nil && fetches.NumRecords() == 0 {
		return nil, counts
	}
	return fetches, false
}

// wake shortens a wait to when the broker is to be asked about what is held. Held
// records are no news: only what was fetched or handed out ends --timeout's wait.
func (k *consumer) wake(wait time.Duration, counts bool) (time.Duration, bool) {
	now := time.Now()
	next, holds := k.gate.next(now)
	if !holds {
		return wait, counts
	}
	if k.idle > 0 {
		if left := k.came.Add(k.idle).Sub(now); left <= next {
			return max(left, 0), true
		}
	}
	return min(next, wait), false
}

// patience is how long to wait for records, and whether a wait in vain counts:
// not while a group has yet to give us partitions, which may take long.
func (k *consumer) patience() (wait time.Duration, counts bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case !k.known:
		return 100 * time.Millisecond, false
	case k.idle > 0:
		return k.idle, true
	case k.exit:
		return exitIdle, true
	}
	return math.MaxInt64, false
}

// stalled is --exit's error: a partition is not at its end and nothing comes.
func (k *consumer) stalled() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for s, end := range k.ends {
		errs = append(errs, fmt.Errorf("%s-%d: nothing came for %v before offset %d, the end", s.topic, s.partition, exitIdle, end))
	}
	return errors.Join(errs...)
}

// pass notes that a record has gone by.
func (k *consumer) pass(r *kgo.Record) { k.reach(r, r.Offset+1) }

// reach notes that a record's partition has been read up to an offset.
func (k *consumer) reach(r *kgo.Record, to int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	at := spot{r.Topic, r.Partition}
	if end, ok := k.ends[at]; ok && to >= end {
		delete(k.ends, at)
	}
}

// mark lets the group commit records, up to last where that is not nil: only what is on standard output.
func (k *consumer) mark(records []*kgo.Record, last *kgo.Record) {
	if k.group == "" {
		return
	}
	for _, r := range records {
		k.client.MarkCommitRecords(r)
		if r == last {
			break
		}
	}
}
