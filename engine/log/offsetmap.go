package log

import (
	"bytes"
	"crypto/md5"
	"encoding/binary"
)

// offsetMap says, for each key, the offset of its last record: by 128 bits of hash, as Kafka's
// SkimpyOffsetMap. Two keys with one hash would be taken for one; that does not happen.
type offsetMap struct {
	entries []byte // slots of a hash and an offset plus 1; 0: free
	slots   uint64
	used    uint64
	max     uint64 // so many may be used
}

const offsetMapEntry = md5.Size + 8

// newOffsetMap makes one for at most n keys within so many bytes.
func newOffsetMap(n, bytesMax int64) *offsetMap {
	slots := max(min(n+n/4, bytesMax/offsetMapEntry), 16)
	return &offsetMap{entries: make([]byte, slots*offsetMapEntry), slots: uint64(slots), max: uint64(slots) / 10 * 9}
}

// slot is where a key is, or would be.
func (m *offsetMap) slot(hash *[md5.Size]byte) []byte {
	for i := binary.LittleEndian.Uint64(hash[:]) % m.slots; ; i = (i + 1) % m.slots {
		e := m.entries[i*offsetMapEntry:][:offsetMapEntry]
		if binary.LittleEndian.Uint64(e[md5.Size:]) == 0 || bytes.Equal(e[:md5.Size], hash[:]) {
			return e
		}
	}
}

// room says whether n keys more have room.
func (m *offsetMap) room(n int32) bool { return m.used+uint64(n) <= m.max }

// put notes a record; offsets go up.
func (m *offsetMap) put(key []byte, offset int64) {
	hash := md5.Sum(key)
	e := m.slot(&hash)
	if binary.LittleEndian.Uint64(e[md5.Size:]) == 0 {
		copy(e, hash[:])
		m.used++
	}
	binary.LittleEndian.PutUint64(e[md5.Size:], uint64(offset)+1)
}

// last is the offset of a key's last record, or -1.
func (m *offsetMap) last(key []byte) int64 {
	hash := md5.Sum(key)
	return int64(binary.LittleEndian.Uint64(m.slot(&hash)[md5.Size:])) - 1
}
