// Package config is what can be set: the broker's and the topics' keys with their
// types, bounds, defaults and meaning, and the reader of server.properties.
//
// Keys are Kafka's where Kafka has one. A key that Kafka has and that does
// nothing here is accepted with a warning; one that nobody knows is an error. So is
// one of the few that switch on a protection which does not exist here (refusedKeys).
package config

import (
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"
)

// Type of a key's value, with Kafka's number for it in DescribeConfigs.
type Type int8

// The types.
const (
	Boolean Type = 1
	String  Type = 2
	Int     Type = 3
	Long    Type = 5
	Double  Type = 6
	List    Type = 7
)

// Key is something that can be set.
type Key struct {
	Name     string
	Type     Type
	Default  string
	Min, Max int64    // whole numbers; a Double is between 0 and 1 or, where Max is not 0, 0 or above
	Values   []string // where only these are good; of a List, each element
	Doc      string
	// Broker is, for a topic's key, the broker's key that gives its default.
	Broker string
	// Ignored keys are Kafka's and do nothing here.
	Ignored bool
}

const maxLong = math.MaxInt64

func num(name string, t Type, def, min, max int64, doc string) Key {
	return Key{Name: name, Type: t, Default: strconv.FormatInt(def, 10), Min: min, Max: max, Doc: doc}
}

func str(name, def, doc string, values ...string) Key {
	return Key{Name: name, Type: String, Default: def, Values: values, Doc: doc}
}

func boolean(name string, def bool, doc string) Key {
	return Key{Name: name, Type: Boolean, Default: strconv.FormatBool(def), Doc: doc}
}

// unset is the default of a key that another one stands in for.
const unset = ""

func optional(name string, t Type, min, max int64, doc string) Key {
	return Key{Name: name, Type: t, Default: unset, Min: min, Max: max, Doc: doc}
}

func list(name, def, doc string, values ...string) Key {
	return Key{Name: name, Type: List, Default: def, Values: values, Doc: doc}
}

// brokerKeys are the broker's, in the order in which they are listed to people.
var brokerKeys = []Key{
	num("node.id", Int, 1, 0, math.MaxInt32, "The id of this broker."),
	str("listeners", "PLAINTEXT://127.0.0.1:9092", "Where Kafka clients connect: PLAINTEXT://HOST:PORT. An empty host is every address."),
	str("advertised.listeners", unset, "The address that clients are told; by default the listener's."),
	str("admin.listener", "127.0.0.1:9644", "Where /live, /ready, /metrics, /status, /trace and, at /, a page for people are answered; empty: nowhere."),
	list("log.dirs", "./data", "The directory of the logs; one."),
	num("shards", Int, 0, 0, 256, "Cores that serve; 0: one for each CPU this process may use."),
	str("ring.backend", "auto", "The door to the kernel: io_uring, or epoll with worker threads; auto takes uring where the kernel allows it.", "auto", "uring", "posix"),
	str("flush.policy", "journal", "When an acknowledged record is on disk: os: when the kernel writes it back; interval: within flush.ms, flush.messages and flush.bytes; write: each batch synced by itself before its acknowledgement; file: before its acknowledgement, one sync for all that waited; journal: before its acknowledgement, in the core's journal, one synchronous write for all partitions.", "os", "interval", "write", "file", "journal"),
	num("flush.ms", Long, 100, 1, maxLong, "flush.policy=interval: an acknowledged record is on disk after this many ms at the latest."),
	num("flush.messages", Long, 10000, 1, maxLong, "flush.policy=interval: at most this many acknowledged records of a partition are not on disk."),
	num("flush.bytes", Long, 8<<20, 1, maxLong, "flush.policy=interval: at most this many acknowledged bytes of a partition are not on disk."),
	num("disk.reserve.bytes", Long, 64<<20, 0, 1<<50, "Producers are refused, with an error that they try again on, while less than this is left on the file system of log.dirs, bytes: checkpoints, metadata and offsets can still be written then. 0: until it is full."),
	num("journal.bytes", Long, 128<<20, 64<<10, 1<<40, "The size of each core's journal, bytes. It is reserved at the start. Half of it should hold 64 KiB for each partition of the core."),
	str("journal.dir", unset, "The directory of the journals; by default journal in log.dirs. On another device they do not share its flushes with the segments."),
	str("journal.sync", "auto", "How a write of the journal becomes durable. dsync: one write with RWF_DSYNC; fdatasync: a write and a linked fdatasync; auto: the cheaper one, as measured at the start.", "auto", "dsync", "fdatasync"),
	num("tail.bytes", Long, 128<<20, 1<<20, 1<<35, "Memory for recent batches on each core, from which consumers at the end of a log are served; at most half of memory.bytes."),
	num("memory.bytes", Long, 512<<20, 64<<20, 1<<36, "Address space for buffers on each core: requests, replies and the tail. Pages are used as they are needed, but for memory.populate."),
	boolean("memory.populate", true, "Have memory of the size of tail.bytes, on each core, made resident in the background, in huge pages where the kernel has them, once the broker is ready, so that requests do not wait until the kernel has found it. Not where that is more than half of what there is."),
	str("fetch.path", "auto", "How what is not in the memory tail goes to a consumer. copy: read into memory, and sent from there; sendfile: by the core's own sendfile where it is in the page cache, else as splice; splice: away from the core, by linked splices or a worker thread; auto: by size, as measured at the start. What is not in the page cache is not waited for by a core.", "auto", "copy", "sendfile", "splice"),
	num("fetch.readahead.bytes", Int, 1<<20, 0, 1<<30, "How far a segment is read ahead into the page cache for a consumer that reads it on and on, bytes; 0: as the kernel does by itself, at times on a core."),
	boolean("fetch.drop.behind", false, "Let the page cache drop what was read ahead for one consumer alone once it has passed it."),
	boolean("append.inline", true, "Write segments by a system call of the core instead of through the ring."),
	boolean("validate.compressed", true, "Look into compressed batches before they are accepted, as Kafka does."),
	num("num.partitions", Int, 1, 1, 100000, "Partitions of a topic that is made without saying how many."),
	num("default.replication.factor", Int, 1, 1, 1, "Replicas of a topic that is made without saying how many."),
	boolean("auto.create.topics.enable", true, "Make a topic when a client asks for one that does not exist."),
	boolean("delete.topic.enable", true, "Allow topics to be deleted."),
	num("message.max.bytes", Int, 1048588, 0, math.MaxInt32, "The largest batch, bytes."),
	num("log.segment.bytes", Int, 1<<30, 1<<20, math.MaxInt32, "A segment is closed before it grows larger, bytes."),
	optional("log.roll.ms", Long, 1, maxLong, "A segment is closed when it is older; by default log.roll.hours."),
	num("log.roll.hours", Int, 168, 1, math.MaxInt32, "A segment is closed when it is older."),
	num("log.retention.bytes", Long, -1, -1, maxLong, "Old segments go when a partition is larger; -1: never."),
	optional("log.retention.ms", Long, -1, maxLong, "Segments go when all their records are older; -1: never; by default log.retention.minutes."),
	optional("log.retention.minutes", Int, -1, math.MaxInt32, "By default log.retention.hours."),
	num("log.retention.hours", Int, 168, -1, math.MaxInt32, "Segments go when all their records are older; -1: never."),
	num("log.retention.check.interval.ms", Long, 300000, 1, maxLong, "How often retention is looked after."),
	num("log.index.size.max.bytes", Int, 10<<20, 12, math.MaxInt32, "The size of an index file of the active segment, bytes."),
	num("log.index.interval.bytes", Int, 4096, 0, math.MaxInt32, "An index entry for about this many bytes of a segment."),
	num("log.flush.interval.messages", Long, maxLong, 1, maxLong, "The default of a topic's flush.messages."),
	optional("log.flush.interval.ms", Long, 0, maxLong, "The default of a topic's flush.ms."),
	list("log.cleanup.policy", "delete", "What happens to old records.", "delete", "compact"),
	boolean("log.cleaner.enable", true, "Compact the topics whose cleanup.policy has compact."),
	num("log.cleaner.backoff.ms", Long, 15000, 0, maxLong, "How often a log is looked at for what can be compacted."),
	num("log.cleaner.dedupe.buffer.size", Long, 128<<20, 1<<20, 1<<40, "Memory for the keys of the logs that are being compacted, one on each core: shared by the cores, bytes."),
	Key{Name: "log.cleaner.io.max.bytes.per.second", Type: Double, Default: "1.7976931348623157E308", Max: maxLong, Doc: "What compaction reads and writes at most: shared by the cores, bytes each second."},
	num("log.cleaner.delete.retention.ms", Long, 86400000, 0, maxLong, "The default of a topic's delete.retention.ms."),
	num("log.cleaner.min.compaction.lag.ms", Long, 0, 0, maxLong, "The default of a topic's min.compaction.lag.ms."),
	num("log.cleaner.max.compaction.lag.ms", Long, maxLong, 1, maxLong, "The default of a topic's max.compaction.lag.ms."),
	Key{Name: "log.cleaner.min.cleanable.ratio", Type: Double, Default: "0.5", Doc: "The default of a topic's min.cleanable.dirty.ratio."},
	str("log.message.timestamp.type", "CreateTime", "Whose clock a record's time is.", "CreateTime", "LogAppendTime"),
	num("log.message.timestamp.before.max.ms", Long, maxLong, 0, maxLong, "A record may be older than now by this much."),
	num("log.message.timestamp.after.max.ms", Long, 3600000, 0, maxLong, "A record may be newer than now by this much."),
	num("log.segment.delete.delay.ms", Long, 60000, 0, maxLong, "A deleted segment's file stays for this long."),
	str("compression.type", "producer", "The codec of stored batches; always the producer's.", "producer"),
	num("min.insync.replicas", Int, 1, 1, math.MaxInt32, "acks=all needs this many in-sync replicas (at most the replicas there are)."),
	boolean("unclean.leader.election.enable", false, "Whether a replica outside the ISR may lead."),
	num("socket.request.max.bytes", Int, 100<<20, 1, math.MaxInt32, "The largest request, bytes."),
	num("connections.max.idle.ms", Long, 600000, 1, maxLong, "A connection that is silent for longer is closed."),
	num("max.connections", Int, math.MaxInt32, 0, math.MaxInt32, "Connections at the same time."),
	num("max.inflight.requests", Int, 256, 1, 65536, "Requests of one connection that are in the works at the same time."),
	num("fetch.max.bytes", Int, 57671680, 1024, 1<<30, "The most a fetch is answered with, bytes."),
	num("offsets.topic.num.partitions", Int, 50, 1, 10000, "Partitions of __consumer_offsets, when it is made."),
	num("offsets.topic.replication.factor", Int, 1, 1, 1, "Replicas of __consumer_offsets."),
	num("offsets.topic.segment.bytes", Int, 100<<20, 1<<20, math.MaxInt32, "The segments of __consumer_offsets, bytes."),
	num("offsets.retention.minutes", Int, 10080, 1, math.MaxInt32, "Committed offsets of a group without members go after this long."),
	num("offsets.retention.check.interval.ms", Long, 600000, 1, maxLong, "How often that is looked after."),
	num("offset.metadata.max.bytes", Int, 4096, 0, math.MaxInt32, "The longest metadata of a committed offset, bytes."),
	num("group.initial.rebalance.delay.ms", Int, 3000, 0, math.MaxInt32, "How long an empty group waits for more members before its first rebalance."),
	num("group.min.session.timeout.ms", Int, 6000, 1, math.MaxInt32, "The shortest session timeout a member may ask for."),
	num("group.max.session.timeout.ms", Int, 1800000, 1, math.MaxInt32, "The longest session timeout a member may ask for."),
	num("group.max.size", Int, math.MaxInt32, 1, math.MaxInt32, "The most members of a group."),
	num("producer.id.expiration.ms", Int, 86400000, 1, math.MaxInt32, "An idempotent producer that is silent for longer is forgotten."),
}

// ignoredKeys are Kafka's broker keys that do nothing here: together with the prefixes
// below all of Kafka 4's (a test has the list) and, at the end, what Kafka 3 still had.
var ignoredKeys = []string{
	"process.roles",
	"inter.broker.listener.name", "security.inter.broker.protocol", "listener.security.protocol.map", "early.start.listeners", "num.network.threads", "num.io.threads",
	"socket.send.buffer.bytes", "socket.receive.buffer.bytes", "socket.listen.backlog.size", "num.recovery.threads.per.data.dir",
	"background.threads",
	"queued.max.requests", "queued.max.request.bytes", "num.replica.fetchers", "num.replica.alter.log.dirs.threads", "log.flush.scheduler.interval.ms",
	"log.flush.offset.checkpoint.interval.ms", "log.preallocate", "controlled.shutdown.enable", "auto.leader.rebalance.enable",
	"leader.imbalance.check.interval.seconds", "broker.rack",
	"transactional.id.expiration.ms", "offsets.commit.timeout.ms", "max.connections.per.ip", "max.connection.creation.rate",
	"metric.reporters", "log.roll.jitter.ms", "log.roll.jitter.hours", "log.dir.failure.timeout.ms", "cordoned.log.dirs",
	"request.timeout.ms", "socket.connection.setup.timeout.ms", "socket.connection.setup.timeout.max.ms", "fetch.purgatory.purge.interval.requests",
	"producer.purgatory.purge.interval.requests", "delete.records.purgatory.purge.interval.requests", "share.fetch.purgatory.purge.interval.requests",
	"max.incremental.fetch.session.cache.slots", "max.request.partition.size.limit", "offsets.load.buffer.size", "offsets.commit.required.acks",
	"offsets.topic.compression.codec", "producer.id.expiration.check.interval.ms", "log.initial.task.delay.ms",
	"log.flush.start.offset.checkpoint.interval.ms", "leader.imbalance.per.broker.percentage", "unclean.leader.election.interval.ms",
	"create.topic.policy.class.name", "alter.config.policy.class.name", "unstable.api.versions.enable", "unstable.feature.versions.enable",
	"telemetry.max.bytes", "initial.broker.registration.timeout.ms", "broker.heartbeat.interval.ms", "broker.session.timeout.ms", "server.max.startup.time.ms",
	"controlled.shutdown.max.retries", "controlled.shutdown.retry.backoff.ms", "max.connections.per.ip.overrides", "auto.include.jmx.reporter",
	"compression.gzip.level", "compression.lz4.level", "compression.zstd.level", "connections.max.reauth.ms", "connection.failed.authentication.delay.ms",
	"follower.fetch.last.tiered.offset.enable", "client.quota.callback.class", "security.providers",
	// Kafka 3's.
	"inter.broker.protocol.version", "log.message.format.version", "log.message.downconversion.enable", "log.message.timestamp.difference.max.ms",
	"broker.id.generation.enable", "reserved.broker.max.id", "control.plane.listener.name", "enable.zookeeper.migration",
}

// ignoredPrefixes are of Kafka's keys for parts that do not exist here.
var ignoredPrefixes = []string{
	"log.cleaner.io.buffer.", "log.cleaner.threads", "controller.", "metadata.", "metrics.", "remote.", "log.local.", "replica.", "transaction.", "add.partitions.to.txn.", "quota.",
	"replication.quota.", "alter.log.dirs.replication.quota.", "share.coordinator.", "group.consumer.", "group.share.", "group.streams.",
	"group.coordinator.", "kafka.metrics.", "internal.metadata.", "config.providers", "sasl.", "ssl.", "delegation.token.", "listener.name.",
	"zookeeper.", "password.encoder.",
}

// refusedKeys are those of Kafka's by which an operator says who may connect, who may do
// what, or that nobody may listen in; one that ends in a dot stands for all that begin so.
// Nothing here does any of that, and a warning is easily missed: so these are errors, also
// behind "listener.name.NAME.", unless their value asks for nothing. The other keys of the
// same parts (lifetimes, retries, ciphers) protect nobody by themselves and are ignored.
var refusedKeys = []string{
	"authorizer.class.name", "super.users", "allow.everyone.if.no.acl.found", "principal.builder.class",
	"sasl.enabled.mechanisms", "sasl.jaas.config", "sasl.server.callback.handler.class",
	"ssl.client.auth", "ssl.keystore.", "ssl.truststore.", "ssl.key.password", "ssl.engine.factory.class",
	"delegation.token.secret.key",
}

// topicKeys are what can be set for a topic.
var topicKeys = []Key{
	topicKey("cleanup.policy", "log.cleanup.policy"),
	topicKey("compression.type", "compression.type"),
	with(num("delete.retention.ms", Long, 86400000, 0, maxLong, "How long a tombstone stays in a compacted topic."), "log.cleaner.delete.retention.ms", false),
	topicKey("file.delete.delay.ms", "log.segment.delete.delay.ms"),
	topicKey("flush.policy", "flush.policy"),
	topicKey("flush.bytes", "flush.bytes"),
	with(num("flush.messages", Long, maxLong, 1, maxLong, "At most this many records are not on disk. 1: each batch is on disk before its acknowledgement."), "log.flush.interval.messages", false),
	with(num("flush.ms", Long, maxLong, 0, maxLong, "A record is on disk after this many ms at the latest."), "log.flush.interval.ms", false),
	topicKey("index.interval.bytes", "log.index.interval.bytes"),
	with(num("max.compaction.lag.ms", Long, maxLong, 1, maxLong, "A record is compacted after this long at the latest."), "log.cleaner.max.compaction.lag.ms", false),
	topicKey("max.message.bytes", "message.max.bytes"),
	topicKey("message.timestamp.type", "log.message.timestamp.type"),
	topicKey("message.timestamp.before.max.ms", "log.message.timestamp.before.max.ms"),
	topicKey("message.timestamp.after.max.ms", "log.message.timestamp.after.max.ms"),
	with(Key{Name: "min.cleanable.dirty.ratio", Type: Double, Default: "0.5", Doc: "A log is compacted when this share of it is new."}, "log.cleaner.min.cleanable.ratio", false),
	with(num("min.compaction.lag.ms", Long, 0, 0, maxLong, "A record is not compacted before this long."), "log.cleaner.min.compaction.lag.ms", false),
	topicKey("min.insync.replicas", "min.insync.replicas"),
	with(boolean("preallocate", false, "Reserve a segment's space when it is made."), "", true),
	topicKey("retention.bytes", "log.retention.bytes"),
	topicKey("retention.ms", "log.retention.ms"),
	topicKey("segment.bytes", "log.segment.bytes"),
	topicKey("segment.index.bytes", "log.index.size.max.bytes"),
	with(num("segment.jitter.ms", Long, 0, 0, maxLong, "Spreads the age at which segments are closed."), "", true),
	topicKey("segment.ms", "log.roll.ms"),
	topicKey("unclean.leader.election.enable", "unclean.leader.election.enable"),
}

func topicKey(name, broker string) Key {
	for _, k := range brokerKeys {
		if k.Name == broker {
			k.Name, k.Broker = name, broker
			return k
		}
	}
	panic("BUG: config: " + name + ": there is no key " + broker)
}

func with(k Key, broker string, ignored bool) Key {
	k.Broker, k.Ignored = broker, ignored
	return k
}

var (
	brokerByName = index(brokerKeys)
	topicByName  = index(topicKeys)
	ignored      = func() map[string]bool {
		m := map[string]bool{}
		for _, k := range ignoredKeys {
			m[k] = true
		}
		return m
	}()
)

func index(keys []Key) map[string]*Key {
	m := map[string]*Key{}
	for i := range keys {
		if m[keys[i].Name] != nil {
			panic("BUG: config: " + keys[i].Name + " twice")
		}
		m[keys[i].Name] = &keys[i]
	}
	return m
}

// BrokerKeys are the broker's keys. TopicKeys are the topics'. Not to be changed.
func BrokerKeys() []Key { return brokerKeys }

// TopicKeys are the topics' keys. Not to be changed.
func TopicKeys() []Key { return topicKeys }

// aliases are older or shorter names.
var aliases = map[string]string{"broker.id": "node.id", "log.dir": "log.dirs"}

// Check returns a value of the key as it is to be kept, or says what is wrong with it.
func (k *Key) Check(value string) (string, error) {
	value = strings.TrimSpace(value)
	switch k.Type {
	case Boolean:
		value = strings.ToLower(value)
		if value != "true" && value != "false" {
			return "", fmt.Errorf("%s: %q is neither true nor false", k.Name, value)
		}
	case Int, Long:
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return "", fmt.Errorf("%s: %q is no whole number", k.Name, value)
		}
		if n < k.Min || n > k.Max {
			return "", fmt.Errorf("%s: %d is not between %d and %d", k.Name, n, k.Min, k.Max)
		}
	case Double:
		f, err := strconv.ParseFloat(value, 64)
		if err != nil || !(f >= 0) || k.Max == 0 && f > 1 {
			if k.Max > 0 {
				return "", fmt.Errorf("%s: %q is no number of 0 or above", k.Name, value)
			}
			return "", fmt.Errorf("%s: %q is no number between 0 and 1", k.Name, value)
		}
	case List:
		for _, v := range strings.Split(value, ",") {
			if err := k.among(strings.TrimSpace(v)); err != nil {
				return "", err
			}
		}
	default:
		return value, k.among(value)
	}
	return value, nil
}

func (k *Key) among(v string) error {
	if len(k.Values) == 0 {
		return nil
	}
	for _, ok := range k.Values {
		if v == ok {
			return nil
		}
	}
	return fmt.Errorf("%s: %q is none of %s", k.Name, v, strings.Join(k.Values, ", "))
}

// TopicKey finds a topic's key; nil when there is none.
func TopicKey(name string) *Key { return topicByName[name] }

// BrokerKey finds a broker's key; nil when there is none.
func BrokerKey(name string) *Key { return brokerByName[name] }

// CheckTopic checks what is to be set for a topic, and puts values as they are to be
// kept. An error names the key.
func CheckTopic(set map[string]string) error {
	names := make([]string, 0, len(set))
	for name := range set {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		k := topicByName[name]
		if k == nil {
			return fmt.Errorf("unknown topic config name: %s", name)
		}
		v, err := k.Check(set[name])
		if err != nil {
			return err
		}
		set[name] = v
	}
	return nil
}
