package wire

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestLogDirOffsets(t *testing.T) {
	want := LogDirOffsets{Flushed: 7, HighWatermark: 9, LogStart: 3, LogEnd: 1<<40 + 1}
	var tags kmsg.Tags
	if o, ok := LogDirOffsetsOf(&tags); ok {
		t.Fatalf("%+v of no tags", o)
	}
	want.SetTags(&tags)
	tags.Set(0, []byte{1})
	if o, ok := LogDirOffsetsOf(&tags); !ok || o != want || tags.Len() != 5 {
		t.Fatalf("%+v, %t, %d tags", o, ok, tags.Len())
	}
	tags.Set(LogDirFlushedTag, []byte{1, 2, 3}) // not of ours
	if o, ok := LogDirOffsetsOf(&tags); ok {
		t.Fatalf("%+v of a tag of 3 bytes", o)
	}
}
