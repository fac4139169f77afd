package api

import (
	"fmt"
	"testing"

	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// What versions up to 7 get: one group's topics at the top, and its error where the
// version has a place for it.
func TestOldOffsetFetch(t *testing.T) {
	metadata := "m"
	good := kmsg.OffsetFetchResponseGroup{Group: "g", Topics: []kmsg.OffsetFetchResponseGroupTopic{
		{Topic: "t", Partitions: []kmsg.OffsetFetchResponseGroupTopicPartition{
			{Partition: 1, Offset: 5, LeaderEpoch: 2, Metadata: &metadata},
			{Partition: 2, Offset: -1, LeaderEpoch: -1, Metadata: new(string)},
		}},
	}}
	loading := kmsg.OffsetFetchResponseGroup{Group: "g", ErrorCode: wire.CoordinatorLoadInProgress}
	for version := int16(1); version < 8; version++ {
		req := kmsg.NewPtrOffsetFetchRequest()
		req.Version, req.Group = version, "g"
		req.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: "t", Partitions: []int32{1, 2}}}
		shape := func(g kmsg.OffsetFetchResponseGroup) string {
			resp := req.ResponseKind().(*kmsg.OffsetFetchResponse)
			resp.Groups = append(resp.Groups, g)
			oldOffsetFetch(req, resp)
			back := req.ResponseKind().(*kmsg.OffsetFetchResponse)
			if err := back.ReadFrom(resp.AppendTo(nil)); err != nil {
				t.Fatalf("version %d: %v", version, err)
			}
			s := fmt.Sprint(back.ErrorCode, len(back.Groups))
			for _, topic := range back.Topics {
				for _, p := range topic.Partitions {
					s += fmt.Sprintf(" %s-%d@%d/%d:%s=%d", topic.Topic, p.Partition, p.Offset, p.LeaderEpoch, *p.Metadata, p.ErrorCode)
				}
			}
			return s
		}
		epoch := 2
		if version < 5 {
			epoch = -1
		}
		if got, want := shape(good), fmt.Sprintf("0 0 t-1@5/%d:m=0 t-2@-1/-1:=0", epoch); got != want {
			t.Errorf("version %d: %s, want %s", version, got, want)
		}
		want := "14 0"
		if version < 2 {
			want = "0 0 t-1@-1/-1:=14 t-2@-1/-1:=14"
		}
		if got := shape(loading); got != want {
			t.Errorf("version %d: %s, want %s", version, got, want)
		}
	}
}

// Null topics ask for everything, no topics for nothing: the two must stay apart on
// their way through the decoder.
func TestOffsetFetchOfAllAndNone(t *testing.T) {
	for version := int16(1); version <= 10; version++ {
		for _, all := range []bool{false, true} {
			q := kmsg.NewPtrOffsetFetchRequest()
			q.Version, q.Group = version, "g"
			g := kmsg.NewOffsetFetchRequestGroup()
			if g.Group = "g"; !all {
				q.Topics, g.Topics = []kmsg.OffsetFetchRequestTopic{}, []kmsg.OffsetFetchRequestGroupTopic{}
			}
			q.Groups = append(q.Groups, g)
			r, err := wire.ParseRequest(wire.KeyOffsetFetch, version, q.AppendTo(nil))
			if err != nil {
				t.Fatalf("version %d: %v", version, err)
			}
			got := r.(*kmsg.OffsetFetchRequest)
			isNil := got.Topics == nil
			if version >= 8 {
				isNil = got.Groups[0].Topics == nil
			}
			if want := all && version >= 2; isNil != want {
				t.Errorf("version %d, all %v: null is %v", version, all, isNil)
			}
		}
	}
}
