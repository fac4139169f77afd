package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// NATS is a NATS server with JetStream that runs.
//
// A partition is a stream. A stream is what JetStream keeps in order and in files of its own, and what one goroutine of the
// server writes; one stream with a subject for each partition would put all partitions through one file and one sync after the
// other. A record is a message of its own, which JetStream stores and acknowledges by itself.
type NATS struct {
	Name    string
	Address string // host:port
	Monitor string // host:port of the server's monitoring over HTTP, which tells when it syncs
	Again   bool   // clients send again, with message ids, what the server has not acknowledged when it ends: see natsAgain

	info   TargetInfo
	conn   *nats.Conn
	js     jetstream.JetStream
	topics map[string]int // partitions
}

// notes are what holds of every run against it.
func (n *NATS) notes() []string {
	ids := "no message ids (nothing is sent twice)"
	if n.Again {
		ids = "message ids (what is not acknowledged is sent again)"
	}
	return []string{"JetStream: a stream for each partition; each record is a message, stored and acknowledged by itself; " + ids}
}

// natsTakes says what of a workload JetStream has no equivalent for.
func natsTakes(w Workload) error {
	switch {
	case w.Acks == "0":
		return errors.New("NATS JetStream: with acks 0 there is nothing to measure: a publish without an acknowledgement is not JetStream's")
	case w.Compression != "none":
		return fmt.Errorf("NATS JetStream: its client does not compress (compression %s)", w.Compression)
	case w.Streams.on():
		return errors.New("NATS JetStream: workloads of several topics with consumers are for the Kafka protocol")
	case w.Replication > 1:
		return fmt.Errorf("NATS JetStream: there is one server, and %d replicas are asked for", w.Replication)
	}
	for key := range w.TopicConfig {
		if key != "max.message.bytes" { // it bounds a batch, and there are none
			return fmt.Errorf("NATS JetStream: a stream has no setting %q", key)
		}
	}
	return nil
}

// Start connects and learns the server's version.
func (n *NATS) Start(ctx context.Context) (err error) {
	if n.topics == nil { // else it starts again, on what it had
		n.topics = map[string]int{}
	}
	n.info.Name, n.info.Address, n.info.Brokers, n.info.Notes = n.Name, n.Address, 1, n.notes()
	n.info.ClientLib = "nats.go " + moduleVersion("github.com/nats-io/nats.go")
	if n.conn, err = n.connect(); err != nil {
		return err
	}
	n.info.Version = "NATS server " + n.conn.ConnectedServerVersion()
	if n.js, err = jetstream.New(n.conn); err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	return nil
}

// connect makes a connection that is not made again when it breaks: what was in flight then has no known end.
func (n *NATS) connect() (*nats.Conn, error) {
	options := []nats.Option{nats.Name("millrace-bench"), nats.NoReconnect()}
	if n.Again { // that it breaks is no news; the client library would print it
		options = append(options, nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	}
	conn, err := nats.Connect("nats://"+n.Address, options...)
	if err != nil {
		return nil, fmt.Errorf("%s at %s: %w", n.Name, n.Address, err)
	}
	return conn, nil
}

// Stop closes the connection; the server runs on.
func (n *NATS) Stop() error {
	if n.conn != nil {
		n.conn.Close()
		n.conn = nil
	}
	return nil
}

// Info implements Target.
func (n *NATS) Info() TargetInfo { return n.info }

// A topic's streams and their subjects. A stream's name may have no dot.
func natsStream(topic string, partition int) string  { return fmt.Sprintf("%s-%d", topic, partition) }
func natsSubject(topic string, partition int) string { return fmt.Sprintf("%s.%d", topic, partition) }

// Create implements Target. What is not named has the server's default.
func (n *NATS) Create(ctx context.Context, topic string, w Workload) error {
	if err := natsTakes(w); err != nil {
		return err
	}
	if most := n.conn.MaxPayload(); int64(w.Size) > most {
		return fmt.Errorf("%s: records of %d bytes are over the server's max_payload of %d", n.Name, w.Size, most)
	}
	n.topics[topic] = w.Partitions
	for p := range w.Partitions {
		if err := n.createStream(ctx, topic, p); err != nil {
			return fmt.Errorf("%s: create stream %s: %w", n.Name, natsStream(topic, p), err)
		}
	}
	return nil
}

func (n *NATS) createStream(ctx context.Context, topic string, partition int) error {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	stream, err := n.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: natsStream(topic, partition), Subjects: []string{natsSubject(topic, partition)}, Storage: jetstream.FileStorage, Replicas: 1,
	})
	if err != nil {
		return err
	}
	if made := stream.CachedInfo().Config; made.Storage != jetstream.FileStorage || made.Replicas != 1 {
		return fmt.Errorf("it has storage %v and %d replicas, and not files and one", made.Storage, made.Replicas)
	}
	return nil
}

// Settings implements Target: the configuration of the topic's streams, as each of them reports it, and when the server syncs them,
// as its monitoring does ("sync_always", "sync_interval").
func (n *NATS) Settings(ctx context.Context, topic string) (map[string]string, error) {
	var settings map[string]string
	for p := range n.topics[topic] {
		of, err := n.streamSettings(ctx, natsStream(topic, p))
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s: settings of stream %s: %w", n.Name, natsStream(topic, p), err)
		case p == 0:
			settings = of
		case !maps.Equal(of, settings):
			return nil, fmt.Errorf("%s: stream %s has other settings than the first: %v, %v", n.Name, natsStream(topic, p), of, settings)
		}
	}
	sync, err := n.syncSettings(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: settings of the server at %s: %w", n.Name, n.Monitor, err)
	}
	maps.Copy(settings, sync)
	return settings, nil
}

// streamSettings asks for one stream's configuration, all that the server says, known to the client library or not.
func (n *NATS) streamSettings(ctx context.Context, stream string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	answer, err := n.conn.RequestWithContext(ctx, "$JS.API.STREAM.INFO."+stream, nil)
	if err != nil {
		return nil, err
	}
	var info struct {
		Error  *jetstream.APIError
		Config map[string]json.RawMessage
	}
	if err := json.Unmarshal(answer.Data, &info); err != nil {
		return nil, err
	}
	if info.Error != nil {
		return nil, info.Error
	}
	settings := map[string]string{}
	for key, value := range info.Config {
		settings[key] = strings.Trim(string(value), `"`)
	}
	for _, own := range []string{"name", "subjects", "metadata"} { // of one stream, or the server's version
		delete(settings, own)
	}
	return settings, nil
}

// syncSettings asks the running server when it syncs. The server leaves sync_always out where it is false.
func (n *NATS) syncSettings(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	ask, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.Monitor+"/varz", nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(ask)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	var varz struct {
		JetStream struct {
			Config *struct {
				SyncInterval time.Duration `json:"sync_interval"`
				SyncAlways   bool          `json:"sync_always"`
			} `json:"config"`
		} `json:"jetstream"`
	}
	if err := json.Unmarshal(body, &varz); err != nil {
		return nil, fmt.Errorf("%s: %w", answer.Status, err)
	}
	c := varz.JetStream.Config
	if c == nil {
		return nil, errors.New("it reports no configuration of JetStream")
	}
	return map[string]string{"sync_always": strconv.FormatBool(c.SyncAlways), "sync_interval": c.SyncInterval.String()}, nil
}

// natsClass is what an acknowledgement is worth by what a JetStream reports. Without sync_always a message is written to the
// page cache before it is acknowledged, and synced by a timer that nothing waits for: that is no bound. A stream
// that persists asynchronously is not synced before the acknowledgement whatever the server's setting.
func natsClass(settings map[string]string) Class {
	mode, given := settings["persist_mode"]
	if settings["sync_always"] == "true" && settings["storage"] == "file" && (!given || mode == "default") {
		return Flushed
	}
	return Cached
}

// Remove implements Target.
func (n *NATS) Remove(ctx context.Context, topic string) error {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	var errs []error
	for p := range n.topics[topic] {
		if err := n.js.DeleteStream(ctx, natsStream(topic, p)); err != nil {
			errs = append(errs, fmt.Errorf("%s: delete stream %s: %w", n.Name, natsStream(topic, p), err))
		}
	}
	return errors.Join(errs...)
}

// ReadBack implements Target, by an ordered consumer of each stream. A stream fails when nothing more comes for idleMax before the
// end; the others are read all the same.
func (n *NATS) ReadBack(ctx context.Context, topic string, visit func(partition int32, value []byte)) error {
	var errs []error
	for p := range n.topics[topic] {
		err := n.readStream(ctx, natsStream(topic, p), func(value []byte) { visit(int32(p), value) })
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: read back stream %s: %w", n.Name, natsStream(topic, p), err))
		}
	}
	return errors.Join(errs...)
}

// EndOffsets asks for the last sequence number of each of the topic's streams; they count from 1, so it is the end of offsets from 0.
func (n *NATS) EndOffsets(ctx context.Context, topic string) (map[int32]int64, error) {
	ends := map[int32]int64{}
	for p := range n.topics[topic] {
		stream, err := n.js.Stream(ctx, natsStream(topic, p))
		if err != nil {
			return nil, fmt.Errorf("%s: end of stream %s: %w", n.Name, natsStream(topic, p), err)
		}
		ends[int32(p)] = int64(stream.CachedInfo().State.LastSeq)
	}
	return ends, nil
}

func (n *NATS) readStream(ctx context.Context, name string, visit func(value []byte)) error {
	stream, err := n.js.Stream(ctx, name)
	if err != nil {
		return err
	}
	state := stream.CachedInfo().State
	if state.Msgs == 0 {
		return nil
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy, MaxResetAttempts: 3})
	if err != nil {
		return err
	}
	messages, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	waiting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	idle := time.AfterFunc(idleMax, func() { cancel(fmt.Errorf("nothing came for %v", idleMax)) })
	defer idle.Stop()
	for at := uint64(0); at < state.LastSeq; {
		m, err := messages.Next(jetstream.NextContext(waiting))
		if err != nil {
			return fmt.Errorf("after message %d of %d: %w", at, state.LastSeq, errors.Join(err, context.Cause(waiting)))
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("after message %d of %d: %w", at, state.LastSeq, err)
		}
		idle.Reset(idleMax)
		if at = meta.Sequence.Stream; at <= state.LastSeq {
			visit(m.Data())
		}
	}
	return nil
}
