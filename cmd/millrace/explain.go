package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/millrace/millrace/bench"
	"github.com/millrace/millrace/engine/log"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// explanation is what explain durability finds out.
type explanation struct {
	Topic      string    `json:"topic"`
	Partitions int       `json:"partitions"`
	Replicas   int       `json:"replicas"`
	ISR        int       `json:"isr"` // of the partition that has the fewest in sync
	MinISR     int       `json:"min_insync_replicas"`
	Broker     string    `json:"broker"`       // millrace, or kafka where it has no flush.policy
	Policy     string    `json:"flush_policy"` // the one that holds; "" where the broker has none
	Own        bool      `json:"flush_policy_is_the_topics"`
	Sync       bool      `json:"flushed_before_acknowledged"`
	Bounds     *bounds   `json:"flush_bounds,omitempty"` // how far the disk may be behind; nil: no bound, or never
	Summary    string    `json:"summary"`
	Outcomes   []outcome `json:"faults"`
	Seen       seen      `json:"seen"`
	Prices     *prices   `json:"prices,omitempty"` // nil: not measured
	Disk       diskState `json:"disk"`
	Notes      []string  `json:"notes,omitempty"`

	copies string
}

// diskState is what is known of the disk under the topic's logs.
type diskState struct {
	LogDir     string          `json:"log_dir,omitempty"` // as the broker says
	Local      bool            `json:"on_this_machine"`
	FileSystem string          `json:"file_system,omitempty"`
	WriteCache string          `json:"write_cache,omitempty"`
	File       string          `json:"disk_json,omitempty"` // what the judgement is from
	Judgement  bench.Judgement `json:"judgement"`
	Verdicts   []string        `json:"verdicts,omitempty"` // as bench disk gave them
	Journal    string          `json:"journal_choice,omitempty"`
}

func explainDurability(c *cli, args []string) error {
	f := newFlags("explain durability", "TOPIC",
		"Says what a fault takes from a topic: a killed broker, a kernel panic, a power loss, a failing fsync. For each it says "+
			"\"survives\", or how much can be lost, from the topic's settings as the broker reports them. Beside it stand what the "+
			"partitions have acknowledged and not on disk now, by watching them for a while, and the price of each policy on this "+
			"broker's disk, measured on temporary topics (millrace-bench-..., removed at the end, also on Ctrl-C): a load at a fixed rate for the "+
			"latency, then about a second of as much as it takes for the throughput. That is work for the broker: --measure=false leaves it out. Where the broker's "+
			"log directory is on this machine and has a disk.json (millrace bench disk), it says how far the disk's word can be believed. "+
			"Topics of Apache Kafka are explained by its flush.messages, flush.ms and min.insync.replicas.",
		"millrace explain durability orders\nmillrace explain durability orders --measure=false --watch 10s\nmillrace explain durability orders --seconds 60 --json")
	bootstrap := f.bootstrapFlag()
	watch := f.Duration("watch", 3*time.Second, "how long to watch how far the partitions are on disk; 0: one look")
	measure := f.Bool("measure", true, "measure what each policy costs")
	seconds := f.Float64("seconds", 35, "length of that measurement, all policies together; with less there is no p99, which takes 10,000 samples")
	rate := f.Int64("rate", 2000, "`records/s` at which latency is measured")
	asJSON := f.Bool("json", false, "print JSON")
	if err := f.parse(c, args); err != nil {
		return err
	}
	switch {
	case len(f.rest) != 1:
		return usagef("name one topic")
	case *watch < 0 || *watch > time.Hour:
		return usagef("--watch %v is not within 0 to 1h", *watch)
	case !(*seconds >= secondsMin && *seconds <= 3600):
		return usagef("--seconds %v is not within %v to 3600", *seconds, secondsMin)
	case *rate < 1 || *rate > 1000_000:
		return usagef("--rate %d is not within 1 to 1000000", *rate)
	}
	cl, err := connect(c, *bootstrap)
	if err != nil {
		return err
	}
	defer cl.Close()
	l, err := lookUp(c.ctx, cl, f.rest[0])
	if err != nil {
		return err
	}
	x := l.explanation()
	c.warnf("watching %d partitions for %v", len(l.spots), *watch)
	if x.Seen, err = watchFlushed(c.ctx, cl, *bootstrap, l.spots, *watch); err != nil {
		return err
	}
	if *measure {
		m := measurement{bootstrap: *bootstrap, look: l, seconds: *seconds, rate: *rate, say: c.warnf}
		x.Prices, err = m.run(c.ctx)
	}
	if *asJSON {
		return errors.Join(printJSON(c.out, x), err)
	}
	printExplanation(c.out, x, columns(c.out))
	return err
}

// look is what the broker says of a topic.
type look struct {
	topic    string
	spots    []spot
	standing standing
	own      bool  // flush.policy is the topic's
	usable   int64 // bytes left on the file system of the logs; -1: not told
	flush    log.FlushSettings
	disk     diskState
	set      map[string]string // the topic's own settings
	notes    []string
}

// lookUp asks for all that decides: partitions, settings, log directories.
func lookUp(ctx context.Context, cl *kgo.Client, topic string) (*look, error) {
	adm := kadm.NewClient(cl)
	topics, err := adm.ListTopicsWithInternal(ctx, topic)
	if err != nil {
		return nil, err
	}
	t := topics[topic]
	if t.Err != nil {
		return nil, about("topic", topic, t.Err, "")
	}
	l := &look{topic: topic, usable: -1, set: map[string]string{}}
	for i, p := range t.Partitions.Sorted() {
		l.spots = append(l.spots, spot{topic, p.Partition})
		if i == 0 || len(p.Replicas) < l.standing.Replicas {
			l.standing.Replicas = len(p.Replicas)
		}
		if i == 0 || len(p.ISR) < l.standing.ISR {
			l.standing.ISR = len(p.ISR)
		}
		if p.Leader < 0 {
			l.note("partition %d has no leader, as its broker is down or a sync has failed: nothing can be written to it", p.Partition)
		}
	}
	if err := l.readSettings(ctx, cl, whoHas(t)); err != nil {
		return nil, err
	}
	return l, nil
}

// whoHas is a broker whose settings hold for the topic: one that leads, else one that has a replica.
func whoHas(t kadm.TopicDetail) int32 {
	broker := int32(-1)
	for _, p := range t.Partitions.Sorted() {
		if p.Leader >= 0 {
			return p.Leader
		}
		if broker < 0 && len(p.Replicas) > 0 {
			broker = p.Replicas[0]
		}
	}
	return broker
}

func (l *look) note(format string, args ...any) {
	l.notes = append(l.notes, fmt.Sprintf(format, args...))
}

// settings are configs by their names.
type settings map[string]kadm.Config

func (s settings) text(key string) string { c := s[key]; return c.MaybeValue() }

// number is a setting's, or otherwise where there is none.
func (s settings) number(key string, otherwise int64) int64 {
	n, err := strconv.ParseInt(s.text(key), 10, 64)
	if err != nil {
		return otherwise
	}
	return n
}

func asSettings(r kadm.ResourceConfigs, err error) (settings, error) {
	s := settings{}
	for _, one := range r {
		err = errors.Join(err, one.Err)
		for _, c := range one.Configs {
			s[c.Key] = c
		}
	}
	return s, err
}

// readSettings reads the topic's and the leading broker's settings, and what follows from them.
func (l *look) readSettings(ctx context.Context, cl *kgo.Client, leader int32) error {
	adm := kadm.NewClient(cl)
	topic, err := asSettings(adm.DescribeTopicConfigs(ctx, l.topic))
	if err != nil {
		return about("configs of topic", l.topic, err, "")
	}
	broker, err := asSettings(adm.DescribeBrokerConfigs(ctx, leader))
	if err != nil {
		return about("configs of broker", fmt.Sprint(leader), err, "")
	}
	for key, c := range topic {
		if c.Source == kmsg.ConfigSourceDynamicTopicConfig {
			l.set[key] = c.MaybeValue()
		}
	}
	s := &l.standing
	s.MinISR = int(topic.number("min.insync.replicas", 1))
	s.Unclean = topic.text("unclean.leader.election.enable") == "true"
	s.LagMs = broker.number("replica.lag.time.max.ms", 30_000)
	if _, ok := topic["flush.policy"]; ok {
		err = l.resolveMillrace(topic, broker)
	} else {
		l.resolveKafka(topic, broker)
	}
	if err != nil {
		return err
	}
	if s.Replicas > 1 && s.MinISR > s.Replicas {
		l.note("min.insync.replicas=%d is more than the %d replicas: acks=all is refused", s.MinISR, s.Replicas)
	}
	return l.readDisk(ctx, cl, broker.text("journal.dir"))
}

// resolveMillrace finds the policy that holds, as the broker itself resolves it.
func (l *look) resolveMillrace(topic, broker settings) error {
	policy, err := log.ParsePolicy(topic.text("flush.policy"))
	if err != nil {
		return fmt.Errorf("topic %q: %w", l.topic, err)
	}
	_, l.own = l.set["flush.policy"]
	l.flush = log.FlushSettings{
		Policy: policy, Own: l.own,
		Ms: topic.number("flush.ms", log.Never), Messages: topic.number("flush.messages", log.Never), Bytes: topic.number("flush.bytes", log.Never),
		BrokerMs: broker.number("flush.ms", log.Never), BrokerMessages: broker.number("flush.messages", log.Never),
	}
	var ms, messages, bytes int64
	l.standing.Policy, ms, messages, bytes = l.flush.Resolve()
	l.standing.Sync = l.standing.Policy.Synchronous()
	l.standing.Bounds = asBounds(ms, messages, bytes)
	if p := l.standing.Policy; p != log.Interval && !(p == log.Write && !l.own) && (l.flush.Ms != log.Never || l.flush.Messages != log.Never) {
		l.note("flush.ms and flush.messages are set and do nothing under flush.policy=%v", l.standing.Policy)
	}
	return nil
}

// interval are the bounds that flush.policy=interval has, or would have, on this topic.
func (l *look) interval() bounds {
	if l.standing.Policy == log.Interval {
		return l.standing.Bounds
	}
	set := l.flush
	set.Policy, set.Own = log.Interval, true
	_, ms, messages, bytes := set.Resolve()
	return asBounds(ms, messages, bytes)
}

// asBounds reads what the broker enforces: 0 ms is the least that there is.
func asBounds(ms, messages, bytes int64) bounds {
	return bounds{unlessNever(max(ms, 1)), unlessNever(messages), unlessNever(bytes)}
}

func unlessNever(n int64) int64 {
	if n == log.Never || n < 0 {
		return 0
	}
	return n
}

// resolveKafka reads what Apache Kafka has. flush.messages is kept by the append itself
// (UnifiedLog.append); flush.ms by a task that runs every log.flush.scheduler.interval.ms
// (LogManager), whose default is never.
func (l *look) resolveKafka(topic, broker settings) {
	s := &l.standing
	s.Kafka = true
	s.Bounds.Records = unlessNever(topic.number("flush.messages", log.Never))
	if s.Bounds.Records == 1 {
		s.Sync, s.Bounds = true, bounds{}
		return
	}
	ms, every := unlessNever(topic.number("flush.ms", log.Never)), unlessNever(broker.number("log.flush.scheduler.interval.ms", log.Never))
	switch {
	case ms == 0:
	case every == 0:
		l.note("flush.ms=%d is set and does nothing: the broker's log.flush.scheduler.interval.ms, by which it looks, is not", ms)
	default:
		s.Bounds.Ms = ms + every
	}
}

// readDisk looks at what the logs lie on, where that is on this machine.
func (l *look) readDisk(ctx context.Context, cl *kgo.Client, journalDir string) error {
	dirs, err := describeDirs(ctx, cl, l.spots)
	if err != nil {
		return fmt.Errorf("log directories: %w", err)
	}
	d := &l.disk
	d.Judgement = bench.Judgement{Trust: bench.TrustUnknown, Reason: "as far as the disk keeps its word, which is not measured here"}
	for _, at := range dirs {
		d.LogDir, l.usable = at.dir, at.usable
		if at.partition < 0 {
			continue
		}
		// The same path may be on this machine by chance: the partition's own directory is not.
		if st, err := os.Stat(filepath.Join(at.dir, fmt.Sprintf("%s-%d", l.topic, at.partition))); err == nil && st.IsDir() {
			d.Local = true
			break
		}
	}
	if !d.Local {
		d.Judgement.Reason = "as far as the broker's disk keeps its word, which cannot be seen from this machine"
	} else {
		l.judgeDisk(journalDir)
	}
	l.standing.Disk = d.Judgement
	return nil
}

// judgeDisk reads disk.json of the directory that acknowledgements wait for.
func (l *look) judgeDisk(journalDir string) {
	d := &l.disk
	dir := d.LogDir
	if l.standing.Policy == log.Journal && !l.standing.Kafka && journalDir != "" {
		dir = journalDir
	}
	now := bench.ReadMachine(dir).Disk
	d.FileSystem, d.WriteCache = now.FileSystem, now.WriteCache
	l.standing.Memory = now.FileSystem == "tmpfs" || now.FileSystem == "ramfs"
	if centiseconds, ok := (machine{root: "/"}).number("vm.dirty_expire_centisecs"); ok {
		l.standing.ExpireSeconds = centiseconds / 100
	}
	path := filepath.Join(dir, "disk.json")
	f, err := bench.ReadDiskFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.Judgement.Reason = "as far as the disk keeps its word, which is not measured: millrace bench disk --dir " + dir
		return
	case err != nil:
		d.Judgement.Reason = "as far as the disk keeps its word: " + err.Error()
		return
	}
	d.File = path
	if f.Machine.Disk.Device != now.Device {
		d.Judgement.Reason = fmt.Sprintf("as far as the disk keeps its word: %s was measured on %s, and the directory is on %s now", path, word(f.Machine.Disk.Device), word(now.Device))
		return
	}
	d.Judgement, d.Verdicts = f.Judge(), f.Verdicts
	if l.standing.Policy == log.Journal && !l.standing.Kafka {
		d.Journal = f.ChoiceLine()
	}
}

// word is s, or a word for nothing.
func word(s string) string {
	if s == "" {
		return "no device of its own"
	}
	return s
}

func (l *look) explanation() *explanation {
	s := &l.standing
	x := &explanation{
		Topic: l.topic, Partitions: len(l.spots), Replicas: s.Replicas, ISR: s.ISR, MinISR: s.MinISR,
		Broker: "millrace", Policy: s.Policy.String(), Own: l.own, Sync: s.Sync,
		Summary: s.summary(), Outcomes: derive(*s), Disk: l.disk, Notes: l.notes, copies: s.copies(),
	}
	if s.Kafka {
		x.Broker, x.Policy = "kafka", ""
	}
	if !s.Sync && s.Bounds != (bounds{}) {
		x.Bounds = &s.Bounds
	}
	return x
}
