package netio

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/millrace/millrace/ring"
)

const (
	measureMax    = 60e6 // ns: a machine that takes longer is too busy to be measured
	measureRounds = 7    // of each way and size; the shortest counts: what a way takes when nothing disturbs it
	measureName   = "fetch-path.measure"
	measureHead   = 64 // bytes of memory before a range and behind it, as in a reply
)

// measured are the sizes at which ways are compared, bytes.
var measured = [...]int{8 << 10, 32 << 10, 128 << 10, 1 << 20}

// ways of a range, in the order in which each round takes them.
var ways = [...]struct {
	name  string
	paths Paths
}{
	{"copy", Paths{CopyMax: math.MaxInt64}},
	{"sendfile", Paths{InlineMax: math.MaxInt64}},
	{"splice", Paths{}},
}

// MeasurePaths compares the ways of a range of a file that is in memory, by requests
// to a server of its own over loopback, for 10 to 60 ms. The file is made in dir, and
// removed at once. It blocks; nothing else may be on the ring. told says what was
// measured. With an error Paths are the defaults.
func MeasurePaths(io ring.IO, dir string) (p Paths, told string, err error) {
	if _, ok := io.(ring.SendFileChooser); !ok {
		return DefaultPaths, "", errors.New("the ring has one way only")
	}
	before := *io.Stats()
	defer func() { *io.Stats() = before }() // it is in no figure
	h := io.Host()
	path := filepath.Join(dir, measureName)
	fd, err := h.Open(path, ring.Create)
	if err != nil {
		return DefaultPaths, "", err
	}
	defer h.Close(fd)
	if err := h.Remove(path); err != nil {
		return DefaultPaths, "", err
	}
	if _, err := h.WriteAt(fd, make([]byte, measured[len(measured)-1]), 0); err != nil {
		return DefaultPaths, "", err
	}
	listener, at, err := h.Listen("127.0.0.1:0", true)
	if err != nil {
		return DefaultPaths, "", err
	}
	m := &measure{io: io, file: fd, until: io.Stamp() + measureMax, recv: io.Pool().Get(256 << 10), send: io.Pool().Get(8)}
	m.srv = NewServer(io, listener, Config{FrameMax: 1 << 10, InFlight: 1, Log: func(string, ...any) {}}, m)
	err = m.run(at)
	m.close()
	for _, b := range [][]byte{m.recv, m.send} {
		if b != nil {
			io.Pool().Put(b)
		}
	}
	if err != nil {
		return DefaultPaths, "", err
	}
	p, told = m.choose()
	return p, told, nil
}

// measure is a server and its one client on the same ring.
type measure struct {
	io    ring.IO
	srv   *Server
	file  ring.FD
	until int64 // ring's clock
	size  int   // of the range that is asked for

	client     ring.FD
	op         ring.Op
	done       bool
	recv, send []byte
	took       [len(ways)][len(measured)][]int64
}

// Serve answers as a fetch is answered.
func (m *measure) Serve(x *Exchange) {
	head := m.io.Pool().Get(2 * measureHead)
	if head == nil {
		x.Silent()
		return
	}
	x.Reply(append(x.Pieces(), Piece{Mem: head[:measureHead]}, Piece{File: m.file, Len: int64(m.size)}, Piece{Mem: head[measureHead : 2*measureHead]}), head, nil)
}

// Closed is Handler's.
func (m *measure) Closed(*Conn) {}

// Complete is the client's.
func (m *measure) Complete(*ring.Op) { m.done = true }

// do runs an op of the client's.
func (m *measure) do(op ring.Op) error {
	op.Done = m
	m.op, m.done = op, false
	m.io.Submit(&m.op)
	for late := false; !m.done; {
		m.io.Wait(m.until)
		m.srv.Tick()
		if !late && !m.done && m.io.Stamp() >= m.until {
			late = true
			m.until = ring.Forever // it ends by its cancel
			m.io.Cancel(&m.op)
		}
	}
	if m.until == ring.Forever {
		return fmt.Errorf("the measurement took more than %d ms", int64(measureMax)/1e6)
	}
	if m.op.Result < 0 {
		return fmt.Errorf("%v: %w", m.op.Code, m.op.Error())
	}
	return nil
}

func (m *measure) run(at netip.AddrPort) (err error) {
	if m.recv == nil || m.send == nil {
		return errors.New("no memory")
	}
	if m.client, err = m.io.Host().Socket(at); err != nil {
		return err
	}
	if err := m.do(ring.Op{Code: ring.Connect, FD: m.client, Addr: at}); err != nil {
		return err
	}
	for round := -1; round < measureRounds; round++ { // the first one warms up
		for size, n := range measured {
			for way, w := range ways {
				m.size = n
				m.srv.SetPaths(w.paths)
				begin := m.io.Stamp()
				if err := m.ask(); err != nil {
					return err
				}
				if round >= 0 {
					m.took[way][size] = append(m.took[way][size], m.io.Stamp()-begin)
				}
			}
		}
	}
	return nil
}

// ask asks for one range, and takes it.
func (m *measure) ask() error {
	copy(m.send, []byte{0, 0, 0, 1, 0})
	if err := m.do(ring.Op{Code: ring.Send, FD: m.client, Buf: m.send[:5]}); err != nil {
		return err
	}
	for left := m.size + 2*measureHead; left > 0; left -= int(m.op.Result) {
		if err := m.do(ring.Op{Code: ring.Recv, FD: m.client, Buf: m.recv[:min(left, cap(m.recv))]}); err != nil {
			return err
		}
		if m.op.Result == 0 {
			return errors.New("the connection ended")
		}
	}
	return nil
}

// close ends it: nothing of it is on the ring when it returns but the close of its listener.
func (m *measure) close() {
	m.srv.Close()
	left := 1
	ended := opDone(func(*ring.Op) { left-- })
	if m.client > 0 {
		left++
		m.io.Submit(&ring.Op{Code: ring.Close, FD: m.client, Done: ended})
	}
	m.io.Submit(&ring.Op{Code: ring.Nop, Done: ended})
	for left > 0 || m.srv.Stats.Open > 0 || m.srv.accept.Active || m.srv.unsent > 0 {
		m.io.Wait(m.io.Stamp() + 1e6)
	}
}

type opDone func(*ring.Op)

// Complete calls d.
func (d opDone) Complete(op *ring.Op) { d(op) }

// choose takes, for all sizes up to the last at which it holds: a copy where no other way is a tenth
// quicker, since it needs no answer of mincore and a read of what is cold waits in the kernel;
// the ring's thread where a splice is not quicker.
func (m *measure) choose() (p Paths, told string) {
	var b strings.Builder
	copies, inline := true, true
	for size, n := range measured {
		fmt.Fprintf(&b, "%s%d KiB", map[bool]string{true: "; "}[size > 0], n>>10)
		for way := range ways {
			fmt.Fprintf(&b, " %s %d", ways[way].name, slices.Min(m.took[way][size])/1e3)
		}
		sendfile, splice := slices.Min(m.took[1][size]), slices.Min(m.took[2][size])
		if copies = copies && slices.Min(m.took[0][size]) <= min(sendfile, splice)*11/10; copies {
			p.CopyMax = int64(n)
		}
		if inline = inline && sendfile <= splice*11/10; inline { // a splice costs other threads too
			p.InlineMax = int64(n)
		}
	}
	b.WriteString(" µs")
	if copies {
		p.CopyMax = math.MaxInt64
	}
	if inline {
		p.InlineMax = math.MaxInt64
	}
	return p, b.String()
}
