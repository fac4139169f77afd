package api

import (
	"testing"

	"github.com/millrace/millrace/engine/wire"
)

// The log is told of batches that no client in order sends, not of what clients
// run into and get over by themselves.
func TestBadBytes(t *testing.T) {
	known := &TopicRoute{Name: "t"}
	for _, x := range []struct {
		code  int16
		topic *TopicRoute
		want  bool
	}{
		{0, known, false},
		{wire.CorruptMessage, known, true},
		{wire.InvalidRecord, known, true},
		{wire.UnsupportedCompressionType, known, true},
		{wire.MessageTooLarge, known, true},
		{wire.OutOfOrderSequenceNumber, known, false},
		{wire.InvalidTimestamp, known, false},
		{wire.KafkaStorageError, known, false},
		{wire.UnknownTopicOrPartition, known, false},
		{wire.UnknownTopicOrPartition, nil, false},
		{wire.InvalidRecord, nil, false},
	} {
		part := producePart{topic: x.topic}
		part.Code = x.code
		if got := part.badBytes(); got != x.want {
			t.Errorf("%s: %v", wire.CodeName(x.code), got)
		}
	}
}
