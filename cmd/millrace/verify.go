package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/engine/cluster"
	"github.com/millrace/millrace/engine/cluster/file"
	"github.com/millrace/millrace/engine/log"
	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/posix"
)

func logVerify(c *cli, args []string) error {
	f := newFlags("log verify", "DIR...",
		"Checks every partition below a data directory: CRC and order of batches, offset, time and transaction indexes against the log, "+
			"producer snapshots and leader epochs; and the files of the directory itself: checkpoints, properties and metadata.json. It does "+
			"not look into the journals (core-N.journal): the next start does. Stop the broker first. Damage is printed and makes the exit code 1; a note is what "+
			"recovery puts right at the next start, such as a torn tail above the recovery point.",
		"millrace log verify /var/lib/millrace\nmillrace log verify /var/lib/kafka/orders-0 --deep")
	deep := f.Bool("deep", false, "decompress and decode each record too")
	asJSON := f.Bool("json", false, "print JSON")
	if err := f.parse(c, args); err != nil {
		return err
	}
	if len(f.rest) == 0 {
		return usagef("no directory named")
	}
	v := &verifier{deep: *deep, decompressor: record.NewDecompressor(record.DecompressedMaxDefault), report: report{Findings: []finding{}}}
	if !*asJSON {
		v.print = func(f finding) { fmt.Fprintf(c.out, "%s %s: %s\n", f.Level, f.File, f.Text) }
	}
	for _, dir := range f.rest {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case c.ctx.Err() != nil:
				return errors.New("interrupted")
			case !e.IsDir():
				return nil
			case strings.HasSuffix(path, "-delete"): // the broker removes it
				return fs.SkipDir
			}
			if err := v.dataDirectory(path); err != nil {
				return err
			}
			return v.directory(path)
		})
		if err != nil {
			return err
		}
	}
	if *asJSON {
		if err := printJSON(c.out, v.report); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(c.out, "%d partitions, %d segments, %d batches, %s: %d damaged, %d notes\n",
			v.Partitions, v.Segments, v.Batches, size(v.Bytes), v.Damaged, len(v.Findings)-v.Damaged)
	}
	switch {
	case v.Damaged > 0:
		return fmt.Errorf("%d findings of damage", v.Damaged)
	case v.Partitions == 0:
		return fmt.Errorf("no partition below %s", strings.Join(f.rest, ", "))
	}
	return nil
}

// finding is one thing that does not fit.
type finding struct {
	Level string `json:"level"` // damage or note
	File  string `json:"file"`
	Text  string `json:"text"`
}

const (
	levelDamage = "damage"
	levelNote   = "note"
)

type report struct {
	Partitions int       `json:"partitions"`
	Segments   int       `json:"segments"`
	Batches    int64     `json:"batches"`
	Bytes      int64     `json:"bytes"`
	Damaged    int       `json:"damaged"`
	Findings   []finding `json:"findings"`
}

type verifier struct {
	report
	deep         bool
	decompressor *record.Decompressor
	print        func(finding)             // nil: not while it runs
	topics       map[string]*cluster.Topic // of the data directory, where it says
}

// cutLast is strings.Cut around the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func (v *verifier) found(level, file, format string, args ...any) {
	f := finding{level, file, strings.ReplaceAll(fmt.Sprintf(format, args...), file+": ", "")}
	v.Findings = append(v.Findings, f)
	if level == levelDamage {
		v.Damaged++
	}
	if v.print != nil {
		v.print(f)
	}
}

// partition is what is known of a partition as its segments are walked in order.
type partition struct {
	*verifier
	dir string
	// recovery is the offset from which the next start recovers: what is wrong
	// from there on is cut or rebuilt, and no damage. math.MaxInt64: it recovers nothing.
	recovery int64
	guess    bool  // there is no checkpoint: a tail that nothing valid follows counts as torn
	last     int64 // offset of the last record so far, -1: none
	epoch    int32 // of the last batch
	epochs   []epochStart
	open     map[int64]bool // producers with a transaction that has records
}

// placed is what the indexes are checked against: one batch and where it lies.
type placed struct {
	pos, base, last, maxTimestamp, producerID int64
	abort                                     bool
	records                                   bool // an abort: the transaction had some
}

// directory verifies dir where it is a partition's, which is where segments lie.
func (v *verifier) directory(dir string) error {
	logs, err := filepath.Glob(filepath.Join(escapeGlob(dir), "*.log"))
	if err != nil {
		return err
	}
	logs = slices.DeleteFunc(logs, func(path string) bool { _, err := baseOffset(path); return err != nil })
	if len(logs) == 0 {
		return nil
	}
	slices.Sort(logs) // 20 digits: by offset
	v.Partitions++
	p := &partition{verifier: v, dir: dir, last: -1, epoch: -1, open: map[int64]bool{}}
	p.readRecovery()
	for _, path := range logs {
		if err := p.segment(path, path == logs[len(logs)-1]); err != nil {
			return err
		}
	}
	p.snapshots()
	p.leaderEpochs()
	metadata := filepath.Join(dir, "partition.metadata")
	id, err := readPartitionMetadata(metadata)
	name, _, _ := cutLast(filepath.Base(dir), "-")
	topic := v.topics[name]
	switch {
	case errors.Is(err, fs.ErrNotExist):
		v.found(levelNote, metadata, "is missing")
	case err != nil:
		v.found(levelDamage, metadata, "%v", err)
	case topic != nil && id != topic.ID.String():
		v.found(levelDamage, metadata, "topic id %s, and %s has %v in metadata.json", id, name, topic.ID)
	}
	return nil
}

// dataDirectory verifies the files that a data directory, or one of journals, has of its own.
func (v *verifier) dataDirectory(dir string) error {
	for _, f := range []struct {
		name  string
		check func(b []byte) error
	}{
		{"meta.properties", checkSeal}, {"journal.properties", checkSeal}, {"journal-checkpoint", checkSeal},
		{"recovery-point-offset-checkpoint", log.CheckOffsets}, {"replication-offset-checkpoint", log.CheckOffsets}, {"log-start-offset-checkpoint", log.CheckOffsets},
	} {
		path := filepath.Join(dir, f.name)
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := f.check(b); err != nil {
			v.found(levelDamage, path, "%v", err)
		}
	}
	v.topics = nil
	path := filepath.Join(dir, "metadata.json")
	if _, err := os.Stat(path); err != nil {
		return nil // Kafka has none, and a partition's directory neither
	}
	store, err := file.Open(posix.Host(), path, nil)
	if err == nil {
		var image *cluster.Image
		if image, err = cluster.Decode(store.Load()); err == nil {
			v.topics = image.Topics
		}
	}
	if err != nil {
		v.found(levelDamage, path, "%v", err)
	}
	return nil
}

var hasVersion = regexp.MustCompile(`(?m)^version=\d`)

// checkSeal says what is wrong with a file of properties. What Kafka has written has no seal.
func checkSeal(b []byte) error {
	text, sealed, err := ring.Unseal(b)
	switch {
	case err != nil:
		return err
	case !hasVersion.Match(text), !sealed && bytes.HasPrefix(text, []byte("version=2")):
		return ring.ErrSeal
	}
	return nil
}

// escapeGlob keeps the directory's own characters from meaning anything to Glob.
func escapeGlob(s string) string {
	return strings.NewReplacer(`*`, `\*`, `?`, `\?`, `[`, `\[`, `\`, `\\`).Replace(s)
}

// readRecovery finds the recovery point in the data directory above the partition.
func (p *partition) readRecovery() {
	above := filepath.Dir(p.dir)
	if _, err := os.Stat(filepath.Join(above, ".kafka_cleanshutdown")); err == nil {
		p.recovery = math.MaxInt64
		return
	}
	path := filepath.Join(above, "recovery-point-offset-checkpoint")
	name := filepath.Base(p.dir)
	err := readCheckpoint(path, 3, func(f []string) error {
		n, err := strconv.ParseInt(f[2], 10, 64)
		if f[0]+"-"+f[1] == name {
			p.recovery = n
		}
		return err
	})
	if err != nil {
		p.recovery, p.guess = math.MaxInt64, true
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.found(levelDamage, path, "%v", err)
	}
}

// level is how bad it is when something at offset is wrong.
func (p *partition) level(offset int64) string {
	if offset >= p.recovery {
		return levelNote
	}
	return levelDamage
}

// segment walks a .log and then checks its indexes against it.
func (p *partition) segment(path string, active bool) error {
	s, err := openSegment(path)
	if err != nil {
		return err
	}
	defer s.close()
	p.Segments++
	if s.base <= p.last {
		p.found(p.level(s.base), path, "starts at offset %d, and the segment before it ends at %d", s.base, p.last)
	}
	p.last = max(p.last, s.base-1)
	var batches []placed
	pos := int64(0)
	for {
		b, err := s.at(pos)
		if err == io.EOF {
			break
		}
		if err == nil && !b.CheckCRC() {
			err = fmt.Errorf("the CRC of the batch is wrong: stored %d", b.CRC())
		} else if err != nil && err != errTorn && err != record.ErrCorrupt {
			return fmt.Errorf("%s: at %d: %w", path, pos, err)
		}
		if err != nil {
			next, err := p.broken(s, pos, active, err)
			if err != nil {
				return err
			}
			if next < 0 {
				break
			}
			pos = next
			continue
		}
		if p.batch(s, b, pos) {
			batches = append(batches, placed{pos, b.BaseOffset(), b.LastOffset(), b.MaxTimestamp(), b.ProducerID(), isAbort(b), b.Control() && p.open[b.ProducerID()]})
			if b.Transactional() {
				p.open[b.ProducerID()] = !b.Control()
			}
		}
		pos += int64(len(b))
		p.Batches++
		p.Bytes += int64(len(b))
	}
	p.index(path, batches)
	p.timeIndex(path, batches)
	p.txnIndex(path, batches)
	return nil
}

// broken reports bytes at pos that are no valid batch, and returns where the next
// valid one is; -1: nowhere. That tells a torn tail from damage.
func (p *partition) broken(s *segment, pos int64, active bool, why error) (next int64, err error) {
	if next, err = s.resync(pos+1, p.last); err != nil {
		return 0, fmt.Errorf("%s: after %d: %w", s.path, pos, err)
	}
	if p.guess && active && next < 0 {
		p.recovery = p.last + 1
	}
	switch level := p.level(p.last + 1); {
	case level == levelNote:
		p.found(levelNote, s.path, "at %d, offset %d: %v; recovery cuts the last %d bytes", pos, p.last+1, why, s.size-pos)
	case next < 0:
		p.found(level, s.path, "at %d, offset %d: %v; no valid batch in the last %d bytes", pos, p.last+1, why, s.size-pos)
	default:
		p.found(level, s.path, "at %d, offset %d: %v; the next valid batch is at %d", pos, p.last+1, why, next)
	}
	return next, nil
}

// resync finds the next whole batch with a valid CRC at or after pos, above the offset last; -1: there is none.
func (s *segment) resync(pos, last int64) (int64, error) {
	const magicAt = 16
	rest := make([]byte, max(s.size-pos, 0))
	if _, err := s.file.ReadAt(rest, pos); err != nil && err != io.EOF {
		return 0, err
	}
	for i := 0; i+record.HeaderSize <= len(rest); i++ {
		if rest[i+magicAt] != record.Magic {
			continue
		}
		b, _, err := record.Next(rest[i:])
		if err == nil && b.BaseOffset() > last && b.BaseOffset() <= last+math.MaxInt32 && b.CheckCRC() {
			return pos + int64(i), nil
		}
	}
	return -1, nil
}

// batch checks a batch whose CRC is right against those before it. placed says
// that its offsets, which the CRC does not cover, can be believed.
func (p *partition) batch(s *segment, b record.Batch, pos int64) (placed bool) {
	base, last := b.BaseOffset(), b.LastOffset()
	at := fmt.Sprintf("at %d, offsets %d to %d: ", pos, base, last)
	switch {
	case base <= p.last:
		p.found(p.level(p.last+1), s.path, at+"offset %d has been there before", p.last)
		return false
	case last < base, last-s.base > math.MaxInt32:
		p.found(p.level(p.last+1), s.path, at+"impossible offsets in segment %d", s.base)
		return false
	case int64(b.Count()) > last-base+1 || b.Count() < 0:
		p.found(p.level(base), s.path, at+"%d records do not fit into them", b.Count())
	case b.LeaderEpoch() < p.epoch:
		p.found(p.level(base), s.path, at+"leader epoch %d after %d", b.LeaderEpoch(), p.epoch)
	case b.Codec() > record.Zstd:
		p.found(p.level(base), s.path, at+"unknown codec %d", b.Codec())
	case p.deep:
		p.records(s, b, at)
	}
	if b.LeaderEpoch() > p.epoch {
		p.epoch = b.LeaderEpoch()
		p.epochs = append(p.epochs, epochStart{p.epoch, base})
	}
	p.last = last
	return true
}

// records decodes what is in a batch.
func (p *partition) records(s *segment, b record.Batch, at string) {
	var r record.Reader
	r.Reset(b, p.decompressor)
	before := b.BaseOffset() - 1
	for r.Next() {
		if r.Offset <= before || r.Offset > b.LastOffset() {
			p.found(p.level(b.BaseOffset()), s.path, at+"a record has offset %d after %d", r.Offset, before)
		}
		before = r.Offset
	}
	if err := r.Err(); err != nil {
		p.found(p.level(b.BaseOffset()), s.path, at+"%v", err)
	}
}

func isAbort(b record.Batch) bool {
	if !b.Control() {
		return false
	}
	m, err := record.ParseMarker(b)
	return err == nil && m.Type == record.Abort
}

// readable reports that an index could not be read; what is missing is rebuilt.
func (p *partition) readable(path string, offset int64, err error) {
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist):
		p.found(levelNote, path, "is missing, and rebuilt at the next start")
	default:
		p.found(p.level(offset), path, "%v", err)
	}
}

func (p *partition) index(segment string, batches []placed) {
	path := beside(segment, ".index")
	entries, err := readIndex(path)
	p.readable(path, p.last, err)
	for i, e := range entries {
		if i > 0 && (e.offset <= entries[i-1].offset || e.pos <= entries[i-1].pos) {
			p.found(p.level(e.offset), path, "entry %d: offset %d, position %d is not above offset %d, position %d", i, e.offset, e.pos, entries[i-1].offset, entries[i-1].pos)
			continue
		}
		at, ok := slices.BinarySearchFunc(batches, e.pos, func(b placed, pos int64) int { return cmp.Compare(b.pos, pos) })
		switch {
		case !ok:
			p.found(p.level(e.offset), path, "entry %d: no batch starts at position %d (offset %d)", i, e.pos, e.offset)
		case batches[at].last != e.offset:
			p.found(p.level(e.offset), path, "entry %d: offset %d, and the batch at position %d ends at %d", i, e.offset, e.pos, batches[at].last)
		}
	}
}

func (p *partition) timeIndex(segment string, batches []placed) {
	path := beside(segment, ".timeindex")
	entries, err := readTimeIndex(path)
	p.readable(path, p.last, err)
	for i, e := range entries {
		if i > 0 && (e.timestamp <= entries[i-1].timestamp || e.offset < entries[i-1].offset) {
			p.found(p.level(e.offset), path, "entry %d: timestamp %d, offset %d does not follow timestamp %d, offset %d", i, e.timestamp, e.offset, entries[i-1].timestamp, entries[i-1].offset)
			continue
		}
		b, ok := holding(batches, e.offset)
		switch {
		case !ok:
			p.found(p.level(e.offset), path, "entry %d: offset %d is not in the segment", i, e.offset)
		case b.maxTimestamp != e.timestamp:
			p.found(p.level(e.offset), path, "entry %d: timestamp %d, and the batch with offset %d has %d", i, e.timestamp, e.offset, b.maxTimestamp)
		}
	}
}

func (p *partition) txnIndex(segment string, batches []placed) {
	path := beside(segment, ".txnindex")
	entries, err := readAborted(path)
	if !errors.Is(err, fs.ErrNotExist) { // there is one only where a transaction was aborted
		p.readable(path, p.last, err)
	}
	for _, b := range batches {
		if b.abort && b.records && !slices.ContainsFunc(entries, func(e aborted) bool { return e.lastOffset == b.last }) {
			p.found(p.level(b.last), path, "there is no entry for the transaction of producer %d that was aborted at offset %d", b.producerID, b.last)
		}
	}
	for i, e := range entries {
		b, ok := holding(batches, e.lastOffset)
		switch {
		case e.version != 0:
			p.found(p.level(e.lastOffset), path, "entry %d: unknown version %d", i, e.version)
		case i > 0 && e.lastOffset <= entries[i-1].lastOffset, e.firstOffset > e.lastOffset, e.lastStableOffset > e.lastOffset+1:
			p.found(p.level(e.lastOffset), path, "entry %d: impossible offsets %d to %d, last stable %d", i, e.firstOffset, e.lastOffset, e.lastStableOffset)
		case !ok || !b.abort || b.producerID != e.producerID:
			p.found(p.level(e.lastOffset), path, "entry %d: offset %d is no abort marker of producer %d", i, e.lastOffset, e.producerID)
		}
	}
}

// holding is the batch that offset lies in.
func holding(batches []placed, offset int64) (placed, bool) {
	i, _ := slices.BinarySearchFunc(batches, offset, func(b placed, o int64) int { return cmp.Compare(b.last, o) })
	if i == len(batches) || batches[i].base > offset {
		return placed{}, false
	}
	return batches[i], true
}

func (p *partition) snapshots() {
	paths, err := filepath.Glob(filepath.Join(escapeGlob(p.dir), "*.snapshot"))
	if err != nil {
		panic(fmt.Sprintf("BUG: pattern for %q: %v", p.dir, err))
	}
	for _, path := range paths {
		upTo, err := baseOffset(path)
		if err != nil {
			p.found(levelNote, path, "%v", err)
			continue
		}
		producers, err := readSnapshot(path)
		if err != nil {
			p.found(p.level(upTo), path, "%v", err)
		}
		if upTo > p.last+1 {
			p.found(levelNote, path, "is beyond the end of the log, %d; recovery drops it", p.last+1)
		}
		for _, s := range producers {
			if s.lastOffset >= upTo || s.txnFirstOffset >= upTo {
				p.found(p.level(upTo), path, "producer %d has last offset %d and transaction start %d, beyond the snapshot", s.producerID, s.lastOffset, s.txnFirstOffset)
			}
		}
	}
}

// leaderEpochs checks the checkpoint against the epochs that the batches bear.
func (p *partition) leaderEpochs() {
	path := filepath.Join(p.dir, "leader-epoch-checkpoint")
	epochs, err := readEpochs(path)
	if errors.Is(err, fs.ErrNotExist) {
		p.found(levelNote, path, "is missing")
		return
	}
	if err != nil {
		p.found(levelDamage, path, "%v", err)
		return
	}
	for i := 1; i < len(epochs); i++ {
		if a, b := epochs[i-1], epochs[i]; b.epoch <= a.epoch || b.start <= a.start {
			p.found(levelDamage, path, "epoch %d from offset %d does not follow epoch %d from %d", b.epoch, b.start, a.epoch, a.start)
			return
		}
	}
	if n := len(epochs); n > 0 && epochs[n-1].start > p.last+1 {
		p.found(levelNote, path, "epoch %d starts at %d, beyond the end of the log, %d", epochs[n-1].epoch, epochs[n-1].start, p.last+1)
	}
	for _, seen := range p.epochs {
		i, exact := slices.BinarySearchFunc(epochs, seen.start, func(e epochStart, o int64) int { return cmp.Compare(e.start, o) })
		if !exact {
			i--
		}
		switch {
		case len(epochs) == 0:
			p.found(p.level(seen.start), path, "offset %d has leader epoch %d in the log, and none here", seen.start, seen.epoch)
		// Below the first entry lies what is below the log's start, in that epoch or an earlier one.
		case i >= 0 && epochs[i].epoch != seen.epoch, i < 0 && epochs[0].epoch < seen.epoch:
			p.found(p.level(seen.start), path, "offset %d has leader epoch %d in the log, and another one here", seen.start, seen.epoch)
		}
	}
}
