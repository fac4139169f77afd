package acceptance_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestBadInput(t *testing.T) {
	eachShared(t, []scenario{
		{"frames", badFrames},
		{"truncated", badTruncated},
		{"versions", badVersions},
		{"batches", badBatches},
		{"bombs", badBombs},
		{"vanishing", badVanishing},
		{"slow-reader", badSlowReader},
	})
}

func int32Bytes(n int32) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }

// What is no request closes the connection, and the log names the peer.
func badFrames(t *testing.T, b *broker) {
	framed := func(body ...byte) []byte { return append(int32Bytes(int32(len(body))), body...) }
	header := func(key, version int16, rest ...byte) []byte {
		h := binary.BigEndian.AppendUint16(nil, uint16(key))
		h = binary.BigEndian.AppendUint16(h, uint16(version))
		h = append(h, 0, 0, 0, 1, 0, 3, 'r', 'a', 'w') // correlation id and client id
		return framed(append(h, rest...)...)
	}
	for _, c := range []struct {
		name string
		sent []byte
	}{
		{"oversized", int32Bytes(1 << 30)},
		{"just oversized", int32Bytes(100<<20 + 1)},
		{"negative size", int32Bytes(-1)},
		{"most negative size", int32Bytes(-1 << 31)},
		{"an HTTP request", []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")},
		{"a TLS hello", []byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}},
		{"a header cut short", framed(0, 3, 0)},
		{"random bytes", framed(noise(2000)...)},
		{"a client id beyond the frame", framed(0, 3, 0, 9, 0, 0, 0, 1, 0x7f, 0xff)},
		{"an unknown key", header(9999, 0)},
		{"a negative key", header(-1, 0)},
		{"an unknown version", header(kmsg.Metadata.Int16(), 99, 0)},
		{"a negative version", header(kmsg.Metadata.Int16(), -1, 0)},
		{"a version before the first", header(kmsg.Produce.Int16(), 2, 0, 0, 0, 0)},
		{"an inter-broker request of old", header(kmsg.StopReplica.Int16(), 0, 0, 0, 0, 0)},
		{"a body cut short", header(kmsg.Metadata.Int16(), 1, 0, 0)},
		{"an array longer than the frame", header(kmsg.Metadata.Int16(), 1, 0x7f, 0xff, 0xff, 0xff)},
		{"a compact array longer than the frame", header(kmsg.Metadata.Int16(), 9, 0, 0xff, 0xff, 0xff, 0xff, 0x07)},
		{"a string longer than the frame", header(kmsg.Metadata.Int16(), 1, 0, 0, 0, 1, 0x7f, 0xff)},
		{"a varint without end", header(kmsg.Metadata.Int16(), 9, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)},
		{"a size that is negative in the body", header(kmsg.SyncGroup.Int16(), 0, 0, 1, 'g', 0, 0, 0, 1, 0, 1, 'm', 0xff, 0xff, 0xff, 0xfe)},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := b.dial(t)
			raw.send(c.sent)
			raw.expectClosed()
			expectPeerInLog(t, b, raw)
		})
	}
	b.healthy(t)
}

// expectPeerInLog waits for the line about a connection; only our broker promises one.
func expectPeerInLog(t *testing.T, b *broker, raw *rawConn) {
	t.Helper()
	expectInLog(t, b, raw.LocalAddr().String())
}

// expectInLog waits for a line about peer that holds all the words, and wants no other line about it.
func expectInLog(t *testing.T, b *broker, peer string, words ...string) {
	t.Helper()
	if b.log == nil || standIn() {
		return
	}
	var lines []string
	eventually(t, waitTimeout, "a log line with the peer's address "+peer, func() bool {
		lines = linesOf(b, peer)
		return len(lines) > 0
	})
	for _, w := range words {
		contains(t, lines[0], w)
	}
	equal(t, "lines about "+peer, len(lines), 1)
}

// linesOf are the log's lines about a peer.
func linesOf(b *broker, peer string) (lines []string) {
	for line := range strings.Lines(b.log.String()) {
		if strings.Contains(line, " "+peer+": ") {
			lines = append(lines, line)
		}
	}
	return lines
}

func expectNotInLog(t *testing.T, b *broker, raw *rawConn) {
	t.Helper()
	if b.log == nil || standIn() {
		return
	}
	equalSlices(t, "lines about a peer that did nothing wrong", linesOf(b, raw.LocalAddr().String()), nil)
}

// A client that goes away within a frame does no harm, nor does a frame that comes byte by byte.
func badTruncated(t *testing.T, b *broker) {
	topic := b.topic(t, 1)
	for cut := 1; cut < 60; cut += 7 {
		raw := b.dial(t)
		frame := raw.frame(produceRequest(topic, newBatch("cut").encode()))
		raw.send(frame[:cut])
		peer := raw.LocalAddr().String()
		raw.Close()
		expectInLog(t, b, peer, "inside a frame")
	}
	raw := b.dial(t)
	request := produceRequest(topic, newBatch("whole").encode())
	for _, one := range raw.frame(request) {
		raw.send([]byte{one})
	}
	equal(t, "error code", answer[*kmsg.ProduceResponse](raw, request).Topics[0].Partitions[0].ErrorCode, 0)
	equalSlices(t, "stored", values(b.readAll(t, topic)[0]), []string{"whole"})
	raw.Close()
	b.healthy(t)
	expectNotInLog(t, b, raw) // who ends between frames has done nothing wrong
}

// An unknown version of ApiVersions is answered as version 0, with the keys to choose from.
func badVersions(t *testing.T, b *broker) {
	for _, version := range []int16{99, 32767} {
		raw := b.dial(t)
		request := kmsg.NewPtrApiVersionsRequest()
		request.Version = 3
		request.ClientSoftwareName, request.ClientSoftwareVersion = "raw", "1"
		frame := raw.frame(request)
		binary.BigEndian.PutUint16(frame[6:], uint16(version))
		raw.send(frame)
		response := answer[*kmsg.ApiVersionsResponse](raw, kmsg.NewPtrApiVersionsRequest())
		equal(t, "error code", response.ErrorCode, kerr.UnsupportedVersion.Code)
		found := false
		for _, key := range response.ApiKeys {
			found = found || key.ApiKey == kmsg.ApiVersions.Int16() && key.MaxVersion >= 4
		}
		equal(t, "ApiVersions is listed", found, true)
		ask[*kmsg.ApiVersionsResponse](raw, request) // the connection goes on
	}
}

// A wrong batch is refused with an error code, nothing of it is stored, and the connection goes on.
func badBatches(t *testing.T, b *broker) {
	topic := b.topic(t, 1)
	var last *rawConn
	change := func(how func(*rawBatch)) []byte {
		batch := newBatch("bad-a", "bad-b")
		how(batch)
		return batch.encode()
	}
	corrupt, invalid := kerr.CorruptMessage.Code, kerr.InvalidRecord.Code
	flipped, cutShort := newBatch("flipped").encode(), newBatch("cut short").encode()
	flipped[len(flipped)-3] ^= 0x40
	for _, c := range []struct {
		name  string
		batch []byte
		codes []int16
	}{
		{"corrupt CRC", flipped, []int16{corrupt}},
		{"magic 7", change(func(b *rawBatch) { b.Magic = 7 }), []int16{corrupt, invalid}},
		{"magic -1", change(func(b *rawBatch) { b.Magic = -1 }), []int16{corrupt, invalid}},
		{"cut short", cutShort[:len(cutShort)-2], []int16{corrupt, invalid}},
		{"shorter than a header", cutShort[:20], []int16{corrupt, invalid}},
		{"more records than there are", change(func(b *rawBatch) { b.NumRecords, b.LastOffsetDelta = 3, 2 }), []int16{invalid}},
		{"fewer records than there are", change(func(b *rawBatch) { b.NumRecords, b.LastOffsetDelta = 1, 0 }), []int16{invalid}},
		{"a billion records", change(func(b *rawBatch) { b.NumRecords, b.LastOffsetDelta = 1e9, 1e9-1 }), []int16{invalid}},
		{"a negative count", change(func(b *rawBatch) { b.NumRecords = -1 }), []int16{invalid}},
		{"no records", change(func(b *rawBatch) { b.NumRecords, b.LastOffsetDelta, b.Records = 0, -1, nil }), []int16{invalid}},
		{"count and last offset differ", change(func(b *rawBatch) { b.LastOffsetDelta = 5 }), []int16{invalid}},
		{"a record longer than the batch", change(func(b *rawBatch) { b.Records = []byte{0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0} }), []int16{invalid, corrupt}},
		{"unknown codec", change(func(b *rawBatch) { b.Attributes = 5 }), []int16{kerr.UnsupportedCompressionType.Code, invalid, corrupt, kerr.UnknownServerError.Code}},
		{"codec without its data", change(func(b *rawBatch) { b.Attributes = 4 }), []int16{invalid, corrupt, kerr.UnknownServerError.Code}},
		{"a control batch from a client", change(func(b *rawBatch) { b.Attributes = 1 << 5 }), []int16{invalid}},
		{"two batches", append(newBatch("a").encode(), newBatch("b").encode()...), []int16{invalid}},
		{"no bytes", []byte{}, []int16{invalid, corrupt}},
	} {
		raw := b.dial(t)
		code, _ := raw.produceRaw(topic, c.batch)
		refused := false
		for _, want := range c.codes {
			refused = refused || code == want
		}
		if !refused {
			t.Errorf("%s: error code %d, want one of %d", c.name, code, c.codes)
		}
		expectInLog(t, b, raw.LocalAddr().String(), topic+"-0")
		last = raw
	}
	code, base := last.produceRaw(topic, newBatch("good").encode())
	equal(t, "error code of a good batch", code, 0)
	equal(t, "offset of a good batch", base, 0)
	good := b.dial(t)
	code, _ = good.produceRaw(topic, newBatch("good").encode())
	equal(t, "error code of a good batch", code, 0)
	good.Close()
	b.healthy(t)
	expectNotInLog(t, b, good)
}

// Compressed batches that are or claim to be huge cost no memory that lasts, whether they are taken or refused.
func badBombs(t *testing.T, b *broker) {
	topic := b.topic(t, 1)
	size := int64(count(256<<20, 768<<20))
	before := residentBytes(t, b)
	// One record whose value is zeros: length, attributes, timestamp and offset deltas, null key, length of the value.
	record := append(binary.AppendVarint(nil, size+4+5+1), 0, 0, 0, 1)
	record = binary.AppendVarint(record, size)
	zeros := func(into func(io.Writer) io.WriteCloser) []byte {
		var out bytes.Buffer
		w := into(&out)
		_, err := w.Write(record)
		must(t, err)
		_, err = io.Copy(struct{ io.Writer }{w}, io.LimitReader(zeroReader{}, size+1)) // the last byte is no headers
		must(t, err)
		must(t, w.Close())
		return out.Bytes()
	}
	tooLarge, corrupt := kerr.MessageTooLarge.Code, kerr.CorruptMessage.Code
	for _, c := range []struct {
		name  string
		codec int16
		data  []byte
		code  int16
	}{
		{"gzip of zeros", 1, zeros(func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }), tooLarge},
		{"lz4 of zeros", 3, zeros(func(w io.Writer) io.WriteCloser { return lz4.NewWriter(w) }), tooLarge},
		{"zstd of zeros", 4, zeros(func(w io.Writer) io.WriteCloser {
			encoder, err := zstd.NewWriter(w)
			must(t, err)
			return encoder
		}), corrupt},
		{"snappy that claims 4 GiB", 2, append(binary.AppendUvarint(nil, 1<<32-1), 0xfc, 0xff, 0xff, 0xff, 0xff, 0), tooLarge},
		{"framed snappy that claims 2 GiB", 2, append([]byte("\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01"), append(int32Bytes(20), append(binary.AppendUvarint(nil, 1<<31-1), make([]byte, 15)...)...)...), tooLarge},
		{"framed snappy of a 2 GiB block", 2, append([]byte("\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01"), int32Bytes(1<<31-1)...), corrupt},
		{"snappy of zeros", 2, s2.EncodeSnappyBest(nil, make([]byte, 64<<20)), tooLarge},
		{"zstd that claims 2^62 bytes", 4, []byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0x40, 1, 0, 0}, tooLarge},
		{"zstd with a window of 2 TiB", 4, []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 1, 0, 0}, corrupt},
	} {
		batch := newBatch()
		batch.Attributes, batch.NumRecords, batch.LastOffsetDelta, batch.Records = c.codec, 1, 0, c.data
		raw, encoded := b.dial(t), batch.encode()
		code, _ := raw.produceRaw(topic, encoded)
		t.Logf("%s: %d bytes, error code %d, peak of memory +%d MiB", c.name, len(encoded), code, (residentBytes(t, b)-before)>>20)
		if standIn() { // Apache Kafka takes some of them
			continue
		}
		if want := c.code; code != want {
			t.Errorf("%s: error code %d, want %d", c.name, code, want)
		}
		expectInLog(t, b, raw.LocalAddr().String(), topic+"-0")
	}
	equal(t, "bombs that were stored", len(b.readAll(t, topic)[0]), 0)
	b.healthy(t)
	// The claims add up to gigabytes. What is decompressed as far as it may be takes 190 MiB, twice where the
	// collector is late; the smallest bomb as a whole takes more than 500.
	if grown := residentBytes(t, b) - before; grown > 400<<20 {
		t.Fatalf("the broker grew by %d MiB", grown>>20)
	}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// residentBytes is the broker's peak of resident memory; 0 where the process is not ours or is Java's.
func residentBytes(t *testing.T, b *broker) int64 {
	t.Helper()
	if b.proc == nil || standIn() {
		return 0
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.proc.cmd.Process.Pid))
	must(t, err)
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.ParseInt(strings.Fields(after)[0], 10, 64)
	must(t, err)
	return kib << 10
}

// Clients that reset the connection in the middle of a large response leave nothing behind.
func badVanishing(t *testing.T, b *broker) {
	topic := b.topic(t, 1)
	for range 8 {
		b.produce(t, topic, 0, strings.Repeat("x", 900_000))
	}
	var peers []string
	for range count(20, 200) {
		raw := b.dial(t)
		peers = append(peers, raw.LocalAddr().String())
		raw.send(raw.frame(fetchRequest(topic, 0, 50<<20, 1, time.Second)))
		raw.SetReadDeadline(time.Now().Add(replyTimeout))
		_, err := io.ReadFull(raw, make([]byte, 10_000))
		must(t, err)
		must(t, raw.Conn.(*net.TCPConn).SetLinger(0)) // close sends a reset
		raw.Close()
	}
	for _, peer := range peers[:16] { // of more the log may only say how many
		expectInLog(t, b, peer, "unsent")
	}
	b.healthy(t)
	equal(t, "records", len(b.readAll(t, topic)[0]), 8)
}

// A client that asks for much and reads nothing is held back: others are served, and memory stays bounded.
func badSlowReader(t *testing.T, b *broker) {
	topic := b.topic(t, 1)
	for range 8 {
		b.produce(t, topic, 0, strings.Repeat("x", 900_000))
	}
	before := residentBytes(t, b)
	const requests = 100 // 720 MB in answers
	raw := b.dial(t)
	must(t, raw.Conn.(*net.TCPConn).SetReadBuffer(64<<10))
	var frames []byte
	for range requests {
		frames = append(frames, raw.frame(fetchRequest(topic, 0, 50<<20, 1, time.Second))...)
	}
	raw.send(frames)
	for range 5 {
		b.healthy(t)
	}
	if grown := residentBytes(t, b) - before; grown > 128<<20 {
		t.Fatalf("the broker grew by %d MiB while a client did not read", grown>>20)
	}
	for want := range int32(count(10, requests)) {
		got, _, err := raw.receive()
		must(t, err)
		equal(t, "correlation id", got, want+1)
	}
}
