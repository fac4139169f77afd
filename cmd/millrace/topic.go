package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func topicCreate(c *cli, args []string) error {
	f := newFlags("topic create", "TOPIC...",
		"Creates topics. Partitions, replication factor and configs that are not given are the broker's defaults. "+
			"How soon an acknowledged record is on disk is the config flush.policy: os, interval, write, file or journal.",
		"millrace topic create orders --partitions 6 --config flush.policy=file --config retention.ms=86400000")
	bootstrap := f.bootstrapFlag()
	partitions := f.Int("partitions", -1, "`number` of partitions; -1: the broker's num.partitions")
	replicas := f.Int("replication-factor", -1, "`number` of replicas; -1: the broker's default.replication.factor")
	configs := f.list("config", "a topic config, `key=value`; may be repeated")
	exists := f.Bool("if-not-exists", false, "a topic that exists already is no error")
	if err := f.parse(c, args); err != nil {
		return err
	}
	if len(f.rest) == 0 {
		return usagef("no topic named")
	}
	set, err := pairs(*configs)
	if err != nil {
		return err
	}
	values := map[string]*string{}
	for _, kv := range set {
		values[kv[0]] = &kv[1]
	}
	adm, err := admin(c, *bootstrap)
	if err != nil {
		return err
	}
	defer adm.Close()
	made, err := adm.CreateTopics(c.ctx, int32(*partitions), int16(*replicas), values, f.rest...)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range f.rest {
		t := made[name]
		switch {
		case *exists && errors.Is(t.Err, kerr.TopicAlreadyExists):
			fmt.Fprintf(c.out, "topic %q exists\n", name)
		case t.Err != nil:
			errs = append(errs, about("topic", name, t.Err, t.ErrMessage))
		default:
			fmt.Fprintf(c.out, "created topic %q: %d partitions, %d replicas\n", name, t.NumPartitions, t.ReplicationFactor)
		}
	}
	return errors.Join(errs...)
}

// topicLine is a topic as topic list --json prints it.
type topicLine struct {
	Topic      string `json:"topic"`
	ID         string `json:"id"`
	Partitions int    `json:"partitions"`
	Replicas   int    `json:"replicas"`
	Internal   bool   `json:"internal"`
}

func topicList(c *cli, args []string) error {
	f := newFlags("topic list", "", "Lists the topics of the cluster with their partitions and replicas.",
		"millrace topic list --json")
	bootstrap := f.bootstrapFlag()
	internal := f.Bool("internal", false, "show internal topics (__consumer_offsets, ...) too")
	asJSON := f.Bool("json", false, "print JSON")
	if err := f.parse(c, args); err != nil {
		return err
	}
	adm, err := admin(c, *bootstrap)
	if err != nil {
		return err
	}
	defer adm.Close()
	topics, err := adm.ListTopicsWithInternal(c.ctx)
	if err != nil {
		return err
	}
	if !*internal {
		topics.FilterInternal()
	}
	lines := []topicLine{}
	for _, t := range topics.Sorted() {
		lines = append(lines, topicLine{t.Topic, topicID(t.ID), len(t.Partitions), t.Partitions.NumReplicas(), t.IsInternal})
	}
	if *asJSON {
		return printJSON(c.out, lines)
	}
	table := newTable(c.out, "TOPIC", "PARTITIONS", "REPLICAS", "ID")
	for _, l := range lines {
		table.row(l.Topic, l.Partitions, l.Replicas, l.ID)
	}
	return table.Flush()
}

// topicDetail is a topic as topic describe shows it.
type topicDetail struct {
	topicLine
	Configs map[string]string `json:"configs"`
	Detail  []partitionDetail `json:"partition"`
}

type partitionDetail struct {
	Partition int32   `json:"partition"`
	Leader    int32   `json:"leader"` // -1: none
	Epoch     int32   `json:"leader_epoch"`
	Replicas  []int32 `json:"replicas"`
	ISR       []int32 `json:"isr"`
	// -1: not to be had, there is no leader; the last two also where the broker does not tell.
	LogStart      int64 `json:"log_start"`
	HighWatermark int64 `json:"high_watermark"`
	LogEnd        int64 `json:"log_end"`
	Flushed       int64 `json:"flushed"` // records below it survive power loss
}

func topicDescribe(c *cli, args []string) error {
	f := newFlags("topic describe", "[TOPIC...]",
		"Shows topics, all of them if none is named: each partition's leader, replicas, in-sync replicas and offsets, and the "+
			"configs that were set on the topic, flush.policy always. Consumers see what is below HIGH-WATERMARK; what is below "+
			"FLUSHED survives power loss (LOG-END and FLUSHED are a dash where the broker does not tell them, as Apache Kafka).",
		"millrace topic describe orders\nmillrace topic describe orders --all-configs --json")
	bootstrap := f.bootstrapFlag()
	all := f.Bool("all-configs", false, "show configs that are defaults too")
	asJSON := f.Bool("json", false, "print JSON")
	if err := f.parse(c, args); err != nil {
		return err
	}
	cl, err := connect(c, *bootstrap)
	if err != nil {
		return err
	}
	defer cl.Close()
	details, failed, err := describeTopics(c, cl, f.rest, *all)
	if err != nil {
		return err
	}
	if *asJSON {
		return errors.Join(printJSON(c.out, details), failed)
	}
	for i, t := range details {
		if i > 0 {
			fmt.Fprintln(c.out)
		}
		fmt.Fprintf(c.out, "topic %s  id %s  partitions %d  replicas %d\n", t.Topic, t.ID, t.Partitions, t.Replicas)
		for _, key := range slices.Sorted(maps.Keys(t.Configs)) {
			fmt.Fprintf(c.out, "  %s=%s\n", key, t.Configs[key])
		}
		table := newTable(c.out, "PARTITION", "LEADER", "EPOCH", "REPLICAS", "ISR", "LOG-START", "HIGH-WATERMARK", "LOG-END", "FLUSHED")
		for _, p := range t.Detail {
			table.row(p.Partition, p.Leader, p.Epoch, commas(p.Replicas), commas(p.ISR), p.LogStart, p.HighWatermark, p.LogEnd, p.Flushed)
		}
		table.Flush()
	}
	return failed
}

// describeTopics asks for all that topic describe shows. failed joins the topics that could not be described.
func describeTopics(c *cli, cl *kgo.Client, names []string, allConfigs bool) (details []topicDetail, failed, err error) {
	adm := kadm.NewClient(cl)
	var topics kadm.TopicDetails
	if topics, err = adm.ListTopicsWithInternal(c.ctx, names...); err != nil {
		return nil, nil, err
	}
	var errs []error
	topics.EachError(func(t kadm.TopicDetail) { errs = append(errs, about("topic", t.Topic, t.Err, "")) })
	maps.DeleteFunc(topics, func(_ string, t kadm.TopicDetail) bool { return t.Err != nil })
	details = []topicDetail{}
	if len(topics) == 0 {
		return details, errors.Join(errs...), nil
	}
	// A partition without a leader has no offsets and fails its request: it is shown without them.
	earliest, _ := adm.ListStartOffsets(c.ctx, topics.Names()...)
	latest, _ := adm.ListEndOffsets(c.ctx, topics.Names()...)
	var spots []spot
	topics.EachPartition(func(p kadm.PartitionDetail) { spots = append(spots, spot{p.Topic, p.Partition}) })
	told, _ := toldOffsets(c.ctx, cl, spots) // what is not told is a dash
	configs, err := adm.DescribeTopicConfigs(c.ctx, topics.Names()...)
	if err != nil {
		return nil, nil, fmt.Errorf("configs: %w", err)
	}
	for _, t := range topics.Sorted() {
		d := topicDetail{
			topicLine: topicLine{t.Topic, topicID(t.ID), len(t.Partitions), t.Partitions.NumReplicas(), t.IsInternal},
			Configs:   map[string]string{},
			Detail:    []partitionDetail{},
		}
		own, err := configs.On(t.Topic, nil)
		if err == nil {
			err = own.Err
		}
		if err != nil {
			errs = append(errs, about("configs of topic", t.Topic, err, own.ErrMessage))
		}
		for _, k := range own.Configs {
			if allConfigs || k.Source == kmsg.ConfigSourceDynamicTopicConfig || k.Key == "flush.policy" {
				d.Configs[k.Key] = k.MaybeValue()
			}
		}
		for _, p := range t.Partitions.Sorted() {
			o, ok := told[spot{t.Topic, p.Partition}] // all of one moment
			if !ok {
				o = wire.LogDirOffsets{LogStart: listed(earliest, t.Topic, p.Partition), HighWatermark: listed(latest, t.Topic, p.Partition), LogEnd: -1, Flushed: -1}
			}
			d.Detail = append(d.Detail, partitionDetail{p.Partition, p.Leader, p.LeaderEpoch, p.Replicas, p.ISR,
				o.LogStart, o.HighWatermark, o.LogEnd, o.Flushed})
		}
		details = append(details, d)
	}
	return details, errors.Join(errs...), nil
}

// listed is a listed offset, or -1.
func listed(l kadm.ListedOffsets, topic string, partition int32) int64 {
	if o, ok := l.Lookup(topic, partition); ok && o.Err == nil {
		return o.Offset
	}
	return -1
}

func topicAlter(c *cli, args []string) error {
	f := newFlags("topic alter", "TOPIC...",
		"Changes topics: adds partitions (they can not become fewer, and keys move to other partitions), sets configs, "+
			"and takes configs back to the broker's default.",
		"millrace topic alter orders --partitions 12\nmillrace topic alter orders --config flush.policy=file --delete-config retention.ms")
	bootstrap := f.bootstrapFlag()
	partitions := f.Int("partitions", 0, "`number` of partitions to have; 0: as it is")
	configs := f.list("config", "a topic config to set, `key=value`; may be repeated")
	unset := f.list("delete-config", "`key` to take back to its default; may be repeated")
	if err := f.parse(c, args); err != nil {
		return err
	}
	set, err := pairs(*configs)
	if err != nil {
		return err
	}
	switch {
	case len(f.rest) == 0:
		return usagef("no topic named")
	case *partitions == 0 && len(set) == 0 && len(*unset) == 0:
		return usagef("nothing to change: give --partitions, --config or --delete-config")
	}
	var changes []kadm.AlterConfig
	for _, kv := range set {
		changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: kv[0], Value: &kv[1]})
	}
	for _, key := range *unset {
		changes = append(changes, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: key})
	}
	adm, err := admin(c, *bootstrap)
	if err != nil {
		return err
	}
	defer adm.Close()
	var errs []error
	failed := map[string]bool{}
	fail := func(topic string, err error, message string) {
		if err != nil {
			failed[topic] = true
			errs = append(errs, about("topic", topic, err, message))
		}
	}
	if len(changes) > 0 {
		altered, err := adm.AlterTopicConfigs(c.ctx, changes, f.rest...)
		if err != nil {
			return err
		}
		for _, a := range altered {
			fail(a.Name, a.Err, a.ErrMessage)
		}
	}
	if *partitions > 0 {
		grown, err := adm.UpdatePartitions(c.ctx, *partitions, f.rest...)
		if err != nil {
			return err
		}
		for _, g := range grown.Sorted() {
			fail(g.Topic, g.Err, g.ErrMessage)
		}
	}
	for _, topic := range f.rest {
		if !failed[topic] {
			fmt.Fprintf(c.out, "altered topic %q\n", topic)
		}
	}
	return errors.Join(errs...)
}

func topicDelete(c *cli, args []string) error {
	f := newFlags("topic delete", "TOPIC...", "Deletes topics with all their records, at once and for good.",
		"millrace topic delete orders orders-dlq")
	bootstrap := f.bootstrapFlag()
	exists := f.Bool("if-exists", false, "a topic that does not exist is no error")
	if err := f.parse(c, args); err != nil {
		return err
	}
	if len(f.rest) == 0 {
		return usagef("no topic named")
	}
	adm, err := admin(c, *bootstrap)
	if err != nil {
		return err
	}
	defer adm.Close()
	deleted, err := adm.DeleteTopics(c.ctx, f.rest...)
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range deleted.Sorted() {
		switch {
		case *exists && errors.Is(d.Err, kerr.UnknownTopicOrPartition):
		case d.Err != nil:
			errs = append(errs, about("topic", d.Topic, d.Err, d.ErrMessage))
		default:
			fmt.Fprintf(c.out, "deleted topic %q\n", d.Topic)
		}
	}
	return errors.Join(errs...)
}

// scope is a topic and some of its partitions, in the form T or T:0,2; no partitions: all.
type scope struct {
	topic      string
	partitions []int32
}

func parseScope(s string) (scope, error) {
	topic, list, cut := strings.Cut(s, ":")
	if topic == "" {
		return scope{}, usagef("%q is not TOPIC or TOPIC:0,1,2", s)
	}
	sc := scope{topic: topic}
	if !cut {
		return sc, nil
	}
	var err error
	if sc.partitions, err = parsePartitions(list); err != nil {
		return scope{}, usagef("%q is not TOPIC or TOPIC:0,1,2", s)
	}
	return sc, nil
}
