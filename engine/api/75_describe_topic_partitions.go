package api

// DescribeTopicPartitions (key 75), version 0: what kafka-topics.sh --describe asks
// first. In pages: at most ResponsePartitionLimit partitions, then a cursor.

import (
	"slices"
	"sort"

	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() { handlers[wire.KeyDescribeTopicPartitions] = describeTopicPartitions }

// pageMax is max.request.partition.size.limit of Kafka.
const pageMax = 2000

func describeTopicPartitions(c *call, r kmsg.Request) {
	req := r.(*kmsg.DescribeTopicPartitionsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeTopicPartitionsResponse)
	im, routes := c.Image.Load(), c.Routes.Load()
	var names []string
	for i := range req.Topics {
		names = append(names, req.Topics[i].Topic)
	}
	if len(names) == 0 {
		names = append(names, im.Names...)
	}
	sort.Strings(names)
	names = slices.Compact(names)
	left, from := int(req.ResponsePartitionLimit), 0
	if left <= 0 || left > pageMax {
		left = pageMax
	}
	if req.Cursor != nil {
		from = int(max(req.Cursor.Partition, 0))
		at := sort.SearchStrings(names, req.Cursor.Topic)
		if at == len(names) || names[at] != req.Cursor.Topic {
			from = 0
		}
		names = names[at:]
	}
	for _, name := range names {
		if left == 0 {
			resp.NextCursor = &kmsg.DescribeTopicPartitionsResponseNextCursor{Topic: name}
			break
		}
		a := kmsg.NewDescribeTopicPartitionsResponseTopic()
		a.Topic, a.AuthorizedOperations = &name, noAuthorized
		t := im.Topics[name]
		if t == nil {
			a.ErrorCode = wire.UnknownTopicOrPartition
			resp.Topics = append(resp.Topics, a)
			from = 0
			continue
		}
		a.TopicID, a.IsInternal = t.ID, t.Internal()
		i := from
		for ; i < len(t.Partitions) && left > 0; i++ {
			p := &t.Partitions[i]
			d := kmsg.DescribeTopicPartitionsResponseTopicPartition{
				Partition: int32(i), LeaderID: p.Leader, LeaderEpoch: p.LeaderEpoch, Replicas: p.Replicas, ISR: p.ISR,
				EligibleLeaderReplicas: []int32{}, LastKnownELR: []int32{},
			}
			if routes.failed(t, i) {
				d.LeaderID, d.OfflineReplicas, d.ErrorCode = -1, p.Replicas, wire.LeaderNotAvailable
			}
			a.Partitions = append(a.Partitions, d)
			left--
		}
		resp.Topics = append(resp.Topics, a)
		if i < len(t.Partitions) {
			resp.NextCursor = &kmsg.DescribeTopicPartitionsResponseNextCursor{Topic: name, Partition: int32(i)}
			break
		}
		from = 0
	}
	c.reply(resp)
}
