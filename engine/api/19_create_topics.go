package api

// CreateTopics (key 19), versions 2-7. 5 the configs that a topic came out with; 7 its id.

import (
	"errors"

	"github.com/millrace/millrace/engine/cluster"
	"github.com/millrace/millrace/engine/config"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() { handlers[wire.KeyCreateTopics] = createTopics }

func createTopics(c *call, r kmsg.Request) {
	req := r.(*kmsg.CreateTopicsRequest)
	resp := req.ResponseKind().(*kmsg.CreateTopicsResponse)
	resp.Topics = make([]kmsg.CreateTopicsResponseTopic, len(req.Topics))
	seen := map[string]int{}
	for i := range req.Topics {
		seen[req.Topics[i].Topic]++
	}
	cfg := c.Config.Load()
	all := newGather(func() { c.reply(resp) })
	for i := range req.Topics {
		q, a := &req.Topics[i], &resp.Topics[i]
		*a = kmsg.NewCreateTopicsResponseTopic()
		a.Topic, a.NumPartitions, a.ReplicationFactor = q.Topic, -1, -1
		if seen[q.Topic] > 1 {
			a.ErrorCode, a.ErrorMessage = wire.InvalidRequest, text("the topic is named more than once")
			continue
		}
		spec := cluster.TopicSpec{Name: q.Topic, Partitions: q.NumPartitions, Replicas: q.ReplicationFactor, Config: map[string]string{}}
		if len(q.ReplicaAssignment) > 0 {
			spec.Assignment = map[int32][]int32{}
			for _, x := range q.ReplicaAssignment {
				if _, twice := spec.Assignment[x.Partition]; twice {
					a.ErrorCode, a.ErrorMessage = wire.InvalidReplicaAssignment, text("a partition is named more than once")
				}
				spec.Assignment[x.Partition] = x.Replicas
			}
		} else {
			if spec.Partitions == -1 {
				spec.Partitions = int32(cfg.Int("num.partitions"))
			}
			if spec.Replicas == -1 {
				spec.Replicas = int16(cfg.Int("default.replication.factor"))
			}
		}
		for _, kv := range q.Configs {
			if kv.Value == nil {
				a.ErrorCode, a.ErrorMessage = wire.InvalidConfig, text(kv.Name+" has no value")
				break
			}
			spec.Config[kv.Name] = *kv.Value
		}
		if a.ErrorCode != 0 {
			continue
		}
		all.add()
		c.On(0, func(at *Core) {
			at.Controller.CreateTopic(spec, req.ValidateOnly, func(t *cluster.Topic, err error) {
				c.back(at, func() {
					if err != nil {
						a.ErrorCode, a.ErrorMessage = clusterError(err)
					} else {
						a.TopicID, a.NumPartitions, a.ReplicationFactor = t.ID, int32(len(t.Partitions)), 1
						a.Configs = createdConfigs(cfg, t.Config)
						if !req.ValidateOnly {
							c.Log("topic %s created: %d partitions, id %v", t.Name, len(t.Partitions), t.ID)
						}
					}
					all.end()
				})
			})
		})
	}
	all.end()
}

func createdConfigs(cfg *config.Broker, set map[string]string) []kmsg.CreateTopicsResponseTopicConfig {
	var out []kmsg.CreateTopicsResponseTopicConfig
	for _, k := range config.TopicKeys() {
		v, source := cfg.Topic(set, k.Name)
		out = append(out, kmsg.CreateTopicsResponseTopicConfig{Name: k.Name, Value: &v, Source: int8(source)})
	}
	return out
}

func text(s string) *string { return &s }

// clusterError is Kafka's error for what the controller refused.
func clusterError(err error) (int16, *string) {
	code := wire.UnknownServerError
	for _, x := range []struct {
		err  error
		code int16
	}{
		{cluster.ErrTopicExists, wire.TopicAlreadyExists},
		{cluster.ErrUnknownTopic, wire.UnknownTopicOrPartition},
		{cluster.ErrInvalidTopic, wire.InvalidTopicException},
		{cluster.ErrInvalidPartitions, wire.InvalidPartitions},
		{cluster.ErrInvalidReplicas, wire.InvalidReplicationFactor},
		{cluster.ErrInvalidAssignment, wire.InvalidReplicaAssignment},
		{cluster.ErrInvalidConfig, wire.InvalidConfig},
		{cluster.ErrInternalTopic, wire.PolicyViolation},
	} {
		if errors.Is(err, x.err) {
			code = x.code
		}
	}
	return code, text(err.Error())
}
