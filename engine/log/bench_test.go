package log

import (
	"sync/atomic"
	"testing"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/posix"
)

// counted counts what starts and creations cost.
type counted struct {
	ring.Host
	syncs, read atomic.Int64
}

func (c *counted) Sync(fd ring.FD) error {
	c.syncs.Add(1)
	return c.Host.Sync(fd)
}

func (c *counted) SyncDir(path string) error {
	c.syncs.Add(1)
	return c.Host.SyncDir(path)
}

func (c *counted) ReadAt(fd ring.FD, p []byte, off int64) (int, error) {
	n, err := c.Host.ReadAt(fd, p, off)
	c.read.Add(int64(n))
	return n, err
}

// BenchmarkStart creates partitions, puts a little into a tenth of
// them, leaves them as a kill does, and recovers: with go test -bench Start
// -benchtime 1x -run ^$.
func BenchmarkStart(b *testing.B) {
	const partitions = 300
	for range b.N {
		path := b.TempDir()
		h := &counted{Host: posix.Host()}
		cfg := machineConfig(File)
		cfg.IndexBytes = 10 << 20
		open := func() *Dir {
			d, report, err := OpenDir(h, path, DirConfig{NodeID: 1, Config: cfg, Parallel: 2})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(report.Nanos)/1e6, "recover-ms")
			return d
		}
		d := open()
		h.syncs.Store(0)
		began := h.Monotonic()
		parts := make([]NewPartition, partitions)
		for i := range parts {
			parts[i] = NewPartition{"topic", int32(i), [16]byte{1}, cfg}
		}
		if _, err := d.CreateAll(parts); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(h.Monotonic()-began)/1e6, "create-ms")
		b.ReportMetric(float64(h.syncs.Load()), "create-syncs")
		io, err := posix.New(h.Host, posix.Config{PoolBytes: 16 << 20})
		if err != nil {
			b.Fatal(err)
		}
		m := &machine{TB: b, io: io, dir: d, core: NewCore(io, CoreConfig{TailBytes: 8 << 20})}
		logs := d.Logs()
		for _, l := range logs {
			if err := l.Attach(m.core, &m.own); err != nil {
				b.Fatal(err)
			}
		}
		for i := 0; i < partitions; i += 10 {
			m.append(logs[i], stamped(1, 1000), 0)
		}
		for _, l := range logs {
			m.until(func() bool { return l.Stable() == l.LogEnd() && len(l.jobs) == 0 })
			l.closeFiles()
		}
		d.Abandon()
		io.Close()
		h.syncs.Store(0)
		h.read.Store(0)
		d = open()
		b.ReportMetric(float64(h.syncs.Load()), "recover-syncs")
		b.ReportMetric(float64(h.read.Load())/1e6, "recover-MB")
		for _, l := range d.Logs() {
			l.closeFiles()
		}
		d.Abandon()
	}
}
