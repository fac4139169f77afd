package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/bench/lean"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	messageMaxDefault = 1048588 // Kafka's max.message.bytes
	batchBytesMin     = 512     // the client takes no smaller bound
	batchOverhead     = 65      // RecordBatch v2 with no records, with the array length before it
	idleMax           = 30 * time.Second
	adminTimeout      = 30 * time.Second
)

var compressions = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
	"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

// batchBytes is the size of a batch of exactly w.Batch records: room for the
// largest varints, and not for one record more.
func (w Workload) batchBytes() int {
	const record = 3 + 1 + 2 + 2 + 1 + 3 + 1 // length, attributes, time, offset, key, value length, headers
	return batchOverhead + w.Batch*(w.Size+record)
}

// Kafka is a broker, or a cluster, that runs and speaks the Kafka protocol.
type Kafka struct {
	Name    string
	Address string // host:port, several with commas
	DataDir string // its log directory on this machine; "" asks the broker
	Client  string // who produces: "" or "franz", or "lean", which needs Rings
	Rings   *Rings

	ProducerOptions  []kgo.Opt // further ones, of every producing client
	ProducerInFlight int       // what of them bounds the requests in flight at a broker; 0: nothing does
	ConsumerOptions  []kgo.Opt // further ones, of every client that Subscribe makes

	info  TargetInfo
	seeds *kgo.Client
	admin *kadm.Client
}

// Start connects and learns what can be learnt about the target: version,
// process and log directory, as far as they are on this machine.
func (k *Kafka) Start(ctx context.Context) error {
	k.info.Name, k.info.Address = k.Name, k.Address
	k.info.ClientLib = clientLib(k.Client, k.Rings)
	var err error
	if k.seeds, err = kgo.NewClient(kgo.SeedBrokers(strings.Split(k.Address, ",")...), kgo.ClientID("millrace-bench")); err != nil {
		return fmt.Errorf("%s at %s: %w", k.Name, k.Address, err)
	}
	k.admin = kadm.NewClient(k.seeds)
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	brokers, err := k.admin.BrokerMetadata(ctx)
	if err != nil {
		return fmt.Errorf("%s at %s: metadata: %w", k.Name, k.Address, err)
	}
	k.info.Brokers = len(brokers.Brokers)
	if versions, err := k.admin.ApiVersions(ctx); err == nil {
		for _, v := range versions {
			if v.Err == nil && k.info.Version == "" {
				k.info.Version = v.VersionGuess()
			}
		}
	}
	if k.info.PID == 0 && len(brokers.Brokers) == 1 {
		k.info.PID = listenerPID(k.Address)
	}
	if k.DataDir != "" {
		k.info.DataDir = k.DataDir
	}
	if k.info.DataDir == "" && len(brokers.Brokers) == 1 && isLocal(k.Address) {
		k.info.DataDir = k.logDir(ctx)
	}
	return nil
}

// logDir asks the broker where its log is; "" where it does not say, or where
// that directory is not on this machine.
func (k *Kafka) logDir(ctx context.Context) string {
	all, err := k.admin.DescribeAllLogDirs(ctx, nil)
	if err != nil {
		return ""
	}
	for _, dirs := range all {
		for dir := range dirs {
			if _, err := os.Stat(dir); err == nil {
				return dir
			}
		}
	}
	return ""
}

// isLocal reports whether the first address is this machine's loopback.
func isLocal(address string) bool {
	host, _, err := net.SplitHostPort(strings.Split(address, ",")[0])
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Stop closes the connections; the broker runs on.
func (k *Kafka) Stop() error {
	if k.seeds != nil {
		k.seeds.Close()
		k.seeds = nil
	}
	return nil
}

// Info implements Target.
func (k *Kafka) Info() TargetInfo { return k.info }

// Create implements Target.
func (k *Kafka) Create(ctx context.Context, topic string, w Workload) error {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	config := map[string]*string{}
	for key, value := range w.TopicConfig {
		config[key] = &value
	}
	resp, err := k.admin.CreateTopic(ctx, int32(w.Partitions), int16(w.Replication), config, topic)
	if err != nil {
		return fmt.Errorf("%s: create topic %s: %w %s", k.Name, topic, err, resp.ErrMessage)
	}
	for {
		ready := 0
		topics, err := k.admin.ListTopics(ctx, topic)
		if err == nil {
			for _, p := range topics[topic].Partitions {
				if p.Err == nil && p.Leader >= 0 {
					ready++
				}
			}
			if ready == w.Partitions {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: topic %s: %d of %d partitions have a leader after %v (%v)", k.Name, topic, ready, w.Partitions, adminTimeout, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Settings implements Target by DescribeConfigs.
func (k *Kafka) Settings(ctx context.Context, topic string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	described, err := k.admin.DescribeTopicConfigs(ctx, topic)
	if err == nil && len(described) == 1 {
		err = described[0].Err
	}
	if err != nil {
		return nil, fmt.Errorf("%s: describe configs of %s: %w", k.Name, topic, err)
	}
	settings := map[string]string{}
	for _, r := range described {
		for _, c := range r.Configs {
			settings[c.Key] = c.MaybeValue()
		}
	}
	return settings, nil
}

// Remove implements Target.
func (k *Kafka) Remove(ctx context.Context, topic string) error {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	if _, err := k.admin.DeleteTopic(ctx, topic); err != nil {
		return fmt.Errorf("%s: delete topic %s: %w", k.Name, topic, err)
	}
	return nil
}

// franz is a Client on franz-go: what a user has.
type franz struct {
	client   *kgo.Client
	done     Done
	together bool // several records are handed over at once and must leave as one batch
	keys     keys
	records  sync.Pool
	watch    *franzWatch

	batches, sent, bytes atomic.Int64
}

// over is a context that has ended.
var over = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// NewClient implements Target.
func (k *Kafka) NewClient(topic string, w Workload, done Done) (Client, error) {
	if k.Client == clientLean {
		return newLean(k, topic, w, done)
	}
	f := &franz{done: done, together: w.Batch > 1 && w.Rate > 0, keys: newKeys(w.Streams), watch: newFranzWatch(w, k.ProducerInFlight)}
	f.records.New = func() any { return new(watched) }
	opts := []kgo.Opt{
		kgo.SeedBrokers(strings.Split(k.Address, ",")...),
		kgo.ClientID("millrace-bench"),
		kgo.DefaultProduceTopic(topic),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(compressions[w.Compression]),
		kgo.ProducerBatchMaxBytes(int32(max(w.batchBytes(), batchBytesMin))),
		kgo.MaxBufferedRecords(bufferedMax/w.Size/w.Producers + w.InFlight + w.Batch),
		kgo.WithHooks(f, f.watch),
		kgo.Dialer(f.watch.dial),
	}
	switch w.Acks {
	case "all":
		opts = append(opts, kgo.RequiredAcks(kgo.AllISRAcks()))
	case "1":
		opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()))
	case "0":
		opts = append(opts, kgo.RequiredAcks(kgo.NoAck()))
	}
	if !w.Idempotent {
		opts = append(opts, kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(franzInFlight))
	}
	// The client sends as soon as it can. Where records come several at once,
	// that would tear the first off its batch: then it waits until Send says so.
	linger := time.Duration(0)
	if f.together {
		linger = time.Minute // the longest it takes
	}
	opts = append(opts, kgo.ProducerLinger(linger))
	if w.Streams.on() {
		opts = append(opts, kgo.RecordPartitioner(kgo.UniformBytesPartitioner(javaBatchSize, true, true, nil)))
	}
	opts = append(opts, k.ProducerOptions...)
	var err error
	if f.client, err = kgo.NewClient(opts...); err != nil {
		return nil, fmt.Errorf("%s: client: %w", k.Name, err)
	}
	return f, nil
}

// Send implements Client. With Streams the partition is not looked at.
func (f *franz) Send(partition int32, values [][]byte) {
	for _, value := range values {
		r := f.records.Get().(*watched)
		f.watch.handed(r, partition, f.keys.choose(), value)
		f.client.Produce(context.Background(), &r.record, f.finish)
	}
	f.watch.producing.Store(nil)
	if f.together {
		// With an ended context Flush starts sending and does not wait.
		_ = f.client.Flush(over)
	}
}

func (f *franz) finish(r *kgo.Record, err error) {
	value, w := r.Value, r.Context.(*watched)
	f.watch.finished(w, err)
	f.records.Put(w)
	f.done(value, err)
}

// Drain implements Client.
func (f *franz) Drain(ctx context.Context) error { return f.client.Flush(ctx) }

// OnProduceBatchWritten counts batches as they leave (kgo.HookProduceBatchWritten).
func (f *franz) OnProduceBatchWritten(_ kgo.BrokerMetadata, _ string, _ int32, m kgo.ProduceBatchMetrics) {
	f.batches.Add(1)
	f.sent.Add(int64(m.NumRecords))
	f.bytes.Add(int64(m.CompressedBytes))
}

// Watch implements Waiting.
func (f *franz) Watch(waited func([]byte, lean.Waits)) { f.watch.waited = waited }

// Stats implements Client.
func (f *franz) Stats() ClientStats {
	return ClientStats{Batches: f.batches.Load(), Records: f.sent.Load(), Bytes: f.bytes.Load()}
}

// Close implements Client.
func (f *franz) Close() { f.client.Close() }

// EndOffsets asks for the end of each of the topic's partitions.
func (k *Kafka) EndOffsets(ctx context.Context, topic string) (map[int32]int64, error) {
	listed, err := k.admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: end offsets of %s: %w", k.Name, topic, err)
	}
	ends := map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) { ends[o.Partition] = o.Offset })
	return ends, nil
}

// ReadBack implements Target. It fails when nothing more comes for idleMax
// before the end.
func (k *Kafka) ReadBack(ctx context.Context, topic string, visit func(partition int32, value []byte)) error {
	ends, err := k.EndOffsets(ctx, topic)
	if err != nil {
		return err
	}
	remaining := map[int32]int64{} // partition: end offset not reached yet
	from := map[int32]kgo.Offset{}
	for partition, end := range ends {
		if end > 0 {
			remaining[partition] = end
			from[partition] = kgo.NewOffset().AtStart()
		}
	}
	if len(remaining) == 0 {
		return nil
	}
	reader, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(k.Address, ",")...),
		kgo.ClientID("millrace-bench-verify"),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}),
		kgo.FetchMaxBytes(16<<20),
		kgo.FetchMaxWait(500*time.Millisecond),
	)
	if err != nil {
		return fmt.Errorf("%s: reader: %w", k.Name, err)
	}
	defer reader.Close()
	for len(remaining) > 0 {
		poll, cancel := context.WithTimeout(ctx, idleMax)
		fetches := reader.PollFetches(poll)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var failed error
		fetches.EachError(func(_ string, p int32, err error) {
			if errors.Is(err, context.DeadlineExceeded) {
				err = fmt.Errorf("nothing came for %v", idleMax)
			}
			failed = fmt.Errorf("%s: read back %s: partition %d: %w; %s", k.Name, topic, p, err, short(remaining))
		})
		if failed != nil {
			return failed
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			for _, r := range p.Records {
				if r.Offset < remaining[p.Partition] {
					visit(p.Partition, r.Value)
				}
				if r.Offset >= remaining[p.Partition]-1 {
					delete(remaining, p.Partition)
					reader.PauseFetchPartitions(map[string][]int32{topic: {p.Partition}})
					break
				}
			}
		})
	}
	return nil
}

// short names some of the partitions whose end was not reached.
func short(remaining map[int32]int64) string {
	var parts []int
	for p := range remaining {
		parts = append(parts, int(p))
	}
	sort.Ints(parts)
	n := len(parts)
	return fmt.Sprintf("%d partitions not read to their end, first %v", n, parts[:min(n, 8)])
}
