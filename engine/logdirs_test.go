package engine_test

import (
	"testing"

	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeLogDirs tells how far each partition is on disk, in tagged fields that
// clients that do not know them skip; version 1 has no tagged fields.
func TestLogDirsTellOffsets(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		r := start(t, backend, 2)
		c := r.dial()
		for _, topic := range []string{"cached", "forced"} {
			policy := map[string]string{"cached": "os", "forced": "file"}[topic]
			r.topic(topic, 2, "flush.policy="+policy)
			for range 3 {
				c.put(topic, map[int32][]byte{1: batch(5, 20)})
			}
		}
		remove := kmsg.NewPtrDeleteRecordsRequest()
		remove.Version = 2
		remove.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: "forced", Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Partition: 1, Offset: 4}}}}
		c.do(remove)

		type place struct {
			topic     string
			partition int32
		}
		describe := func(version int16) map[place]wire.LogDirOffsets {
			t.Helper()
			q := kmsg.NewPtrDescribeLogDirsRequest()
			q.Version = version
			for _, topic := range []string{"cached", "forced"} {
				q.Topics = append(q.Topics, kmsg.DescribeLogDirsRequestTopic{Topic: topic, Partitions: []int32{0, 1}})
			}
			found := map[place]wire.LogDirOffsets{}
			a := c.do(q).(*kmsg.DescribeLogDirsResponse)
			for _, at := range a.Dirs[0].Topics {
				for _, p := range at.Partitions {
					o, told := wire.LogDirOffsetsOf(&p.UnknownTags)
					if told != (version >= 2) || !told && p.UnknownTags.Len() > 0 {
						t.Fatalf("version %d: %s-%d: told %t, %d tags", version, at.Topic, p.Partition, told, p.UnknownTags.Len())
					}
					if (p.Size > 0) != (p.Partition == 1) {
						t.Fatalf("version %d: %s-%d: size %d", version, at.Topic, p.Partition, p.Size)
					}
					found[place{at.Topic, p.Partition}] = o
				}
			}
			if len(found) != 4 {
				t.Fatalf("version %d: %+v", version, found)
			}
			return found
		}
		describe(1)
		for version := int16(2); version <= wire.APIs[wire.KeyDescribeLogDirs].Max; version++ {
			for at, want := range map[place]wire.LogDirOffsets{
				{"cached", 0}: {}, {"forced", 0}: {},
				{"cached", 1}: {HighWatermark: 15, LogEnd: 15},
				{"forced", 1}: {Flushed: 15, HighWatermark: 15, LogStart: 4, LogEnd: 15},
			} {
				if got := describe(version)[at]; got != want {
					t.Fatalf("version %d: %v: %+v, want %+v", version, at, got, want)
				}
			}
		}

		// A synchronous policy syncs what the other one had left, without another record.
		alter := kmsg.NewPtrIncrementalAlterConfigsRequest()
		alter.Version = 1
		alter.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "cached",
			Configs: []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: "flush.policy", Value: kmsg.StringPtr("file")}}}}
		c.do(alter)
		r.until("the gap to be synced", func() bool {
			return describe(2)[place{"cached", 1}] == wire.LogDirOffsets{Flushed: 15, HighWatermark: 15, LogEnd: 15}
		})

		// A stock client.
		all, err := kadm.NewClient(r.kafka()).DescribeAllLogDirs(r.context(), nil)
		r.must(err)
		if p, ok := all[1].LookupPartition("forced", 1); !ok || p.Size == 0 || all[1].Error() != nil {
			t.Fatalf("%+v", all)
		}
	})
}
