package bare

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"

	"github.com/millrace/millrace/engine/wire"
	"golang.org/x/sys/unix"
)

// fetchVersion is the one that the bench's reader speaks.
const fetchVersion = 4

// requestMax is the largest request that is taken, bytes.
const requestMax = 4 << 10

// Server sends one file.
type Server struct {
	File   *os.File
	Layout Layout
	Stream bool // without requests
}

// Serve takes connections until the listener is closed. Each has a thread that blocks in the kernel. What a peer does wrong ends
// its connection, and is told to said.
func (s *Server) Serve(l *net.TCPListener, said func(error)) {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			return // closed
		}
		go func() {
			runtime.LockOSThread()
			if err := s.serve(c); err != nil {
				said(fmt.Errorf("%v: %w", c.RemoteAddr(), err))
			}
		}()
	}
}

// serve takes the descriptor out of Go's hands: nothing but the kernel is to be measured.
func (s *Server) serve(c *net.TCPConn) error {
	f, err := c.File() // a duplicate, which blocks
	c.Close()
	if err != nil {
		return err
	}
	defer f.Close()
	fd := int(f.Fd())
	if err := unix.SetNonblock(fd, false); err != nil {
		return err
	}
	if s.Stream {
		err = s.stream(fd)
	} else {
		err = s.fetches(fd)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) { // the peer has gone
		return nil
	}
	return err
}

func (s *Server) stream(fd int) error {
	for {
		if err := s.send(fd, 0, s.Layout.Bytes()); err != nil {
			return err
		}
	}
}

// send is the loop that is measured.
func (s *Server) send(fd int, pos, size int64) error {
	for size > 0 {
		n, err := unix.Sendfile(fd, int(s.File.Fd()), &pos, int(min(size, 1<<30)))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("%s: it ended before the reply did", s.File.Name())
		default:
			size -= int64(n)
		}
	}
	return nil
}

func (s *Server) fetches(fd int) error {
	in, out := make([]byte, requestMax), make([]byte, 0, requestMax)
	var r wire.FetchRequest
	for {
		frame, err := request(fd, in)
		if err != nil {
			return err
		}
		h, body, err := wire.ParseHeader(frame)
		if err != nil {
			return err
		}
		if h.Key != wire.KeyFetch || h.Version != fetchVersion {
			return fmt.Errorf("%s version %d: only Fetch version %d is answered", wire.Name(h.Key), h.Version, fetchVersion)
		}
		if err := r.Parse(h.Version, body); err != nil {
			return err
		}
		var pos, size int64
		if out, pos, size, err = s.answer(out[:0], h, &r); err != nil {
			return err
		}
		if err := unix.Send(fd, out, unix.MSG_MORE|unix.MSG_NOSIGNAL); err != nil { // less than a page: whole
			return err
		}
		if err := s.send(fd, pos, size); err != nil {
			return err
		}
	}
}

// answer is what comes before the records, and where they are.
func (s *Server) answer(out []byte, h wire.Header, r *wire.FetchRequest) (_ []byte, pos, size int64, err error) {
	if len(r.Topics) != 1 || len(r.Partitions) != 1 {
		return nil, 0, 0, fmt.Errorf("a fetch of %d topics and %d partitions: one of each is answered", len(r.Topics), len(r.Partitions))
	}
	p := &r.Partitions[0]
	pos, size = s.Layout.slice(p.Offset, int64(p.MaxBytes))
	if size == 0 {
		return nil, 0, 0, fmt.Errorf("a fetch at offset %d of %d", p.Offset, s.Layout.End())
	}
	out = wire.AppendResponseHeader(out, h.Key, h.Version, h.CorrelationID)
	out = wire.AppendFetchStart(out, h.Version, 0, 0, 0, 1)
	out = wire.AppendFetchTopic(out, h.Version, r.Topics[0].Name, r.Topics[0].ID, 1)
	out = wire.AppendFetchPartition(out, h.Version, &wire.FetchResponsePartition{Partition: p.Partition,
		HighWatermark: s.Layout.End(), LastStable: s.Layout.End()}, int(size))
	wire.PutSize(out, int(size)) // version 4 has nothing behind the records
	return out, pos, size, nil
}

// request reads one frame, without its size.
func request(fd int, buf []byte) ([]byte, error) {
	if err := readFull(fd, buf[:4]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(buf))
	if n > len(buf) {
		return nil, fmt.Errorf("a request of %d bytes", n)
	}
	if err := readFull(fd, buf[:n]); err != nil {
		return nil, err
	}
	return buf[:n], nil
}

func readFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(fd, b)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return io.EOF
		default:
			b = b[n:]
		}
	}
	return nil
}
