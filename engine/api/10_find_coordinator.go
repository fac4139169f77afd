package api

// FindCoordinator (key 10), versions 0-6. 1 kinds of key; 4 several keys. The first
// to ask for a group makes __consumer_offsets. Transactions and share groups have no
// coordinator here.

import (
	"errors"

	"github.com/millrace/millrace/engine/cluster"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() { handlers[wire.KeyFindCoordinator] = findCoordinator }

func findCoordinator(c *call, r kmsg.Request) {
	req := r.(*kmsg.FindCoordinatorRequest)
	answer := func(code int16, message string) {
		resp := req.ResponseKind().(*kmsg.FindCoordinatorResponse)
		id, host, port := c.NodeID, c.Host, c.Port
		if code != 0 {
			id, host, port = -1, "", -1
		}
		if req.Version < 4 {
			resp.ErrorCode, resp.NodeID, resp.Host, resp.Port = code, id, host, port
			if code != 0 {
				resp.ErrorMessage = &message
			}
		} else {
			for _, key := range req.CoordinatorKeys {
				a := kmsg.NewFindCoordinatorResponseCoordinator()
				a.Key, a.NodeID, a.Host, a.Port, a.ErrorCode = key, id, host, port, code
				if code != 0 {
					a.ErrorMessage = &message
				}
				resp.Coordinators = append(resp.Coordinators, a)
			}
		}
		c.reply(resp)
	}
	switch {
	case req.CoordinatorType == 1:
		answer(wire.TransactionalIDAuthorizationFailed, "transactions are not served")
		return
	case req.CoordinatorType != 0:
		answer(wire.InvalidRequest, "only groups have a coordinator here")
		return
	case c.Image.Load().Topics[cluster.OffsetsTopic] != nil:
		answer(0, "")
		return
	}
	c.createTopic(c.offsetsSpec(), func(_ *cluster.Topic, err error) {
		if err != nil && !errors.Is(err, cluster.ErrTopicExists) {
			c.Log("%s: not created: %v", cluster.OffsetsTopic, err)
			answer(wire.CoordinatorNotAvailable, err.Error())
			return
		}
		answer(0, "")
	})
}
