package omb

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Key distributors.
const (
	NoKey         = "NO_KEY"
	KeyRoundRobin = "KEY_ROUND_ROBIN" // of a fixed number of keys
	RandomNano    = "RANDOM_NANO"     // of the same keys, at random
)

// Workload is one workload file.
type Workload struct {
	Path string // the file
	Name string

	Topics        int
	Partitions    int // of each topic
	KeyDistribute string

	Size           int // bytes of each message
	Randomized     bool
	RandomRatio    float64 // of each payload's bytes, 0 to 1; the rest is constant
	RandomPool     int     // so many different payloads
	PayloadFile    string
	Subscriptions  int // of each topic
	Consumers      int // of each subscription
	Producers      int // of each topic
	Rate           int // messages/s of all producers together; 0: as many as are sustained
	BacklogGB      float64
	DrainRatio     float64 // of the backlog that must be drained, 0 to 1
	TestMinutes    float64
	WarmupMinutes  float64
	LogEveryMillis int

	document
}

// ReadWorkload reads and checks a workload file. Minutes and GB may have a fraction, which the benchmark itself would cut.
func ReadWorkload(path string) (Workload, error) {
	w := Workload{Path: path, KeyDistribute: NoKey, DrainRatio: 1, WarmupMinutes: 1, LogEveryMillis: 10_000}
	var err error
	w.document, err = read(path, fields{
		"name": &w.Name, "topics": &w.Topics, "partitionsPerTopic": &w.Partitions, "keyDistributor": &w.KeyDistribute,
		"messageSize": &w.Size, "useRandomizedPayloads": &w.Randomized, "randomBytesRatio": &w.RandomRatio,
		"randomizedPayloadPoolSize": &w.RandomPool, "payloadFile": &w.PayloadFile, "subscriptionsPerTopic": &w.Subscriptions,
		"consumerPerSubscription": &w.Consumers, "producersPerTopic": &w.Producers, "producerRate": &w.Rate,
		"consumerBacklogSizeGB": &w.BacklogGB, "backlogDrainRatio": &w.DrainRatio, "testDurationMinutes": &w.TestMinutes,
		"warmupDurationMinutes": &w.WarmupMinutes, "logIntervalMillis": &w.LogEveryMillis,
	})
	if err != nil {
		return w, err
	}
	if w.Name == "" {
		w.Name = w.Base()
	}
	return w, w.check()
}

func (w *Workload) check() error {
	for _, f := range []struct {
		name  string
		value int
		least int
	}{{"topics", w.Topics, 1}, {"partitionsPerTopic", w.Partitions, 1}, {"messageSize", w.Size, 1}, {"producersPerTopic", w.Producers, 1},
		{"subscriptionsPerTopic", w.Subscriptions, 0}, {"consumerPerSubscription", w.Consumers, 0}, {"producerRate", w.Rate, 0}, {"logIntervalMillis", w.LogEveryMillis, 1}} {
		if f.value < f.least {
			return w.errorf(f.name, "%d is below %d", f.value, f.least)
		}
	}
	switch {
	case w.KeyDistribute != NoKey && w.KeyDistribute != KeyRoundRobin && w.KeyDistribute != RandomNano:
		return w.errorf("keyDistributor", "%q is not %s, %s or %s", w.KeyDistribute, NoKey, KeyRoundRobin, RandomNano)
	case w.RandomRatio < 0 || w.RandomRatio > 1:
		return w.errorf("randomBytesRatio", "%v is not within 0 to 1", w.RandomRatio)
	case w.Randomized && w.RandomPool < 1:
		return w.errorf("randomizedPayloadPoolSize", "%d payloads to choose from", w.RandomPool)
	case !w.Randomized && w.PayloadFile == "":
		return w.errorf("payloadFile", "neither it nor useRandomizedPayloads is set: there is nothing to send")
	case w.DrainRatio < 0 || w.DrainRatio > 1:
		return w.errorf("backlogDrainRatio", "%v is not within 0 to 1", w.DrainRatio)
	case w.BacklogGB < 0:
		return w.errorf("consumerBacklogSizeGB", "%v is negative", w.BacklogGB)
	case w.BacklogGB > 0 && w.Rate == 0:
		return w.errorf("consumerBacklogSizeGB", "a backlog needs a producerRate: the largest rate cannot be looked for meanwhile")
	case w.BacklogGB > 0 && w.Subscriptions*w.Consumers == 0:
		return w.errorf("consumerBacklogSizeGB", "a backlog needs consumers")
	case w.TestMinutes < 0 || w.WarmupMinutes < 0:
		return w.errorf("testDurationMinutes", "%v after %v of warm-up", w.TestMinutes, w.WarmupMinutes)
	}
	return nil
}

// Base is the file's name without its ending: what results are called by.
func (w *Workload) Base() string {
	return strings.TrimSuffix(filepath.Base(w.Path), filepath.Ext(w.Path))
}

// Minutes turns a field into a duration.
func Minutes(m float64) time.Duration { return time.Duration(m * float64(time.Minute)) }

// Payload reads payloadFile: from the working directory, as the benchmark does, else from the workload's own, else from the one above
// that. It must have messageSize bytes.
func (w *Workload) Payload() ([]byte, error) {
	dir := filepath.Dir(w.Path)
	for _, path := range []string{w.PayloadFile, filepath.Join(dir, w.PayloadFile), filepath.Join(dir, "..", w.PayloadFile)} {
		b, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, w.errorf("payloadFile", "%v", err)
		}
		if len(b) != w.Size {
			return nil, w.errorf("payloadFile", "%s has %d bytes, messageSize is %d", path, len(b), w.Size)
		}
		return b, nil
	}
	return nil, w.errorf("payloadFile", "%s is not there, nor in or above %s", w.PayloadFile, dir)
}

// Errorf makes an error that names the file, and a field with its line.
func (w *Workload) Errorf(field, format string, args ...any) error {
	return w.errorf(field, "%s", fmt.Sprintf(format, args...))
}
