package bench

import (
	"context"
	"fmt"
	"strings"
)

// Target is something that takes records: a broker that runs, or one that the
// harness manages. One goroutine uses it.
type Target interface {
	// Start makes the target ready to take topics. For a managed one it starts
	// the process, on an empty directory.
	Start(ctx context.Context) error
	// Stop undoes Start. It may be called after a failed Start, and twice.
	Stop() error
	// Info says what is measured. It is complete after Start.
	Info() TargetInfo
	// Create makes a topic with w's partitions, replication and settings and
	// returns once every partition has a leader.
	Create(ctx context.Context, topic string, w Workload) error
	// Settings reads the topic's live settings back from the target.
	Settings(ctx context.Context, topic string) (map[string]string, error)
	// Remove deletes the topic.
	Remove(ctx context.Context, topic string) error
	// NewClient connects one producer. done hears of every record.
	NewClient(topic string, w Workload, done Done) (Client, error)
	// ReadBack gives every record of the topic to visit, each partition in the
	// order of its offsets, up to the end that the target reports now.
	ReadBack(ctx context.Context, topic string, visit func(partition int32, value []byte)) error
}

// Done hears how a record ended: acknowledged (err nil) or given up. The value
// belongs to the caller of Send again. One client calls it from one goroutine
// at a time.
type Done func(value []byte, err error)

// Client sends records to one topic of one target. One goroutine sends.
type Client interface {
	// Send hands over records of one partition, together. The values belong to
	// the client until Done. It blocks while the client holds too much. A partition
	// of -1 leaves the choice to the client; only runs with Streams do.
	Send(partition int32, values [][]byte)
	// Drain waits until every record has ended, or ctx.
	Drain(ctx context.Context) error
	// Stats counts what left the client.
	Stats() ClientStats
	// Close gives up what has not ended, telling Done.
	Close()
}

// ClientStats counts what a client wrote to its connections.
type ClientStats struct {
	Batches int64 `json:"batches"`
	Records int64 `json:"records"`
	Bytes   int64 `json:"batchBytes"` // records as written, compressed if so; without batch headers
}

// TargetInfo says what is measured.
type TargetInfo struct {
	Name      string   `json:"name"`
	Address   string   `json:"address"`
	Version   string   `json:"version,omitempty"` // as the target says, or as its protocol versions suggest
	Brokers   int      `json:"brokers"`
	PID       int      `json:"pid,omitempty"`     // when it runs on this machine and was found
	DataDir   string   `json:"dataDir,omitempty"` // where its log lies, when that is on this machine
	Command   []string `json:"command,omitempty"` // how the harness started it
	Ready     float64  `json:"startToReadySeconds,omitempty"`
	CPUs      string   `json:"cpus,omitempty"`  // what it was confined to, if by the harness
	Admin     string   `json:"admin,omitempty"` // the admin.listener of a Millrace that the harness started
	ClientLib string   `json:"client"`
	Notes     []string `json:"notes,omitempty"` // what holds of every run against it
}

// Class names what an acknowledgement is worth on one broker.
type Class string

// The classes, from cheap to dear.
const (
	Cached  Class = "cached"  // in the page cache: survives a killed process, not a power loss
	Window  Class = "window"  // flushed within a bound
	Flushed Class = "flushed" // on the disk before the acknowledgement
	Null    Class = "null"    // nowhere: see NullBroker
)

// policies are the flush policies of Millrace and what each is worth.
var policies = map[string]Class{"os": Cached, "interval": Window, "write": Flushed, "file": Flushed, "journal": Flushed}

// classOf derives the class from settings that the target itself reports; a
// broker that knows no flush.policy is judged by JetStream's settings if it has
// those, else by Kafka's flush.messages.
func classOf(settings map[string]string) Class {
	if _, ok := settings[nullSetting]; ok {
		return Null
	}
	if _, ok := settings["sync_always"]; ok {
		return natsClass(settings)
	}
	if c, ok := policies[settings["flush.policy"]]; ok {
		return c
	}
	if settings["flush.messages"] == "1" {
		return Flushed
	}
	return Cached
}

// parsePeer reads NAME=HOST:PORT[,HOST:PORT][+key=value]...
func parsePeer(s string) (name, address string, config map[string]string, err error) {
	name, rest, ok := strings.Cut(s, "=")
	parts := strings.Split(rest, "+")
	if !ok || name == "" || parts[0] == "" {
		return "", "", nil, fmt.Errorf("peer %q is not NAME=HOST:PORT[+topic.setting=value]", s)
	}
	config = map[string]string{}
	for _, kv := range parts[1:] {
		k, v, ok := strings.Cut(kv, "=")
		if !ok {
			return "", "", nil, fmt.Errorf("peer %q: setting %q is not key=value", s, kv)
		}
		config[k] = v
	}
	return name, parts[0], config, nil
}
