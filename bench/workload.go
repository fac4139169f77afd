package bench

import (
	"errors"
	"fmt"
	"maps"
	"time"
)

// Bounds of a Workload.
const (
	partitionsMax = 100_000
	producersMax  = 500
	recordMax     = 8 << 20   // bytes
	bufferedMax   = 256 << 20 // bytes that all producers together may hold unacknowledged
)

// Workload is what one run asks of a target.
type Workload struct {
	Rate         int64             `json:"recordsPerSecond"` // intended records/s; 0 saturates (closed loop)
	Partitions   int               `json:"partitions"`
	Replication  int               `json:"replicationFactor"` // -1: the broker's default
	Size         int               `json:"recordBytes"`       // bytes of each record's value, at least headerBytes
	Batch        int               `json:"recordsPerBatch"`   // records handed over together, for one partition
	Acks         string            `json:"acks"`              // "all", "1" or "0"
	Idempotent   bool              `json:"idempotent"`        // only with acks "all"
	Producers    int               `json:"producers"`
	InFlight     int               `json:"recordsInFlight,omitempty"` // closed loop: bound over all producers
	Compression  string            `json:"compression"`               // none, gzip, snappy, lz4, zstd
	RandomBytes  float64           `json:"randomBytesRatio"`          // 0 to 1: how much of a value is random, the rest is one byte repeated
	Warmup       time.Duration     `json:"warmupNanos"`               // sent like the rest, cut from every figure
	Duration     time.Duration     `json:"durationNanos"`             // measured, after the warm-up
	DrainTimeout time.Duration     `json:"drainTimeoutNanos"`         // how long to wait for acknowledgements after the last send
	TopicConfig  map[string]string `json:"topicConfig,omitempty"`
	Streams      Streams           `json:"streams,omitzero"`
	CatchUp      CatchUpLoad       `json:"catchUp,omitzero"` // of bench catchup; the rest of the load is not produced then
}

// Validate says what is wrong with w, and fills what has a default that
// depends on the rest.
func (w *Workload) Validate() error {
	switch {
	case w.Rate < 0:
		return fmt.Errorf("rate %d is negative", w.Rate)
	case w.Partitions < 1 || w.Partitions > partitionsMax:
		return fmt.Errorf("partitions %d is not within 1 to %d", w.Partitions, partitionsMax)
	case w.Size < headerBytes || w.Size > recordMax:
		return fmt.Errorf("size %d is not within %d (sequence number and checksum) to %d", w.Size, headerBytes, recordMax)
	case w.Batch < 1:
		return fmt.Errorf("batch %d is below 1", w.Batch)
	case w.Producers < 1 || w.Producers > producersMax:
		return fmt.Errorf("producers %d is not within 1 to %d", w.Producers, producersMax)
	case w.Acks != "all" && w.Acks != "1" && w.Acks != "0":
		return fmt.Errorf("acks %q is not all, 1 or 0", w.Acks)
	case w.Duration <= 0:
		return errors.New("duration must be above 0")
	case w.Warmup < 0:
		return errors.New("warmup is negative")
	case w.RandomBytes < 0 || w.RandomBytes > 1:
		return fmt.Errorf("random bytes ratio %v is not within 0 to 1", w.RandomBytes)
	}
	if _, ok := compressions[w.Compression]; !ok {
		return fmt.Errorf("compression %q is not none, gzip, snappy, lz4 or zstd", w.Compression)
	}
	if _, ok := w.TopicConfig["max.message.bytes"]; !ok && w.batchBytes() > messageMaxDefault {
		return fmt.Errorf("a batch of %d records of %d bytes is over the default max.message.bytes of %d; set --topic-config max.message.bytes=",
			w.Batch, w.Size, messageMaxDefault)
	}
	if err := w.Streams.validate(w); err != nil {
		return err
	}
	if w.Acks != "all" {
		w.Idempotent = false
	}
	if w.Rate == 0 && w.InFlight == 0 {
		w.InFlight = min(max(1000, 10*w.Partitions*w.Batch), bufferedMax/4/w.Size)
	}
	if w.Rate == 0 {
		w.InFlight = max(w.InFlight, w.Producers*w.Batch) // one batch each at least
	} else {
		w.InFlight = 0
	}
	return nil
}

// shape names what is asked besides the number of partitions, as far as it differs within a durability matrix.
func (w Workload) shape() string {
	loop := "saturated"
	if w.Rate > 0 {
		loop = "at a fixed rate"
	}
	return fmt.Sprintf("acks %s, %d a batch, %s", w.Acks, w.Batch, loop)
}

// with returns w with further topic settings.
func (w Workload) with(config map[string]string) Workload {
	merged := maps.Clone(w.TopicConfig)
	if merged == nil {
		merged = map[string]string{}
	}
	maps.Copy(merged, config)
	w.TopicConfig = merged
	return w
}

// Loop describes how load is offered, for the report.
func (w Workload) Loop() string {
	if w.CatchUp.Readers > 0 {
		return "readers that ask again when they have the answer"
	}
	if w.Rate > 0 {
		return fmt.Sprintf("open loop, %d records/s, latency from the intended send time", w.Rate)
	}
	return fmt.Sprintf("closed loop, at most %d records in flight, latency from the send: a slow broker slows this load, so do not compare it with an open loop", w.InFlight)
}
