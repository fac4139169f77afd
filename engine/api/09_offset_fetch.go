package api

// OffsetFetch (key 9), versions 1-10. 2 topics null asks for all; 7 stable offsets (all
// are: there are no transactions); 8 several groups; 9 member epochs; 10 topic ids.

import (
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() { handlers[wire.KeyOffsetFetch] = offsetFetch }

func offsetFetch(c *call, r kmsg.Request) {
	req := r.(*kmsg.OffsetFetchRequest)
	resp := req.ResponseKind().(*kmsg.OffsetFetchResponse)
	if req.Version < 8 { // one group: the old shape
		g := kmsg.NewOffsetFetchRequestGroup()
		g.Group = req.Group
		if req.Topics != nil {
			g.Topics = []kmsg.OffsetFetchRequestGroupTopic{}
		}
		for _, t := range req.Topics {
			g.Topics = append(g.Topics, kmsg.OffsetFetchRequestGroupTopic{Topic: t.Topic, Partitions: t.Partitions})
		}
		req.Groups = []kmsg.OffsetFetchRequestGroup{g}
	}
	resp.Groups = make([]kmsg.OffsetFetchResponseGroup, len(req.Groups))
	all := newGather(func() {
		if req.Version < 8 {
			oldOffsetFetch(req, resp)
		}
		c.reply(resp)
	})
	for i := range req.Groups {
		all.add()
		c.On(c.groupCore(req.Groups[i].Group), func(at *Core) {
			a := at.Groups.Fetch(&req.Groups[i], req.Version)
			c.back(at, func() {
				resp.Groups[i] = a
				all.end()
			})
		})
	}
	all.end()
}

// oldOffsetFetch puts the one group's answer where versions up to 7 have it.
func oldOffsetFetch(req *kmsg.OffsetFetchRequest, resp *kmsg.OffsetFetchResponse) {
	g := resp.Groups[0]
	resp.Groups = nil
	resp.ErrorCode = g.ErrorCode
	for _, t := range g.Topics {
		a := kmsg.NewOffsetFetchResponseTopic()
		a.Topic = t.Topic
		for _, p := range t.Partitions {
			a.Partitions = append(a.Partitions, kmsg.OffsetFetchResponseTopicPartition(p))
		}
		resp.Topics = append(resp.Topics, a)
	}
	if g.ErrorCode != 0 && req.Version < 2 { // no place at the top: each partition has it
		for _, t := range req.Topics {
			a := kmsg.NewOffsetFetchResponseTopic()
			a.Topic = t.Topic
			for _, p := range t.Partitions {
				a.Partitions = append(a.Partitions, kmsg.OffsetFetchResponseTopicPartition{Partition: p, Offset: -1, LeaderEpoch: -1, Metadata: new(string), ErrorCode: g.ErrorCode})
			}
			resp.Topics = append(resp.Topics, a)
		}
	}
}
