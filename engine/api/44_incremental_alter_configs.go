package api

// IncrementalAlterConfigs (key 44), versions 0-1. Topics only: a broker's keys are
// set in its file.

import (
	"fmt"
	"strings"

	"github.com/millrace/millrace/engine/config"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() { handlers[wire.KeyIncrementalAlterConfigs] = incrementalAlterConfigs }

func incrementalAlterConfigs(c *call, r kmsg.Request) {
	req := r.(*kmsg.IncrementalAlterConfigsRequest)
	resp := req.ResponseKind().(*kmsg.IncrementalAlterConfigsResponse)
	resp.Resources = make([]kmsg.IncrementalAlterConfigsResponseResource, len(req.Resources))
	all := newGather(func() { c.reply(resp) })
	for i := range req.Resources {
		q, a := &req.Resources[i], &resp.Resources[i]
		a.ResourceType, a.ResourceName = q.ResourceType, q.ResourceName
		if q.ResourceType != kmsg.ConfigResourceTypeTopic {
			a.ErrorCode, a.ErrorMessage = wire.InvalidRequest, text("only topics' configs can be altered while the broker runs")
			continue
		}
		all.add()
		c.On(0, func(at *Core) {
			broker := at.Config.Load()
			change := func(set map[string]string) error { return alter(broker, set, q.Configs) }
			at.Controller.SetTopicConfig(q.ResourceName, req.ValidateOnly, change, func(err error) {
				c.back(at, func() {
					if err != nil {
						a.ErrorCode, a.ErrorMessage = clusterError(err)
					} else if !req.ValidateOnly {
						c.Log("topic %s: configs altered", q.ResourceName)
					}
					all.end()
				})
			})
		})
	}
	all.end()
}

// alter does the operations: set, delete, append to a list, subtract from it.
func alter(broker *config.Broker, set map[string]string, ops []kmsg.IncrementalAlterConfigsRequestResourceConfig) error {
	for _, op := range ops {
		k := config.TopicKey(op.Name)
		if k == nil {
			return fmt.Errorf("unknown topic config name: %s", op.Name)
		}
		if op.Op != kmsg.IncrementalAlterConfigOpDelete && op.Value == nil {
			return fmt.Errorf("%s: no value", op.Name)
		}
		switch op.Op {
		case kmsg.IncrementalAlterConfigOpSet:
			set[op.Name] = *op.Value
		case kmsg.IncrementalAlterConfigOpDelete:
			delete(set, op.Name)
		case kmsg.IncrementalAlterConfigOpAppend, kmsg.IncrementalAlterConfigOpSubtract:
			if k.Type != config.List {
				return fmt.Errorf("%s is no list", op.Name)
			}
			var out []string
			drop := map[string]bool{}
			for _, v := range strings.Split(*op.Value, ",") {
				drop[strings.TrimSpace(v)] = true
			}
			for _, v := range strings.Split(broker.TopicString(set, op.Name), ",") {
				if v = strings.TrimSpace(v); v != "" && !drop[v] {
					out = append(out, v)
				}
			}
			if op.Op == kmsg.IncrementalAlterConfigOpAppend {
				out = append(out, *op.Value)
			}
			set[op.Name] = strings.Join(out, ",")
		default:
			return fmt.Errorf("%s: unknown operation %d", op.Name, op.Op)
		}
	}
	return nil
}
