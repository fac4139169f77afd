package log

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestFormats compares what the log writes with files made by hand from Kafka's
// layouts (LogSegment, OffsetIndex, TimeIndex, AbortedTxn, ProducerSnapshot,
// CheckpointFile, PartitionMetadataFile).
func TestFormats(t *testing.T) {
	r := newRig(t, 1)
	r.config.IndexIntervalBytes = 100
	r.config.SegmentBytes = 1000
	r.open()
	l := r.create("t")
	r.must("epoch", func(d Done) { l.StartEpoch(5, d) })
	add := func(b []byte, how Origin) {
		t.Helper()
		if _, err := l.Append(b, how, 5, 0); err != nil {
			t.Fatal(err)
		}
	}
	// 61 of header and 8 of one record with a value of v bytes.
	one := func(ts int64, v int) []byte {
		var b record.Builder
		b.Begin(nil, record.None)
		b.Add(ts, nil, bytes.Repeat([]byte{'x'}, v))
		return b.Finish()
	}
	add(one(100, 32), Client)                                                                                           // offset 0 at 0
	add(one(300, 32), Client)                                                                                           // offset 1: 100 bytes since the start: not above the interval
	add(one(200, 32), Client)                                                                                           // offset 2: entry; the maximum is that of offset 1
	add(one(250, 32), Client)                                                                                           // offset 3
	add(one(260, 32), Client)                                                                                           // offset 4: entry, no new maximum
	add(sequenced(0x0102, 3, 10, 2, true), Client)                                                                      // offsets 5 and 6
	add(record.AppendMarker(nil, 0x0102, 3, record.Marker{Type: record.Abort, CoordinatorEpoch: 9}, 5000), Coordinator) // offset 7
	size := int64(len(one(1, 32)))
	if size != 100 {
		t.Fatalf("a batch of %d bytes", size)
	}
	r.idle(l)
	if err := r.closeAll(); err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct{ name, want string }{
		{"t-0/00000000000000000000.index", `
			00000002 000000c8
			00000004 00000190
			00000007 0000024d`},
		{"t-0/00000000000000000000.timeindex", `
			000000000000012c 00000001
			0000000000001389 00000006`},
		{"t-0/00000000000000000000.txnindex", `
			0000 0000000000000102 0000000000000005 0000000000000007 0000000000000008`},
		{"t-0/00000000000000000008.snapshot", `
			0001 2820f07a 00000001
			0000000000000102 0003 0000000b 0000000000000006 00000001 0000000000001388 00000009 ffffffffffffffff`},
		{"t-0/leader-epoch-checkpoint", hex.EncodeToString([]byte("0\n1\n5 0\n"))},
		{"t-0/partition.metadata", hex.EncodeToString([]byte("version: 0\ntopic_id: AQIDAAAAAAAAAAAAAAAAAA\n"))},
		{"recovery-point-offset-checkpoint", hex.EncodeToString([]byte("0\n2\nt 0 8\n#crc32c 0 3694535763\n"))},
		{"replication-offset-checkpoint", hex.EncodeToString([]byte("0\n2\nt 0 0\n#crc32c 0 1092806635\n"))},
		{"log-start-offset-checkpoint", hex.EncodeToString([]byte("0\n1\n#crc32c 0 0\n"))},
		{".kafka_cleanshutdown", hex.EncodeToString([]byte(`{"version":0,"brokerEpoch":-1}`))},
	} {
		got, err := ring.ReadFile(r.disk, "/data/"+f.name)
		if err != nil {
			t.Error(err)
			continue
		}
		if want := unhex(t, f.want); !bytes.Equal(got, want) {
			t.Errorf("%s:\n got %x\nwant %x", f.name, got, want)
		}
	}
	log, err := ring.ReadFile(r.disk, "/data/t-0/00000000000000000000.log")
	if err != nil {
		t.Fatal(err)
	}
	first := record.Batch(log[:size])
	if want := one(100, 32); first.BaseOffset() != 0 || first.LeaderEpoch() != 5 || !bytes.Equal(first[16:], want[16:]) {
		t.Errorf("the first batch is not the client's: %x", first)
	}
	meta, err := ring.ReadFile(r.disk, "/data/meta.properties")
	if meta, _, err = ring.Unseal(meta); err != nil {
		t.Error(err)
	}
	if err != nil || !strings.HasPrefix(string(meta), "cluster.id=c\ndirectory.id=") || !strings.HasSuffix(string(meta), "\nnode.id=1\nversion=1\n") {
		t.Errorf("meta.properties: %q %v", meta, err)
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct {
		name  string
		topic string
		n     int32
		ok    bool
	}{
		{"a-0", "a", 0, true}, {"a-b-12", "a-b", 12, true}, {"a.b_c-7", "a.b_c", 7, true},
		{"lost+found", "", 0, false}, {"a-0-stray", "", 0, false}, {"a-0.aabb-future", "", 0, false}, {"a-01", "", 0, false}, {"-3", "", 0, false}, {"a--1", "a-", 1, true},
	} {
		topic, n, ok := parseDirName(c.name)
		if topic != c.topic || n != c.n || ok != c.ok {
			t.Errorf("%s: %q %d %v", c.name, topic, n, ok)
		}
	}
	long := strings.Repeat("x", 249)
	if name := deletedName(long, 100, [16]byte{}); len(name) != 255 || !strings.HasSuffix(name, suffixDelete) {
		t.Errorf("%d: %s", len(name), name)
	}
	if p, err := ParsePolicy("journal"); p != Journal || err != nil {
		t.Error(p, err)
	}
	if _, err := ParsePolicy("never"); err == nil {
		t.Error("policy never")
	}
	for _, c := range []struct {
		topic    Policy
		set      bool
		broker   Policy
		messages int64
		want     Policy
	}{{OS, true, Journal, 1, OS}, {OS, false, OS, 1, Write}, {OS, false, Journal, 1, Journal}, {OS, false, Interval, 2, Interval}} {
		if got := ResolvePolicy(c.topic, c.set, c.broker, c.messages); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	const n = Never
	for _, c := range []struct {
		set                 FlushSettings
		policy              Policy
		ms, messages, bytes int64
	}{
		{FlushSettings{Policy: Journal, Ms: n, Messages: n, Bytes: 8, BrokerMs: 100, BrokerMessages: 10}, Journal, n, n, n},
		{FlushSettings{Policy: OS, Ms: n, Messages: n, Bytes: 8, BrokerMs: 100, BrokerMessages: 10}, OS, n, n, n},
		{FlushSettings{Policy: OS, Ms: 50, Messages: n, Bytes: 8, BrokerMs: 100, BrokerMessages: 10}, Interval, 50, n, n}, // Kafka's promise, no more
		{FlushSettings{Policy: OS, Ms: n, Messages: 1, Bytes: 8}, Write, n, n, n},
		{FlushSettings{Policy: OS, Own: true, Ms: 50, Messages: 1, Bytes: 8}, OS, n, n, n},
		{FlushSettings{Policy: Interval, Own: true, Ms: n, Messages: n, Bytes: 8, BrokerMs: 100, BrokerMessages: 10}, Interval, 100, 10, 8},
		{FlushSettings{Policy: Interval, Ms: 5, Messages: 6, Bytes: 8, BrokerMs: 100, BrokerMessages: 10}, Interval, 5, 6, 8},
	} {
		if policy, ms, messages, bytes := c.set.Resolve(); policy != c.policy || ms != c.ms || messages != c.messages || bytes != c.bytes {
			t.Errorf("%+v: %v, %d ms, %d records, %d bytes", c.set, policy, ms, messages, bytes)
		}
	}
}

// TestForeignDirectory opens what Kafka may have left.
func TestForeignDirectory(t *testing.T) {
	r := newRig(t, 1).open()
	l := r.create("t")
	r.fill(l, 20)
	r.idle(l)
	if err := r.closeAll(); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := ring.WriteFileAtomic(r.disk, "/data/"+name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"gone-3.0123456789abcdef-delete", "lost+found", "x-0-stray"} {
		if err := r.disk.MkdirAll("/data/" + d); err != nil {
			t.Fatal(err)
		}
	}
	write("gone-3.0123456789abcdef-delete/00000000000000000000.log", "x")
	write("t-0/00000000000000000000.log.deleted", "x")
	write("t-0/00000000000000000044.log.cleaned", "x")
	write("t-0/00000000000000000000.timeindex.swap", "x")
	write("t-0/00000000000000000077.index", "x")
	whole, err := ring.ReadFile(r.disk, "/data/t-0/00000000000000000000.log")
	if err != nil {
		t.Fatal(err)
	}
	// A compaction that a crash broke off when only the names were left to change.
	write("t-0/00000000000000000000.log.swap", string(whole))
	r.disk.Remove("/data/t-0/" + incarnationName(r.find("t").incarnation))
	r.disk.Remove("/data/t-0/00000000000000000000.index")
	r.disk.Remove("/data/t-0/00000000000000000000.log")
	r.open()
	if got := strings.Join(r.report.Removed, " "); got != "gone-3.0123456789abcdef-delete" {
		t.Errorf("removed %s", got)
	}
	if got := strings.Join(r.report.Ignored, " "); got != "lost+found x-0-stray" {
		t.Errorf("ignored %s", got)
	}
	for _, left := range []string{".deleted", ".cleaned", ".swap", "77.index", "-delete"} {
		if strings.Contains(r.listing(), left) {
			t.Errorf("%s is still there: %s", left, r.listing())
		}
	}
	l = r.find("t")
	if b, err := r.all(l, 40); err != nil || !bytes.Equal(b, whole) {
		t.Errorf("the log is not what it was: %v", err)
	}
	if l.Incarnation() == 0 {
		t.Error("no incarnation")
	}
	for _, want := range []string{"1 logs opened after a clean stop", "gone-3.0123456789abcdef-delete: removed", "1 directories were set aside by an earlier start and stay until somebody removes them: x-0-stray"} {
		if !strings.Contains(r.report.String(), want) {
			t.Errorf("the report lacks %q:\n%v", want, r.report)
		}
	}
}

func TestOpenRefusals(t *testing.T) {
	r := newRig(t, 1).open()
	if _, _, err := OpenDir(r.host, "/data", DirConfig{NodeID: 1, Config: r.config}); err == nil {
		t.Error("opened twice")
	}
	l := r.create("t")
	r.fill(l, 3)
	if err := r.closeAll(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenDir(r.host, "/data", DirConfig{ClusterID: "other", NodeID: 1, Config: r.config}); err == nil || !strings.Contains(err.Error(), "cluster.id") {
		t.Error(err)
	}
	if _, _, err := OpenDir(r.host, "/data", DirConfig{ClusterID: "c", NodeID: 2, Config: r.config}); err == nil || !strings.Contains(err.Error(), "node.id") {
		t.Error(err)
	}
	if err := ring.WriteFileAtomic(r.disk, "/data/"+metaName, []byte("0\n2\nt 0 8\n")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenDir(r.host, "/data", DirConfig{ClusterID: "c", NodeID: 1, Config: r.config}); err == nil || !strings.Contains(err.Error(), metaName) {
		t.Error(err)
	}
	if open := r.disk.OpenFiles(); len(open) > 0 {
		t.Errorf("left open: %v", open)
	}
}

// TestDamage: a bad batch below the recovery point is reported and not cut; what is
// before it can be read.
func TestDamage(t *testing.T) {
	r := newRig(t, 1)
	r.config.SegmentBytes = 900
	r.config.IndexIntervalBytes = 150
	r.open()
	l := r.create("t")
	r.fill(l, 30)
	r.idle(l)
	r.must("flush", l.Flush)
	second := l.segments[len(l.segments)-1]
	name := second.path(suffixLog)
	base := second.base
	whole, err := r.all(l, base)
	if err != nil {
		t.Fatal(err)
	}
	r.dir.Checkpoint()
	r.disk.Crash(0)
	r.disk.Restart()
	fd, err := r.disk.Open(name, ring.ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.disk.WriteAt(fd, []byte{0xff}, 70); err != nil {
		t.Fatal(err)
	}
	size, _ := r.disk.Size(fd)
	r.disk.Close(fd)
	for range 2 { // and it stays so
		r.open()
		l = r.find("t")
		report := r.report.Logs[0]
		if report.Damage == nil || report.Cut != 0 || l.Err() == nil || !strings.Contains(l.Err().Error(), name) || !strings.Contains(r.report.String(), "DAMAGED") {
			t.Fatalf("%v\n%v", l.Err(), r.report)
		}
		if got, err := r.all(l, base); err != nil || !bytes.Equal(got, whole) {
			t.Fatalf("what is before the damage cannot be read: %v", err)
		}
		if _, err := l.Append(batch(1, "x"), Client, 0, 0); err == nil {
			t.Fatal("appended to a damaged log")
		}
		if err := r.ask("close", l.Close); err == nil {
			t.Fatal("closed cleanly")
		}
		if err := r.dir.CloseClean(); err == nil {
			t.Fatal("a clean stop with a damaged log")
		}
		if info, err := r.disk.Stat(name); err != nil || info.Size != size {
			t.Fatalf("the file changed: %v %v", info, err)
		}
	}
}
