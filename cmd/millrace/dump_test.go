package main

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/engine/record"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// partitionFiles builds the files of a partition as a broker leaves them.
type partitionFiles struct {
	t      *testing.T
	dir    string
	log    []byte
	base   int64 // of the segment
	next   int64
	index  []byte
	times  []byte
	spots  []int // where batches start
	epoch  int32
	recent record.Batch
}

func newPartition(t *testing.T, dir string) *partitionFiles {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return &partitionFiles{t: t, dir: dir, epoch: 3}
}

// add places a batch in the log and, from the second of a segment on, in the indexes.
func (p *partitionFiles) add(b []byte) {
	batch := record.Batch(b)
	batch.SetBaseOffset(p.next)
	batch.SetLeaderEpoch(p.epoch)
	relative := uint32(batch.LastOffset() - p.base)
	if len(p.log) > 0 {
		p.index = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(p.index, relative), uint32(len(p.log)))
		p.times = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(p.times, uint64(batch.MaxTimestamp())), relative)
	}
	p.spots = append(p.spots, len(p.log))
	p.log = append(p.log, b...)
	p.next = batch.LastOffset() + 1
	p.recent = batch
}

func (p *partitionFiles) path(suffix string) string {
	return filepath.Join(p.dir, fmt.Sprintf("%020d%s", p.base, suffix))
}

// flush writes the segment and starts the next one.
func (p *partitionFiles) flush() {
	write(p.t, p.path(".log"), p.log)
	write(p.t, p.path(".index"), p.index)
	write(p.t, p.path(".timeindex"), p.times)
	p.log, p.index, p.times, p.spots, p.base = nil, nil, nil, nil, p.next
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func snapshot(producers ...producerState) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 6), uint32(len(producers)))
	for _, p := range producers {
		b = binary.BigEndian.AppendUint64(b, uint64(p.producerID))
		b = binary.BigEndian.AppendUint16(b, uint16(p.epoch))
		b = binary.BigEndian.AppendUint32(b, uint32(p.lastSequence))
		b = binary.BigEndian.AppendUint64(b, uint64(p.lastOffset))
		b = binary.BigEndian.AppendUint32(b, uint32(p.offsetDelta))
		b = binary.BigEndian.AppendUint64(b, uint64(p.timestamp))
		b = binary.BigEndian.AppendUint32(b, uint32(p.coordinatorEpoch))
		b = binary.BigEndian.AppendUint64(b, uint64(p.txnFirstOffset))
	}
	b[1] = 1
	binary.BigEndian.PutUint32(b[2:], crc32.Checksum(b[6:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func abortedBytes(e aborted) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(e.version))
	for _, n := range []int64{e.producerID, e.firstOffset, e.lastOffset, e.lastStableOffset} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return b
}

// build makes a batch of the given values, two milliseconds apart.
func build(codec record.Codec, timestamp, producerID int64, sequence int32, transactional bool, values ...string) []byte {
	var b record.Builder
	b.Begin(nil, codec)
	if producerID >= 0 {
		b.SetProducer(producerID, 1, sequence, transactional)
	}
	for i, v := range values {
		b.Add(timestamp+2*int64(i), []byte("k"), []byte(v))
	}
	return b.Finish()
}

// golden writes a partition with one of everything: offsets 0 to 5 in one segment.
func golden(t *testing.T, dir string) *partitionFiles {
	p := newPartition(t, dir)
	var b record.Builder
	b.Begin(nil, record.None)
	b.Add(1000, nil, []byte("first\xff"), record.Header{Key: "h1", Value: []byte("x")}, record.Header{Key: "h2"})
	b.Add(1001, []byte("key"), nil)
	p.add(b.Finish())
	p.add(build(record.Zstd, 2000, 7, 5, true, "a", "b"))
	p.add(record.AppendMarker(nil, 7, 1, record.Marker{Type: record.Abort, CoordinatorEpoch: 4}, 3000))
	p.add(record.AppendMarker(nil, 8, 1, record.Marker{Type: record.Commit, CoordinatorEpoch: 4}, 3001))
	write(t, p.path(".txnindex"), abortedBytes(aborted{producerID: 7, firstOffset: 2, lastOffset: 4, lastStableOffset: 5}))
	write(t, filepath.Join(dir, "00000000000000000006.snapshot"), snapshot(
		producerState{7, 1, 6, 3, 1, 2002, 4, -1}, producerState{8, 1, -1, -1, 0, 3001, 4, 2}))
	write(t, filepath.Join(dir, "leader-epoch-checkpoint"), []byte("0\n1\n3 0\n"))
	write(t, filepath.Join(dir, "partition.metadata"), []byte("version: 0\ntopic_id: QUB7ZSLtTly6jZlB-PHZkA"))
	p.flush()
	return p
}

const goldenDump = `Dumping DIR/00000000000000000000.log
Log starting offset: 0
baseOffset: 0 lastOffset: 1 count: 2 baseSequence: -1 lastSequence: -1 producerId: -1 producerEpoch: -1 partitionLeaderEpoch: 3 isTransactional: false isControl: false deleteHorizonMs: OptionalLong.empty position: 0 CreateTime: 1001 size: 93 magic: 2 compresscodec: none crc: CRC isvalid: true
| offset: 0 CreateTime: 1000 keySize: -1 valueSize: 6 sequence: -1 headerKeys: [h1,h2] payload: first` + "\uFFFD" + `
| offset: 1 CreateTime: 1001 keySize: 3 valueSize: -1 sequence: -1 headerKeys: [] key: key
baseOffset: 2 lastOffset: 3 count: 2 baseSequence: 5 lastSequence: 6 producerId: 7 producerEpoch: 1 partitionLeaderEpoch: 3 isTransactional: true isControl: false deleteHorizonMs: OptionalLong.empty position: 93 CreateTime: 2002 size: 92 magic: 2 compresscodec: zstd crc: CRC isvalid: true
| offset: 2 CreateTime: 2000 keySize: 1 valueSize: 1 sequence: 5 headerKeys: [] key: k payload: a
| offset: 3 CreateTime: 2002 keySize: 1 valueSize: 1 sequence: 6 headerKeys: [] key: k payload: b
baseOffset: 4 lastOffset: 4 count: 1 baseSequence: -1 lastSequence: -1 producerId: 7 producerEpoch: 1 partitionLeaderEpoch: 3 isTransactional: true isControl: true deleteHorizonMs: OptionalLong.empty position: 185 CreateTime: 3000 size: 78 magic: 2 compresscodec: none crc: CRC isvalid: true
| offset: 4 CreateTime: 3000 keySize: 4 valueSize: 6 sequence: -1 headerKeys: [] endTxnMarker: ABORT coordinatorEpoch: 4
baseOffset: 5 lastOffset: 5 count: 1 baseSequence: -1 lastSequence: -1 producerId: 8 producerEpoch: 1 partitionLeaderEpoch: 3 isTransactional: true isControl: true deleteHorizonMs: OptionalLong.empty position: 263 CreateTime: 3001 size: 78 magic: 2 compresscodec: none crc: CRC isvalid: true
| offset: 5 CreateTime: 3001 keySize: 4 valueSize: 6 sequence: -1 headerKeys: [] endTxnMarker: COMMIT coordinatorEpoch: 4
Dumping DIR/00000000000000000000.index
offset: 3 position: 93
offset: 4 position: 185
offset: 5 position: 263
Dumping DIR/00000000000000000000.timeindex
timestamp: 2002 offset: 3
timestamp: 3000 offset: 4
timestamp: 3001 offset: 5
Dumping DIR/00000000000000000000.txnindex
version: 0 producerId: 7 firstOffset: 2 lastOffset: 4 lastStableOffset: 5
Dumping DIR/00000000000000000006.snapshot
producerId: 7 producerEpoch: 1 coordinatorEpoch: 4 currentTxnFirstOffset: OptionalLong.empty lastTimestamp: 2002 firstSequence: 5 lastSequence: 6 lastOffset: 3 offsetDelta: 1 timestamp: 2002
producerId: 8 producerEpoch: 1 coordinatorEpoch: 4 currentTxnFirstOffset: OptionalLong[2] lastTimestamp: 3001
Dumping DIR/leader-epoch-checkpoint
epoch: 3 startOffset: 0
Dumping DIR/partition.metadata
version: 0 topicId: QUB7ZSLtTly6jZlB-PHZkA
`

// The text was compared, line by line, with kafka-dump-log.sh of Kafka 4.3.1 on a segment that a broker wrote.
func TestDump(t *testing.T) {
	dir := t.TempDir()
	p := golden(t, dir)
	files := []string{p.dir + "/00000000000000000000.log"}
	for _, name := range []string{"00000000000000000000.index", "00000000000000000000.timeindex", "00000000000000000000.txnindex",
		"00000000000000000006.snapshot", "leader-epoch-checkpoint", "partition.metadata"} {
		files = append(files, filepath.Join(dir, name))
	}
	code, out, errOut := invoke("log", "dump", "--files", strings.Join(files, ","), "--print-data-log")
	if code != 0 || errOut != "" {
		t.Errorf("exit code %d, error %q", code, errOut)
	}
	var got []string
	for line := range strings.Lines(strings.ReplaceAll(out, dir, "DIR")) { // the CRCs are the builder's business
		if head, rest, ok := strings.Cut(line, " crc: "); ok {
			_, rest, _ = strings.Cut(rest, " ")
			line = head + " crc: CRC " + rest
		}
		got = append(got, line)
	}
	want := strings.SplitAfter(goldenDump, "\n")
	for i := range max(len(got), len(want)-1) {
		g, w := "", ""
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Errorf("line %d\ngot  %swant %s", i+1, g, w)
		}
	}
	code, out, _ = invoke("log", "dump", files[0], "--skip-record-metadata", "--print-data-log")
	if code != 0 || !strings.Contains(out, "\n| key: k payload: a\n") {
		t.Errorf("--skip-record-metadata: exit code %d, printed %s", code, out)
	}
	code, out, _ = invoke("log", "dump", files[0])
	if code != 0 || strings.Contains(out, "|") || strings.Count(out, "baseOffset") != 4 {
		t.Errorf("without --deep-iteration: exit code %d, printed %s", code, out)
	}
}

func TestDumpIndexFlags(t *testing.T) {
	dir := t.TempDir()
	p := golden(t, dir)
	p.base = 0
	index, times := p.path(".index"), p.path(".timeindex")
	if code, out, _ := invoke("log", "dump", index, times, "--index-sanity-check"); code != 0 || strings.Count(out, "passed sanity check.") != 2 {
		t.Errorf("sanity: exit code %d, printed %q", code, out)
	}
	if code, out, _ := invoke("log", "dump", index, times, "--verify-index-only"); code != 0 || strings.Count(out, "\n") != 2 {
		t.Errorf("verify: exit code %d, printed %q", code, out)
	}
	// A preallocated index of an active segment: entries, then zeros.
	b, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	write(t, index, append(b, make([]byte, 800)...))
	if code, out, _ := invoke("log", "dump", index); code != 0 || strings.Count(out, "offset:") != 3 {
		t.Errorf("preallocated: exit code %d, printed %q", code, out)
	}
	write(t, index, make([]byte, 800))
	if code, out, _ := invoke("log", "dump", index); code != 0 || !strings.Contains(out, "is empty.") {
		t.Errorf("empty: exit code %d, printed %q", code, out)
	}
	binary.BigEndian.PutUint32(b[4:], 94)
	write(t, index, b)
	code, _, errOut := invoke("log", "dump", index)
	if code != 1 || !strings.Contains(errOut, "Mismatches in :"+index+"\n  Index offset: 3, log offset: -1\n") {
		t.Errorf("mismatch: exit code %d, error %q", code, errOut)
	}
	b, err = os.ReadFile(times)
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint64(b, 2001)
	binary.BigEndian.PutUint64(b[12:], 2000)
	binary.BigEndian.PutUint32(b[32:], 9)
	write(t, times, b)
	write(t, index, nil)
	code, _, errOut = invoke("log", "dump", times)
	for _, want := range []string{"Found timestamp mismatch in :" + times + "\n  Index timestamp: 2001, log timestamp: 2002\n  Index timestamp: 2000, log timestamp: 3000",
		"Found out of order timestamp in :" + times + "\n  Index timestamp: 2000, Previously indexed timestamp: 2001",
		"The following indexed offsets are not found in the log.\nIndexed offset: 9, found log offset: -1"} {
		if code != 1 || !strings.Contains(errOut, want) {
			t.Errorf("exit code %d, error %q lacks %q", code, errOut, want)
		}
	}
}

// A partition that nothing has been appended to has an empty leader-epoch-checkpoint.
func TestDumpNoEpochs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leader-epoch-checkpoint")
	write(t, path, nil)
	if code, out, errOut := invoke("log", "dump", path); code != 0 || out != "Dumping "+path+"\n" || errOut != "" {
		t.Errorf("exit code %d, printed %q, error %q", code, out, errOut)
	}
}

func TestDumpDamaged(t *testing.T) {
	dir := t.TempDir()
	p := golden(t, dir)
	p.base = 0
	b, err := os.ReadFile(p.path(".log"))
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	write(t, p.path(".log"), append(b, "torn"...))
	code, out, errOut := invoke("log", "dump", p.path(".log"))
	if code != 1 || !strings.Contains(out, "isvalid: false\nFound 4 invalid bytes at the end of 00000000000000000000.log\n") || errOut != "millrace: log dump: 2 findings\n" {
		t.Errorf("exit code %d, printed %q, error %q", code, out, errOut)
	}
	write(t, p.path(".snapshot"), append(snapshot(producerState{}), 0))
	code, _, errOut = invoke("log", "dump", p.path(".snapshot"), filepath.Join(dir, "nothing.log"), filepath.Join(dir, "notes.txt"))
	if code != 1 || !strings.Contains(errOut, "snapshot is corrupt") || !strings.Contains(errOut, "nothing.log: the name is not a base offset") ||
		!strings.Contains(errOut, "Ignoring unknown file") {
		t.Errorf("exit code %d, error %q", code, errOut)
	}
}

// What Apache Kafka 4.3.1 wrote into __consumer_offsets, and what its tool prints for it.
func TestGroupRecords(t *testing.T) {
	offset := kmsg.OffsetCommitValue{Version: 4, Offset: 100, LeaderEpoch: -1, CommitTimestamp: 1795380694914}
	copy(offset.TopicID[:], must(base64.RawURLEncoding.DecodeString("QUB7ZSLtTly6jZlB-PHZkA")))
	old := kmsg.OffsetCommitValue{Version: 1, Offset: 9, Metadata: "m", CommitTimestamp: 5, ExpireTimestamp: 6}
	subscription := kmsg.ConsumerMemberMetadata{Version: 3, Topics: []string{"t1"}, Generation: -1}
	assignment := kmsg.ConsumerMemberAssignment{Version: 3, Topics: []kmsg.ConsumerMemberAssignmentTopic{{Topic: "t1", Partitions: []int32{0, 1}}}}
	protocol, leader := "range", "m-1"
	group := kmsg.GroupMetadataValue{Version: 3, ProtocolType: "consumer", Generation: 1, Protocol: &protocol, Leader: &leader, CurrentStateTimestamp: 7,
		Members: []kmsg.GroupMetadataValueMember{{MemberID: "m-1", ClientID: "c", ClientHost: "/127.0.0.1", RebalanceTimeoutMillis: 300000, SessionTimeoutMillis: 45000,
			Subscription: subscription.AppendTo(nil), Assignment: assignment.AppendTo(nil)}}}
	empty := kmsg.GroupMetadataValue{Version: 3, CurrentStateTimestamp: 8}
	offsetKey := (&kmsg.OffsetCommitKey{Version: 1, Group: "g1", Topic: "t1", Partition: 1}).AppendTo(nil)
	groupKey := (&kmsg.GroupMetadataKey{Version: 2, Group: "g1"}).AppendTo(nil)
	for _, c := range []struct {
		name       string
		key, value []byte
		k, v       string
	}{
		{"offset v4", offsetKey, offset.AppendTo(nil), `{"type":"1","data":{"group":"g1","topic":"t1","partition":1}}`,
			`{"version":"4","data":{"offset":100,"leaderEpoch":-1,"metadata":"","commitTimestamp":1795380694914,"topicId":"QUB7ZSLtTly6jZlB-PHZkA"}}`},
		{"offset v1", offsetKey, old.AppendTo(nil), `{"type":"1","data":{"group":"g1","topic":"t1","partition":1}}`,
			`{"version":"1","data":{"offset":9,"metadata":"m","commitTimestamp":5,"expireTimestamp":6}}`},
		{"tombstone", offsetKey, nil, `{"type":"1","data":{"group":"g1","topic":"t1","partition":1}}`, "<DELETE>"},
		{"group", groupKey, group.AppendTo(nil), `{"type":"2","data":{"group":"g1"}}`,
			`{"version":"3","data":{"protocolType":"consumer","generation":1,"protocol":"range","leader":"m-1","currentStateTimestamp":7,"members":[` +
				`{"memberId":"m-1","groupInstanceId":null,"clientId":"c","clientHost":"/127.0.0.1","rebalanceTimeout":300000,"sessionTimeout":45000,` +
				`"subscription":{"topics":["t1"],"userData":null,"ownedPartitions":[],"generationId":-1,"rackId":null},` +
				`"assignment":{"assignedPartitions":[{"topic":"t1","partitions":[0,1]}],"userData":null}}]}}`},
		{"empty group", groupKey, empty.AppendTo(nil), `{"type":"2","data":{"group":"g1"}}`,
			`{"version":"3","data":{"protocolType":"","generation":0,"protocol":null,"leader":null,"currentStateTimestamp":8,"members":[]}}`},
		{"KIP-848 member", []byte("\x00\x05\x00\x02g2\x00\x01m"), []byte{0, 0, 1, 2}, `{"type":"5","data":{"groupId":"g2","memberId":"m"}}`, `{"version":"0","data":"AQI="}`},
		{"unknown type", []byte{0, 99}, []byte{0, 0}, "Unknown record type 99 at offset 12, skipping.", ""},
		{"short key", []byte{0}, nil, "Error at offset 12, skipping. a key of 1 bytes has no type", ""},
		{"cut key", []byte("\x00\x05\x00\x09g"), nil, "Error at offset 12, skipping. the key of type 5 ends early", ""},
		{"short value", groupKey, []byte{0}, "Error at offset 12, skipping. a value of 1 bytes has no version", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, v := decodeGroupRecord(12, c.key, c.value)
			if got := text(k); got != c.k {
				t.Errorf("key\ngot  %s\nwant %s", got, c.k)
			}
			if got := text(v); got != c.v {
				t.Errorf("value\ngot  %s\nwant %s", got, c.v)
			}
		})
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
