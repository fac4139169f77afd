// Package bare answers fetches with what sendfile(2) alone can do: a file of batches, in the page cache, and a server that for each
// fetch finds the place by division and sends a header and then the file, by one blocking thread a connection. What a consumer
// that catches up gets from it is what a loop of sendfile reaches, with this kernel, loopback and consumer. It is for that, and for nothing
// else. A broker that copies may be above it: below some 128 KiB a fetch a copy takes less CPU time.
//
// There are two servers. Fetches are answered as a broker does: who asks waits for the answer before it asks again. A stream
// has no requests: what the file holds is sent again and again until the peer goes, which shows what asking costs.
package bare

import (
	"context"
	"fmt"
	"os"

	"github.com/millrace/millrace/engine/record"
)

// Layout is a file of batches that are all alike but for their offsets.
type Layout struct {
	Batches    int64
	BatchBytes int
	Records    int // of each batch
}

// End is the offset after the last record.
func (l Layout) End() int64 { return l.Batches * int64(l.Records) }

// Bytes is the file's size.
func (l Layout) Bytes() int64 { return l.Batches * int64(l.BatchBytes) }

// slice is what a fetch at an offset gets: whole batches of at most bytes, one at least. Behind the end there is nothing.
func (l Layout) slice(offset, bytes int64) (pos, size int64) {
	if offset < 0 || offset >= l.End() {
		return 0, 0
	}
	first := offset / int64(l.Records)
	n := min(max(1, bytes/int64(l.BatchBytes)), l.Batches-first)
	return first * int64(l.BatchBytes), n * int64(l.BatchBytes)
}

const writeBytes = 1 << 20

// WriteFile makes a file of valid batches of these values, as many batches as fill at least the bytes asked for, and syncs it. An
// interrupt ends it within a MiB; the file stays, for its maker to remove.
func WriteFile(ctx context.Context, path string, bytes int64, values [][]byte) (l Layout, err error) {
	var b record.Builder
	b.Begin(nil, record.None)
	for _, v := range values {
		b.Add(record.NoTimestamp, nil, v)
	}
	batch := record.Batch(b.Finish())
	l = Layout{BatchBytes: len(batch), Records: len(values)}
	l.Batches = max(1, (bytes+int64(len(batch))-1)/int64(len(batch)))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return l, err // names the path
	}
	defer func() {
		if e := f.Close(); err == nil && e != nil {
			err = fmt.Errorf("%s: %w", path, e)
		}
	}()
	buf := make([]byte, 0, writeBytes+len(batch))
	for i := range l.Batches {
		batch.SetBaseOffset(i * int64(l.Records))
		if buf = append(buf, batch...); len(buf) < writeBytes && i < l.Batches-1 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return l, err
		}
		if _, err := f.Write(buf); err != nil {
			return l, err
		}
		buf = buf[:0]
	}
	return l, f.Sync()
}
