package bare

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// served is a file of batches of 3 records, behind a server.
func served(t *testing.T, bytes int64, stream bool) (Layout, net.Conn, []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "batches")
	l, err := WriteFile(t.Context(), path, bytes, [][]byte{[]byte("one"), []byte("two"), make([]byte, 1000)})
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	s := Server{File: f, Layout: l, Stream: stream}
	go s.Serve(listener, func(err error) { t.Log(err) })
	t.Cleanup(func() { listener.Close() })
	c, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return l, c, content
}

func TestFileIsOfValidBatches(t *testing.T) {
	l, _, content := served(t, 3_000_000, false)
	if int64(len(content)) != l.Bytes() || l.Bytes() < 3_000_000 || l.Bytes() >= 3_000_000+int64(l.BatchBytes) {
		t.Fatalf("%d bytes, %+v", len(content), l)
	}
	offset := int64(0)
	for b := content; len(b) > 0; b = b[l.BatchBytes:] {
		batch := record.Batch(b[:l.BatchBytes])
		if size, ok := record.PeekSize(b); !ok || size != l.BatchBytes || batch.BaseOffset() != offset || !batch.CheckCRC() || batch.Count() != 3 {
			t.Fatalf("batch of %d bytes at offset %d, where %d is next", size, batch.BaseOffset(), offset)
		}
		offset = batch.LastOffset() + 1
	}
	if offset != l.End() {
		t.Errorf("it ends at %d, not %d", offset, l.End())
	}
}

func TestWriteFileIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path := filepath.Join(t.TempDir(), "batches")
	if _, err := WriteFile(ctx, path, 1<<40, [][]byte{make([]byte, 1000)}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if st, err := os.Stat(path); err != nil || st.Size() > writeBytes {
		t.Errorf("%v, %v", st, err)
	}
}

// A fetch gets whole batches from where it asks, as many as it asks for, and one at least.
func TestFetch(t *testing.T) {
	l, c, content := served(t, 100_000, false)
	for _, q := range []struct {
		offset, max int64
		pos, size   int64
	}{
		{0, 10, 0, 1},
		{0, 3 * int64(l.BatchBytes), 0, 3},
		{3, 4*int64(l.BatchBytes) - 1, 1, 3},
		{l.End() - 3, 1 << 20, l.Batches - 1, 1},
		{0, 1 << 20, 0, l.Batches},
	} {
		r := wire.FetchRequest{Version: fetchVersion, ReplicaID: -1, MaxBytes: 1 << 30, MinBytes: 1,
			Topics: []wire.FetchTopic{{Name: []byte("t"), Count: 1}}, Partitions: []wire.FetchPartition{{Offset: q.offset, MaxBytes: int32(q.max)}}}
		frame := wire.AppendRequestHeader(nil, wire.KeyFetch, fetchVersion, 77, "")
		frame = r.AppendTo(frame)
		wire.PutSize(frame, 0)
		if _, err := c.Write(frame); err != nil {
			t.Fatal(err)
		}
		var size [4]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			t.Fatal(err)
		}
		reply := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(c, reply); err != nil {
			t.Fatal(err)
		}
		a := kmsg.FetchResponse{Version: fetchVersion}
		if err := a.ReadFrom(reply[4:]); err != nil || binary.BigEndian.Uint32(reply) != 77 || len(a.Topics) != 1 || a.Topics[0].Topic != "t" || len(a.Topics[0].Partitions) != 1 {
			t.Fatalf("%v: %+v", err, a)
		}
		p := a.Topics[0].Partitions[0]
		from := q.pos * int64(l.BatchBytes)
		if want := content[from : from+q.size*int64(l.BatchBytes)]; p.HighWatermark != l.End() || !bytes.Equal(p.RecordBatches, want) {
			t.Errorf("fetch at %d of %d: %d bytes, want %d; high watermark %d", q.offset, q.max, len(p.RecordBatches), len(want), p.HighWatermark)
		}
	}
	// Behind the end there is nothing to wait for: the connection ends.
	frame := wire.AppendRequestHeader(nil, wire.KeyFetch, fetchVersion, 78, "")
	r := wire.FetchRequest{Version: fetchVersion, Topics: []wire.FetchTopic{{Name: []byte("t"), Count: 1}}, Partitions: []wire.FetchPartition{{Offset: l.End(), MaxBytes: 100}}}
	frame = r.AppendTo(frame)
	wire.PutSize(frame, 0)
	if _, err := c.Write(frame); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func TestStream(t *testing.T) {
	_, c, content := served(t, 100_000, true)
	got := make([]byte, 3*len(content))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, bytes.Repeat(content, 3)) {
		t.Error("it is not the file again and again")
	}
}
