package wire

// ProduceRequest is a Produce request (key 0), versions 3-13: a view of its frame.
// Parse checks everything once; walking it afterwards cannot fail:
//
//	for t := r.Topics(); t.Next(); {
//		for t.NextPartition() {
//			use(t.Name, t.ID, t.Partition, t.Records)
//		}
//	}
//
// It can be parsed into again, and allocates nothing.
type ProduceRequest struct {
	Version         int16
	TransactionalID []byte // nil: none
	Acks            int16  // 0, 1, or -1: all in-sync replicas
	TimeoutMillis   int32
	TopicCount      int
	PartitionCount  int // over all topics

	topics []byte
}

// Parse reads the body of a request: ErrMalformed or nil. Bytes after the request
// are ignored, as Kafka does.
func (r *ProduceRequest) Parse(version int16, body []byte) error {
	d := decoder{b: body, flexible: version >= 9}
	*r = ProduceRequest{Version: version}
	r.TransactionalID = d.nullableString()
	r.Acks = d.int16()
	r.TimeoutMillis = d.int32()
	r.TopicCount = d.count()
	r.topics = d.b
	for i := 0; i < r.TopicCount && !d.bad; i++ {
		if version >= 13 {
			d.bytes(16)
		} else {
			d.string()
		}
		n := d.count()
		r.PartitionCount += n
		for j := 0; j < n && !d.bad; j++ {
			d.int32()
			d.nullableBytes()
			d.tags()
		}
		d.tags()
	}
	d.tags()
	return d.err()
}

// Topics starts to walk the request's topics.
func (r *ProduceRequest) Topics() ProduceTopics {
	return ProduceTopics{
		d:    decoder{b: r.topics, flexible: r.Version >= 9},
		ids:  r.Version >= 13,
		left: r.TopicCount,
	}
}

// ProduceTopics walks topics, and the partitions of each.
type ProduceTopics struct {
	Name           []byte   // versions 3-12
	ID             [16]byte // version 13
	PartitionCount int      // of this topic

	Partition int32
	Records   []byte // of this partition; nil: null

	d          decoder
	ids        bool
	left       int // topics to come
	partitions int // partitions to come in this topic
	open       bool
}

// Next moves to the next topic, before its first partition.
func (t *ProduceTopics) Next() bool {
	for t.NextPartition() { // what the caller has left of the last topic
	}
	if t.open {
		t.d.tags()
		t.open = false
	}
	if t.left == 0 {
		return false
	}
	t.left--
	t.open = true
	if t.ids {
		t.ID = t.d.id()
	} else {
		t.Name = t.d.string()
	}
	t.PartitionCount = t.d.count()
	t.partitions = t.PartitionCount
	return true
}

// NextPartition moves to the topic's next partition.
func (t *ProduceTopics) NextPartition() bool {
	if t.partitions == 0 {
		return false
	}
	t.partitions--
	t.Partition = t.d.int32()
	t.Records = t.d.nullableBytes()
	t.d.tags()
	return true
}

// NodeEndpoint is a broker's address, for clients that were told of a leader they
// do not know (KIP-951).
type NodeEndpoint struct {
	NodeID int32
	Host   string
	Port   int32
	Rack   string // "": null
}

// CurrentLeader tells a client who leads a partition (KIP-951).
type CurrentLeader struct {
	ID    int32 // -1: unknown
	Epoch int32
}

// RecordError is what is wrong with one record of a refused batch.
type RecordError struct {
	Index   int32 // in the batch, from 0
	Message string
}

// ProducePartition is the answer for one partition.
type ProducePartition struct {
	Partition     int32
	ErrorCode     int16
	BaseOffset    int64          // -1 with an error
	LogAppendTime int64          // ms since 1970; -1 when the topic has CreateTime
	LogStart      int64          // version 5; -1 with an error
	RecordErrors  []RecordError  // version 8
	Message       string         // version 8; "": none
	Leader        *CurrentLeader // version 10; nil: not told
}

// A Produce response is appended piece by piece: AppendProduceStart, then for each
// topic AppendProduceTopic, its partitions by AppendProducePartition and
// AppendProduceTopicEnd, at last AppendProduceEnd.

// AppendProduceStart begins the body of a response with that many topics.
func AppendProduceStart(dst []byte, version int16, topics int) []byte {
	return appendCount(dst, version >= 9, topics)
}

// AppendProduceTopic begins a topic; versions 3-12 send its name, 13 its id.
func AppendProduceTopic(dst []byte, version int16, name []byte, id [16]byte, partitions int) []byte {
	if version >= 13 {
		dst = append(dst, id[:]...)
	} else {
		dst = appendString(dst, version >= 9, name)
	}
	return appendCount(dst, version >= 9, partitions)
}

// AppendProducePartition appends one partition's answer.
func AppendProducePartition(dst []byte, version int16, p *ProducePartition) []byte {
	flexible := version >= 9
	dst = appendInt32(dst, p.Partition)
	dst = appendInt16(dst, p.ErrorCode)
	dst = appendInt64(dst, p.BaseOffset)
	dst = appendInt64(dst, p.LogAppendTime)
	if version >= 5 {
		dst = appendInt64(dst, p.LogStart)
	}
	if version >= 8 {
		dst = appendCount(dst, flexible, len(p.RecordErrors))
		for i := range p.RecordErrors {
			dst = appendInt32(dst, p.RecordErrors[i].Index)
			dst = appendMessage(dst, flexible, p.RecordErrors[i].Message)
			dst = appendTagsEnd(dst, flexible)
		}
		dst = appendMessage(dst, flexible, p.Message)
	}
	if version < 10 || p.Leader == nil {
		return appendTagsEnd(dst, flexible)
	}
	dst = append(dst, 1) // one tagged field
	return appendLeader(dst, 0, p.Leader)
}

// appendLeader appends a CurrentLeader as a tagged field.
func appendLeader(dst []byte, tag byte, l *CurrentLeader) []byte {
	dst = append(dst, tag, 9)
	dst = appendInt32(dst, l.ID)
	dst = appendInt32(dst, l.Epoch)
	return append(dst, 0)
}

// AppendProduceTopicEnd ends a topic.
func AppendProduceTopicEnd(dst []byte, version int16) []byte {
	return appendTagsEnd(dst, version >= 9)
}

// AppendProduceEnd ends the response. Endpoints are of the leaders named in it
// (version 10).
func AppendProduceEnd(dst []byte, version int16, throttleMillis int32, endpoints []NodeEndpoint) []byte {
	dst = appendInt32(dst, throttleMillis)
	if version < 10 || len(endpoints) == 0 {
		return appendTagsEnd(dst, version >= 9)
	}
	return appendEndpoints(dst, endpoints)
}

// appendEndpoints ends a structure whose one tagged field, 0, are node endpoints.
func appendEndpoints(dst []byte, endpoints []NodeEndpoint) []byte {
	size := uvarintSize(len(endpoints) + 1)
	for i := range endpoints {
		e := &endpoints[i]
		size += 4 + stringSize(e.Host) + 4 + 1 + 1
		if e.Rack != "" {
			size += stringSize(e.Rack) - 1
		}
	}
	dst = append(dst, 1, 0)
	dst = appendUvarint(dst, size)
	dst = appendCount(dst, true, len(endpoints))
	for i := range endpoints {
		e := &endpoints[i]
		dst = appendInt32(dst, e.NodeID)
		dst = appendString(dst, true, e.Host)
		dst = appendInt32(dst, e.Port)
		dst = appendMessage(dst, true, e.Rack)
		dst = append(dst, 0)
	}
	return dst
}

func stringSize(s string) int { return uvarintSize(len(s)+1) + len(s) }

func uvarintSize(n int) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}
