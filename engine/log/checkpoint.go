package log

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/millrace/millrace/ring"
)

// The checkpoint files of a log directory (Kafka's).
const (
	recoveryPointsName = "recovery-point-offset-checkpoint"
	highWatermarksName = "replication-offset-checkpoint"
	logStartsName      = "log-start-offset-checkpoint"
	cleanedName        = "cleaner-offset-checkpoint"
)

// partitionKey names a partition in a checkpoint.
type partitionKey struct {
	topic     string
	partition int32
}

var errCheckpoint = errors.New("not a checkpoint file of version 0")

// sumTopic is the topic of an entry that is none: its offset is the CRC-32C of the entries before it. No
// topic can have that name, and Kafka, which reads the file too, passes over partitions it does not have.
const sumTopic = "#crc32c"

func appendSum(entries []byte) []byte {
	return fmt.Appendf(entries, "%s 0 %d\n", sumTopic, crc32.Checksum(entries, castagnoli))
}

// checkpointLines are the entries of a checkpoint file: the version, their number,
// then as many lines.
func checkpointLines(b []byte) ([]string, error) {
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	if len(lines) < 2 || lines[0] != "0" {
		return nil, errCheckpoint
	}
	n, err := strconv.Atoi(lines[1])
	if err != nil || n != len(lines)-2 {
		return nil, fmt.Errorf("%w: %q entries in %d lines", errCheckpoint, lines[1], len(lines))
	}
	return lines[2:], nil
}

// decodeOffsets reads a checkpoint of offsets by partition: of ours, with the sum of what comes
// before as the last entry; Kafka's have none.
func decodeOffsets(b []byte) (map[partitionKey]int64, error) {
	lines, err := checkpointLines(b)
	if err != nil {
		return nil, err
	}
	if last := len(lines) - 1; last >= 0 && strings.HasPrefix(lines[last], sumTopic) {
		lines = lines[:last]
		entries := strings.Join(lines, "\n")
		if last > 0 {
			entries += "\n"
		}
		if !bytes.HasSuffix(b, appendSum([]byte(entries))) {
			return nil, ring.ErrSeal
		}
	}
	m := make(map[partitionKey]int64, len(lines))
	for i, line := range lines {
		f := strings.Fields(line)
		if len(f) != 3 {
			return nil, fmt.Errorf("line %d: %q is no topic, partition and offset", i+3, line)
		}
		p, err1 := strconv.ParseInt(f[1], 10, 32)
		offset, err2 := strconv.ParseInt(f[2], 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("line %d: %w", i+3, err)
		}
		if offset > baseOffsetMax {
			return nil, fmt.Errorf("line %d: there can be no offset %d", i+3, offset)
		}
		m[partitionKey{f[0], int32(p)}] = offset
	}
	return m, nil
}

// CheckOffsets says what is wrong with the content of a checkpoint of offsets; nil: nothing.
func CheckOffsets(b []byte) error {
	_, err := decodeOffsets(b)
	return err
}

// offsets is a checkpoint of the logs in their order: what value says, where it
// says anything.
func (d *Dir) offsets(value func(l *Log) (int64, bool)) []byte {
	var b bytes.Buffer
	n := 0
	for _, l := range d.logs {
		if v, ok := value(l); ok {
			fmt.Fprintf(&b, "%s %d %d\n", l.topic, l.partition, v)
			n++
		}
	}
	return append(fmt.Appendf(nil, "0\n%d\n", n+1), appendSum(b.Bytes())...)
}

// readOffsets reads a checkpoint file, whose name is durable; none is empty. One that is damaged
// is passed over: without, is what that means.
func (d *Dir) readOffsets(name, without string, report *RecoveryReport) (map[partitionKey]int64, error) {
	path := filepath.Join(d.path, name)
	b, err := ring.ReadFile(d.host, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := decodeOffsets(b)
	if err != nil {
		report.Damaged = append(report.Damaged, fmt.Sprintf("%s: %v: %s", path, err, without))
		return nil, nil
	}
	d.files[name] = b
	return m, nil
}

// Checkpoint writes recovery points, log starts, high watermarks and first dirty offsets of all logs from
// their published values. Blocking; any goroutine. A file that would not change is
// not written.
func (d *Dir) Checkpoint() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writeFailedSync()
	err := errors.Join(d.writeRecoveryPoints(), d.writeStarts(), d.writeHighWatermarks(), d.writeCleaned())
	if err == nil {
		clear(d.gone)
	}
	return err
}

// CheckpointDue is Checkpoint, where at least so many bytes have been appended since the last one
// that it made: a restart scans what is above the recovery points. It says whether it did.
func (d *Dir) CheckpointDue(bytes int64) (bool, error) {
	d.mu.Lock()
	var in int64
	for _, l := range d.logs {
		in += l.published.In.Load()
	}
	due := in-d.appended >= bytes || in < d.appended // a log has been removed
	if due {
		d.appended = in
	}
	d.mu.Unlock()
	if !due {
		return false, nil
	}
	return true, d.Checkpoint()
}

// CheckpointHighWatermarks writes the high watermarks only (Kafka: every 5 s).
func (d *Dir) CheckpointHighWatermarks() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writeHighWatermarks()
}

// lowerRecoveryPoint makes the recovery point in the file one that is not above to,
// as the published one already is.
func (d *Dir) lowerRecoveryPoint(l *Log, to int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	// After a failed write the file may be the old one or the new one.
	if _, known := d.files[recoveryPointsName]; known && l.published.checkpointed.Load() <= to {
		return nil
	}
	return d.writeRecoveryPoints()
}

// lowerCleaned makes the first dirty offset in the file what the published one
// already is.
func (d *Dir) lowerCleaned() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writeCleaned()
}

func (d *Dir) checkpointStarts() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writeStarts()
}

// What follows wants d.mu held.

func (d *Dir) writeHighWatermarks() error {
	return d.writeOffsets(highWatermarksName, func(l *Log) (int64, bool) { return l.published.HighWatermark.Load(), true })
}

func (d *Dir) writeRecoveryPoints() error {
	points := make([]int64, 0, len(d.logs))
	err := d.writeOffsets(recoveryPointsName, func(l *Log) (int64, bool) {
		points = append(points, l.published.RecoveryPoint.Load())
		return points[len(points)-1], true
	})
	if err == nil {
		for i, l := range d.logs {
			l.published.checkpointed.Store(points[i])
		}
	}
	return err
}

func (d *Dir) writeStarts() error {
	return d.writeOffsets(logStartsName, func(l *Log) (int64, bool) {
		start := max(l.published.LogStart.Load(), l.published.startWanted.Load())
		return start, start > l.published.FirstSegment.Load()
	})
}

// writeCleaned writes Kafka's checkpoint of the cleaner, where something has been cleaned.
func (d *Dir) writeCleaned() error {
	some := false
	for _, l := range d.logs {
		some = some || l.published.cleaned.Load() > 0
	}
	if _, ok := d.files[cleanedName]; !ok && !some && !d.cleanedDoubt {
		return nil
	}
	d.cleanedDoubt = true // until it is written, the file may be any
	err := d.writeOffsets(cleanedName, func(l *Log) (int64, bool) {
		at := l.published.cleaned.Load()
		return at, at > 0
	})
	d.cleanedDoubt = err != nil
	return err
}

// writeOffsets replaces a checkpoint file, where that changes anything.
func (d *Dir) writeOffsets(name string, value func(l *Log) (int64, bool)) error {
	b := d.offsets(value)
	if old, ok := d.files[name]; ok && bytes.Equal(old, b) {
		return nil
	}
	delete(d.files, name)
	if err := ring.WriteFileAtomic(d.host, filepath.Join(d.path, name), b); err != nil {
		return err
	}
	d.files[name] = b
	return nil
}
