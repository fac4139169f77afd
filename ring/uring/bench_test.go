//go:build uring

package uring

import (
	"runtime"
	"testing"

	"github.com/millrace/millrace/ring"
)

// What registering saves. The figures are in the package comment.
func BenchmarkRegister(b *testing.B) {
	for _, c := range []struct {
		name         string
		file, buffer bool
	}{{"nothing", false, false}, {"file", true, false}, {"buffer", false, true}, {"both", true, true}} {
		b.Run("send-recv/"+c.name, func(b *testing.B) {
			g := openLocked(b)
			from, to := g.pair()
			buf, in := g.get(4096), g.get(4096)
			g.register(c.file, c.buffer, buf, from, to)
			g.bench(b, ring.Op{Code: ring.Send, FD: from, Buf: buf[:64]}, ring.Op{Code: ring.Recv, FD: to, Buf: in[:64]})
		})
		b.Run("read/"+c.name, func(b *testing.B) {
			g := openLocked(b)
			file := g.file("f", 4096)
			buf := g.get(4096)
			g.register(c.file, c.buffer, buf, file)
			g.bench(b, ring.Op{Code: ring.Read, FD: file, Buf: buf})
		})
	}
}

func openLocked(b *testing.B) *rig {
	runtime.LockOSThread()
	return open(b, Config{})
}

func (g *rig) register(files, buffer bool, buf []byte, fds ...ring.FD) {
	for _, fd := range fds {
		if files {
			if err := g.RegisterFile(fd); err != nil {
				g.t.Fatal(err)
			}
		}
	}
	if buffer {
		if err := g.RegisterBuffer(buf); err != nil {
			g.t.Fatal(err)
		}
	}
}

// bench does the ops in turn, each 64 times in flight before it is waited for.
func (g *rig) bench(b *testing.B, ops ...ring.Op) {
	const each = 64
	calls := make([]ring.Op, each)
	done := &counter{}
	for b.Loop() {
		for _, op := range ops {
			left := done.n + each
			for i := range calls {
				calls[i] = op
				calls[i].Done = done
				g.Submit(&calls[i])
			}
			for done.n < left {
				g.Wait(ring.Forever)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*each*len(ops)), "ns/io")
}

type counter struct{ n int }

func (c *counter) Complete(*ring.Op) { c.n++ }
