package journal

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/millrace/millrace/ring"
)

const (
	metaName   = "journal.properties"
	recordName = "journal-checkpoint" // in the directory of logs
	lockName   = ".lock"
)

// BytesMin is the smallest journal.
const BytesMin = 64 << 10

// Config is what [Files] needs to know.
type Config struct {
	Dir    string // where the journals are
	LogDir string // the directory of logs that they belong to
	Cores  int    // how many there will be from Begin on
	Bytes  int64  // of each; rounded down to whole blocks, at least BytesMin
	// Reserve is how much of the file system is left free by what is set aside for fenced partitions, bytes.
	Reserve int64
	// Log takes one line for people; nil: nobody wants it.
	Log func(format string, args ...any)
}

// Files is the journals of one broker on disk. Its methods block, and are called in
// this order: Replay, Begin, NewCore for each core, Close.
type Files struct {
	host ring.Host
	cfg  Config
	lock ring.FD
	meta meta
	dir  [16]byte // id of the directory of logs
	fds  []ring.FD
	core []*Core

	report Report
}

// meta is what journal.properties says; of journal-checkpoint the id, the generation
// and whether it is empty.
type meta struct {
	id, directory [16]byte
	generation    uint64
	empty         bool
	files         int
	bytes         int64 // of each file; 0: not known
	zeroed        []bool
}

// Report says what a replay found.
type Report struct {
	New     bool
	Empty   bool // closed cleanly: nothing was read
	Files   int
	Read    int64 // bytes
	Frames  int   // replayed
	Entries int
	Bytes   int64    // of batches in them
	Ends    []string // where each file ends
	Torn    []string // files whose last frame was torn, or damaged: it was left out
	Damaged []string // entries whose batches cannot be had
	Nanos   int64

	Predicted int64 // ns that it was thought to take
	total     int64 // bytes of the files
}

func (r *Report) String() string {
	switch {
	case r.New:
		return "journal: new"
	case r.Empty:
		return "journal: closed cleanly, nothing to replay"
	}
	s := fmt.Sprintf("journal: %d bytes read from %d files, %d entries with %d bytes replayed, in %.1f ms (predicted: %.1f)",
		r.Read, r.Files, r.Entries, r.Bytes, float64(r.Nanos)/1e6, float64(r.Predicted)/1e6)
	for _, t := range r.Ends {
		s += "\n  " + t
	}
	for _, t := range r.Torn {
		s += "\n  " + t + ": left out"
	}
	for _, d := range r.Damaged {
		s += "\n  DAMAGED: " + d
	}
	return s
}

// NewFiles opens nothing yet.
func NewFiles(host ring.Host, cfg Config) *Files {
	cfg.Bytes = max(cfg.Bytes, BytesMin) &^ (blockSize - 1)
	return &Files{host: host, cfg: cfg, lock: ring.NoFD}
}

// Report is what Replay found.
func (f *Files) Report() *Report { return &f.report }

func (f *Files) path(core int) string {
	return filepath.Join(f.cfg.Dir, fmt.Sprintf("core-%d.journal", core))
}

// open locks the journals and decides whether they are the ones that the directory
// of logs was last used with.
func (f *Files) open(directory [16]byte) error {
	h := f.host
	f.dir = directory
	if err := ring.MkdirAll(h, f.cfg.Dir); err != nil {
		return err
	}
	if err := h.SyncDir(filepath.Dir(f.cfg.Dir)); err != nil { // a killed start may have made it
		return err
	}
	var err error
	if f.lock, err = h.Lock(filepath.Join(f.cfg.Dir, lockName)); err != nil {
		return err
	}
	// A killed start may have renamed a file and come no further.
	for _, dir := range []string{f.cfg.Dir, f.cfg.LogDir} {
		if err := h.SyncDir(dir); err != nil {
			return err
		}
	}
	recordPath, metaPath := filepath.Join(f.cfg.LogDir, recordName), filepath.Join(f.cfg.Dir, metaName)
	record, recorded, err := readMeta(h, recordPath)
	if err != nil {
		return err
	}
	m, found, err := readMeta(h, metaPath)
	if err != nil {
		return err
	}
	lost := func(why string) error {
		return fmt.Errorf("%s: the journal of %s %s: what was acknowledged may be there and nowhere else. "+
			"Set journal.dir to where it is; or, to give up what only the journal has, remove %s", metaPath, f.cfg.LogDir, why, recordPath)
	}
	switch {
	case !found && (!recorded || record.empty):
		f.report.New = true
		m = meta{directory: directory, empty: true}
		for i := range 2 {
			binary.LittleEndian.PutUint64(m.id[i*8:], h.Random())
		}
	case !found:
		return lost("is missing")
	case m.directory != directory:
		return fmt.Errorf("%s: this is the journal of another directory of logs than %s: choose another journal.dir", metaPath, f.cfg.LogDir)
	case recorded && record.id != m.id && !record.empty:
		return lost("is another one")
	case recorded && record.id != m.id:
		// After a clean stop another journal.dir was set, and the start that began it was killed before it had noted
		// that; or an old one was set again. All is in the partitions' files.
		m.empty = true
	case recorded && record.generation > m.generation:
		return lost(fmt.Sprintf("is of generation %d, older than %d", m.generation, record.generation))
	}
	f.meta = m
	return nil
}

// Begin starts the next generation: what the journals held is forgotten. All of it is
// durable in the partitions' files by now.
func (f *Files) Begin() error {
	h := f.host
	m := f.meta
	sizes, fit := make([]int64, f.cfg.Cores), m.files == f.cfg.Cores
	for i := range sizes {
		sizes[i] = -1
		if info, err := h.Stat(f.path(i)); err == nil {
			sizes[i] = info.Size
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		fit = fit && sizes[i] == f.cfg.Bytes
	}
	if !fit && !m.empty {
		m.empty = true
		if err := f.write(f.cfg.Dir, metaName, m); err != nil {
			return err
		}
	}
	zeroed := make([]bool, f.cfg.Cores)
	copy(zeroed, m.zeroed)
	for i := range sizes {
		fd, err := f.openFile(i, sizes[i])
		if err != nil {
			return err
		}
		f.fds = append(f.fds, fd)
		zeroed[i] = zeroed[i] && sizes[i] == f.cfg.Bytes
	}
	for i := f.cfg.Cores; i < m.files; i++ {
		if err := h.Remove(f.path(i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if !fit {
		if err := h.SyncDir(f.cfg.Dir); err != nil {
			return err
		}
	}
	m.generation++
	m.empty, m.files, m.bytes, m.zeroed = false, f.cfg.Cores, f.cfg.Bytes, zeroed
	f.meta = m
	if err := f.write(f.cfg.Dir, metaName, m); err != nil {
		return err
	}
	if err := f.write(f.cfg.LogDir, recordName, m); err != nil {
		return err
	}
	return f.removeAsides()
}

// openPast opens a file past the page cache, or where the file system cannot, with it.
func openPast(h ring.Host, path string) (ring.FD, error) {
	fd, err := h.Open(path, ring.Create|ring.Direct)
	if err != nil {
		fd, err = h.Open(path, ring.Create)
	}
	return fd, err
}

// openFile opens a core's file, past the page cache where the file system can, and
// gives it its size.
func (f *Files) openFile(core int, size int64) (ring.FD, error) {
	h, path := f.host, f.path(core)
	fd, err := openPast(h, path)
	if err != nil {
		return fd, err
	}
	if size == f.cfg.Bytes {
		return fd, nil
	}
	err = h.Truncate(fd, f.cfg.Bytes)
	if err == nil {
		err = h.Allocate(fd, 0, f.cfg.Bytes)
	}
	if err == nil {
		err = h.Sync(fd)
	}
	if err != nil {
		h.Close(fd)
		return ring.NoFD, fmt.Errorf("%s: %d bytes for the journal (journal.bytes): %w", path, f.cfg.Bytes, err)
	}
	return fd, nil
}

// NewCore is the journal of a core, at work from here on. On the core's thread.
func (f *Files) NewCore(i int, io ring.IO) (*Core, error) {
	c, err := newCore(io, f.path(i), f.fds[i], f.cfg.Bytes, f.meta.id, f.meta.generation, f.meta.zeroed[i])
	if err == nil {
		c.aside.host, c.aside.log, c.aside.number, c.aside.reserve = f.host, f.cfg.Log, i, f.cfg.Reserve
	}
	return c, err
}

// Close gives everything back, when no core is at work any more. clean says that every
// log was closed cleanly: then there is nothing to replay, and that is noted.
func (f *Files) Close(clean bool) error {
	h := f.host
	for _, fd := range f.fds {
		h.Close(fd)
	}
	var err error
	if clean && f.fds != nil {
		m := f.meta
		m.empty = true
		if err = f.write(f.cfg.Dir, metaName, m); err == nil {
			err = f.write(f.cfg.LogDir, recordName, m)
		}
	}
	f.fds = nil
	if f.lock != ring.NoFD {
		h.Close(f.lock)
		f.lock = ring.NoFD
	}
	return err
}

// SetZeroed notes that a core's file has been zeroed, or written, all the way round.
func (f *Files) SetZeroed(core int, zeroed bool) { f.meta.zeroed[core] = zeroed }

func (f *Files) write(dir, name string, m meta) error {
	var zeroed []string
	for i, z := range m.zeroed {
		if z {
			zeroed = append(zeroed, strconv.Itoa(i))
		}
	}
	enc := base64.RawURLEncoding
	text := fmt.Sprintf("version=2\njournal.id=%s\ndirectory.id=%s\ngeneration=%d\nempty=%t\n", enc.EncodeToString(m.id[:]), enc.EncodeToString(f.dir[:]), m.generation, m.empty)
	if name == metaName {
		text += fmt.Sprintf("files=%d\nbytes=%d\nzeroed=%s\n", m.files, m.bytes, strings.Join(zeroed, ","))
	}
	return ring.WriteFileAtomic(f.host, filepath.Join(dir, name), ring.Seal([]byte(text)))
}

func readMeta(h ring.Host, path string) (m meta, found bool, err error) {
	b, err := ring.ReadFile(h, path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if err != nil {
		return m, false, err
	}
	b, sealed, err := ring.Unseal(b)
	if err != nil {
		return m, false, fmt.Errorf("%s: %w", path, err)
	}
	got := map[string]string{}
	for _, line := range strings.Split(string(b), "\n") {
		if k, v, ok := strings.Cut(line, "="); ok {
			got[k] = v
		}
	}
	bad := func(key string) (meta, bool, error) {
		return m, false, fmt.Errorf("%s: %s is %q", path, key, got[key])
	}
	switch {
	case got["version"] == "2" && sealed, got["version"] == "1": // 1 had no seal
	case got["version"] == "2" || len(b) == 0:
		return m, false, fmt.Errorf("%s: %w", path, ring.ErrSeal)
	default:
		return bad("version")
	}
	for key, id := range map[string]*[16]byte{"journal.id": &m.id, "directory.id": &m.directory} {
		raw, err := base64.RawURLEncoding.DecodeString(got[key])
		if err != nil || len(raw) != 16 {
			return bad(key)
		}
		*id = [16]byte(raw)
	}
	if m.generation, err = strconv.ParseUint(got["generation"], 10, 64); err != nil {
		return bad("generation")
	}
	if m.empty, err = strconv.ParseBool(got["empty"]); err != nil {
		return bad("empty")
	}
	if got["bytes"] != "" {
		if m.bytes, err = strconv.ParseInt(got["bytes"], 10, 64); err != nil {
			return bad("bytes")
		}
	}
	if got["files"] != "" {
		if m.files, err = strconv.Atoi(got["files"]); err != nil || m.files < 0 || m.files > 1<<16 {
			return bad("files")
		}
		m.zeroed = make([]bool, m.files)
		for _, z := range strings.Split(got["zeroed"], ",") {
			if n, err := strconv.Atoi(z); err == nil && n >= 0 && n < m.files {
				m.zeroed[n] = true
			}
		}
	}
	return m, true, nil
}
