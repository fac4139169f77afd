package wire

// What a client needs of Produce: a request for one topic, piece by piece, so that the
// records can stay where they are, and a view of the response. Versions 9-12: flexible,
// topics by name.
//
// A request is AppendProduceHead after the request's header, then for each partition
// AppendProduceRecords, the records, and ProducePartitionEnd; at last ProduceRequestEnd.

// ProducePartitionEnd ends a partition of a request, ProduceRequestEnd its topic and the
// request: there are no tagged fields.
const (
	ProducePartitionEnd = "\x00"
	ProduceRequestEnd   = "\x00\x00"
)

// ProduceRecordsMax is the most that AppendProduceRecords appends, bytes.
const ProduceRecordsMax = 4 + 5

// AppendProduceHead begins the body of a request without transaction for one topic with
// that many partitions.
func AppendProduceHead(dst []byte, acks int16, timeoutMillis int32, topic string, partitions int) []byte {
	dst = append(dst, 0)
	dst = appendInt16(dst, acks)
	dst = appendInt32(dst, timeoutMillis)
	dst = appendCount(dst, true, 1)
	dst = appendString(dst, true, topic)
	return appendCount(dst, true, partitions)
}

// AppendProduceRecords begins a partition, whose records have that size in bytes.
func AppendProduceRecords(dst []byte, partition int32, size int) []byte {
	dst = appendInt32(dst, partition)
	return appendUvarint(dst, size+1)
}

// ProduceResponse is a Produce response, versions 9-12: a view of its frame whose slice is
// used again by the next Parse.
type ProduceResponse struct {
	ThrottleMillis int32
	Partitions     []ProducedPartition // of all topics
}

// ProducedPartition is one partition's answer.
type ProducedPartition struct {
	Topic      []byte
	Partition  int32
	ErrorCode  int16
	BaseOffset int64
	Message    []byte // nil: none
}

// Parse reads the body of a response: ErrMalformed or nil. It allocates only while its
// slice grows to the largest response yet. Who leads now (version 10) is not kept.
func (r *ProduceResponse) Parse(body []byte) error {
	d := decoder{b: body, flexible: true}
	*r = ProduceResponse{Partitions: r.Partitions[:0]}
	for topics := d.count(); topics > 0 && !d.bad; topics-- {
		name := d.string()
		for n := d.count(); n > 0 && !d.bad; n-- {
			p := ProducedPartition{Topic: name, Partition: d.int32(), ErrorCode: d.int16(), BaseOffset: d.int64()}
			d.int64() // log append time
			d.int64() // log start
			for e := d.count(); e > 0 && !d.bad; e-- {
				d.int32()
				d.nullableString()
				d.tags()
			}
			p.Message = d.nullableString()
			d.tags()
			r.Partitions = append(r.Partitions, p)
		}
		d.tags()
	}
	r.ThrottleMillis = d.int32()
	d.tags()
	return d.err()
}
