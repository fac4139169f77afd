package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	watchEvery  = 10 * time.Millisecond // between two looks; at least nine times what one takes
	agedMax     = 16                    // partitions of which the first record that is not on disk is read, for its time
	agedTimeout = 2 * time.Second
)

// seen is how far the disk was behind what had been acknowledged, while it was watched.
type seen struct {
	Told     bool    `json:"told"` // the broker tells: Apache Kafka does not
	Seconds  float64 `json:"seconds"`
	Looks    int     `json:"looks"`
	Appended int64   `json:"records_appended"` // meanwhile, all partitions
	// The most that was acknowledged and not on disk, each of one partition at one moment.
	Records int64   `json:"most_records"`
	Bytes   int64   `json:"most_bytes_about"` // records times the partition's mean record
	Ms      float64 `json:"oldest_ms"`        // at most; of what was there before, by its timestamp
	Where   int32   `json:"partition"`        // of the most records; -1: there were none
}

// dirAt is a partition, or none (-1), in a log directory.
type dirAt struct {
	dir       string
	usable    int64 // bytes, -1: not told
	partition int32
	size      int64
	offsets   wire.LogDirOffsets
	told      bool
}

// describeDirs asks where the partitions lie. Every directory is in the answer, with a
// partition of its own or with none.
func describeDirs(ctx context.Context, cl *kgo.Client, spots []spot) (all []dirAt, err error) {
	var errs []error
	for _, shard := range cl.RequestSharded(ctx, logDirsRequest(spots)) {
		if shard.Err != nil {
			errs = append(errs, shard.Err)
			continue
		}
		a := shard.Resp.(*kmsg.DescribeLogDirsResponse)
		errs = append(errs, kerr.ErrorForCode(a.ErrorCode))
		for _, dir := range a.Dirs {
			errs = append(errs, kerr.ErrorForCode(dir.ErrorCode))
			usable := dir.UsableBytes
			if a.Version < 4 {
				usable = -1
			}
			found := false
			for _, t := range dir.Topics {
				for _, p := range t.Partitions {
					o, told := wire.LogDirOffsetsOf(&p.UnknownTags)
					all = append(all, dirAt{dir.Dir, usable, p.Partition, p.Size, o, told})
					found = true
				}
			}
			if !found {
				all = append(all, dirAt{dir: dir.Dir, usable: usable, partition: -1})
			}
		}
	}
	return all, errors.Join(errs...)
}

// moment is a high watermark at a time.
type moment struct {
	at            time.Time
	highWatermark int64
}

// trace follows one partition.
type trace struct {
	moments  []moment // those that may still say how old the first record off disk is, oldest first
	first    int64    // log end at the first look
	last     int64
	standing int64 // what was off disk at the first look begins here; -1: nothing was
}

// behind takes a look and says how long, at most, the oldest acknowledged record that is not on
// disk has been acknowledged. Not ok where it was so before the first look.
func (t *trace) behind(now time.Time, o wire.LogDirOffsets) (age time.Duration, ok bool) {
	t.moments = append(t.moments, moment{now, o.HighWatermark})
	// The last look at which the record at flushed had not been acknowledged.
	for len(t.moments) > 1 && t.moments[1].highWatermark <= o.Flushed {
		t.moments = t.moments[1:]
	}
	if o.HighWatermark <= o.Flushed {
		return 0, true
	}
	return now.Sub(t.moments[0].at), t.moments[0].highWatermark <= o.Flushed
}

// watchFlushed looks at the partitions again and again for d, and once at least.
func watchFlushed(ctx context.Context, cl *kgo.Client, bootstrap string, spots []spot, d time.Duration) (seen, error) {
	s := seen{Where: -1}
	traces := map[int32]*trace{}
	began := time.Now()
	for {
		asked := time.Now()
		all, err := describeDirs(ctx, cl, spots)
		if err != nil {
			return s, err
		}
		now := time.Now()
		s.Looks++
		for _, at := range all {
			if at.told && at.partition >= 0 {
				s.Told = true
				s.look(traces, now, at)
			}
		}
		wait := max(watchEvery, 9*now.Sub(asked))
		if !s.Told || time.Since(began)+wait > d {
			break
		}
		select {
		case <-ctx.Done():
			return s, ctx.Err()
		case <-time.After(wait):
		}
	}
	s.Seconds = time.Since(began).Seconds()
	stale := map[int32]int64{}
	for p, t := range traces {
		s.Appended += t.last - t.first
		if t.standing >= 0 && len(stale) < agedMax {
			stale[p] = t.standing
		}
	}
	if len(stale) > 0 && ctx.Err() == nil {
		s.Ms = max(s.Ms, oldest(ctx, bootstrap, spots[0].topic, stale))
	}
	return s, ctx.Err()
}

func (s *seen) look(traces map[int32]*trace, now time.Time, at dirAt) {
	t := traces[at.partition]
	if t == nil {
		t = &trace{first: at.offsets.LogEnd, standing: -1}
		traces[at.partition] = t
	}
	t.last = at.offsets.LogEnd
	age, known := t.behind(now, at.offsets)
	if !known && t.standing < 0 {
		t.standing = at.offsets.Flushed
	}
	s.Ms = max(s.Ms, age.Seconds()*1e3)
	records := max(0, at.offsets.HighWatermark-at.offsets.Flushed)
	if records > s.Records {
		s.Records, s.Where = records, at.partition
	}
	if held := at.offsets.LogEnd - at.offsets.LogStart; held > 0 {
		s.Bytes = max(s.Bytes, int64(float64(at.size)/float64(held)*float64(records)))
	}
}

// oldest reads the records at the offsets and says how many ms ago the first was made, by its timestamp: the
// producer's clock, where the topic does not say otherwise. 0 where none came.
func oldest(ctx context.Context, bootstrap, topic string, offsets map[int32]int64) float64 {
	from := map[int32]kgo.Offset{}
	for p, offset := range offsets {
		from[p] = kgo.NewOffset().At(offset)
	}
	reader, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(bootstrap, ",")...), kgo.ClientID("millrace"),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}), kgo.FetchMaxPartitionBytes(64<<10))
	if err != nil {
		return 0
	}
	defer reader.Close()
	ctx, cancel := context.WithTimeout(ctx, agedTimeout)
	defer cancel()
	age := 0.0
	for len(offsets) > 0 {
		fetches := reader.PollFetches(ctx)
		if ctx.Err() != nil {
			return age
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			if _, ok := offsets[p.Partition]; ok && len(p.Records) > 0 {
				age = max(age, time.Since(p.Records[0].Timestamp).Seconds()*1e3)
				delete(offsets, p.Partition)
				reader.PauseFetchPartitions(map[string][]int32{topic: {p.Partition}})
			}
		})
	}
	return age
}
