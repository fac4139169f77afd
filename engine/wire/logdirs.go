package wire

import (
	"encoding/binary"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// The tagged fields of a partition in DescribeLogDirs (version 2 on) in which a broker
// of ours tells its offsets: int64 each, big endian. Kafka's own tags are small
// numbers; clients that do not know these skip them.
const (
	LogDirFlushedTag       = 10001 // records below it survive power loss
	LogDirHighWatermarkTag = 10002 // consumers see what is below
	LogDirLogStartTag      = 10003 // the first offset that can be read
	LogDirLogEndTag        = 10004 // the offset that the next record gets
)

// LogDirOffsets are a replica's offsets as DescribeLogDirs tells them.
type LogDirOffsets struct {
	Flushed, HighWatermark, LogStart, LogEnd int64
}

// SetTags writes the offsets into a partition's tagged fields.
func (o LogDirOffsets) SetTags(t *kmsg.Tags) {
	for _, f := range [...]struct {
		tag    uint32
		offset int64
	}{
		{LogDirFlushedTag, o.Flushed}, {LogDirHighWatermarkTag, o.HighWatermark}, {LogDirLogStartTag, o.LogStart}, {LogDirLogEndTag, o.LogEnd},
	} {
		t.Set(f.tag, binary.BigEndian.AppendUint64(nil, uint64(f.offset)))
	}
}

// LogDirOffsetsOf reads them back. Not ok where the broker does not tell all four.
func LogDirOffsetsOf(t *kmsg.Tags) (o LogDirOffsets, ok bool) {
	found := 0
	t.Each(func(tag uint32, v []byte) {
		var to *int64
		switch tag {
		case LogDirFlushedTag:
			to = &o.Flushed
		case LogDirHighWatermarkTag:
			to = &o.HighWatermark
		case LogDirLogStartTag:
			to = &o.LogStart
		case LogDirLogEndTag:
			to = &o.LogEnd
		}
		if to != nil && len(v) == 8 {
			*to = int64(binary.BigEndian.Uint64(v))
			found++
		}
	})
	return o, found == 4
}
