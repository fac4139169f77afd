package api

// Metadata (key 3), versions 0-13. 4 auto creation can be refused; 5 offline replicas;
// 7 leader epochs; 9 flexible; 10 topic ids; 13 a top-level error (never set). There is
// one broker, which is the controller and leads everything, except a partition whose
// log is fenced: nobody leads that, and its replica is offline, as Kafka has it for a
// failed log directory.
//
// What we do differently: the answer to who has a topic made waits until it is there.

import (
	"errors"

	"github.com/millrace/millrace/engine/cluster"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() { handlers[wire.KeyMetadata] = metadata }

// noAuthorized is "not asked for" in the fields of authorized operations.
const noAuthorized = -2147483648

func metadata(c *call, r kmsg.Request) {
	req := r.(*kmsg.MetadataRequest)
	resp := req.ResponseKind().(*kmsg.MetadataResponse)
	resp.Brokers = []kmsg.MetadataResponseBroker{{NodeID: c.NodeID, Host: c.Host, Port: c.Port}}
	resp.ClusterID = &c.ClusterID
	resp.ControllerID = c.NodeID
	resp.AuthorizedOperations = noAuthorized
	im, routes := c.Image.Load(), c.Routes.Load()
	add := func(name *string, id [16]byte, t *cluster.Topic, code int16) {
		m := kmsg.NewMetadataResponseTopic()
		m.Topic, m.TopicID, m.ErrorCode, m.AuthorizedOperations = name, id, code, noAuthorized
		if t != nil {
			m.Topic, m.TopicID, m.IsInternal = &t.Name, t.ID, t.Internal()
			for i := range t.Partitions {
				p := &t.Partitions[i]
				a := kmsg.MetadataResponseTopicPartition{
					Partition: int32(i), Leader: p.Leader, LeaderEpoch: p.LeaderEpoch, Replicas: p.Replicas, ISR: p.ISR,
				}
				if routes.failed(t, i) {
					a.Leader, a.OfflineReplicas, a.ErrorCode = -1, p.Replicas, wire.LeaderNotAvailable
				}
				m.Partitions = append(m.Partitions, a)
			}
		}
		resp.Topics = append(resp.Topics, m)
	}
	if req.Topics == nil || len(req.Topics) == 0 && req.Version == 0 { // all
		for _, name := range im.Names {
			add(nil, [16]byte{}, im.Topics[name], 0)
		}
		c.reply(resp)
		return
	}
	create := c.Config.Load().Bool("auto.create.topics.enable") && (req.AllowAutoTopicCreation || req.Version < 4)
	refused := map[string]int16{}
	made := newGather(func() {
		im, routes = c.Image.Load(), c.Routes.Load()
		for i := range req.Topics {
			q := &req.Topics[i]
			switch {
			case q.Topic == nil:
				t := im.ByID[q.TopicID]
				if t == nil {
					add(nil, q.TopicID, nil, wire.UnknownTopicID)
				} else {
					add(nil, q.TopicID, t, 0)
				}
			case im.Topics[*q.Topic] != nil:
				add(nil, [16]byte{}, im.Topics[*q.Topic], 0)
			default:
				code, ok := refused[*q.Topic]
				switch {
				case ok:
				case !cluster.ValidTopic(*q.Topic):
					code = wire.InvalidTopicException
				default:
					code = wire.UnknownTopicOrPartition
				}
				add(q.Topic, [16]byte{}, nil, code)
			}
		}
		c.reply(resp)
	})
	for i := range req.Topics {
		name := req.Topics[i].Topic
		if name == nil || im.Topics[*name] != nil || !create || !cluster.ValidTopic(*name) {
			continue
		}
		made.add()
		c.createTopic(c.autoSpec(*name), func(_ *cluster.Topic, err error) {
			if err != nil && !errors.Is(err, cluster.ErrTopicExists) {
				c.Log("topic %s: not created for %s: %v", *name, c.host, err)
				refused[*name], _ = clusterError(err)
			}
			made.end()
		})
	}
	made.end()
}

// failed says whether a partition's log is fenced.
func (r *Routes) failed(t *cluster.Topic, partition int) bool {
	to := r.ByID[t.ID]
	return to != nil && partition < len(to.Partitions) && to.Partitions[partition].Published.Fenced.Load() != nil
}

// createTopic has the controller make a topic and comes back to this core.
func (c *Core) createTopic(spec cluster.TopicSpec, done func(*cluster.Topic, error)) {
	c.On(0, func(at *Core) {
		at.Controller.CreateTopic(spec, false, func(t *cluster.Topic, err error) {
			at.On(c.Loop.ID, func(*Core) { done(t, err) })
		})
	})
}

// autoSpec is a topic that a client asked for without making it.
func (c *Core) autoSpec(name string) cluster.TopicSpec {
	cfg := c.Config.Load()
	if name == cluster.OffsetsTopic {
		return c.offsetsSpec()
	}
	return cluster.TopicSpec{
		Name: name, Partitions: int32(cfg.Int("num.partitions")), Replicas: int16(cfg.Int("default.replication.factor")),
	}
}

// offsetsSpec is __consumer_offsets. Its flush.policy is the broker's: a commit is as
// durable as a record that was acknowledged under the default.
func (c *Core) offsetsSpec() cluster.TopicSpec {
	cfg := c.Config.Load()
	return cluster.TopicSpec{
		Name: cluster.OffsetsTopic, Partitions: int32(cfg.Int("offsets.topic.num.partitions")),
		Replicas: int16(cfg.Int("offsets.topic.replication.factor")),
		Config: map[string]string{
			"cleanup.policy": "compact", "compression.type": "producer", "segment.bytes": cfg.String("offsets.topic.segment.bytes"),
		},
	}
}
