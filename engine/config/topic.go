package config

import "strconv"

// Source says where a topic's value comes from, with Kafka's number in DescribeConfigs.
type Source int8

// The sources.
const (
	FromTopic   Source = 1
	FromRuntime Source = 2 // set for this broker at run time
	FromDefault Source = 5
	FromStatic  Source = 4 // server.properties
)

// Topic resolves a topic's key: what was set for the topic, else the broker's, else the default.
func (b *Broker) Topic(set map[string]string, key string) (string, Source) {
	if v, ok := set[key]; ok {
		return v, FromTopic
	}
	k := topicByName[key]
	if k == nil {
		panic("BUG: config: there is no topic key " + key)
	}
	switch key {
	case "retention.ms":
		return b.first([]string{"log.retention.ms", "log.retention.minutes", "log.retention.hours"}, []int64{1, 60e3, 3600e3})
	case "segment.ms":
		return b.first([]string{"log.roll.ms", "log.roll.hours"}, []int64{1, 3600e3})
	}
	if k.Broker != "" {
		if v, ok := b.Value(k.Broker); ok {
			return v, FromStatic
		} else if v != unset {
			return v, FromDefault
		}
	}
	return k.Default, FromDefault
}

// first is the first of several keys that is set, in ms; else the last one's default.
func (b *Broker) first(keys []string, unit []int64) (string, Source) {
	for i, key := range keys {
		if v, ok := b.Value(key); ok {
			n, _ := strconv.ParseInt(v, 10, 64)
			if n >= 0 {
				n *= unit[i]
			}
			return strconv.FormatInt(n, 10), FromStatic
		}
	}
	last := len(keys) - 1
	n, _ := strconv.ParseInt(brokerByName[keys[last]].Default, 10, 64)
	return strconv.FormatInt(n*unit[last], 10), FromDefault
}

// TopicInt resolves a number.
func (b *Broker) TopicInt(set map[string]string, key string) int64 {
	v, _ := b.Topic(set, key)
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		panic("BUG: config: " + key + "=" + v + " is no number")
	}
	return n
}

// TopicString resolves text.
func (b *Broker) TopicString(set map[string]string, key string) string {
	v, _ := b.Topic(set, key)
	return v
}

// TopicFloat resolves a number that need not be whole.
func (b *Broker) TopicFloat(set map[string]string, key string) float64 {
	return float(key, b.TopicString(set, key))
}
