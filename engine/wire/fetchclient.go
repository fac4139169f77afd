package wire

import "math"

// The other side of Fetch, for those of ours who ask: followers, tools, the bench.

// AppendTo appends the body of the request at r.Version (4-18). Fields that the
// version does not have are left out.
func (r *FetchRequest) AppendTo(dst []byte) []byte {
	version, flexible := r.Version, r.Version >= 12
	if version <= 14 {
		dst = appendInt32(dst, r.ReplicaID)
	}
	dst = appendInt32(dst, r.MaxWaitMillis)
	dst = appendInt32(dst, r.MinBytes)
	dst = appendInt32(dst, r.MaxBytes)
	isolation := byte(0)
	if r.ReadCommitted {
		isolation = 1
	}
	dst = append(dst, isolation)
	if version >= 7 {
		dst = appendInt32(dst, r.SessionID)
		dst = appendInt32(dst, r.SessionEpoch)
	}
	dst = appendCount(dst, flexible, len(r.Topics))
	for i := range r.Topics {
		t := &r.Topics[i]
		dst = AppendFetchTopic(dst, version, t.Name, t.ID, t.Count)
		for j := range r.Partitions[t.First : t.First+t.Count] {
			dst = appendFetchRequestPartition(dst, version, &r.Partitions[t.First+j])
		}
		dst = appendTagsEnd(dst, flexible)
	}
	if version >= 7 {
		dst = appendCount(dst, flexible, len(r.Forgotten))
		for i := range r.Forgotten {
			t := &r.Forgotten[i]
			dst = AppendFetchTopic(dst, version, t.Name, t.ID, t.Count)
			for _, p := range r.ForgottenPartitions[t.First : t.First+t.Count] {
				dst = appendInt32(dst, p)
			}
			dst = appendTagsEnd(dst, flexible)
		}
	}
	if version >= 11 {
		dst = appendString(dst, flexible, r.Rack)
	}
	if !flexible {
		return dst
	}
	at := len(dst)
	dst = append(dst, 0)
	if r.ClusterID != nil {
		dst[at]++
		dst = append(dst, 0)
		dst = appendUvarint(dst, uvarintSize(len(r.ClusterID)+1)+len(r.ClusterID))
		dst = appendString(dst, true, r.ClusterID)
	}
	if version >= 15 && r.ReplicaID != -1 {
		dst[at]++
		dst = append(dst, 1, 13)
		dst = appendInt32(dst, r.ReplicaID)
		dst = appendInt64(dst, r.ReplicaEpoch)
		dst = append(dst, 0)
	}
	return dst
}

func appendFetchRequestPartition(dst []byte, version int16, p *FetchPartition) []byte {
	dst = appendInt32(dst, p.Partition)
	if version >= 9 {
		dst = appendInt32(dst, p.CurrentLeaderEpoch)
	}
	dst = appendInt64(dst, p.Offset)
	if version >= 12 {
		dst = appendInt32(dst, p.LastFetchedEpoch)
	}
	if version >= 5 {
		dst = appendInt64(dst, p.LogStart)
	}
	dst = appendInt32(dst, p.MaxBytes)
	if version < 12 {
		return dst
	}
	at := len(dst)
	dst = append(dst, 0)
	if version >= 17 && p.DirectoryID != [16]byte{} {
		dst[at]++
		dst = append(dst, 0, 16)
		dst = append(dst, p.DirectoryID[:]...)
	}
	if version >= 18 && p.HighWatermark != math.MaxInt64 {
		dst[at]++
		dst = append(dst, 1, 8)
		dst = appendInt64(dst, p.HighWatermark)
	}
	if p.Flushed != -1 {
		dst[at]++
		dst = appendUvarint(dst, FlushedTag)
		dst = append(dst, 8)
		dst = appendInt64(dst, p.Flushed)
	}
	return dst
}

// FetchResponse is a Fetch response, versions 4-18: a view of its frame whose
// slices are used again by the next Parse.
type FetchResponse struct {
	ThrottleMillis int32
	ErrorCode      int16 // version 7
	SessionID      int32 // version 7

	Topics     []FetchTopic // Partitions[First : First+Count] are a topic's
	Partitions []FetchedPartition
	Aborted    []AbortedTxn // of all partitions: see FetchedPartition
	Endpoints  int          // how many node endpoints the response names; they are not kept
}

// FetchedPartition is one partition's answer.
type FetchedPartition struct {
	Partition        int32
	ErrorCode        int16
	HighWatermark    int64
	LastStable       int64
	LogStart         int64 // version 5; -1 before
	PreferredReplica int32 // version 11; -1: none
	AbortedFirst     int   // FetchResponse.Aborted[AbortedFirst : AbortedFirst+AbortedCount]
	AbortedCount     int
	Diverging        EpochEnd      // version 12; Epoch -1: not diverging
	Leader           CurrentLeader // version 12; ID -1: not told
	Records          []byte        // whole batches, and perhaps a part of one at the end; nil: null
}

// Parse reads the body of a response: ErrMalformed or nil. It allocates only while
// its slices grow to the largest response yet.
func (r *FetchResponse) Parse(version int16, body []byte) error {
	d := decoder{b: body, flexible: version >= 12}
	*r = FetchResponse{Topics: r.Topics[:0], Partitions: r.Partitions[:0], Aborted: r.Aborted[:0]}
	r.ThrottleMillis = d.int32()
	if version >= 7 {
		r.ErrorCode = d.int16()
		r.SessionID = d.int32()
	}
	for n := d.count(); n > 0 && !d.bad; n-- {
		t := d.fetchTopic(version)
		t.First, t.Count = len(r.Partitions), d.count()
		for j := 0; j < t.Count && !d.bad; j++ {
			r.parsePartition(&d, version)
		}
		d.tags()
		r.Topics = append(r.Topics, t)
	}
	for n := d.tagCount(); n > 0 && !d.bad; n-- {
		if tag, v := d.tag(); tag == 0 {
			r.Endpoints = v.count()
		}
	}
	return d.err()
}

func (r *FetchResponse) parsePartition(d *decoder, version int16) {
	r.Partitions = append(r.Partitions, FetchedPartition{
		LogStart: -1, PreferredReplica: -1, AbortedFirst: len(r.Aborted),
		Diverging: EpochEnd{-1, -1}, Leader: CurrentLeader{-1, -1},
	})
	p := &r.Partitions[len(r.Partitions)-1]
	p.Partition = d.int32()
	p.ErrorCode = d.int16()
	p.HighWatermark = d.int64()
	p.LastStable = d.int64()
	if version >= 5 {
		p.LogStart = d.int64()
	}
	p.AbortedCount = d.count()
	for i := 0; i < p.AbortedCount && !d.bad; i++ {
		r.Aborted = append(r.Aborted, AbortedTxn{d.int64(), d.int64()})
		d.tags()
	}
	if version >= 11 {
		p.PreferredReplica = d.int32()
	}
	p.Records = d.nullableBytes()
	for n := d.tagCount(); n > 0 && !d.bad; n-- {
		switch tag, v := d.tag(); tag {
		case 0:
			p.Diverging = EpochEnd{v.int32(), v.int64()}
			d.bad = d.bad || v.bad
		case 1:
			p.Leader = CurrentLeader{v.int32(), v.int32()}
			d.bad = d.bad || v.bad
		}
	}
}
