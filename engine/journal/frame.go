package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// A frame, all numbers little-endian:
//
//	 0  magic "MRJ1"
//	 4  CRC-32C of the header from here on, and of the table
//	 8  journal id
//	24  generation
//	32  position of this frame
//	40  position of the frame before it; -1: this is the first
//	48  position of the oldest frame that is needed
//	56  entries in the table
//	60  bytes of the frame, without the padding to whole blocks
//	64  table: one row for each entry
//	..  the entries' batches, in the order of the table
//
// A row:
//
//	 0  topic id
//	16  incarnation
//	24  partition
//	28  kind of entry: 0, an append; 4 bytes
//	32  leader epoch
//	36  bytes of batches
//	40  base
//	48  end
//	56  prev
//	64  CRC-32C of the batches
//	68  4 bytes of 0
const (
	headerSize = 64
	rowSize    = 72
	// blockSize is what frames are padded to, bytes: at least a device's logical
	// block, and the page of the CPUs that matter.
	blockSize = 4096
)

var (
	magic      = [4]byte{'M', 'R', 'J', '1'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// header is a frame's, decoded.
type header struct {
	at, prev, start int64
	entries         int
	size            int
}

func padded(n int) int { return (n + blockSize - 1) &^ (blockSize - 1) }

// putHeader completes a frame whose table is in place.
func putHeader(b []byte, id [16]byte, generation uint64, h header) {
	le := binary.LittleEndian
	copy(b, magic[:])
	copy(b[8:], id[:])
	le.PutUint64(b[24:], generation)
	le.PutUint64(b[32:], uint64(h.at))
	le.PutUint64(b[40:], uint64(h.prev))
	le.PutUint64(b[48:], uint64(h.start))
	le.PutUint32(b[56:], uint32(h.entries))
	le.PutUint32(b[60:], uint32(h.size))
	le.PutUint32(b[4:], crc32.Update(0, castagnoli, b[8:headerSize+h.entries*rowSize]))
}

// ours says whether b begins as a header of this journal does.
func ours(b []byte, id [16]byte, generation uint64) bool {
	return len(b) >= headerSize && [4]byte(b) == magic && [16]byte(b[8:24]) == id && binary.LittleEndian.Uint64(b[24:]) == generation
}

// parseHeader is a frame's header at the start of b; no: b does not start with a
// whole header of this journal. b reaches to the end of the table at least, where there is one.
func parseHeader(b []byte, id [16]byte, generation uint64) (h header, ok bool) {
	le := binary.LittleEndian
	if !ours(b, id, generation) {
		return h, false
	}
	h = header{
		at: int64(le.Uint64(b[32:])), prev: int64(le.Uint64(b[40:])), start: int64(le.Uint64(b[48:])),
		entries: int(le.Uint32(b[56:])), size: int(le.Uint32(b[60:])),
	}
	table := headerSize + h.entries*rowSize
	if table > h.size || table > len(b) || le.Uint32(b[4:]) != crc32.Update(0, castagnoli, b[8:table]) {
		return h, false
	}
	if h.at < 0 || h.at%blockSize != 0 || h.prev >= h.at || h.start > h.at || h.start < 0 {
		return h, false
	}
	return h, true
}

// putRow writes an entry's row; its batches lie at body.
func putRow(b []byte, e *Entry, body []byte) {
	le := binary.LittleEndian
	copy(b, e.TopicID[:])
	le.PutUint64(b[16:], e.Incarnation)
	le.PutUint32(b[24:], uint32(e.Partition))
	le.PutUint32(b[28:], 0)
	le.PutUint32(b[32:], uint32(e.LeaderEpoch))
	le.PutUint32(b[36:], uint32(len(body)))
	le.PutUint64(b[40:], uint64(e.Base))
	le.PutUint64(b[48:], uint64(e.End))
	le.PutUint64(b[56:], uint64(e.Prev))
	le.PutUint32(b[64:], crc32.Update(0, castagnoli, body))
	le.PutUint32(b[68:], 0)
}

// parseRow is an entry as its row says, and the CRC of its batches.
func parseRow(b []byte) (e Entry, crc uint32, err error) {
	le := binary.LittleEndian
	e.TopicID = [16]byte(b)
	e.Incarnation = le.Uint64(b[16:])
	e.Partition = int32(le.Uint32(b[24:]))
	e.LeaderEpoch = int32(le.Uint32(b[32:]))
	e.Size = int(le.Uint32(b[36:]))
	e.Base, e.End, e.Prev = int64(le.Uint64(b[40:])), int64(le.Uint64(b[48:])), int64(le.Uint64(b[56:]))
	if kind := le.Uint32(b[28:]); kind != 0 {
		return e, 0, fmt.Errorf("an entry of kind %d, which this version does not know", kind)
	}
	return e, le.Uint32(b[64:]), nil
}
