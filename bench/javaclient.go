package bench

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/bench/omb"
	"github.com/twmb/franz-go/pkg/kgo"
)

// What the Java client does when its properties do not say, in Kafka 3.6, which the OpenMessaging Benchmark has.
const (
	javaBatchSize     = 16384
	javaBufferMemory  = 32 << 20
	javaRequestTime   = 30 * time.Second
	javaDeliveryTime  = 2 * time.Minute
	javaFetchMax      = 50 << 20
	javaPartitionMax  = 1 << 20
	commitEvery       = time.Second // where OMB commits after each poll
	javaAutoCommit    = 5 * time.Second
	batchSizeMaxFranz = 100 << 20 // its bound of a request
)

// javaClient is a driver's properties, for franz-go. What it has no equal for is in warnings, by name.
type javaClient struct {
	acks        string
	idempotent  bool
	compression string
	producer    []kgo.Opt
	requests    int // in flight at a broker, where producer says so; else 0
	consumer    []kgo.Opt
	warnings    []string

	batchSize              int
	adaptive, ignoreKeys   bool
	codecLevel             map[string]int // by codec
	idempotence, inFlight  string         // as they were set
	autoCommit             bool
	autoCommitEvery        time.Duration
	fetchMax, partitionMax int
}

// property takes one value. An error says what the value is not.
type property func(c *javaClient, v string) error

func (c *javaClient) warn(format string, args ...any) {
	c.warnings = append(c.warnings, fmt.Sprintf(format, args...))
}

// newJavaClient reads a driver's properties. Errors name file, line and key.
func newJavaClient(d omb.Driver) (*javaClient, error) {
	c := &javaClient{
		acks: "all", compression: "none", batchSize: javaBatchSize, adaptive: true, codecLevel: map[string]int{},
		autoCommit: true, autoCommitEvery: javaAutoCommit, fetchMax: javaFetchMax, partitionMax: javaPartitionMax,
	}
	c.producer = []kgo.Opt{
		kgo.MaxBufferedBytes(javaBufferMemory), kgo.ProduceRequestTimeout(javaRequestTime), kgo.RecordDeliveryTimeout(javaDeliveryTime),
	}
	for _, p := range d.Common {
		known := p.Key == "bootstrap.servers" // Bootstrap has it
		for _, of := range []map[string]property{producerProperties, consumerProperties} {
			if set, ok := of[p.Key]; ok {
				known = true
				if err := set(c, p.Value); err != nil {
					return nil, fmt.Errorf("%s:%d: commonConfig: %s=%s: %w", d.Path, p.Line, p.Key, p.Value, err)
				}
			}
		}
		if !known {
			c.warn("commonConfig %s=%s: franz-go has no equal; it is not applied", p.Key, p.Value)
		}
	}
	for _, part := range []struct {
		name string
		list omb.Properties
		of   map[string]property
	}{{"producerConfig", d.Producer, producerProperties}, {"consumerConfig", d.Consumer, consumerProperties}} {
		for _, p := range part.list {
			set, ok := part.of[p.Key]
			if !ok {
				c.warn("%s %s=%s: franz-go has no equal; it is not applied", part.name, p.Key, p.Value)
				continue
			}
			if err := set(c, p.Value); err != nil {
				return nil, fmt.Errorf("%s:%d: %s: %s=%s: %w", d.Path, p.Line, part.name, p.Key, p.Value, err)
			}
		}
	}
	if d.Reset {
		c.warn("reset: true: topics of earlier runs are not deleted; each run here has topics of its own and removes them")
	}
	return c, c.finish(d)
}

// finish is what depends on several properties.
func (c *javaClient) finish(d omb.Driver) error {
	switch c.idempotence {
	case "true":
		if c.acks != "all" {
			return fmt.Errorf("%s: producerConfig: enable.idempotence=true with acks=%s", d.Path, c.acks)
		}
		c.idempotent = true
	case "":
		c.idempotent = c.acks == "all" // as the Java client has it
	}
	if c.idempotent && c.inFlight != "" && c.inFlight != "5" {
		c.warn("producerConfig max.in.flight.requests.per.connection=%s: franz-go has 5 in flight for an idempotent producer", c.inFlight)
	} else if n, err := strconv.Atoi(c.inFlight); err == nil {
		c.producer, c.requests = append(c.producer, kgo.MaxProduceRequestsInflightPerBroker(n)), n
	}
	if level, ok := c.codecLevel[c.compression]; ok {
		c.producer = append(c.producer, kgo.ProducerBatchCompression(compressions[c.compression].WithLevel(level)))
	}
	every := c.autoCommitEvery
	if !c.autoCommit {
		every = commitEvery
		c.warn("consumerConfig enable.auto.commit=false: offsets are committed every %v; the benchmark's driver commits after each poll", commitEvery)
	}
	c.consumer = append(c.consumer, kgo.AutoCommitInterval(every), kgo.FetchMaxBytes(int32(max(c.fetchMax, c.partitionMax))), kgo.FetchMaxPartitionBytes(int32(c.partitionMax)))
	return nil
}

// options are the producer's, for records of w.
func (c *javaClient) options(w Workload) []kgo.Opt {
	// The Java client sends a record that is larger than a batch alone; franz-go refuses it.
	batch := min(max(c.batchSize, w.batchBytes()+16, batchBytesMin), batchSizeMaxFranz)
	return append(c.producer[:len(c.producer):len(c.producer)],
		kgo.ProducerBatchMaxBytes(int32(batch)),
		kgo.RecordPartitioner(kgo.UniformBytesPartitioner(max(c.batchSize, 1), c.adaptive, !c.ignoreKeys, nil)))
}

func whole(v string) (int, error) {
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		return 0, errors.New("not a whole number from 0 on")
	}
	return n, nil
}

// number reads a count, bytes or a level that fits an int32.
func withNumber(set func(c *javaClient, n int)) property {
	return func(c *javaClient, v string) error {
		n, err := whole(v)
		if err == nil {
			set(c, min(n, math.MaxInt32))
		}
		return err
	}
}

func withMillis(set func(c *javaClient, d time.Duration)) property {
	return func(c *javaClient, v string) error {
		n, err := whole(v)
		if err == nil {
			set(c, time.Duration(n)*time.Millisecond)
		}
		return err
	}
}

func withBool(set func(c *javaClient, b bool)) property {
	return func(c *javaClient, v string) error {
		switch strings.ToLower(v) {
		case "true":
			set(c, true)
		case "false":
			set(c, false)
		default:
			return errors.New("not true or false")
		}
		return nil
	}
}

func oneOf(set func(c *javaClient, v string), values ...string) property {
	return func(c *javaClient, v string) error {
		for _, x := range values {
			if strings.EqualFold(v, x) {
				set(c, x)
				return nil
			}
		}
		return fmt.Errorf("not %s", strings.Join(values, ", "))
	}
}

// producing and consuming make properties of a client option that has nothing to do with others.
func producing[V any](read func(func(*javaClient, V)) property, opt func(V) kgo.Opt) property {
	return read(func(c *javaClient, v V) { c.producer = append(c.producer, opt(v)) })
}

func consuming[V any](read func(func(*javaClient, V)) property, opt func(V) kgo.Opt) property {
	return read(func(c *javaClient, v V) { c.consumer = append(c.consumer, opt(v)) })
}

func withText(set func(c *javaClient, v string)) property {
	return func(c *javaClient, v string) error { set(c, v); return nil }
}

func codecLevel(codec string) property {
	return func(c *javaClient, v string) error {
		n, err := strconv.Atoi(v)
		c.codecLevel[codec] = n
		if err != nil {
			return errors.New("not a whole number")
		}
		return nil
	}
}

// producerProperties are those of org.apache.kafka.clients.producer.ProducerConfig that franz-go has an equal for.
var producerProperties = map[string]property{
	"acks": func(c *javaClient, v string) error {
		if v == "-1" {
			v = "all"
		}
		return oneOf(func(c *javaClient, v string) { c.acks = v }, "all", "1", "0")(c, v)
	},
	"enable.idempotence":                       withBool(func(c *javaClient, b bool) { c.idempotence = strconv.FormatBool(b) }),
	"max.in.flight.requests.per.connection":    withNumber(func(c *javaClient, n int) { c.inFlight = strconv.Itoa(n) }),
	"compression.type":                         oneOf(func(c *javaClient, v string) { c.compression = v }, "none", "gzip", "snappy", "lz4", "zstd"),
	"compression.gzip.level":                   codecLevel("gzip"),
	"compression.lz4.level":                    codecLevel("lz4"),
	"compression.zstd.level":                   codecLevel("zstd"),
	"batch.size":                               withNumber(func(c *javaClient, n int) { c.batchSize = n }),
	"linger.ms":                                producing(withMillis, func(d time.Duration) kgo.Opt { return kgo.ProducerLinger(d) }),
	"buffer.memory":                            producing(withNumber, func(n int) kgo.Opt { return kgo.MaxBufferedBytes(max(n, 1)) }),
	"retries":                                  producing(withNumber, func(n int) kgo.Opt { return kgo.RecordRetries(n) }),
	"delivery.timeout.ms":                      producing(withMillis, func(d time.Duration) kgo.Opt { return kgo.RecordDeliveryTimeout(d) }),
	"request.timeout.ms":                       producing(withMillis, func(d time.Duration) kgo.Opt { return kgo.ProduceRequestTimeout(d) }),
	"partitioner.adaptive.partitioning.enable": withBool(func(c *javaClient, b bool) { c.adaptive = b }),
	"partitioner.ignore.keys":                  withBool(func(c *javaClient, b bool) { c.ignoreKeys = b }),
	"client.id":                                producing(withText, func(v string) kgo.Opt { return kgo.ClientID(v) }),
	"metadata.max.age.ms":                      producing(withMillis, func(d time.Duration) kgo.Opt { return kgo.MetadataMaxAge(d) }),
	"connections.max.idle.ms":                  producing(withMillis, func(d time.Duration) kgo.Opt { return kgo.ConnIdleTimeout(d) }),
	"retry.backoff.ms": producing(withMillis, func(d time.Duration) kgo.Opt {
		return kgo.RetryBackoffFn(func(int) time.Duration { return d })
	}),
	"security.protocol": plaintext,
}

// consumerProperties are those of org.apache.kafka.clients.consumer.ConsumerConfig.
var consumerProperties = map[string]property{
	// A run's topics are empty when its consumers join: both begin there.
	"auto.offset.reset":         oneOf(func(*javaClient, string) {}, "earliest", "latest"),
	"enable.auto.commit":        withBool(func(c *javaClient, b bool) { c.autoCommit = b }),
	"auto.commit.interval.ms":   withMillis(func(c *javaClient, d time.Duration) { c.autoCommitEvery = d }),
	"fetch.max.bytes":           withNumber(func(c *javaClient, n int) { c.fetchMax = n }),
	"max.partition.fetch.bytes": withNumber(func(c *javaClient, n int) { c.partitionMax = n }),
	"fetch.min.bytes":           consuming(withNumber, func(n int) kgo.Opt { return kgo.FetchMinBytes(int32(n)) }),
	"fetch.max.wait.ms":         consuming(withMillis, func(d time.Duration) kgo.Opt { return kgo.FetchMaxWait(d) }),
	"session.timeout.ms":        consuming(withMillis, func(d time.Duration) kgo.Opt { return kgo.SessionTimeout(d) }),
	"heartbeat.interval.ms":     consuming(withMillis, func(d time.Duration) kgo.Opt { return kgo.HeartbeatInterval(d) }),
	"max.poll.interval.ms":      consuming(withMillis, func(d time.Duration) kgo.Opt { return kgo.RebalanceTimeout(d) }),
	"client.id":                 consuming(withText, func(v string) kgo.Opt { return kgo.ClientID(v) }),
	"client.rack":               consuming(withText, func(v string) kgo.Opt { return kgo.Rack(v) }),
	"metadata.max.age.ms":       consuming(withMillis, func(d time.Duration) kgo.Opt { return kgo.MetadataMaxAge(d) }),
	"connections.max.idle.ms":   consuming(withMillis, func(d time.Duration) kgo.Opt { return kgo.ConnIdleTimeout(d) }),
	"check.crcs": withBool(func(c *javaClient, b bool) {
		if !b {
			c.consumer = append(c.consumer, kgo.DisableFetchCRCValidation())
		}
	}),
	"isolation.level": oneOf(func(c *javaClient, v string) {
		if v == "read_committed" {
			c.consumer = append(c.consumer, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
		}
	}, "read_committed", "read_uncommitted"),
	"partition.assignment.strategy": func(c *javaClient, v string) error {
		var all []kgo.GroupBalancer
		for _, name := range strings.Split(v, ",") {
			b, ok := balancers[strings.TrimSpace(name)]
			if !ok {
				return fmt.Errorf("%s is not an assignor of Kafka's", strings.TrimSpace(name))
			}
			all = append(all, b())
		}
		c.consumer = append(c.consumer, kgo.Balancers(all...))
		return nil
	},
	"security.protocol": plaintext,
}

var balancers = map[string]func() kgo.GroupBalancer{
	"org.apache.kafka.clients.consumer.RangeAssignor":             kgo.RangeBalancer,
	"org.apache.kafka.clients.consumer.RoundRobinAssignor":        kgo.RoundRobinBalancer,
	"org.apache.kafka.clients.consumer.StickyAssignor":            kgo.StickyBalancer,
	"org.apache.kafka.clients.consumer.CooperativeStickyAssignor": kgo.CooperativeStickyBalancer,
}

// plaintext refuses what cannot be connected to at all.
func plaintext(_ *javaClient, v string) error {
	if !strings.EqualFold(v, "PLAINTEXT") {
		return errors.New("the bench connects without TLS and without authentication")
	}
	return nil
}
