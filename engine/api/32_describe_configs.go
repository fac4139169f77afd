package api

// DescribeConfigs (key 32), versions 1-4. 3 types and documentation. Resources: topics
// and this broker.

import (
	"slices"
	"strconv"

	"github.com/millrace/millrace/engine/config"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() { handlers[wire.KeyDescribeConfigs] = describeConfigs }

func describeConfigs(c *call, r kmsg.Request) {
	req := r.(*kmsg.DescribeConfigsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeConfigsResponse)
	for i := range req.Resources {
		q := &req.Resources[i]
		a := kmsg.NewDescribeConfigsResponseResource()
		a.ResourceType, a.ResourceName = q.ResourceType, q.ResourceName
		wanted := func(name string) bool { return q.ConfigNames == nil || slices.Contains(q.ConfigNames, name) }
		switch q.ResourceType {
		case kmsg.ConfigResourceTypeTopic:
			t := c.Image.Load().Topics[q.ResourceName]
			if t == nil {
				a.ErrorCode, a.ErrorMessage = wire.UnknownTopicOrPartition, text("there is no topic "+q.ResourceName)
				break
			}
			cfg := c.Config.Load()
			for _, k := range config.TopicKeys() {
				if wanted(k.Name) {
					v, source := cfg.Topic(t.Config, k.Name)
					e := entry(req, &k, v, source)
					if req.IncludeSynonyms {
						e.ConfigSynonyms = synonyms(cfg, t.Config, &k)
					}
					a.Configs = append(a.Configs, e)
				}
			}
		case kmsg.ConfigResourceTypeBroker:
			if q.ResourceName != "" && q.ResourceName != strconv.Itoa(int(c.NodeID)) {
				a.ErrorCode, a.ErrorMessage = wire.InvalidRequest, text("there is only broker "+strconv.Itoa(int(c.NodeID)))
				break
			}
			if q.ResourceName == "" { // what was set at run time for all brokers: nothing can be
				break
			}
			cfg := c.Config.Load()
			for _, k := range config.BrokerKeys() {
				if wanted(k.Name) {
					v, set := cfg.Value(k.Name)
					source := config.FromDefault
					if set {
						source = config.FromStatic
					}
					e := entry(req, &k, v, source)
					e.ReadOnly = true
					if req.IncludeSynonyms {
						e.ConfigSynonyms = brokerSynonyms(cfg, &k)
					}
					a.Configs = append(a.Configs, e)
				}
			}
		case kmsg.ConfigResourceTypeBrokerLogger, kmsg.ConfigResourceTypeClientMetrics, kmsg.ConfigResourceTypeGroupConfig:
			// Nothing can be set for these.
		default:
			a.ErrorCode, a.ErrorMessage = wire.InvalidRequest, text("unknown kind of resource")
		}
		resp.Resources = append(resp.Resources, a)
	}
	c.reply(resp)
}

func entry(req *kmsg.DescribeConfigsRequest, k *config.Key, v string, source config.Source) kmsg.DescribeConfigsResponseResourceConfig {
	e := kmsg.NewDescribeConfigsResponseResourceConfig()
	e.Name = k.Name
	if v != "" {
		e.Value = &v
	}
	e.Source, e.IsDefault = kmsg.ConfigSource(source), source == config.FromDefault
	e.ConfigType = kmsg.ConfigType(k.Type)
	if req.IncludeDocumentation {
		e.Documentation = &k.Doc
	}
	return e
}

type synonym = kmsg.DescribeConfigsResponseResourceConfigConfigSynonym

// synonyms are the places where a topic's value is looked for, nearest first.
func synonyms(cfg *config.Broker, set map[string]string, k *config.Key) (out []synonym) {
	if v, ok := set[k.Name]; ok {
		out = append(out, synonym{Name: k.Name, Value: &v, Source: kmsg.ConfigSource(config.FromTopic)})
	}
	if k.Broker != "" {
		out = append(out, brokerSynonyms(cfg, config.BrokerKey(k.Broker))...)
	}
	return out
}

func brokerSynonyms(cfg *config.Broker, k *config.Key) (out []synonym) {
	if v, ok := cfg.Value(k.Name); ok {
		out = append(out, synonym{Name: k.Name, Value: &v, Source: kmsg.ConfigSource(config.FromStatic)})
	}
	if k.Default != "" {
		out = append(out, synonym{Name: k.Name, Value: &k.Default, Source: kmsg.ConfigSource(config.FromDefault)})
	}
	return out
}
