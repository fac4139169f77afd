package log

import (
	"errors"
	"fmt"
	"math"

	"github.com/millrace/millrace/engine/record"
)

// Policy says when an appended record counts as safe (flush.policy).
type Policy uint8

const (
	// OS: once it is in the page cache. The kernel writes back when it likes.
	OS Policy = iota
	// Interval: once it is in the page cache, which is at most flush.ms,
	// flush.messages and flush.bytes ahead of the disk.
	Interval
	// Write: once it is on disk; each batch is written and synced by itself.
	Write
	// File: once it is on disk; one sync covers all that arrived while the
	// last one was in flight.
	File
	// Journal: once it is in the core's journal, on disk.
	Journal
)

var policyNames = [...]string{"os", "interval", "write", "file", "journal"}

func (p Policy) String() string {
	if int(p) < len(policyNames) {
		return policyNames[p]
	}
	return fmt.Sprintf("policy(%d)", uint8(p))
}

// Synchronous says that an acknowledged record is on disk.
func (p Policy) Synchronous() bool { return p >= Write }

// ParsePolicy is the policy of that name.
func ParsePolicy(name string) (Policy, error) {
	for i, n := range policyNames {
		if n == name {
			return Policy(i), nil
		}
	}
	return 0, fmt.Errorf("flush.policy %q is none of os, interval, write, file, journal", name)
}

// ResolvePolicy is the policy of a topic: its own flush.policy where that is set,
// else the broker's; flush.messages=1 asks for every write to be forced, which
// any synchronous policy does and which selects Write where none was chosen.
func ResolvePolicy(topic Policy, topicSet bool, broker Policy, flushMessages int64) Policy {
	switch {
	case topicSet:
		return topic
	case flushMessages == 1 && !broker.Synchronous():
		return Write
	default:
		return broker
	}
}

// Never is an interval or a size that is not reached.
const Never = math.MaxInt64

// FlushSettings is what a topic's flush policy and its bounds are resolved from, as
// DescribeConfigs tells it.
type FlushSettings struct {
	Policy Policy // flush.policy: the topic's, or the broker's where the topic has none
	Own    bool   // it is the topic's
	// The topic's flush.ms, flush.messages and flush.bytes, defaults resolved. Never: not set.
	Ms, Messages, Bytes int64
	// The broker's flush.ms and flush.messages: under Interval they hold where the topic's are not set.
	BrokerMs, BrokerMessages int64
}

// Resolve chooses the policy, and what bounds it. A topic's own flush.policy wins.
// Without one, flush.messages and flush.ms keep Kafka's promise: flush.messages=1 is
// satisfied by any synchronous policy and chooses Write where the broker's is not
// one; other values make OS an Interval. Policies other than Interval have no bounds: Never.
func (s FlushSettings) Resolve() (p Policy, ms, messages, bytes int64) {
	p = ResolvePolicy(s.Policy, s.Own, s.Policy, s.Messages)
	if !s.Own && p == OS && (s.Messages != Never || s.Ms != Never) {
		return Interval, s.Ms, s.Messages, Never
	}
	if p != Interval {
		return p, Never, Never, Never
	}
	ms, messages = s.Ms, s.Messages
	if messages == Never {
		messages = s.BrokerMessages
	}
	if ms == Never {
		ms = s.BrokerMs
	}
	return p, ms, messages, s.Bytes
}

// Config is one topic's settings, resolved (topic over broker). It is replaced as a
// whole by Log.SetConfig.
type Config struct {
	SegmentBytes       int32 // segment.bytes
	IndexBytes         int32 // segment.index.bytes
	IndexIntervalBytes int32 // index.interval.bytes
	MaxMessageBytes    int32 // max.message.bytes, header included
	SegmentMs          int64 // segment.ms
	// retention.ms and retention.bytes; below 0 or Never: no bound. Who resolves
	// the config sets -1 where cleanup.policy lacks delete.
	RetentionMs    int64
	RetentionBytes int64
	Policy         Policy
	// How far the page cache may be ahead of the disk, under OS and Interval.
	// 0 (FlushMs: below 0) or Never: no bound. Appends that would exceed a bound are refused with
	// ErrPressure until the disk has caught up. A batch that is larger than a
	// bound counts only once it is on disk.
	FlushMs       int64
	FlushMessages int64
	FlushBytes    int64

	LogAppendTime      bool // message.timestamp.type
	Compacted          bool // cleanup.policy has compact: every record needs a key
	TimestampBeforeMax int64
	TimestampAfterMax  int64

	// Where Compacted: min.cleanable.dirty.ratio, delete.retention.ms, min.compaction.lag.ms and
	// max.compaction.lag.ms (0 or Never: no bound).
	MinDirtyRatio      float64
	DeleteRetentionMs  int64
	MinCompactionLagMs int64
	MaxCompactionLagMs int64

	ProducerExpirationMs int64
	FileDeleteDelayMs    int64
	// InspectCompressed checks the records inside compressed batches, as Kafka does.
	InspectCompressed bool
}

// DefaultConfig is Kafka's defaults.
func DefaultConfig() Config {
	return Config{
		SegmentBytes: 1 << 30, IndexBytes: 10 << 20, IndexIntervalBytes: 4096, MaxMessageBytes: 1<<20 + 12,
		SegmentMs: 7 * 24 * 3600_000, RetentionMs: 7 * 24 * 3600_000, RetentionBytes: -1,
		FlushMs: Never, FlushMessages: Never, FlushBytes: Never,
		TimestampBeforeMax: Never, TimestampAfterMax: 3600_000,
		MinDirtyRatio: 0.5, DeleteRetentionMs: 24 * 3600_000, MaxCompactionLagMs: Never,
		ProducerExpirationMs: 24 * 3600_000, FileDeleteDelayMs: 60_000, InspectCompressed: true,
	}
}

// normal makes unset bounds explicit and names what cannot be worked with.
func (c *Config) normal() error {
	for _, bound := range []*int64{&c.FlushMessages, &c.FlushBytes} {
		if *bound <= 0 {
			*bound = Never
		}
	}
	c.DeleteRetentionMs = min(c.DeleteRetentionMs, 1<<50) // added to the clock
	if c.MaxCompactionLagMs <= 0 {
		c.MaxCompactionLagMs = Never
	}
	switch {
	case c.FlushMs < 0 || c.FlushMs > 1<<40: // 34 years
		c.FlushMs = Never
	case c.FlushMs == 0: // a bound of nothing at all would refuse everything
		c.FlushMs = 1
	}
	switch {
	case c.SegmentBytes < record.HeaderSize:
		return fmt.Errorf("segment.bytes %d is smaller than a batch header", c.SegmentBytes)
	case c.IndexBytes < timeEntrySize:
		return fmt.Errorf("segment.index.bytes %d has no room for an entry", c.IndexBytes)
	case c.Policy > Journal:
		return fmt.Errorf("flush.policy %v", c.Policy)
	}
	return nil
}

// Kafka's error codes that a log answers with.
const (
	codeOffsetOutOfRange    int16 = 1
	codeCorruptMessage      int16 = 2
	codeMessageTooLarge     int16 = 10
	codeRecordListTooLarge  int16 = 18
	codeOutOfOrderSequence  int16 = 45
	codeInvalidProducer     int16 = 47
	codeInvalidTxnState     int16 = 48
	codeCoordinatorFenced   int16 = 52
	codeStorage             int16 = 56
	codeInvalidRecord       int16 = 87
	codeFencedLeaderEpoch   int16 = 74
	codeNotLeaderOrFollower int16 = 6
)

var (
	// ErrPressure: no room in the memory tail, or the log is too far ahead of the
	// disk, or it is being cut. Nothing was appended. Try again when the owner is
	// told Advanced or the core's pressure is over.
	ErrPressure = errors.New("log: too much is unwritten")
	// ErrClosed: the log is being closed or deleted.
	ErrClosed error = &record.Error{Code: codeNotLeaderOrFollower, Index: -1, Msg: "log: closed"}
	// ErrNoSpace: the disk is full. Nothing was appended; appends work again
	// when there is space. It is retriable for clients.
	ErrNoSpace error = &record.Error{Code: codeStorage, Index: -1, Msg: "log: no space left on the device"}
	// ErrOutOfRange: the offset is below the log's start or above its end.
	ErrOutOfRange error = &record.Error{Code: codeOffsetOutOfRange, Index: -1, Msg: "log: offset out of range"}
)

// ErrFenced is what a log answers once a write, a sync or a directory operation
// has failed, or when it came up damaged: it acknowledges nothing more. What was
// safe before stays readable.
type ErrFenced struct {
	File  string
	Cause error
}

func (e *ErrFenced) Error() string { return fmt.Sprintf("%s: %v; log fenced", e.File, e.Cause) }

// Unwrap is the cause.
func (e *ErrFenced) Unwrap() error { return e.Cause }
