package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// spot is a partition.
type spot struct {
	topic     string
	partition int32
}

// errNotTold: the broker has the partition and does not say how far it is on disk.
var errNotTold = errors.New("the broker does not tell how far its partitions are on disk; Millrace does, Apache Kafka does not")

// toldOffsets asks the brokers for partitions' offsets by DescribeLogDirs. What they
// do not tell is not in the answer, and err says why: those that were told are good
// all the same. Where several replicas answer, the one that is least on disk counts.
func toldOffsets(ctx context.Context, cl *kgo.Client, spots []spot) (map[spot]wire.LogDirOffsets, error) {
	if len(spots) == 0 {
		return nil, nil
	}
	return readTold(spots, cl.RequestSharded(ctx, logDirsRequest(spots)))
}

// logDirsRequest asks for partitions.
func logDirsRequest(spots []spot) *kmsg.DescribeLogDirsRequest {
	q := kmsg.NewPtrDescribeLogDirsRequest()
	at := map[string]int{}
	for _, s := range spots {
		i, ok := at[s.topic]
		if !ok {
			i = len(q.Topics)
			at[s.topic] = i
			q.Topics = append(q.Topics, kmsg.DescribeLogDirsRequestTopic{Topic: s.topic})
		}
		q.Topics[i].Partitions = append(q.Topics[i].Partitions, s.partition)
	}
	return q
}

// readTold reads the answers.
func readTold(spots []spot, shards []kgo.ResponseShard) (map[spot]wire.LogDirOffsets, error) {
	told := map[spot]wire.LogDirOffsets{}
	var errs []error
	silent := false
	for _, shard := range shards {
		if shard.Err != nil {
			errs = append(errs, shard.Err)
			continue
		}
		a := shard.Resp.(*kmsg.DescribeLogDirsResponse)
		errs = append(errs, kerr.ErrorForCode(a.ErrorCode))
		for _, dir := range a.Dirs {
			errs = append(errs, kerr.ErrorForCode(dir.ErrorCode))
			for _, t := range dir.Topics {
				for _, p := range t.Partitions {
					o, ok := wire.LogDirOffsetsOf(&p.UnknownTags)
					s := spot{t.Topic, p.Partition}
					if before, have := told[s]; ok && (!have || o.Flushed < before.Flushed) {
						told[s] = o
					}
					silent = silent || !ok
				}
			}
		}
	}
	err := errors.Join(errs...)
	if err == nil && silent {
		err = errNotTold
	}
	for _, s := range spots {
		if _, ok := told[s]; !ok && err == nil {
			err = fmt.Errorf("%s-%d: no broker has it in a log directory", s.topic, s.partition)
		}
	}
	return told, err
}
