package engine_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A franz-go client makes a topic, produces, consumes and looks at it, and finds all
// of it again after a restart.
func TestClient(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		r := start(t, backend, 2)
		ctx := r.context()
		admin := kadm.NewClient(r.kafka())
		_, err := admin.CreateTopic(ctx, 4, 1, map[string]*string{"segment.bytes": kadm.StringPtr("1048576")}, "t")
		r.must(err)
		const n = 2000
		c := r.kafka(kgo.ProducerBatchCompression(kgo.SnappyCompression()))
		for i := range n {
			c.Produce(ctx, &kgo.Record{Topic: "t", Partition: int32(i % 4), Value: fmt.Appendf(nil, "%d", i)}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Error(err)
				}
			})
		}
		r.must(c.Flush(ctx))
		for round := range 2 {
			consumer := r.kafka(kgo.ConsumeTopics("t"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
			next := [4]int{0, 1, 2, 3}
			for got := 0; got < n; {
				fetches := consumer.PollFetches(ctx)
				r.must(fetches.Err())
				fetches.EachRecord(func(rec *kgo.Record) {
					if string(rec.Value) != fmt.Sprint(next[rec.Partition]) {
						t.Fatalf("round %d, partition %d: %s, wanted %d", round, rec.Partition, rec.Value, next[rec.Partition])
					}
					next[rec.Partition] += 4
					got++
				})
			}
			consumer.Close()
			ends, err := kadm.NewClient(r.kafka()).ListEndOffsets(ctx, "t")
			r.must(err)
			ends.Each(func(o kadm.ListedOffset) {
				if o.Offset != n/4 || o.Err != nil {
					t.Fatalf("end offset: %+v", o)
				}
			})
			if round == 0 {
				r.restart()
			}
		}
	})
}

// metadataOf asks for topics, which may be made by that.
func (c *client) metadataOf(create bool, names ...string) []kmsg.MetadataResponseTopic {
	c.r.Helper()
	q := kmsg.NewPtrMetadataRequest()
	q.Version, q.AllowAutoTopicCreation = 12, create
	for _, name := range names {
		m := kmsg.NewMetadataRequestTopic()
		m.Topic = kmsg.StringPtr(name)
		q.Topics = append(q.Topics, m)
	}
	return c.do(q).(*kmsg.MetadataResponse).Topics
}

func TestAutoCreation(t *testing.T) {
	r := start(t, "posix", 2, "num.partitions=3")
	c := r.dial()
	for _, x := range []struct {
		create bool
		name   string
		code   int16
		parts  int
	}{
		{false, "a", wire.UnknownTopicOrPartition, 0},
		{true, "a", 0, 3},
		{false, "a", 0, 3},
		{true, "..", wire.InvalidTopicException, 0},
		{true, "a b", wire.InvalidTopicException, 0},
		{true, strings.Repeat("x", 250), wire.InvalidTopicException, 0},
		{true, "__consumer_offsets", 0, 4},
	} {
		a := c.metadataOf(x.create, x.name)[0]
		if a.ErrorCode != x.code || len(a.Partitions) != x.parts || *a.Topic != x.name || a.IsInternal != (x.name == "__consumer_offsets") {
			t.Errorf("%q, create %v: %+v", x.name, x.create, a)
		}
	}
	if all := c.metadataOf(true, "new", "new", "a"); len(all) != 3 || all[0].ErrorCode != 0 || all[1].TopicID != all[0].TopicID {
		t.Errorf("the same twice: %+v", all)
	}
	off := start(t, "posix", 1, "auto.create.topics.enable=false")
	if a := off.dial().metadataOf(true, "a")[0]; a.ErrorCode != wire.UnknownTopicOrPartition {
		t.Errorf("switched off: %+v", a)
	}
}

func TestRefusedTopics(t *testing.T) {
	r := start(t, "posix", 2)
	r.topic("there", 2)
	c := r.dial()
	c.metadataOf(true, "__consumer_offsets")
	for _, x := range []struct {
		name, topic    string
		partitions     int32
		replicas       int16
		config, value  string
		code           int16
		wordsOfMessage string
	}{
		{"exists", "there", 1, 1, "", "", wire.TopicAlreadyExists, "there"},
		{"name", "a/b", 1, 1, "", "", wire.InvalidTopicException, "a/b"},
		{"partitions", "new", 0, 1, "", "", wire.InvalidPartitions, "0"},
		{"replicas", "new", 1, 3, "", "", wire.InvalidReplicationFactor, "3"},
		{"config", "new", 1, 1, "retention.mss", "1", wire.InvalidConfig, "retention.mss"},
		{"value", "new", 1, 1, "retention.ms", "soon", wire.InvalidConfig, "retention.ms"},
		{"policy", "new", 1, 1, "flush.policy", "sometimes", wire.InvalidConfig, "sometimes"},
	} {
		q := kmsg.NewPtrCreateTopicsRequest()
		q.Version = 7
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = x.topic, x.partitions, x.replicas
		if x.config != "" {
			topic.Configs = []kmsg.CreateTopicsRequestTopicConfig{{Name: x.config, Value: &x.value}}
		}
		q.Topics = append(q.Topics, topic)
		for _, dry := range []bool{true, false} {
			q.ValidateOnly = dry
			a := c.do(q).(*kmsg.CreateTopicsResponse).Topics[0]
			if a.ErrorCode != x.code || !strings.Contains(deref(a.ErrorMessage), x.wordsOfMessage) {
				t.Errorf("%s: %d %s", x.name, a.ErrorCode, deref(a.ErrorMessage))
			}
		}
	}
	remove := kmsg.NewPtrDeleteTopicsRequest()
	remove.Version, remove.TopicNames = 5, []string{"none", "__consumer_offsets"}
	if a := c.do(remove).(*kmsg.DeleteTopicsResponse).Topics; a[0].ErrorCode != wire.UnknownTopicOrPartition || a[1].ErrorCode != wire.PolicyViolation {
		t.Errorf("delete: %+v", a)
	}
	more := kmsg.NewPtrCreatePartitionsRequest()
	more.Version = 3
	more.Topics = []kmsg.CreatePartitionsRequestTopic{{Topic: "none", Count: 3}, {Topic: "there", Count: 2}, {Topic: "__consumer_offsets", Count: 50}}
	if a := c.do(more).(*kmsg.CreatePartitionsResponse).Topics; a[0].ErrorCode != wire.UnknownTopicOrPartition || a[1].ErrorCode != wire.InvalidPartitions || a[2].ErrorCode != wire.PolicyViolation {
		t.Errorf("partitions: %+v", a)
	}
}

// Names that differ only in '.' and '_' cannot be both, however they are asked for.
func TestCollidingNames(t *testing.T) {
	r := start(t, "posix", 2)
	r.topic("a.b_c", 1)
	c := r.dial()
	q := kmsg.NewPtrCreateTopicsRequest()
	q.Version = 7
	for _, name := range []string{"a_b.c", "a_b_c", "a.b_d", "new.one", "new_one"} {
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, 1, 1
		q.Topics = append(q.Topics, topic)
	}
	for i, a := range c.do(q).(*kmsg.CreateTopicsResponse).Topics {
		want := []int16{wire.InvalidTopicException, wire.InvalidTopicException, 0, 0, wire.InvalidTopicException}[i]
		if a.ErrorCode != want || want != 0 && !strings.Contains(deref(a.ErrorMessage), []string{"a.b_c", "a.b_c", "", "", "new.one"}[i]) {
			t.Errorf("%s: %d %s", a.Topic, a.ErrorCode, deref(a.ErrorMessage))
		}
	}
	for _, a := range c.metadataOf(true, "a_b_c", "new_one") {
		if a.ErrorCode != wire.InvalidTopicException {
			t.Errorf("auto creation of %s: %+v", *a.Topic, a)
		}
	}
	if a := c.metadataOf(true, "a.b_c")[0]; a.ErrorCode != 0 {
		t.Errorf("the topic itself: %+v", a)
	}
}

// Logs that are still there when their topic is not (the broker was killed while it
// deleted the topic) are set aside with their records, and every start says so. A new
// topic of that name has nothing to do with them.
func TestStrays(t *testing.T) {
	r := start(t, "posix", 2)
	r.topic("t", 2)
	r.topic("stays", 1)
	for _, p := range r.dial().put("t", map[int32][]byte{0: batch(3, 10), 1: batch(3, 10)}) {
		if p.ErrorCode != 0 {
			t.Fatalf("%+v", p)
		}
	}
	r.close()
	aside, wrote := t.TempDir(), map[string]string{}
	for _, name := range []string{"t-0", "t-1"} {
		r.must(os.CopyFS(filepath.Join(aside, name), os.DirFS(filepath.Join(r.dir, name))))
		b, err := os.ReadFile(filepath.Join(aside, name, "00000000000000000000.log"))
		r.must(err)
		wrote[name] = string(b)
	}
	r.open()
	remove := kmsg.NewPtrDeleteTopicsRequest()
	remove.Version, remove.TopicNames = 5, []string{"t"}
	if a := r.dial().do(remove).(*kmsg.DeleteTopicsResponse).Topics; a[0].ErrorCode != 0 {
		t.Fatalf("%+v", a)
	}
	r.close()
	for name := range wrote { // as if the crash had come before the logs went
		r.must(os.RemoveAll(filepath.Join(r.dir, name)))
		r.must(os.CopyFS(filepath.Join(r.dir, name), os.DirFS(filepath.Join(aside, name))))
	}
	r.open()
	if !r.logged("2 partitions of t are of no topic", "-stray", "stay until somebody removes them") {
		t.Errorf("the log: %q", r.lines)
	}
	r.topic("t", 1)
	if end := r.Shared().Routes.Load().ByName["t"].Partitions[0].Published.LogEnd.Load(); end != 0 {
		t.Errorf("the new topic begins at %d", end)
	}
	r.restart()
	strays, err := filepath.Glob(filepath.Join(r.dir, "t-?.*-stray"))
	r.must(err)
	if len(strays) != 2 {
		t.Fatalf("strays: %q", strays)
	}
	for _, dir := range strays {
		b, err := os.ReadFile(filepath.Join(dir, "00000000000000000000.log"))
		r.must(err)
		if name, _, _ := strings.Cut(filepath.Base(dir), "."); string(b) != wrote[name] || len(b) == 0 {
			t.Errorf("%s: %d bytes, %d were written", dir, len(b), len(wrote[name]))
		}
	}
	if report, _ := r.Report(); !strings.Contains(report.String(), "2 directories were set aside by an earlier start and stay until somebody removes them: t-0.") {
		t.Errorf("the report: %v", report)
	}
}

// The values that clients set are cleaned before anybody computes with them.
func TestConfigsAreCleaned(t *testing.T) {
	r := start(t, "posix", 1)
	r.topic("t", 1, "retention.ms= 1000 ", "preallocate=TRUE")
	r.alter("t", "segment.bytes", "\t2097152\n")
	r.restart()
	q := kmsg.NewPtrDescribeConfigsRequest()
	q.Version = 4
	q.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "t", ConfigNames: []string{"retention.ms", "preallocate", "segment.bytes"}}}
	got := map[string]string{}
	for _, c := range r.dial().do(q).(*kmsg.DescribeConfigsResponse).Resources[0].Configs {
		got[c.Name] = *c.Value
	}
	if got["retention.ms"] != "1000" || got["preallocate"] != "true" || got["segment.bytes"] != "2097152" {
		t.Fatal(got)
	}
}

// A topic whose logs cannot all be made is not there, now or later, and leaves nothing.
func TestCreationThatFails(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		r := startFaulty(t, backend, 2, ``)
		r.topic("grows", 1)
		c := r.dial()
		r.must(r.faults.Add(`(Create (path "*.timeindex") (from 3) EIO)`))
		q := kmsg.NewPtrCreateTopicsRequest()
		q.Version = 7
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "t", 6, 1
		q.Topics = append(q.Topics, topic)
		if a := c.do(q).(*kmsg.CreateTopicsResponse).Topics[0]; a.ErrorCode == 0 {
			t.Fatalf("%+v", a)
		}
		more := kmsg.NewPtrCreatePartitionsRequest()
		more.Version = 3
		more.Topics = []kmsg.CreatePartitionsRequestTopic{{Topic: "grows", Count: 4}}
		if a := c.do(more).(*kmsg.CreatePartitionsResponse).Topics[0]; a.ErrorCode == 0 {
			t.Fatalf("%+v", a)
		}
		r.faults.Clear()
		for round := range 2 {
			if a := r.dial().metadataOf(false, "t", "grows"); a[0].ErrorCode != wire.UnknownTopicOrPartition || len(a[1].Partitions) != 1 {
				t.Fatalf("round %d: %+v", round, a)
			}
			entries, err := os.ReadDir(r.dir)
			r.must(err)
			for _, e := range entries {
				if strings.HasPrefix(e.Name(), "t-") && !strings.HasSuffix(e.Name(), "-delete") || e.Name() == "grows-1" {
					t.Fatalf("round %d: %s is there", round, e.Name())
				}
			}
			if round == 0 {
				r.restart()
			}
		}
		c = r.dial()
		r.topic("t", 6)
		if a := c.do(more).(*kmsg.CreatePartitionsResponse).Topics[0]; a.ErrorCode != 0 {
			t.Fatalf("once the disk works: %+v", a)
		}
		for _, p := range c.put("t", map[int32][]byte{0: batch(1, 1), 5: batch(1, 1)}) {
			if p.ErrorCode != 0 {
				t.Fatalf("produce: %+v", p)
			}
		}
	})
}
