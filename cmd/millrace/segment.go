package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/millrace/millrace/engine/record"
)

// Sizes of the entries of a partition's files, bytes.
const (
	indexEntry    = 8
	timeEntry     = 12
	abortedEntry  = 34
	producerEntry = 46
	snapshotHead  = 10 // version, crc, count
)

// errTorn is a batch of which the file holds only the beginning.
var errTorn = errors.New("the batch is longer than the rest of the file")

// segment reads a .log file batch by batch.
type segment struct {
	path string
	base int64 // offset in its name
	size int64
	file *os.File
	buf  []byte
}

func openSegment(path string) (*segment, error) {
	base, err := baseOffset(path)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, err
	}
	return &segment{path: path, base: base, size: info.Size(), file: file, buf: make([]byte, 1<<16)}, nil
}

func (s *segment) close() { s.file.Close() }

// at is the batch at a position, valid until the next call. The error is io.EOF
// at the end, errTorn, record.ErrCorrupt, or the disk's.
func (s *segment) at(pos int64) (record.Batch, error) {
	left := s.size - pos
	switch {
	case left <= 0:
		return nil, io.EOF
	case left < record.HeaderSize:
		return nil, errTorn
	}
	if _, err := s.file.ReadAt(s.buf[:record.HeaderSize], pos); err != nil {
		return nil, err
	}
	size, ok := record.PeekSize(s.buf)
	if !ok || record.Batch(s.buf).Magic() != record.Magic {
		return nil, record.ErrCorrupt
	}
	if int64(size) > left {
		return nil, errTorn
	}
	if size > len(s.buf) {
		s.buf = make([]byte, size+size/4)
	}
	if _, err := s.file.ReadAt(s.buf[:size], pos); err != nil {
		return nil, err
	}
	return record.Batch(s.buf[:size:size]), nil
}

// baseOffset reads the 20 digits that the files of a segment are named by.
func baseOffset(path string) (int64, error) {
	name, _, _ := strings.Cut(filepath.Base(path), ".")
	n, err := strconv.ParseInt(name, 10, 64)
	if err != nil || len(name) != 20 || n < 0 {
		return 0, fmt.Errorf("%s: the name is not a base offset of 20 digits", path)
	}
	return n, nil
}

// beside is the path of the segment's file with another suffix.
func beside(path, suffix string) string {
	return strings.TrimSuffix(path, filepath.Ext(path)) + suffix
}

// indexed is an entry of an .index: the last offset of a batch, and where that batch starts.
type indexed struct {
	offset int64
	pos    int64
}

// readIndex reads an .index up to the first empty entry: an active one is
// preallocated with zeros. The first batch of a segment has no entry, so a
// relative offset of zero is never one.
func readIndex(path string) (entries []indexed, err error) {
	b, base, err := readEntries(path, indexEntry)
	for ; len(b) >= indexEntry; b = b[indexEntry:] {
		offset := int64(int32(binary.BigEndian.Uint32(b)))
		pos := int64(int32(binary.BigEndian.Uint32(b[4:])))
		if offset == 0 && pos == 0 {
			break
		}
		entries = append(entries, indexed{base + offset, pos})
	}
	return entries, err
}

// stamped is an entry of a .timeindex: the largest timestamp so far, and the last offset of the batch that has it.
type stamped struct {
	timestamp int64 // ms since 1970
	offset    int64
}

// readTimeIndex reads a .timeindex up to the first empty entry.
func readTimeIndex(path string) (entries []stamped, err error) {
	b, base, err := readEntries(path, timeEntry)
	for ; len(b) >= timeEntry; b = b[timeEntry:] {
		timestamp := int64(binary.BigEndian.Uint64(b))
		offset := int64(int32(binary.BigEndian.Uint32(b[8:])))
		if timestamp == 0 && offset == 0 {
			break
		}
		entries = append(entries, stamped{timestamp, base + offset})
	}
	return entries, err
}

// readEntries reads a file of entries of one size. A length that is not a
// multiple of it is an error, and the whole entries are returned all the same.
func readEntries(path string, size int) (b []byte, base int64, err error) {
	if base, err = baseOffset(path); err != nil {
		return nil, 0, err
	}
	if b, err = os.ReadFile(path); err != nil {
		return nil, 0, err
	}
	if len(b)%size != 0 {
		err = fmt.Errorf("%s: %d bytes are not a whole number of entries of %d", path, len(b), size)
	}
	return b, base, err
}

// aborted is an entry of a .txnindex.
type aborted struct {
	version          int16
	producerID       int64
	firstOffset      int64
	lastOffset       int64 // of the abort marker
	lastStableOffset int64
}

func readAborted(path string) (entries []aborted, err error) {
	b, _, err := readEntries(path, abortedEntry)
	for ; len(b) >= abortedEntry; b = b[abortedEntry:] {
		entries = append(entries, aborted{int16(binary.BigEndian.Uint16(b)), int64(binary.BigEndian.Uint64(b[2:])),
			int64(binary.BigEndian.Uint64(b[10:])), int64(binary.BigEndian.Uint64(b[18:])), int64(binary.BigEndian.Uint64(b[26:]))})
	}
	return entries, err
}

// producerState is an entry of a .snapshot (ProducerSnapshot v1): a producer's last batch.
type producerState struct {
	producerID       int64
	epoch            int16
	lastSequence     int32
	lastOffset       int64 // -1: it has no batch, only a marker
	offsetDelta      int32 // last sequence less first, of the last batch
	timestamp        int64
	coordinatorEpoch int32
	txnFirstOffset   int64 // -1: no open transaction
}

// readSnapshot reads a .snapshot and checks its CRC.
func readSnapshot(path string) ([]producerState, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(b) < snapshotHead {
		return nil, fmt.Errorf("%s: %d bytes are too few for a snapshot", path, len(b))
	}
	version, stored, count := int16(binary.BigEndian.Uint16(b)), binary.BigEndian.Uint32(b[2:]), int(int32(binary.BigEndian.Uint32(b[6:])))
	if version != 1 {
		return nil, fmt.Errorf("%s: snapshot version %d is not known", path, version)
	}
	if crc := crc32.Checksum(b[6:], crc32.MakeTable(crc32.Castagnoli)); crc != stored {
		return nil, fmt.Errorf("%s: snapshot is corrupt: stored crc %d, computed %d", path, stored, crc)
	}
	if len(b) != snapshotHead+count*producerEntry {
		return nil, fmt.Errorf("%s: %d bytes do not hold %d producers of %d bytes", path, len(b), count, producerEntry)
	}
	var all []producerState
	for b = b[snapshotHead:]; len(b) > 0; b = b[producerEntry:] {
		u32 := func(at int) int32 { return int32(binary.BigEndian.Uint32(b[at:])) }
		u64 := func(at int) int64 { return int64(binary.BigEndian.Uint64(b[at:])) }
		all = append(all, producerState{u64(0), int16(binary.BigEndian.Uint16(b[8:])), u32(10), u64(14), u32(22), u64(26), u32(34), u64(38)})
	}
	return all, nil
}

// epochStart is a line of leader-epoch-checkpoint.
type epochStart struct {
	epoch int32
	start int64
}

// readEpochs reads a leader-epoch-checkpoint.
func readEpochs(path string) ([]epochStart, error) {
	var all []epochStart
	err := readCheckpoint(path, 2, func(f []string) error {
		epoch, err := strconv.ParseInt(f[0], 10, 32)
		if err != nil {
			return err
		}
		start, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return err
		}
		all = append(all, epochStart{int32(epoch), start})
		return nil
	})
	return all, err
}

// readCheckpoint reads a text file of Kafka's CheckpointFile form: version 0, the
// number of entries, then that many lines of so many fields. An empty file has no
// entries: that is how one begins that nothing has been written to yet.
func readCheckpoint(path string, fields int, entry func(f []string) error) error {
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(lines) < 2 || lines[0] != "0" {
		return fmt.Errorf("%s: not a checkpoint of version 0", path)
	}
	count, err := strconv.Atoi(lines[1])
	if err != nil || count != len(lines)-2 {
		return fmt.Errorf("%s: it says %q entries and has %d", path, lines[1], len(lines)-2)
	}
	for i, line := range lines[2:] {
		f := strings.Fields(line)
		if len(f) != fields {
			return fmt.Errorf("%s: line %d: %q has not %d fields", path, i+3, line, fields)
		}
		if err := entry(f); err != nil {
			return fmt.Errorf("%s: line %d: %w", path, i+3, err)
		}
	}
	return nil
}

// readPartitionMetadata reads the topic id (22 characters of base64url) from a partition.metadata.
func readPartitionMetadata(path string) (topicID string, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	version, id, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	topicID, ok := strings.CutPrefix(strings.TrimSpace(id), "topic_id: ")
	if strings.TrimSpace(version) != "version: 0" || !ok || len(topicID) != 22 {
		return "", fmt.Errorf("%s: not a partition.metadata of version 0", path)
	}
	return topicID, nil
}
