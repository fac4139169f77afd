package cluster

// Image is all metadata at one revision. It is immutable once published: a change
// makes a new one (see With and Without), which shares what did not change.
type Image struct {
	Topics map[string]*Topic
	ByID   map[ID]*Topic
	Names  []string // of the topics, sorted

	// BrokerConfig is what was set at run time, by broker id or "<default>".
	BrokerConfig map[string]map[string]string

	NextProducerID int64
	ProducerIDRev  int64
}

// Topic is a topic.
type Topic struct {
	Name       string
	ID         ID
	Partitions []Partition
	Config     map[string]string // what was set for it
	Rev        int64             // the revision of its key
}

// Partition is where a partition lies.
type Partition struct {
	Replicas    []int32 // AR: all assigned replicas; the first is the preferred leader
	ISR         []int32 // in-sync replicas
	Leader      int32   // -1: none
	LeaderEpoch int32
}

// Internal says whether a topic is the broker's own.
func (t *Topic) Internal() bool {
	return t.Name == OffsetsTopic || t.Name == TransactionsTopic
}

// The broker's own topics.
const (
	OffsetsTopic      = "__consumer_offsets"
	TransactionsTopic = "__transaction_state"
)

// NewImage is an empty image.
func NewImage() *Image {
	im, _ := Decode(nil)
	return im
}

func (im *Image) clone() *Image {
	c := *im
	c.Topics = make(map[string]*Topic, len(im.Topics)+1)
	c.ByID = make(map[ID]*Topic, len(im.ByID)+1)
	for k, v := range im.Topics {
		c.Topics[k] = v
	}
	for k, v := range im.ByID {
		c.ByID[k] = v
	}
	c.Names = nil
	return &c
}

// With is the image with topics added or replaced.
func (im *Image) With(topics ...*Topic) *Image {
	c := im.clone()
	for _, t := range topics {
		c.Topics[t.Name] = t
		c.ByID[t.ID] = t
	}
	c.index()
	return c
}

// Without is the image without a topic.
func (im *Image) Without(name string) *Image {
	c := im.clone()
	if t := c.Topics[name]; t != nil {
		delete(c.Topics, name)
		delete(c.ByID, t.ID)
	}
	c.index()
	return c
}
