package wire

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// What the pieces make is what kmsg makes of the same request.
func TestProduceRequestPieces(t *testing.T) {
	for _, size := range []int{0, 1, 126, 127, 128, 20_000} {
		want := kmsg.NewPtrProduceRequest()
		want.Version, want.Acks, want.TimeoutMillis = 9, -1, 1500
		topic := kmsg.NewProduceRequestTopic()
		topic.Topic = "some-topic"
		got := AppendProduceHead(nil, -1, 1500, topic.Topic, 3)
		for p := range int32(3) {
			records := bytes.Repeat([]byte{byte(p + 1)}, size)
			got = append(append(AppendProduceRecords(got, p, size), records...), ProducePartitionEnd...)
			partition := kmsg.NewProduceRequestTopicPartition()
			partition.Partition, partition.Records = p, records
			topic.Partitions = append(topic.Partitions, partition)
		}
		got = append(got, ProduceRequestEnd...)
		want.Topics = append(want.Topics, topic)
		if !bytes.Equal(got, want.AppendTo(nil)) {
			t.Errorf("records of %d bytes\ngot  %x\nwant %x", size, got, want.AppendTo(nil))
		}
		if n := len(AppendProduceRecords(nil, 1, 1<<31-2)); n > ProduceRecordsMax {
			t.Errorf("%d bytes before the records", n)
		}
	}
}

func TestProduceResponseParse(t *testing.T) {
	var got ProduceResponse
	eachVersion(t, KeyProduce, func(t *testing.T, rng *rand.Rand, version int16) {
		if version < 9 || version > 12 {
			return
		}
		want := kmsg.NewPtrProduceResponse()
		want.Version = version
		fill(rng, reflect.ValueOf(want).Elem(), true)
		everyPrefix(t, want.AppendTo(nil), got.Parse)
		at := 0
		for i := range want.Topics {
			for j := range want.Topics[i].Partitions {
				w, g := &want.Topics[i].Partitions[j], got.Partitions[at]
				at++
				message := ""
				if w.ErrorMessage != nil {
					message = *w.ErrorMessage
				}
				if string(g.Topic) != want.Topics[i].Topic || g.Partition != w.Partition || g.ErrorCode != w.ErrorCode ||
					g.BaseOffset != w.BaseOffset || string(g.Message) != message {
					t.Errorf("got %+v, want %+v", g, w)
				}
			}
		}
		if at != len(got.Partitions) || got.ThrottleMillis != want.ThrottleMillis {
			t.Errorf("%d of %d partitions, throttle %d, want %d", at, len(got.Partitions), got.ThrottleMillis, want.ThrottleMillis)
		}
	})
}
