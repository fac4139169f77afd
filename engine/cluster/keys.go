package cluster

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// Root is where all keys are.
const Root = "/kafka/"

const (
	topicsPrefix = Root + "brokers/topics/"
	configPrefix = Root + "config/"
	// ProducerIDKey holds the next block of producer ids.
	ProducerIDKey = Root + "latest_producer_id_block"
)

// TopicKey holds a topic's id and the replicas of its partitions.
func TopicKey(topic string) string { return topicsPrefix + topic }

// StateKey holds a partition's leader, epoch and ISR.
func StateKey(topic string, partition int32) string {
	return fmt.Sprintf("%s%s/partitions/%d/state", topicsPrefix, topic, partition)
}

// ConfigKey holds what is set for a topic ("topics", NAME) or a broker ("brokers", ID; "" for all).
func ConfigKey(kind, name string) string {
	if kind == "brokers" && name == "" {
		name = "<default>"
	}
	return configPrefix + kind + "/" + name
}

// ID is a topic id: a UUID, written as Kafka writes it (22 characters of base64url).
type ID [16]byte

func (id ID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// ParseID reads what String wrote.
func ParseID(s string) (ID, error) {
	var id ID
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("%q is no topic id", s)
	}
	copy(id[:], b)
	return id, nil
}

type topicJSON struct {
	Version    int                `json:"version"`
	TopicID    string             `json:"topic_id"`
	Partitions map[string][]int32 `json:"partitions"`
}

type stateJSON struct {
	ControllerEpoch int     `json:"controller_epoch"`
	Leader          int32   `json:"leader"`
	Version         int     `json:"version"`
	LeaderEpoch     int32   `json:"leader_epoch"`
	ISR             []int32 `json:"isr"`
}

type configJSON struct {
	Version int               `json:"version"`
	Config  map[string]string `json:"config"`
}

// EncodeTopic is the value of TopicKey.
func EncodeTopic(t *Topic) []byte {
	j := topicJSON{Version: 3, TopicID: t.ID.String(), Partitions: map[string][]int32{}}
	for i, p := range t.Partitions {
		j.Partitions[strconv.Itoa(i)] = p.Replicas
	}
	return encode(j)
}

// EncodeState is the value of StateKey.
func EncodeState(p *Partition) []byte {
	return encode(stateJSON{ControllerEpoch: 1, Leader: p.Leader, Version: 1, LeaderEpoch: p.LeaderEpoch, ISR: p.ISR})
}

// EncodeConfig is the value of ConfigKey.
func EncodeConfig(c map[string]string) []byte {
	if c == nil {
		c = map[string]string{}
	}
	return encode(configJSON{Version: 1, Config: c})
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("BUG: cluster: " + err.Error())
	}
	return b
}

// Decode builds an image of what a store holds. An error names the key.
func Decode(kvs []KV) (*Image, error) {
	im := &Image{Topics: map[string]*Topic{}, ByID: map[ID]*Topic{}, BrokerConfig: map[string]map[string]string{}}
	states := map[string]stateJSON{}
	configs := map[string]map[string]string{}
	for _, kv := range kvs {
		bad := func(err error) error { return fmt.Errorf("metadata key %s: %w", kv.Key, err) }
		switch {
		case strings.HasPrefix(kv.Key, topicsPrefix):
			rest := kv.Key[len(topicsPrefix):]
			if strings.Contains(rest, "/") {
				var s stateJSON
				if err := json.Unmarshal(kv.Value, &s); err != nil {
					return nil, bad(err)
				}
				states[kv.Key] = s
				continue
			}
			var j topicJSON
			if err := json.Unmarshal(kv.Value, &j); err != nil {
				return nil, bad(err)
			}
			id, err := ParseID(j.TopicID)
			if err != nil {
				return nil, bad(err)
			}
			t := &Topic{Name: rest, ID: id, Partitions: make([]Partition, len(j.Partitions)), Rev: kv.Rev}
			for i := range t.Partitions {
				r, ok := j.Partitions[strconv.Itoa(i)]
				if !ok {
					return nil, bad(fmt.Errorf("partition %d of %d is missing", i, len(j.Partitions)))
				}
				t.Partitions[i].Replicas = r
			}
			im.Topics[rest] = t
			im.ByID[id] = t
		case strings.HasPrefix(kv.Key, configPrefix):
			var c configJSON
			if err := json.Unmarshal(kv.Value, &c); err != nil {
				return nil, bad(err)
			}
			kind, name, _ := strings.Cut(kv.Key[len(configPrefix):], "/")
			switch kind {
			case "topics":
				configs[name] = c.Config
			case "brokers":
				im.BrokerConfig[name] = c.Config
			}
		case kv.Key == ProducerIDKey:
			n, err := strconv.ParseInt(string(kv.Value), 10, 64)
			if err != nil {
				return nil, bad(err)
			}
			im.NextProducerID, im.ProducerIDRev = n, kv.Rev
		}
	}
	for name, t := range im.Topics {
		t.Config = configs[name]
		for i := range t.Partitions {
			p := &t.Partitions[i]
			s, ok := states[StateKey(name, int32(i))]
			if !ok {
				return nil, fmt.Errorf("metadata key %s is missing", StateKey(name, int32(i)))
			}
			p.Leader, p.LeaderEpoch, p.ISR = s.Leader, s.LeaderEpoch, s.ISR
		}
	}
	im.index()
	return im, nil
}

func (im *Image) index() {
	im.Names = im.Names[:0]
	for name := range im.Topics {
		im.Names = append(im.Names, name)
	}
	sort.Strings(im.Names)
}
