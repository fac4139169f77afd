package journal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"

	"github.com/millrace/millrace/ring"
)

// found is a frame of this generation in a file.
type found struct {
	header
	off   int64 // in the file
	whole bool  // every entry's bytes are as they were written
}

// Replay locks the journals and gives back what they hold; see [Replayer].
func (f *Files) Replay(directory [16]byte, apply func(*Entry) error) error {
	began := f.host.Monotonic()
	if err := f.open(directory); err != nil {
		return err
	}
	defer func() { f.report.Nanos = f.host.Monotonic() - began }()
	f.report.Empty = f.meta.empty
	if f.meta.empty {
		return nil
	}
	f.report.Files = f.meta.files
	var size int64
	for i := range f.meta.files {
		if info, err := f.host.Stat(f.path(i)); err == nil {
			size += info.Size
		}
	}
	f.report.total = size
	if err := f.replayAsides(apply); err != nil {
		return err
	}
	for i := range f.meta.files {
		if err := f.replayFile(f.path(i), nil, apply); err != nil {
			return err
		}
	}
	return nil
}

// replayFile replays a core's file, or a part of one that was set aside.
func (f *Files) replayFile(path string, part *aside, apply func(*Entry) error) error {
	fd, err := f.host.Open(path, ring.ReadOnly)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is missing: what was acknowledged may be there and nowhere else", path)
	}
	if err != nil {
		return err
	}
	defer f.host.Close(fd)
	r := reader{host: f.host, fd: fd, path: path, id: f.meta.id, generation: f.meta.generation, part: part, report: &f.report, bytes: f.meta.bytes, log: f.cfg.Log}
	all, err := r.scan()
	if err != nil {
		return err
	}
	chain, err := r.chain(all)
	if err != nil {
		return err
	}
	return r.replay(chain, apply)
}

// reader reads one file.
type reader struct {
	host       ring.Host
	fd         ring.FD
	path       string
	id         [16]byte
	generation uint64
	part       *aside // that was set aside; nil: the file is a core's journal
	report     *Report
	bytes      int64 // that a core's file was made with; 0: not known
	log        func(format string, args ...any)
	buf        []byte
}

// read is n bytes at off; at the end of the file there may be fewer.
func (r *reader) read(off int64, n int) ([]byte, error) {
	if cap(r.buf) < n {
		r.buf = make([]byte, n)
	}
	b := r.buf[:n]
	got, err := r.host.ReadAt(r.fd, b, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: read at %d: %w", r.path, off, err)
	}
	return b[:got], nil
}

// window is how much is read at once: it holds any frame.
const window = 2 * frameMax

// scan finds every frame, by looking at each block that is not inside of one.
func (r *reader) scan() ([]found, error) {
	var all []found
	var b []byte
	from := int64(0) // of b in the file
	size, err := r.host.Size(r.fd)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.path, err)
	}
	if r.part == nil && r.bytes > 0 && size != r.bytes {
		return nil, fmt.Errorf("%s: DAMAGED: it has %d bytes, and was made with %d. Records that had been acknowledged may be lost with it; nothing was changed", r.path, size, r.bytes)
	}
	r.report.Read += size
	for off := int64(0); off < size; {
		at := int(off - from)
		if at+frameMax > len(b) && from+int64(len(b)) < size {
			began := r.host.Monotonic()
			if b, err = r.read(off, int(min(window, size-off))); err != nil {
				return nil, err
			}
			from, at = off, 0
			r.predict(int64(len(b)), r.host.Monotonic()-began)
		}
		if at >= len(b) { // shorter than it says
			break
		}
		step := int64(blockSize)
		if h, ok := parseHeader(b[at:], r.id, r.generation); ok && at+h.size <= len(b) && r.belongs(h, off) {
			whole := checkEntries(b[at:at+h.size], h)
			all = append(all, found{h, off, whole})
			if whole {
				step = int64(padded(h.size))
			}
		}
		off += step
	}
	return all, nil
}

// belongs says whether a frame may be where it is.
func (r *reader) belongs(h header, off int64) bool {
	return r.part == nil || h.at == r.part.from+off
}

// predict says, after the first piece, how long all of it will take: each frame is read
// twice at most, and what is replayed is written and synced.
func (r *reader) predict(bytes, nanos int64) {
	if r.report.Predicted > 0 || bytes == 0 {
		return
	}
	r.report.Predicted = max(2*nanos*(r.report.total/bytes+1), 1)
	if r.log != nil {
		r.log("recovery: journal: %d bytes to read, in about %.0f ms at most", r.report.total, float64(r.report.Predicted)/1e6)
	}
}

// checkEntries says whether every entry of a frame has the bytes that it was written with.
func checkEntries(b []byte, h header) bool {
	body := headerSize + h.entries*rowSize
	for i := range h.entries {
		e, crc, err := parseRow(b[headerSize+i*rowSize:])
		if err != nil { // of a later version: replay says so
			return true
		}
		if e.Size > len(b)-body || crc32.Update(0, castagnoli, b[body:body+e.Size]) != crc {
			return false
		}
		body += e.Size
	}
	return body == len(b)
}

// chain is the frames to be replayed, in order: back from the last whole one to where it
// says that a replay begins.
func (r *reader) chain(all []found) ([]found, error) {
	slices.SortFunc(all, func(a, b found) int {
		if a.at != b.at {
			if a.at < b.at {
				return -1
			}
			return 1
		}
		return 0
	})
	last := len(all) - 1
	for last >= 0 && !all[last].whole {
		last--
	}
	if torn := len(all) - 1 - last; torn > 1 {
		return nil, r.damage(all[last+1].at, all[last+1].off, "it is torn or damaged, and so is a later one: only one can have been in flight")
	} else if torn == 1 {
		t := &all[last+1]
		r.report.Torn = append(r.report.Torn, fmt.Sprintf("%s: the last write, %d bytes at %d, is torn or damaged", r.path, padded(t.size), t.off))
	}
	if p := r.part; p != nil && (last < 0 || all[last].at+int64(padded(all[last].size)) != p.to) {
		return nil, r.damage(p.to, -1, "the one before it, which is the last that was set aside, is damaged or missing")
	}
	if last < 0 {
		return nil, nil
	}
	if err := r.behind(all[last]); err != nil {
		return nil, err
	}
	chain := []found{all[last]}
	start, at := all[last].start, all[last]
	if r.part != nil {
		start = max(start, r.part.from)
	}
	for i := last - 1; at.prev >= start && at.prev >= 0; i-- {
		for i >= 0 && all[i].at > at.prev {
			i--
		}
		if i < 0 || all[i].at != at.prev {
			return nil, r.damage(at.prev, -1, fmt.Sprintf("it is damaged or missing, but the one after it, at %d, is whole", at.off))
		}
		at = all[i]
		chain = append(chain, at)
	}
	slices.Reverse(chain)
	return chain, nil
}

// behind looks where the next frame would be: a header of this generation that is not whole was
// torn, or damaged.
func (r *reader) behind(last found) error {
	size, err := r.host.Size(r.fd)
	if err != nil {
		return fmt.Errorf("%s: %w", r.path, err)
	}
	at := (last.off + int64(padded(last.size))) % size
	r.report.Ends = append(r.report.Ends, fmt.Sprintf("%s: its last whole write ends at %d; a later one, if there was any, is torn or damaged and cannot be seen", r.path, at))
	b, err := r.read(at, frameMax)
	if err != nil {
		return err
	}
	if _, ok := parseHeader(b, r.id, r.generation); !ok && ours(b, r.id, r.generation) {
		r.report.Torn = append(r.report.Torn, fmt.Sprintf("%s: the last write, at %d, is torn or damaged", r.path, at))
	}
	return nil
}

func (r *reader) damage(position, off int64, why string) error {
	info := ""
	if off >= 0 {
		info = fmt.Sprintf(", byte %d", off)
	}
	return fmt.Errorf("%s: DAMAGED: the write at position %d%s: %s. Records that had been acknowledged may be lost with it; nothing was changed", r.path, position, info, why)
}

// replay hands out the entries.
func (r *reader) replay(chain []found, apply func(*Entry) error) error {
	for _, fr := range chain {
		b, err := r.read(fr.off, fr.size)
		if err != nil {
			return err
		}
		r.report.Frames++
		body := headerSize + fr.entries*rowSize
		for i := range fr.entries {
			e, crc, err := parseRow(b[headerSize+i*rowSize:])
			if err != nil {
				return fmt.Errorf("%s: frame at %d: %w", r.path, fr.off, err)
			}
			from := body
			body += e.Size
			if crc32.Update(0, castagnoli, b[from:body]) != crc {
				e.Damage = fmt.Errorf("%s: bytes %d to %d do not have their CRC", r.path, fr.off+int64(from), fr.off+int64(body))
				r.report.Damaged = append(r.report.Damaged, e.Damage.Error())
			} else {
				e.Bufs = [][]byte{b[from:body]}
			}
			r.report.Entries++
			r.report.Bytes += int64(e.Size)
			if err := apply(&e); err != nil {
				return err
			}
		}
	}
	return nil
}
