package config

import (
	"slices"
	"strings"
	"testing"
)

func TestErrors(t *testing.T) {
	for _, x := range []struct {
		name, text string
		overrides  []string
		want       []string // words of the error
	}{
		{"unknown key", "log.dirs=/x\nfoo.bar=1", nil, []string{"f:2", "unknown key foo.bar"}},
		{"mistyped key", "log.retention.hour=1", nil, []string{"f:1", "log.retention.hour", "did you mean log.retention.hours?"}},
		{"mistyped key of our own", "\n\nflush.polcy=os", nil, []string{"f:3", "did you mean flush.policy?"}},
		{"nothing like it", "xyzzy=1", nil, []string{"f:1", "unknown key xyzzy"}},
		{"no separator", "log.dirs", nil, []string{"f:1", `"log.dirs"`, "not key=value"}},
		{"no key", "=1", nil, []string{"f:1", "not key=value"}},
		{"no number", "num.partitions=many", nil, []string{"f:1", "num.partitions", `"many"`, "whole number"}},
		{"too small", "num.partitions=0", nil, []string{"f:1", "num.partitions", "not between 1 and"}},
		{"too large", "shards=1000", nil, []string{"f:1", "shards", "not between"}},
		{"larger than any number", "log.retention.ms=99999999999999999999", nil, []string{"f:1", "log.retention.ms"}},
		{"neither true nor false", "delete.topic.enable=yes", nil, []string{"f:1", "delete.topic.enable", "neither true nor false"}},
		{"none of these", "flush.policy=always", nil, []string{"f:1", "flush.policy", `"always"`, "interval"}},
		{"one of a list", "log.cleanup.policy=delete,shred", nil, []string{"f:1", "log.cleanup.policy", `"shred"`}},
		{"no value: number", "num.partitions=", nil, []string{"f:1", "num.partitions has no value"}},
		{"no value: text", "flush.policy=", nil, []string{"f:1", "flush.policy has no value"}},
		{"no value: list", "log.dirs=", nil, []string{"f:1", "log.dirs has no value"}},
		{"after a continued line", "log.dirs=\\\n /x\nnum.partitions=x", nil, []string{"f:3", "num.partitions"}},
		{"in a continued line", "a=1\\\n2", nil, []string{"f:1", "unknown key a"}},
		{"listeners", "listeners=PLAINTEXT://a:1,PLAINTEXT://b:2", nil, []string{"f:1", "listeners", "one listener"}},
		{"protocol", "\nlisteners=SSL://:9092", nil, []string{"f:2", "listeners", "SSL", "PLAINTEXT"}},
		{"no port", "listeners=PLAINTEXT://localhost", nil, []string{"f:1", "listeners", "HOST:PORT"}},
		{"bad port", "listeners=PLAINTEXT://localhost:70000", nil, []string{"f:1", "listeners", "70000"}},
		{"only controllers", "controller.listener.names=C\nlisteners=C://:9093", nil, []string{"f:2", "listeners"}},
		{"advertised", "advertised.listeners=PLAINTEXT://0.0.0.0:9092", nil, []string{"f:1", "advertised.listeners", "0.0.0.0"}},
		{"two directories", "x\u200b=1", nil, []string{"f:1", "unknown key"}},
		{"log.dirs", "log.dirs=/a,/b", nil, []string{"f:1", "log.dirs", "one directory"}},
		{"memory", "tail.bytes=100000000\nmemory.bytes=67108864", nil, []string{"f:1", "tail.bytes", "half of memory.bytes", "f:2"}},
		{"security", "sasl.enabled.mechanisms=PLAIN", nil, []string{"f:1", "sasl.enabled.mechanisms", "neither authenticates"}},
		{"override without value", "", []string{"log.dirs"}, []string{"--override log.dirs", "not key=value"}},
		{"override without key", "", []string{"=1"}, []string{"--override =1", "not key=value"}},
		{"override", "num.partitions=1", []string{"num.partitions=x"}, []string{"--override num.partitions", `"x"`}},
		{"override of a listener", "", []string{"listeners=X"}, []string{"--override listeners"}},
	} {
		_, _, err := Parse("f", x.text, x.overrides)
		if err == nil {
			t.Errorf("%s: no error", x.name)
			continue
		}
		for _, w := range x.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q is not in %q", x.name, w, err)
			}
		}
	}
}

func TestValues(t *testing.T) {
	b, warnings, err := Parse("f", `
# a comment
! another one
broker.id = 7
  log.dir:/var/lib/x
delete.topic.enable=FALSE
num.partitions=\
  1\
  2
advertised.listeners=
log.retention.hours=1
log.retention.hours=2
`, []string{"num.recovery.threads.per.data.dir=2", " log.segment.bytes = 2097152 "})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(warnings, []string{"--override num.recovery.threads.per.data.dir: num.recovery.threads.per.data.dir is Kafka's and does nothing here"}) {
		t.Errorf("warnings: %q", warnings)
	}
	for key, want := range map[string]string{
		"node.id": "7", "log.dirs": "/var/lib/x", "delete.topic.enable": "false", "num.partitions": "12",
		"log.retention.hours": "2", "log.segment.bytes": "2097152", "flush.policy": "journal", "advertised.listeners": "",
	} {
		if got := b.String(key); got != want {
			t.Errorf("%s=%q, wanted %q", key, got, want)
		}
	}
	if _, set := b.Value("advertised.listeners"); set || b.Bool("delete.topic.enable") || b.Int("node.id") != 7 {
		t.Error("values")
	}
}

// The file that comes with Kafka 4 (config/server.properties) is one of ours.
func TestKafkasFile(t *testing.T) {
	b, warnings, err := Parse("server.properties", `
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=localhost:9093
listeners=PLAINTEXT://:9092,CONTROLLER://:9093
inter.broker.listener.name=PLAINTEXT
advertised.listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
socket.receive.buffer.bytes=102400
socket.request.max.bytes=104857600
log.dirs=/tmp/kraft-combined-logs
num.partitions=1
num.recovery.threads.per.data.dir=1
offsets.topic.replication.factor=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
#log.flush.interval.messages=10000
#log.flush.interval.ms=1000
log.retention.hours=168
#log.retention.bytes=1073741824
log.segment.bytes=1073741824
log.retention.check.interval.ms=300000
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	if addr, err := b.Listener(); err != nil || addr != ":9092" {
		t.Errorf("listener %q, %v", addr, err)
	}
	if host, port, err := b.Advertised(); err != nil || host != "localhost" || port != 9092 {
		t.Errorf("advertised %s:%d, %v", host, port, err)
	}
	for _, key := range []string{"process.roles", "num.io.threads", "CONTROLLER://:9093"} {
		if !slices.ContainsFunc(warnings, func(w string) bool { return strings.Contains(w, key) }) {
			t.Errorf("no warning about %s in %q", key, warnings)
		}
	}
}

// Where a topic's value comes from: its own, the broker's, the default.
func TestTopicValues(t *testing.T) {
	plain, _, err := Parse("f", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	set, _, err := Parse("f", "log.retention.minutes=5\nlog.roll.hours=2\nlog.segment.bytes=2097152\nlog.flush.interval.messages=9\nflush.policy=file", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		b      *Broker
		own    map[string]string
		key    string
		want   string
		source Source
	}{
		{plain, nil, "retention.ms", "604800000", FromDefault},
		{plain, nil, "segment.ms", "604800000", FromDefault},
		{plain, nil, "flush.messages", "9223372036854775807", FromDefault},
		{plain, nil, "flush.ms", "9223372036854775807", FromDefault},
		{plain, map[string]string{"flush.policy": "write"}, "flush.policy", "write", FromTopic},
		{set, nil, "retention.ms", "300000", FromStatic},
		{set, nil, "segment.ms", "7200000", FromStatic},
		{set, nil, "segment.bytes", "2097152", FromStatic},
		{set, map[string]string{"segment.bytes": "1048576"}, "segment.bytes", "1048576", FromTopic},
		{set, nil, "flush.messages", "9", FromStatic},
		{set, nil, "flush.policy", "file", FromStatic},
		{set, nil, "max.message.bytes", "1048588", FromDefault},
	} {
		if v, source := x.b.Topic(x.own, x.key); v != x.want || source != x.source {
			t.Errorf("%s: %q from %d, wanted %q from %d", x.key, v, source, x.want, x.source)
		}
	}
}

// What a key's default and bounds say of themselves.
func TestKeys(t *testing.T) {
	for _, keys := range [][]Key{BrokerKeys(), TopicKeys()} {
		for _, k := range keys {
			if k.Default != "" {
				if v, err := k.Check(k.Default); err != nil || v != k.Default {
					t.Errorf("%s: the default %q: %q, %v", k.Name, k.Default, v, err)
				}
			}
			if !strings.HasSuffix(k.Doc, ".") {
				t.Errorf("%s: says %q", k.Name, k.Doc)
			}
			if isIgnored(k.Name) {
				t.Errorf("%s is a key and ignored", k.Name)
			}
		}
	}
	set := map[string]string{"retention.ms": " 5 ", "preallocate": "True", "cleanup.policy": "compact, delete"}
	if err := CheckTopic(set); err != nil || set["retention.ms"] != "5" || set["preallocate"] != "true" {
		t.Errorf("%v: %v", set, err)
	}
	for name, value := range map[string]string{"retention.ms": "x", "none": "1", "min.cleanable.dirty.ratio": "NaN", "cleanup.policy": "", "flush.policy": ""} {
		if err := CheckTopic(map[string]string{name: value}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=%q: %v", name, value, err)
		}
	}
}
