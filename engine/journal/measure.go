package journal

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/millrace/millrace/ring"
)

// Way is how a frame becomes durable.
type Way uint8

// The ways. Both are one submission, and leave the same on disk after a crash.
const (
	DSync  Way = iota // one write with RWF_DSYNC
	Linked            // a write and, linked to it, an fdatasync
)

// String is its value of journal.sync.
func (w Way) String() string { return [...]string{"dsync", "fdatasync"}[w] }

const (
	measureName   = "journal-sync.measure"
	measureRounds = 15   // of each way and size, at most
	measureMin    = 5    // at least
	measureMax    = 50e6 // ns: no round begins after that, once there are measureMin
	measureFile   = 256 << 10
)

// measured are the sizes at which the ways are compared, bytes: a frame of a quiet core, and one of a busy core.
var measured = [...]int{blockSize, 64 << 10}

// Measure compares the ways on the device that the journals are on, by overwriting a file which it makes
// beside them and removes at once: 20 to 60 ms on a disk that answers within 1 ms. It blocks; nothing else that takes
// time may be on the ring. told says what was measured. With an error the way is DSync. After Begin.
func (f *Files) Measure(io ring.IO) (w Way, told string, err error) {
	if io.Name() == "sim" {
		return DSync, "", errors.New("no time passes by itself in the simulator")
	}
	before := *io.Stats()
	defer func() { *io.Stats() = before }() // it is in no figure
	h, path := f.host, filepath.Join(f.cfg.Dir, measureName)
	fd, err := openPast(h, path)
	if err != nil {
		return DSync, "", err
	}
	defer h.Close(fd)
	if err := h.Remove(path); err != nil {
		return DSync, "", err
	}
	m := measure{io: io, fd: fd, buf: io.Pool().Get(measureFile)}
	if m.buf == nil {
		return DSync, "", errors.New("no memory")
	}
	defer io.Pool().Put(m.buf)
	clear(m.buf)
	if err := m.run(); err != nil {
		return DSync, "", err
	}
	w, told = m.choose()
	return w, told, nil
}

// measure is a file that is overwritten.
type measure struct {
	io   ring.IO
	fd   ring.FD
	buf  []byte
	ops  [2]ring.Op
	left int // of them, under way
	took [2][len(measured)][]int64
}

// Complete counts.
func (m *measure) Complete(*ring.Op) { m.left-- }

// write overwrites n bytes, durably.
func (m *measure) write(w Way, off int64, n int) error {
	m.ops[0] = ring.Op{Code: ring.Write, FD: m.fd, Off: off, Buf: m.buf[:n], Done: m}
	m.left = 1
	if w == DSync {
		m.ops[0].Flags = ring.DSync
	} else {
		m.ops[1] = ring.Op{Code: ring.Sync, FD: m.fd, Done: m}
		m.ops[0].Next = &m.ops[1]
		m.left = 2
	}
	m.io.Submit(&m.ops[0])
	for m.left > 0 {
		m.io.Wait(ring.Forever)
	}
	if err := m.ops[0].Error(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if int(m.ops[0].Result) < n {
		return fmt.Errorf("write: %d of %d bytes", m.ops[0].Result, n)
	}
	if w == Linked {
		if err := m.ops[1].Error(); err != nil {
			return fmt.Errorf("sync: %w", err)
		}
	}
	return nil
}

func (m *measure) run() error {
	if err := m.write(Linked, 0, measureFile); err != nil { // what is measured overwrites
		return err
	}
	began, off := m.io.Stamp(), int64(0)
	for round := range measureRounds {
		if round >= measureMin && m.io.Stamp()-began > measureMax {
			break
		}
		for size, n := range measured {
			for i := range m.took {
				w := Way((i + round) % 2) // neither is always the first
				if off+int64(n) > measureFile {
					off = 0
				}
				begin := m.io.Stamp()
				if err := m.write(w, off, n); err != nil {
					return err
				}
				m.took[w][size] = append(m.took[w][size], m.io.Stamp()-begin)
				off += int64(n)
			}
		}
	}
	return nil
}

// choose takes one write, unless two calls cost a tenth less at both sizes. It goes by what a way takes
// when little disturbs it: the quickest quarter.
func (m *measure) choose() (w Way, told string) {
	w = Linked
	for size, n := range measured {
		one, two := quarter(m.took[DSync][size]), quarter(m.took[Linked][size])
		if two*10 > one*9 {
			w = DSync
		}
		if size > 0 {
			told += "; "
		}
		told += fmt.Sprintf("%d KiB: RWF_DSYNC %d µs, write and fdatasync %d µs", n>>10, one/1e3, two/1e3)
	}
	return w, told
}

func quarter(took []int64) int64 {
	slices.Sort(took)
	return took[len(took)/4]
}
