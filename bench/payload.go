package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"time"
)

// Each record's value begins with a header, so that reading back tells which
// record it is, whole or not:
//
//	0  crc32c of all that follows
//	4  run: which run wrote it
//	8  producer
//	12 partition; of a run with Streams how late it was sent, microseconds
//	16 sequence, from 0 per producer and partition
//	24 intended send time, nanoseconds from the start
const headerBytes = 32

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errChecksum = errors.New("checksum does not match")

// header is what a value says about itself.
type header struct {
	run, producer, partition uint32
	sequence                 uint64
	intended                 time.Duration
}

// put writes h over the start of value and seals the whole value.
func (h header) put(value []byte) {
	le := binary.LittleEndian
	le.PutUint32(value[4:], h.run)
	le.PutUint32(value[8:], h.producer)
	le.PutUint32(value[12:], h.partition)
	le.PutUint64(value[16:], h.sequence)
	le.PutUint64(value[24:], uint64(h.intended))
	le.PutUint32(value, crc32.Checksum(value[4:], castagnoli))
}

// peek reads the header without checking the value.
func peek(value []byte) header {
	le := binary.LittleEndian
	return header{
		run:       le.Uint32(value[4:]),
		producer:  le.Uint32(value[8:]),
		partition: le.Uint32(value[12:]),
		sequence:  le.Uint64(value[16:]),
		intended:  time.Duration(le.Uint64(value[24:])),
	}
}

// parse checks the value and reads its header.
func parse(value []byte) (header, error) {
	if len(value) < headerBytes {
		return header{}, fmt.Errorf("value has %d bytes, a header has %d", len(value), headerBytes)
	}
	if binary.LittleEndian.Uint32(value) != crc32.Checksum(value[4:], castagnoli) {
		return header{}, errChecksum
	}
	return peek(value), nil
}

// fill makes the body of a value: the ratio given is random, the rest repeats.
func fill(value []byte, random float64, source *rand.Rand) {
	cut := headerBytes + int(float64(len(value)-headerBytes)*random)
	for i := headerBytes; i < cut; i++ {
		value[i] = byte(source.Uint32())
	}
	for i := cut; i < len(value); i++ {
		value[i] = 'm'
	}
}
