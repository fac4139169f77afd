package netio

import (
	"fmt"
	"math"
	"slices"

	"github.com/millrace/millrace/ring"
)

// A range of a file goes out by ring.SendFile, or by a copy: it is read into memory of
// the pool and sent from there, together with the memory before and behind it. What
// is cheaper, and from which size on, is for [Paths] to say. A read of what is not in the
// page cache is waited for by the ring and not by its thread.

const (
	// copyTurn is the most that one read copies, bytes. A longer range goes by several.
	copyTurn = ring.SendFileTurn
	// copiedMax is how much of an exchange may be copied and not sent, bytes, before no more is read.
	copiedMax = 2 * copyTurn
)

// ahead is what comes before the read of a range: a Prefetch, which costs next to nothing
// where the range is in memory. Where it is not, a worker makes room for it and
// asks the disk, for this range and no more. Else the read would do that, on the
// ring's thread, and for as much as the kernel likes to read ahead: 8 MiB are 2 ms.
type ahead struct {
	op   ring.Op
	next *ahead
}

// Paths is which way ranges of files take to their sockets.
type Paths struct {
	CopyMax   int64 // a range up to this goes by a copy, bytes
	InlineMax int64 // a larger one up to this by the ring's thread, where it is in memory: ring.SendFileChooser
}

// String says it in a few words.
func (p Paths) String() string {
	to := func(n int64) string {
		if n == math.MaxInt64 {
			return "any size"
		}
		return fmt.Sprintf("%d KiB", n>>10)
	}
	switch {
	case p.CopyMax == math.MaxInt64:
		return "copy"
	case p.CopyMax == 0 && p.InlineMax == 0:
		return "splice"
	case p.InlineMax <= p.CopyMax:
		return fmt.Sprintf("copy up to %s, splice above", to(p.CopyMax))
	case p.InlineMax == math.MaxInt64 && p.CopyMax == 0:
		return "sendfile"
	case p.InlineMax == math.MaxInt64:
		return fmt.Sprintf("copy up to %s, sendfile above", to(p.CopyMax))
	case p.CopyMax == 0:
		return fmt.Sprintf("sendfile up to %s, splice above", to(p.InlineMax))
	}
	return fmt.Sprintf("copy up to %s, sendfile up to %s, splice above", to(p.CopyMax), to(p.InlineMax))
}

// DefaultPaths are those of a ring that has not been measured.
var DefaultPaths = Paths{CopyMax: 128 << 10, InlineMax: 128 << 10}

// SetPaths chooses how ranges of files are sent from now on; before that it is by DefaultPaths.
func (s *Server) SetPaths(p Paths) {
	s.copyMax = p.CopyMax
	if io, ok := s.io.(ring.SendFileChooser); ok {
		io.ChooseSendFile(p.InlineMax)
	}
}

// copyNext begins to read the next range that goes by a copy, if the exchange at
// the head has one before its next other range. It says no where there is none, or no memory, and
// where replies hold half as much as those who do not take theirs are closed for: see UnsentMax.
func (c *Conn) copyNext() bool {
	s, x := c.srv, c.head
	if x.files == 0 || x.copied >= copiedMax || s.unsent >= s.cfg.UnsentMax/2 {
		return false
	}
	for i := x.at; i < len(x.pieces); i++ {
		p := &x.pieces[i]
		if p.Mem != nil || p.Len == 0 {
			continue
		}
		if i == x.at && x.off > 0 { // what has been sent of it is no part of it any more
			p.Pos, p.Len, x.off = p.Pos+int64(x.off), p.Len-int64(x.off), 0
		}
		if p.Len > s.copyMax {
			return false
		}
		b := s.io.Pool().Get(int(min(p.Len, copyTurn)))
		if b == nil {
			return false
		}
		a := s.aheads
		if a == nil {
			a = new(ahead)
		} else {
			s.aheads = a.next
		}
		c.copying, c.ahead = i, a
		op := &c.send
		*op = ring.Op{Code: ring.Read, FD: p.File, Off: p.Pos, Buf: b[:min(p.Len, copyTurn)], Done: op.Done}
		a.op = ring.Op{Code: ring.Prefetch, FD: p.File, Off: p.Pos, Len: int64(len(op.Buf)), Next: op, Done: ignore{}}
		s.io.Submit(&a.op)
		return true
	}
	return false
}

// readAlone is the read again, after what came before it has failed and taken the read with it.
func (c *Conn) readAlone(a *ahead) {
	s, op := c.srv, &c.send
	a.next, s.aheads = s.aheads, a
	*op = ring.Op{Code: ring.Read, FD: op.FD, Off: op.Off, Buf: op.Buf, Done: op.Done}
	s.io.Submit(op)
}

// copied puts what a read brought in the place of its range.
func (c *Conn) copied(op *ring.Op) {
	s, x, i, n := c.srv, c.head, c.copying, int64(op.Result)
	p := &x.pieces[i]
	rest := Piece{File: p.File, Pos: p.Pos + n, Len: p.Len - n}
	switch {
	case rest.Len == 0:
		x.files--
	case x.at > 0: // in the place of what has been sent
		copy(x.pieces[x.at-1:], x.pieces[x.at:i])
		*p = rest
		x.at, i = x.at-1, i-1
	default:
		x.pieces = slices.Insert(x.pieces, i+1, rest)
	}
	x.pieces[i] = Piece{Mem: op.Buf[:n], pooled: true}
	x.copied += int(n)
	x.memory += int(n)
	c.unsent += int(n)
	s.unsent += int(n)
	s.Stats.Read += uint64(n)
}

// uncopy gives the memory of a copy back. The kernel does not look at it any more.
func (x *Exchange) uncopy(i int) {
	p := &x.pieces[i]
	if !p.pooled {
		return
	}
	c, n := x.Conn, len(p.Mem)
	x.copied -= n
	x.memory -= n
	c.unsent -= n
	c.srv.unsent -= n
	c.srv.io.Pool().Put(p.Mem)
	*p = Piece{}
}
