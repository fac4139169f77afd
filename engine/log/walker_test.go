package log

import (
	"bytes"
	"testing"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
)

// memoryFile is a host with one file, which counts what is read of it.
type memoryFile struct {
	ring.Host
	content []byte
	read    int
}

func (f *memoryFile) ReadAt(_ ring.FD, b []byte, off int64) (int, error) {
	n, err := bytes.NewReader(f.content).ReadAt(b, off)
	f.read += n
	return n, err
}

// A walk from header to header finds every batch, and of batches that are larger than a block reads the headers only.
func TestWalkReadsLittle(t *testing.T) {
	const batches = 20
	for _, c := range []struct{ size, readMax int }{
		{200, 2 * batches * 300},
		{16 << 10, walkBlock + batches*record.HeaderSize},
	} {
		var f memoryFile
		var b record.Builder
		for i := range batches {
			b.Begin(nil, record.None)
			b.Add(1, nil, make([]byte, c.size))
			batch := record.Batch(b.Finish())
			batch.SetBaseOffset(int64(i))
			f.content = append(f.content, batch...)
		}
		w := walker{host: &f, size: int64(len(f.content)), step: walkBlock}
		n := 0
		for ; w.next(); n++ {
			if w.batch.BaseOffset() != int64(n) || w.length < c.size || w.pos != int64(n*w.length) {
				t.Fatalf("batch %d of %d bytes at %d has offset %d", n, w.length, w.pos, w.batch.BaseOffset())
			}
		}
		if n != batches || w.err != nil || f.read > c.readMax {
			t.Errorf("%d batches of %d bytes, %d bytes read, at most %d wanted, %v", n, c.size, f.read, c.readMax, w.err)
		}
	}
}
