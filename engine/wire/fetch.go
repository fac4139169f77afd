package wire

import "math"

// FlushedTag is the tagged field of a partition in Fetch in which a follower of
// ours tells how far its log is on disk: int64, an offset. Kafka's own tags are
// small numbers; other brokers skip this one.
const FlushedTag = 10000

// Fetch sessions (KIP-227), in SessionID and SessionEpoch.
const (
	NoFetchSession         int32 = 0
	FetchSessionFirstEpoch int32 = 0  // a full request, which wants a session
	FetchSessionFinalEpoch int32 = -1 // a full request without a session
)

// FetchRequest is a Fetch request (key 1), versions 4-18. Its slices are used again
// by the next Parse; names and racks are views of the frame.
type FetchRequest struct {
	Version       int16
	ReplicaID     int32 // -1: a consumer
	ReplicaEpoch  int64 // version 15; -1: unknown
	MaxWaitMillis int32
	MinBytes      int32
	MaxBytes      int32
	ReadCommitted bool
	SessionID     int32  // version 7
	SessionEpoch  int32  // version 7; FetchSessionFinalEpoch before
	ClusterID     []byte // version 12; nil: null
	Rack          []byte // version 11

	Topics     []FetchTopic
	Partitions []FetchPartition // of all topics: see FetchTopic

	Forgotten           []FetchTopic // version 7: to be removed from the session
	ForgottenPartitions []int32      // of all of those
}

// FetchTopic is a topic of a Fetch request; its partitions are
// Partitions[First : First+Count], or, in Forgotten, of ForgottenPartitions.
type FetchTopic struct {
	Name  []byte   // versions 4-12
	ID    [16]byte // version 13
	First int
	Count int
}

// FetchPartition is one partition of a Fetch request.
type FetchPartition struct {
	Partition          int32
	CurrentLeaderEpoch int32 // version 9; -1: unknown
	Offset             int64
	LastFetchedEpoch   int32 // version 12; -1: none
	LogStart           int64 // version 5: a follower's; -1 for consumers
	MaxBytes           int32
	DirectoryID        [16]byte // version 17: a follower's
	HighWatermark      int64    // version 18: what the follower knows; math.MaxInt64: not told
	Flushed            int64    // FlushedTag: what the follower has on disk; -1: not told
}

// Parse reads the body of a request: ErrMalformed or nil. It allocates only while
// its slices grow to the largest request yet.
func (r *FetchRequest) Parse(version int16, body []byte) error {
	d := decoder{b: body, flexible: version >= 12}
	r.Version = version
	r.ReplicaID, r.ReplicaEpoch = -1, -1
	r.SessionID, r.SessionEpoch = NoFetchSession, FetchSessionFinalEpoch
	r.ClusterID, r.Rack = nil, nil
	r.Topics, r.Partitions = r.Topics[:0], r.Partitions[:0]
	r.Forgotten, r.ForgottenPartitions = r.Forgotten[:0], r.ForgottenPartitions[:0]

	if version <= 14 {
		r.ReplicaID = d.int32()
	}
	r.MaxWaitMillis = d.int32()
	r.MinBytes = d.int32()
	r.MaxBytes = d.int32()
	r.ReadCommitted = d.int8() == 1
	if version >= 7 {
		r.SessionID = d.int32()
		r.SessionEpoch = d.int32()
	}
	for n := d.count(); n > 0 && !d.bad; n-- {
		t := d.fetchTopic(version)
		t.First, t.Count = len(r.Partitions), d.count()
		for j := 0; j < t.Count && !d.bad; j++ {
			r.Partitions = append(r.Partitions, FetchPartition{})
			d.fetchPartition(version, &r.Partitions[len(r.Partitions)-1])
		}
		d.tags()
		r.Topics = append(r.Topics, t)
	}
	if version >= 7 {
		for n := d.count(); n > 0 && !d.bad; n-- {
			t := d.fetchTopic(version)
			t.First, t.Count = len(r.ForgottenPartitions), d.count()
			for j := 0; j < t.Count && !d.bad; j++ {
				r.ForgottenPartitions = append(r.ForgottenPartitions, d.int32())
			}
			d.tags()
			r.Forgotten = append(r.Forgotten, t)
		}
	}
	if version >= 11 {
		r.Rack = d.string()
	}
	d.fetchTags(r)
	return d.err()
}

func (d *decoder) fetchTopic(version int16) (t FetchTopic) {
	if version >= 13 {
		t.ID = d.id()
	} else {
		t.Name = d.string()
	}
	return t
}

func (d *decoder) fetchPartition(version int16, p *FetchPartition) {
	*p = FetchPartition{CurrentLeaderEpoch: -1, LastFetchedEpoch: -1, LogStart: -1, HighWatermark: math.MaxInt64, Flushed: -1}
	p.Partition = d.int32()
	if version >= 9 {
		p.CurrentLeaderEpoch = d.int32()
	}
	p.Offset = d.int64()
	if version >= 12 {
		p.LastFetchedEpoch = d.int32()
	}
	if version >= 5 {
		p.LogStart = d.int64()
	}
	p.MaxBytes = d.int32()
	for n := d.tagCount(); n > 0 && !d.bad; n-- {
		switch tag, v := d.tag(); tag {
		case 0:
			p.DirectoryID = v.id()
			d.bad = d.bad || v.bad
		case 1:
			p.HighWatermark = v.int64()
			d.bad = d.bad || v.bad
		case FlushedTag:
			p.Flushed = v.int64()
			d.bad = d.bad || v.bad
		}
	}
}

func (d *decoder) fetchTags(r *FetchRequest) {
	for n := d.tagCount(); n > 0 && !d.bad; n-- {
		switch tag, v := d.tag(); tag {
		case 0:
			r.ClusterID = v.nullableString()
			d.bad = d.bad || v.bad
		case 1:
			r.ReplicaID, r.ReplicaEpoch = v.int32(), v.int64()
			v.tags()
			d.bad = d.bad || v.bad
		}
	}
}

// FetchResponsePartition is the answer for one partition, records apart.
type FetchResponsePartition struct {
	Partition        int32
	ErrorCode        int16
	HighWatermark    int64
	LastStable       int64
	LogStart         int64        // version 5
	Aborted          []AbortedTxn // nil: null, as for read_uncommitted
	PreferredReplica int32        // version 11; -1: none
	DivergingEpoch   *EpochEnd    // version 12: the follower must truncate; nil: not
	Leader           *CurrentLeader
}

// AbortedTxn is an aborted transaction in the range that is returned.
type AbortedTxn struct {
	ProducerID  int64
	FirstOffset int64
}

// EpochEnd is where an epoch ends in the leader's log.
type EpochEnd struct {
	Epoch     int32
	EndOffset int64
}

// A Fetch response is appended piece by piece: AppendFetchStart; for each topic
// AppendFetchTopic; for each of its partitions AppendFetchPartition, then the
// records, which may come from elsewhere (a file, the log's memory), then
// AppendFetchPartitionEnd; AppendFetchTopicEnd; at last AppendFetchEnd.

// AppendFetchStart begins the body of a response with that many topics.
func AppendFetchStart(dst []byte, version int16, throttleMillis int32, errorCode int16, sessionID int32, topics int) []byte {
	dst = appendInt32(dst, throttleMillis)
	if version >= 7 {
		dst = appendInt16(dst, errorCode)
		dst = appendInt32(dst, sessionID)
	}
	return appendCount(dst, version >= 12, topics)
}

// AppendFetchTopic begins a topic; versions 4-12 send its name, 13 and up its id.
func AppendFetchTopic(dst []byte, version int16, name []byte, id [16]byte, partitions int) []byte {
	if version >= 13 {
		dst = append(dst, id[:]...)
	} else {
		dst = appendString(dst, version >= 12, name)
	}
	return appendCount(dst, version >= 12, partitions)
}

// AppendFetchPartition appends a partition up to its records, of which recordsLen
// bytes must follow.
func AppendFetchPartition(dst []byte, version int16, p *FetchResponsePartition, recordsLen int) []byte {
	flexible := version >= 12
	dst = appendInt32(dst, p.Partition)
	dst = appendInt16(dst, p.ErrorCode)
	dst = appendInt64(dst, p.HighWatermark)
	dst = appendInt64(dst, p.LastStable)
	if version >= 5 {
		dst = appendInt64(dst, p.LogStart)
	}
	if p.Aborted == nil {
		dst = appendCount(dst, flexible, -1)
	} else {
		dst = appendCount(dst, flexible, len(p.Aborted))
	}
	for _, a := range p.Aborted {
		dst = appendInt64(dst, a.ProducerID)
		dst = appendInt64(dst, a.FirstOffset)
		dst = appendTagsEnd(dst, flexible)
	}
	if version >= 11 {
		dst = appendInt32(dst, p.PreferredReplica)
	}
	return appendCount(dst, flexible, recordsLen) // lengths of bytes look like counts
}

// AppendFetchPartitionEnd ends the partition, after its records.
func AppendFetchPartitionEnd(dst []byte, version int16, p *FetchResponsePartition) []byte {
	if version < 12 {
		return dst
	}
	at := len(dst)
	dst = append(dst, 0)
	if p.DivergingEpoch != nil {
		dst[at]++
		dst = append(dst, 0, 13)
		dst = appendInt32(dst, p.DivergingEpoch.Epoch)
		dst = appendInt64(dst, p.DivergingEpoch.EndOffset)
		dst = append(dst, 0)
	}
	if p.Leader != nil {
		dst[at]++
		dst = appendLeader(dst, 1, p.Leader)
	}
	return dst
}

// AppendFetchTopicEnd ends a topic.
func AppendFetchTopicEnd(dst []byte, version int16) []byte {
	return appendTagsEnd(dst, version >= 12)
}

// AppendFetchEnd ends the response. Endpoints are of the leaders named in it
// (version 16).
func AppendFetchEnd(dst []byte, version int16, endpoints []NodeEndpoint) []byte {
	if version < 16 || len(endpoints) == 0 {
		return appendTagsEnd(dst, version >= 12)
	}
	return appendEndpoints(dst, endpoints)
}
