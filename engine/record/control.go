package record

import (
	"encoding/binary"
	"fmt"
)

// ControlType says what a control record means (Kafka's ControlRecordType).
type ControlType int16

const (
	Abort  ControlType = 0 // the producer's transaction is aborted
	Commit ControlType = 1 // the producer's transaction is committed
)

// Marker is the end of a transaction in a partition: a control batch of one record.
// Whose transaction it ends stands in the batch's producer id and epoch.
type Marker struct {
	Type             ControlType // Abort, Commit; others are KRaft's, and have no coordinator epoch
	CoordinatorEpoch int32
}

// AppendMarker appends the control batch that ends a producer's transaction
// (EndTxnMarker v0). It takes one offset; base offset is 0 and leader epoch -1, to
// be set at append. timestamp is in ms since 1970.
func AppendMarker(dst []byte, producerID int64, producerEpoch int16, m Marker, timestamp int64) []byte {
	var key [4]byte
	binary.BigEndian.PutUint16(key[2:], uint16(m.Type))
	var value [6]byte
	binary.BigEndian.PutUint32(value[2:], uint32(m.CoordinatorEpoch))
	var b Builder
	b.Begin(dst, None)
	b.SetProducer(producerID, producerEpoch, NoSequence, true)
	b.attributes |= controlBit
	b.Add(timestamp, key[:], value[:])
	return b.Finish()
}

// ParseMarker reads a control batch. Versions above 0 are read as 0, to which they
// may only add.
func ParseMarker(b Batch) (Marker, error) {
	if !b.Control() || b.Codec() != None {
		return Marker{}, fmt.Errorf("record: batch at offset %d is not a control batch", b.BaseOffset())
	}
	var r Record
	if r.parse(b.Records()) == 0 || len(r.Key) < 4 {
		return Marker{}, fmt.Errorf("record: control batch at offset %d: malformed record", b.BaseOffset())
	}
	m := Marker{Type: ControlType(binary.BigEndian.Uint16(r.Key[2:]))}
	if m.Type != Abort && m.Type != Commit {
		return m, nil
	}
	if len(r.Value) < 6 {
		return Marker{}, fmt.Errorf("record: control batch at offset %d: marker of %d bytes", b.BaseOffset(), len(r.Value))
	}
	m.CoordinatorEpoch = int32(binary.BigEndian.Uint32(r.Value[2:]))
	return m, nil
}
