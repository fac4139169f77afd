package api

// DeleteTopics (key 20), versions 1-6. 5 error messages; 6 by topic id.

import (
	"github.com/millrace/millrace/engine/cluster"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() { handlers[wire.KeyDeleteTopics] = deleteTopics }

func deleteTopics(c *call, r kmsg.Request) {
	req := r.(*kmsg.DeleteTopicsRequest)
	resp := req.ResponseKind().(*kmsg.DeleteTopicsResponse)
	if req.Version < 6 {
		for i := range req.TopicNames {
			req.Topics = append(req.Topics, kmsg.DeleteTopicsRequestTopic{Topic: &req.TopicNames[i]})
		}
	}
	resp.Topics = make([]kmsg.DeleteTopicsResponseTopic, len(req.Topics))
	all := newGather(func() { c.reply(resp) })
	for i := range req.Topics {
		q, a := &req.Topics[i], &resp.Topics[i]
		a.Topic, a.TopicID = q.Topic, q.TopicID
		if !c.Config.Load().Bool("delete.topic.enable") {
			a.ErrorCode, a.ErrorMessage = wire.TopicDeletionDisabled, text("delete.topic.enable=false")
			continue
		}
		name := ""
		if q.Topic != nil {
			name = *q.Topic
		}
		all.add()
		c.On(0, func(at *Core) {
			at.Controller.DeleteTopic(name, q.TopicID, func(t *cluster.Topic, err error) {
				c.back(at, func() {
					switch {
					case err != nil:
						a.ErrorCode, a.ErrorMessage = clusterError(err)
						if name == "" && a.ErrorCode == wire.UnknownTopicOrPartition {
							a.ErrorCode = wire.UnknownTopicID
						}
					default:
						a.Topic, a.TopicID = &t.Name, t.ID
						c.Log("topic %s deleted, id %v", t.Name, t.ID)
					}
					all.end()
				})
			})
		})
	}
	all.end()
}
