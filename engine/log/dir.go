package log

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/millrace/millrace/engine/journal"
	"github.com/millrace/millrace/ring"
)

const (
	lockName     = ".lock"
	metaName     = "meta.properties"
	cleanName    = ".kafka_cleanshutdown"
	metadataName = "partition.metadata"
	suffixDelete = "-delete"
	// An empty file of ours, whose name is the incarnation: so syncing the directory
	// is all it takes. Kafka ignores files it does not know.
	suffixIncarnation = ".incarnation"
)

// JournalName is the directory in a log directory that is left to the journals, by default.
const JournalName = "journal"

// DirConfig is what OpenDir needs to know.
type DirConfig struct {
	ClusterID string // must agree with meta.properties; empty: whatever it says
	NodeID    int32
	Config    Config // for logs until SetConfig (zero: DefaultConfig); its index settings are used in recovery
	Parallel  int    // how many partitions are scanned at once; 1 or less: no goroutines, here and in CreateAll
	// Journal gives back what journals hold; nil where there are none.
	Journal journal.Replayer
}

// Dir is a log directory: one of log.dirs. Its methods may be called from any
// goroutine, and block.
type Dir struct {
	host ring.Host
	path string
	cfg  DirConfig
	lock ring.FD

	clusterID string
	id        [16]byte

	mu           sync.Mutex
	logs         []*Log                // by topic and partition
	files        map[string][]byte     // checkpoints as they are on disk; none where that is not known
	gone         map[partitionKey]bool // logs that were removed: the checkpoints may still name them
	cleanedDoubt bool                  // the cleaner's checkpoint on disk is not known
	unclean      []string              // logs that were closed otherwise than cleanly

	failedSync     atomic.Pointer[string] // the first sync of a segment that failed; nil: none
	failedSyncKept bool                   // the file says so; mu
	appended       int64                  // bytes appended to all logs by the last checkpoint; mu
}

// RecoveryReport says what opening a directory did.
type RecoveryReport struct {
	Path    string
	New     bool // the directory was made
	Clean   bool // it had been closed cleanly
	Logs    []LogReport
	Removed []string // directories: deleted partitions, and unfinished ones
	Ignored []string // directories that are none of ours, left alone
	Damaged []string // files of the directory itself that were damaged, and what was done without them
	Journal string   // what the journals held
	Nanos   int64
}

func (r *RecoveryReport) String() string {
	var b strings.Builder
	var checked, cut int64
	damaged := 0
	for i := range r.Logs {
		checked += r.Logs[i].Checked
		cut += r.Logs[i].Cut
		if r.Logs[i].Damage != nil {
			damaged++
		}
	}
	how := "opened after a crash"
	switch {
	case r.New:
		how = "in a new directory"
	case r.Clean:
		how = "opened after a clean stop"
	}
	fmt.Fprintf(&b, "%s: %d logs %s in %.1f ms: %d bytes checked, %d cut, %d logs damaged\n",
		r.Path, len(r.Logs), how, float64(r.Nanos)/1e6, checked, cut, damaged)
	if r.Journal != "" {
		fmt.Fprintf(&b, "  %s\n", r.Journal)
	}
	for _, damaged := range r.Damaged {
		fmt.Fprintf(&b, "  DAMAGED: %s\n", damaged)
	}
	whole, rebuilt := 0, 0
	for i := range r.Logs {
		switch l := &r.Logs[i]; {
		case l.eventful():
			fmt.Fprintf(&b, "  %s\n", l)
		case !l.Clean:
			whole++
			rebuilt += l.Rebuilt
		}
	}
	if whole > 0 {
		fmt.Fprintf(&b, "  %d logs were whole, %d indexes of them made again\n", whole, rebuilt)
	}
	for _, name := range r.Removed {
		fmt.Fprintf(&b, "  %s: removed\n", name)
	}
	var strays []string
	for _, name := range r.Ignored {
		if strings.HasSuffix(name, suffixStray) {
			strays = append(strays, name)
		} else {
			fmt.Fprintf(&b, "  %s: not a partition's, left alone\n", name)
		}
	}
	if n := len(strays); n > 0 {
		fmt.Fprintf(&b, "  %d directories were set aside by an earlier start and stay until somebody removes them: %s\n", n, strings.Join(strays[:min(n, 3)], ", ")+more(n-3))
	}
	return b.String()
}

// more stands for n names that are not listed.
func more(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(" and %d more", n)
}

// eventful says that recovery found more than what a crash leaves of any log: indexes
// that were made again, which every active segment has then.
func (r *LogReport) eventful() bool {
	return r.Damage != nil || r.CutAt != "" || r.Cut > 0 || len(r.Mended) > 0 || r.Replayed > 0
}

// OpenDir opens a log directory, making it if need be, and recovers every partition
// in it. Nobody else can open it until CloseClean or Abandon. A partition that is
// damaged comes up fenced and is reported; an error means that the directory
// cannot be used at all, and names the file.
func OpenDir(host ring.Host, path string, cfg DirConfig) (*Dir, *RecoveryReport, error) {
	began := host.Monotonic()
	if cfg.Config == (Config{}) {
		cfg.Config = DefaultConfig()
	}
	if err := cfg.Config.normal(); err != nil {
		return nil, nil, err
	}
	if err := ring.MkdirAll(host, path); err != nil {
		return nil, nil, err
	}
	if err := host.SyncDir(filepath.Dir(path)); err != nil {
		return nil, nil, err
	}
	d := &Dir{host: host, path: path, cfg: cfg, files: map[string][]byte{}, gone: map[partitionKey]bool{}}
	var err error
	if d.lock, err = host.Lock(filepath.Join(path, lockName)); err != nil {
		return nil, nil, err
	}
	report := &RecoveryReport{Path: path}
	if err := d.open(report); err != nil {
		d.Abandon()
		return nil, nil, err
	}
	report.Nanos = host.Monotonic() - began
	return d, report, nil
}

func (d *Dir) open(report *RecoveryReport) (err error) {
	if report.New, err = d.openMeta(); err != nil {
		return err
	}
	var all []*recovery
	defer func() {
		if err != nil {
			for _, r := range all {
				r.log.closeFiles()
			}
		}
	}()
	// The mark goes first, and durably: should this start crash, the next must not
	// believe it.
	switch err := d.host.Remove(filepath.Join(d.path, cleanName)); {
	case err == nil:
		report.Clean = true
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	// Also where there was none: a start that was killed may have removed it and come no
	// further, or have renamed a checkpoint. From here on the names that are seen are durable.
	if err := d.host.SyncDir(d.path); err != nil {
		return err
	}
	rewrite, err := d.readFailedSync()
	if err != nil {
		return err
	}
	points, err := d.readOffsets(recoveryPointsName, "every log is checked from its start", report)
	if err != nil {
		return err
	}
	starts, err := d.readOffsets(logStartsName, "every log starts at its first segment, and records that were deleted may be there again", report)
	if err != nil {
		return err
	}
	marks, err := d.readOffsets(highWatermarksName, "high watermarks are found anew", report)
	if err != nil {
		return err
	}
	damaged := len(report.Damaged)
	cleaned, err := d.readOffsets(cleanedName, "logs are compacted from their start", report)
	if err != nil {
		return err
	}
	d.cleanedDoubt = len(report.Damaged) > damaged
	entries, err := d.host.ReadDir(d.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Dir {
			continue
		}
		if strings.HasSuffix(e.Name, suffixDelete) {
			// Should it come back, the next start removes it again.
			if err := ring.RemoveAll(d.host, filepath.Join(d.path, e.Name)); err != nil {
				return err
			}
			report.Removed = append(report.Removed, e.Name)
			continue
		}
		topic, partition, ok := parseDirName(e.Name)
		if !ok && e.Name == JournalName {
			continue
		}
		if !ok {
			report.Ignored = append(report.Ignored, e.Name)
			continue
		}
		key := partitionKey{topic, partition}
		l := d.newLog(topic, partition, filepath.Join(d.path, e.Name))
		r := &recovery{log: l, host: d.host, clean: report.Clean, trust: points[key], highMark: marks[key], startAt: starts[key], cleanedAt: cleaned[key], now: d.host.WallMillis(), aside: ring.NoFD, rewrites: rewrite}
		_, r.known = points[key]
		r.report = LogReport{Topic: topic, Partition: partition, Clean: report.Clean, RecoveryPoint: r.trust}
		if report.Clean {
			r.trust = math.MaxInt64
		}
		all = append(all, r)
	}
	if !report.Clean {
		if err := d.recoverAll(syncsAtOnce, all, (*recovery).syncNames); err != nil {
			return err
		}
	}
	if err := d.recoverAll(d.cfg.Parallel, all, recoverLog); err != nil {
		return err
	}
	if err := d.replay(all); err != nil {
		return err
	}
	err = d.recoverAll(syncsAtOnce, all, (*recovery).finish)
	for _, r := range all {
		d.logs = append(d.logs, r.log)
		report.Logs = append(report.Logs, r.report)
	}
	d.sort()
	if err != nil {
		return err
	}
	if rewrite {
		report.Damaged = append(report.Damaged, fmt.Sprintf("%s: a sync has failed before this start: what was not known to be on disk has been written again", filepath.Join(d.path, failedSyncName)))
		if err := d.removeFailedSync(); err != nil {
			return err
		}
	}
	// What the old files say of partitions that are gone must not meet their successors.
	return d.Checkpoint()
}

// syncsAtOnce is how many logs are synced at once where that is allowed: syncs that meet share the flush
// of the device, so the work of many takes hardly longer than that of one.
const syncsAtOnce = 32

// recoverAll does one step for every log, so many at once.
func (d *Dir) recoverAll(parallel int, all []*recovery, step func(*recovery) error) error {
	return d.each(len(all), parallel, func(i int) error {
		r := all[i]
		began := d.host.Monotonic()
		err := step(r)
		r.report.Nanos += d.host.Monotonic() - began
		return err
	})
}

// each calls f with 0 to n-1, so many at once; without DirConfig.Parallel one after
// the other, up to the first error.
func (d *Dir) each(n, parallel int, f func(i int) error) error {
	if d.cfg.Parallel <= 1 {
		for i := range n {
			if err := f(i); err != nil {
				return err
			}
		}
		return nil
	}
	var wg sync.WaitGroup
	errs := make([]error, n)
	room := make(chan struct{}, parallel)
	for i := range n {
		room <- struct{}{}
		wg.Go(func() {
			errs[i] = f(i)
			<-room
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// replay hands journal entries to the logs they are of; those of partitions that
// are gone are of no use.
func (d *Dir) replay(all []*recovery) error {
	if d.cfg.Journal == nil {
		return nil
	}
	// The incarnation alone says whose an entry is: partition.metadata, which has the topic's id, may be damaged.
	byKey := make(map[journal.Key]*recovery, len(all))
	for _, r := range all {
		byKey[journal.Key{Partition: r.log.partition, Incarnation: r.log.incarnation}] = r
	}
	return d.cfg.Journal.Replay(d.id, func(e *journal.Entry) error {
		if r := byKey[journal.Key{Partition: e.Partition, Incarnation: e.Incarnation}]; r != nil {
			return r.apply(e)
		}
		return nil // of a partition that is gone, or was cut since
	})
}

// Path is the directory's.
func (d *Dir) Path() string { return d.path }

// ID is the directory's id in meta.properties.
func (d *Dir) ID() [16]byte { return d.id }

// ClusterID is the cluster's id in meta.properties.
func (d *Dir) ClusterID() string { return d.clusterID }

// Logs are the directory's logs, by topic and partition.
func (d *Dir) Logs() []*Log {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.logs)
}

// Free is the space left, bytes.
func (d *Dir) Free() (int64, error) { return d.host.Free(d.path) }

func (d *Dir) newLog(topic string, partition int32, path string) *Log {
	l := &Log{topic: topic, partition: partition, dir: d, path: path, turnOf: turnOf(topic, partition), metaFrom: -1, metaNext: -1, due: ring.Forever,
		spare: spare{fd: ring.NoFD, not: -1}}
	l.setConfig(d.cfg.Config)
	l.back.log, l.write.log, l.write.forced.log, l.sync.log, l.indexWrite.log, l.jobOp.log, l.entry.log = l, l, l, l, l, l, l
	return l
}

func (d *Dir) sort() {
	slices.SortFunc(d.logs, func(a, b *Log) int {
		if c := strings.Compare(a.topic, b.topic); c != 0 {
			return c
		}
		return int(a.partition) - int(b.partition)
	})
}

// forget takes a log out of the checkpoints.
func (d *Dir) forget(l *Log) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.logs = slices.DeleteFunc(d.logs, func(o *Log) bool { return o == l })
	d.gone[partitionKey{l.topic, l.partition}] = true
}

// CloseClean ends the use of a directory after all its logs have been closed:
// checkpoints, the mark of a clean stop, the lock. Where a log could not be closed
// cleanly there is no mark, and the error says which.
func (d *Dir) CloseClean() error {
	d.mu.Lock()
	unclean := slices.Clone(d.unclean)
	logs := slices.Clone(d.logs)
	d.mu.Unlock()
	for _, l := range logs {
		switch {
		case l.core == nil && l.fence == nil && !l.closed:
			if err := l.closeUnattached(); err != nil {
				unclean = append(unclean, err.Error())
			}
		case l.published.Fenced.Load() != nil:
			unclean = append(unclean, fmt.Sprintf("%s-%d: %v", l.topic, l.partition, l.published.Fenced.Load()))
		case !l.published.closed.Load():
			unclean = append(unclean, fmt.Sprintf("%s-%d: not closed", l.topic, l.partition))
		}
	}
	err := d.Checkpoint()
	if err == nil && len(unclean) == 0 {
		err = ring.WriteFileAtomic(d.host, filepath.Join(d.path, cleanName), []byte(`{"version":0,"brokerEpoch":-1}`))
	}
	if len(unclean) > 0 {
		err = errors.Join(err, fmt.Errorf("%s: not a clean stop: %s", d.path, strings.Join(unclean, "; ")))
	}
	d.Abandon()
	return err
}

// Abandon gives up the lock, and closes the logs that no core has: for a start that failed.
func (d *Dir) Abandon() {
	for _, l := range d.Logs() {
		if l.core == nil && !l.closed {
			l.closeFiles()
		}
	}
	if d.lock != ring.NoFD {
		d.host.Close(d.lock)
		d.lock = ring.NoFD
	}
}

// removeDir removes a partition's directory for good.
func (d *Dir) removeDir(path string) error {
	if err := ring.RemoveAll(d.host, path); err != nil {
		return err
	}
	return d.host.SyncDir(d.path)
}

// dirName is a partition's directory.
func dirName(topic string, partition int32) string { return fmt.Sprintf("%s-%d", topic, partition) }

// parseDirName is dirName backwards; it refuses -future, -stray and what is not Kafka's.
func parseDirName(name string) (topic string, partition int32, ok bool) {
	i := strings.LastIndexByte(name, '-')
	if i <= 0 {
		return "", 0, false
	}
	n, err := strconv.ParseInt(name[i+1:], 10, 32)
	if err != nil || n < 0 || name[i+1:] != strconv.FormatInt(n, 10) {
		return "", 0, false
	}
	return name[:i], int32(n), true
}

// deletedName is a directory's name from deletion to removal: at most 255 bytes.
func deletedName(topic string, partition int32, unique [16]byte) string {
	suffix := fmt.Sprintf(".%x%s", unique, suffixDelete)
	name := dirName(topic, partition)
	return name[:min(len(name), 255-len(suffix))] + suffix
}

// uuid is a random id of version 4. Kafka reserves those whose text starts with a dash.
func uuid(h ring.Host) (id [16]byte) {
	for {
		binary.BigEndian.PutUint64(id[:], h.Random())
		binary.BigEndian.PutUint64(id[8:], h.Random())
		id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
		if base64.RawURLEncoding.EncodeToString(id[:])[0] != '-' {
			return id
		}
	}
}

// openMeta reads and checks meta.properties, or makes it: then the directory is new.
func (d *Dir) openMeta() (made bool, err error) {
	path := filepath.Join(d.path, metaName)
	b, err := ring.ReadFile(d.host, path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err != nil {
		d.id, d.clusterID = uuid(d.host), d.cfg.ClusterID
		if d.clusterID == "" { // a cluster of its own
			id := uuid(d.host)
			d.clusterID = base64.RawURLEncoding.EncodeToString(id[:])
		}
		text := fmt.Sprintf("cluster.id=%s\ndirectory.id=%s\nnode.id=%d\nversion=1\n", d.clusterID, base64.RawURLEncoding.EncodeToString(d.id[:]), d.cfg.NodeID)
		return true, ring.WriteFileAtomic(d.host, path, ring.Seal([]byte(text)))
	}
	if b, _, err = ring.Unseal(b); err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	got := map[string]string{}
	for _, line := range strings.Split(string(b), "\n") {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(k, "#") {
			got[strings.TrimSpace(k)] = strings.TrimSpace(v)
		}
	}
	node := got["node.id"]
	if node == "" {
		node = got["broker.id"] // version 0
	}
	d.clusterID = got["cluster.id"]
	switch {
	case d.cfg.ClusterID != "" && d.clusterID != d.cfg.ClusterID:
		return false, fmt.Errorf("%s: cluster.id is %q, but this broker is of cluster %q", path, d.clusterID, d.cfg.ClusterID)
	case node != strconv.Itoa(int(d.cfg.NodeID)):
		return false, fmt.Errorf("%s: node.id is %q, but this broker is %d", path, node, d.cfg.NodeID)
	}
	if id := got["directory.id"]; id != "" {
		raw, err := base64.RawURLEncoding.DecodeString(id)
		if err != nil || len(raw) != 16 {
			return false, fmt.Errorf("%s: directory.id %q is not an id", path, id)
		}
		d.id = [16]byte(raw)
	}
	return false, nil
}

// readMetadata is the topic id in partition.metadata; zero, and why, where there is none.
func readMetadata(h ring.Host, dir string) (id [16]byte, why, err error) {
	path := filepath.Join(dir, metadataName)
	b, err := ring.ReadFile(h, path)
	if errors.Is(err, fs.ErrNotExist) {
		return id, err, nil
	}
	if err != nil {
		return id, nil, err
	}
	id, why = parseMetadata(b)
	if why != nil {
		why = fmt.Errorf("%s: %w", path, why)
	}
	return id, why, nil
}

func parseMetadata(b []byte) (id [16]byte, err error) {
	for _, line := range strings.Split(string(b), "\n") {
		if text, ok := strings.CutPrefix(line, "topic_id: "); ok {
			raw, err := base64.RawURLEncoding.DecodeString(strings.TrimSpace(text))
			if err != nil || len(raw) != 16 {
				return id, fmt.Errorf("topic_id %q is not an id", text)
			}
			return [16]byte(raw), nil
		}
	}
	return id, errors.New("no topic_id")
}

func encodeMetadata(id [16]byte) []byte {
	return fmt.Appendf(nil, "version: 0\ntopic_id: %s\n", base64.RawURLEncoding.EncodeToString(id[:]))
}

// incarnationName is the file that says a directory's incarnation.
func incarnationName(n uint64) string { return fmt.Sprintf("%016x%s", n, suffixIncarnation) }

// parseIncarnation is incarnationName backwards.
func parseIncarnation(name string) (n uint64, ok bool) {
	digits, found := strings.CutSuffix(name, suffixIncarnation)
	if !found || len(digits) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 16, 64)
	return n, err == nil
}
