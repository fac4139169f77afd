package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/millrace/millrace/engine/record"
)

func logDump(c *cli, args []string) error {
	f := newFlags("log dump", "[FILE...]",
		"Prints the files of a partition as kafka-dump-log.sh does: .log, .index, .timeindex, .txnindex, .snapshot, and beyond it "+
			"leader-epoch-checkpoint and partition.metadata; ours and Apache Kafka's are the same. Indexes are checked against "+
			"the .log beside them. The exit code is 1 where something does not fit.",
		"millrace log dump --files orders-0/00000000000000000000.log --print-data-log\nmillrace log dump orders-0/*.index --verify-index-only")
	files := f.String("files", "", "the `files`, with commas between them, where they are not arguments")
	contents := f.Bool("print-data-log", false, "print keys and payloads; implies --deep-iteration")
	deep := f.Bool("deep-iteration", false, "print each record, not only batches")
	offsets := f.Bool("offsets-decoder", false, "decode records of __consumer_offsets; implies --print-data-log")
	sanity := f.Bool("index-sanity-check", false, "only check that an index is not corrupt in itself")
	verify := f.Bool("verify-index-only", false, "only check an index against the log, without printing it")
	skip := f.Bool("skip-record-metadata", false, "print only keys and payloads of records")
	most := f.Int64("max-bytes", math.MaxInt32, "how many `bytes` of a .log to read")
	if err := f.parse(c, args); err != nil {
		return err
	}
	if *files != "" {
		f.rest = append(f.rest, strings.Split(*files, ",")...)
	}
	if len(f.rest) == 0 {
		return usagef("no file named")
	}
	out := bufio.NewWriterSize(c.out, 1<<16)
	defer out.Flush()
	d := &dumper{Writer: out, err: c.err, contents: *contents || *offsets, deep: *deep || *contents || *offsets, offsets: *offsets,
		sanity: *sanity, verify: *verify, skip: *skip, maxBytes: *most, decompressor: record.NewDecompressor(record.DecompressedMaxDefault)}
	for _, path := range f.rest {
		if c.ctx.Err() != nil {
			break
		}
		if err := d.dump(strings.TrimSpace(path)); err != nil {
			d.found("%v", err)
		}
	}
	if d.findings > 0 {
		return fmt.Errorf("%d findings", d.findings)
	}
	return nil
}

// dumper prints files. findings counts what does not fit.
type dumper struct {
	*bufio.Writer
	err          io.Writer
	contents     bool // print keys and payloads
	deep         bool // print records
	offsets      bool // of __consumer_offsets
	sanity       bool
	verify       bool
	skip         bool
	maxBytes     int64
	decompressor *record.Decompressor
	findings     int
}

func (d *dumper) printf(format string, args ...any) { fmt.Fprintf(d, format, args...) }

// found reports what does not fit, after what has been printed so far.
func (d *dumper) found(format string, args ...any) {
	d.Flush()
	fmt.Fprintf(d.err, format+"\n", args...)
	d.findings++
}

func (d *dumper) dump(path string) error {
	d.printf("Dumping %s\n", path)
	switch filepath.Ext(path) {
	case ".log":
		return d.log(path)
	case ".index":
		return d.index(path)
	case ".timeindex":
		return d.timeIndex(path)
	case ".txnindex":
		entries, err := readAborted(path)
		for _, e := range entries {
			d.printf("version: %d producerId: %d firstOffset: %d lastOffset: %d lastStableOffset: %d\n",
				e.version, e.producerID, e.firstOffset, e.lastOffset, e.lastStableOffset)
		}
		return err
	case ".snapshot":
		return d.snapshot(path)
	}
	switch filepath.Base(path) {
	case "leader-epoch-checkpoint":
		epochs, err := readEpochs(path)
		for _, e := range epochs {
			d.printf("epoch: %d startOffset: %d\n", e.epoch, e.start)
		}
		return err
	case "partition.metadata":
		id, err := readPartitionMetadata(path)
		if err == nil {
			d.printf("version: 0 topicId: %s\n", id)
		}
		return err
	}
	d.found("Ignoring unknown file %s", path)
	return nil
}

func (d *dumper) log(path string) error {
	s, err := openSegment(path)
	if err != nil {
		return err
	}
	defer s.close()
	d.printf("Log starting offset: %d\n", s.base)
	pos, last := int64(0), int64(-1)
	for pos < d.maxBytes {
		b, err := s.at(pos)
		if err != nil {
			if err != io.EOF && err != errTorn && err != record.ErrCorrupt {
				return fmt.Errorf("%s: at %d: %w", path, pos, err)
			}
			break
		}
		d.batch(b, pos)
		if d.deep {
			last = d.records(path, b, last)
		}
		pos += int64(len(b))
	}
	if pos < s.size && pos < d.maxBytes {
		d.printf("Found %d invalid bytes at the end of %s\n", s.size-pos, filepath.Base(path))
		d.findings++
	}
	return nil
}

func (d *dumper) batch(b record.Batch, pos int64) {
	horizon := "OptionalLong.empty"
	if b.Attributes()&0x40 != 0 { // then the base timestamp holds it
		horizon = fmt.Sprintf("OptionalLong[%d]", b.BaseTimestamp())
	}
	valid := b.CheckCRC()
	if !valid {
		d.findings++
	}
	d.printf("baseOffset: %d lastOffset: %d count: %d baseSequence: %d lastSequence: %d producerId: %d producerEpoch: %d "+
		"partitionLeaderEpoch: %d isTransactional: %t isControl: %t deleteHorizonMs: %s position: %d %s: %d size: %d magic: %d "+
		"compresscodec: %s crc: %d isvalid: %t\n",
		b.BaseOffset(), b.LastOffset(), b.Count(), b.BaseSequence(), b.LastSequence(), b.ProducerID(), b.ProducerEpoch(),
		b.LeaderEpoch(), b.Transactional(), b.Control(), horizon, pos, timestampType(b), b.MaxTimestamp(), len(b), b.Magic(),
		b.Codec(), b.CRC(), valid)
}

func timestampType(b record.Batch) string {
	if b.TimestampType() == record.LogAppendTime {
		return "LogAppendTime"
	}
	return "CreateTime"
}

// records prints the records of a batch. last is the offset before it, and the
// result the offset of its last record.
func (d *dumper) records(path string, b record.Batch, last int64) int64 {
	var r record.Reader
	r.Reset(b, d.decompressor)
	for r.Next() {
		if r.Offset != last+1 {
			d.gap(path, last, r.Offset)
		}
		last = r.Offset
		prefix := "|"
		if !d.skip {
			prefix = ""
			d.metadata(b, &r.Record)
		}
		if d.contents && !b.Control() {
			key, value := payload(r.Key), payload(r.Value)
			if d.offsets {
				key, value = decodeGroupRecord(r.Offset, r.Key, r.Value)
			}
			if key != nil {
				d.printf("%s key: %s", prefix, *key)
				prefix = ""
			}
			if value != nil {
				d.printf("%s payload: %s", prefix, *value)
			}
		}
		d.printf("\n")
	}
	if err := r.Err(); err != nil {
		d.found("%s: %v", path, err)
	}
	return last
}

// gap prints what Kafka's tool prints. A gap between batches is legal (compaction), and so is a first offset above 0.
func (d *dumper) gap(path string, last, offset int64) {
	if last < 0 {
		return
	}
	d.Flush()
	fmt.Fprintf(d.err, "Non-consecutive offsets in %s\n  %d is followed by %d\n", path, last, offset)
}

func (d *dumper) metadata(b record.Batch, r *record.Record) {
	sequence := record.NoSequence
	if b.BaseSequence() != record.NoSequence {
		sequence = record.AddSequence(b.BaseSequence(), int32(r.Offset-b.BaseOffset()))
	}
	var keys []string
	for key := range r.Headers() {
		keys = append(keys, string(key))
	}
	d.printf("| offset: %d %s: %d keySize: %d valueSize: %d sequence: %d headerKeys: [%s]", r.Offset, timestampType(b), r.Timestamp,
		length(r.Key), length(r.Value), sequence, strings.Join(keys, ","))
	if !b.Control() {
		return
	}
	switch m, err := record.ParseMarker(b); {
	case err != nil:
		d.found("%v", err)
	case m.Type == record.Abort:
		d.printf(" endTxnMarker: ABORT coordinatorEpoch: %d", m.CoordinatorEpoch)
	case m.Type == record.Commit:
		d.printf(" endTxnMarker: COMMIT coordinatorEpoch: %d", m.CoordinatorEpoch)
	default:
		d.printf(" controlType: %d", m.Type)
	}
}

// length is -1 for null.
func length(b []byte) int {
	if b == nil {
		return -1
	}
	return len(b)
}

// payload is bytes as text, each byte that is no UTF-8 as U+FFFD; nil stays nil.
func payload(b []byte) *string {
	if b == nil {
		return nil
	}
	s := string([]rune(string(b)))
	return &s
}

func (d *dumper) index(path string) error {
	entries, err := readIndex(path)
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		d.printf("%s is empty.\n", path)
		return nil
	}
	if d.sanity {
		base, _ := baseOffset(path)
		if last := entries[len(entries)-1].offset; last < base {
			d.found("%s: the last offset %d is below the base offset", path, last)
			return nil
		}
		d.printf("%s passed sanity check.\n", path)
		return nil
	}
	s, err := openSegment(beside(path, ".log"))
	if err != nil {
		return err
	}
	defer s.close()
	var wrong []string
	for _, e := range entries {
		at := int64(-1)
		if b, err := s.at(e.pos); err == nil {
			at = b.LastOffset()
		}
		if at != e.offset {
			wrong = append(wrong, fmt.Sprintf("  Index offset: %d, log offset: %d", e.offset, at))
		}
		if !d.verify {
			d.printf("offset: %d position: %d\n", e.offset, e.pos)
		}
	}
	if len(wrong) > 0 {
		d.found("Mismatches in :%s\n%s", path, strings.Join(wrong, "\n"))
	}
	return nil
}

func (d *dumper) timeIndex(path string) error {
	entries, err := readTimeIndex(path)
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		d.printf("%s is empty.\n", path)
		return nil
	}
	base, _ := baseOffset(path)
	if d.sanity {
		switch last := entries[len(entries)-1]; {
		case last.timestamp < entries[0].timestamp:
			d.found("%s: the last timestamp %d is before the first, %d", path, last.timestamp, entries[0].timestamp)
		case last.offset < base:
			d.found("%s: the last offset %d is below the base offset", path, last.offset)
		default:
			d.printf("%s passed sanity check.\n", path)
		}
		return nil
	}
	s, err := openSegment(beside(path, ".log"))
	if err != nil {
		return err
	}
	defer s.close()
	index, err := readIndex(beside(path, ".index"))
	if err != nil {
		return err
	}
	var mismatch, order, missing []string
	for i, e := range entries {
		offset, timestamp, err := d.findBatch(s, index, e.offset)
		switch {
		case err != nil:
			return err
		case offset != e.offset:
			missing = append(missing, fmt.Sprintf("Indexed offset: %d, found log offset: %d", e.offset, offset))
		case timestamp != e.timestamp:
			mismatch = append(mismatch, fmt.Sprintf("  Index timestamp: %d, log timestamp: %d", e.timestamp, timestamp))
		}
		if i > 0 && entries[i-1].timestamp >= e.timestamp {
			order = append(order, fmt.Sprintf("  Index timestamp: %d, Previously indexed timestamp: %d", e.timestamp, entries[i-1].timestamp))
		}
		if !d.verify {
			d.printf("timestamp: %d offset: %d\n", e.timestamp, e.offset)
		}
	}
	if len(mismatch) > 0 {
		d.found("Found timestamp mismatch in :%s\n%s", path, strings.Join(mismatch, "\n"))
	}
	if len(order) > 0 {
		d.found("Found out of order timestamp in :%s\n%s", path, strings.Join(order, "\n"))
	}
	if len(missing) > 0 {
		d.found("The following indexed offsets are not found in the log.\n%s", strings.Join(missing, "\n"))
	}
	return nil
}

// findBatch is the last offset and the largest record timestamp of the batch that holds offset; -1 where none does.
func (d *dumper) findBatch(s *segment, index []indexed, offset int64) (last, timestamp int64, err error) {
	pos := int64(0)
	if i, exact := slices.BinarySearchFunc(index, offset, func(e indexed, o int64) int { return cmp.Compare(e.offset, o) }); exact {
		pos = index[i].pos
	} else if i > 0 {
		pos = index[i-1].pos
	}
	for {
		b, err := s.at(pos)
		if errors.Is(err, io.EOF) || errors.Is(err, errTorn) || errors.Is(err, record.ErrCorrupt) {
			return -1, -1, nil
		}
		if err != nil {
			return 0, 0, fmt.Errorf("%s: at %d: %w", s.path, pos, err)
		}
		if b.LastOffset() < offset {
			pos += int64(len(b))
			continue
		}
		timestamp = record.NoTimestamp
		var r record.Reader
		for r.Reset(b, d.decompressor); r.Next(); {
			timestamp = max(timestamp, r.Timestamp)
		}
		return b.LastOffset(), timestamp, r.Err()
	}
}

func (d *dumper) snapshot(path string) error {
	producers, err := readSnapshot(path)
	if err != nil {
		return err
	}
	for _, p := range producers {
		d.printf("producerId: %d producerEpoch: %d coordinatorEpoch: %d currentTxnFirstOffset: %s lastTimestamp: %d",
			p.producerID, p.epoch, p.coordinatorEpoch, optional(p.txnFirstOffset), p.timestamp)
		if p.lastOffset >= 0 {
			d.printf(" firstSequence: %d lastSequence: %d lastOffset: %d offsetDelta: %d timestamp: %d",
				(p.lastSequence-p.offsetDelta)&math.MaxInt32, p.lastSequence, p.lastOffset, p.offsetDelta, p.timestamp)
		}
		d.printf("\n")
	}
	return nil
}

// optional is a number as Java prints an OptionalLong; -1 is none.
func optional(n int64) string {
	if n < 0 {
		return "OptionalLong.empty"
	}
	return fmt.Sprintf("OptionalLong[%d]", n)
}
