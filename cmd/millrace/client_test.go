package main

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestParseDatetime(t *testing.T) {
	for s, want := range map[string]int64{
		"1970-01-01T00:00:01.500":       1500,
		"1970-01-01T00:00:01":           1000,
		"1970-01-01T01:00:00.000+01:00": 0,
		"1970-01-01T01:00:00+0100":      0,
		"1970-01-01T00:00:00Z":          0,
		"1970-01-02":                    86400_000,
	} {
		if got, err := parseDatetime(s); err != nil || got.UnixMilli() != want {
			t.Errorf("%s: got %d, %v, want %d", s, got.UnixMilli(), err, want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"PT1H": time.Hour, "P1DT2H30M": 26*time.Hour + 30*time.Minute, "P2D": 48 * time.Hour, "PT0.5S": 500 * time.Millisecond, "90m": 90 * time.Minute,
	} {
		if got, err := parseDuration(s); err != nil || got != want {
			t.Errorf("%s: got %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "P", "PT", "1", "-5m", "PT-1H", "P1M"} {
		if got, err := parseDuration(s); err == nil {
			t.Errorf("%q was read as %v", s, got)
		}
	}
}

func TestResetTargets(t *testing.T) {
	const begin, end, committed, after = 10, 100, 50, 70
	for _, c := range []struct {
		to                   target
		current, after, want int64
	}{
		{target{kind: "to-earliest"}, committed, after, begin},
		{target{kind: "to-latest"}, committed, after, end},
		{target{kind: "to-current"}, committed, after, committed},
		{target{kind: "to-current"}, -1, after, end},
		{target{kind: "to-offset", offset: 42}, committed, after, 42},
		{target{kind: "shift-by", offset: -7}, committed, after, 43},
		{target{kind: "to-datetime"}, committed, after, after},
		{target{kind: "by-duration"}, committed, -1, end},
	} {
		if got, err := c.to.resolve(begin, end, c.current, c.after); err != nil || got != c.want {
			t.Errorf("%v: got %d, %v, want %d", c.to, got, err, c.want)
		}
	}
	if got, err := (target{kind: "shift-by", offset: 1}).resolve(begin, end, -1, after); err == nil {
		t.Errorf("shifted what was never committed to %d", got)
	}
}

func TestParseScope(t *testing.T) {
	if s, err := parseScope("a.b:0,2"); err != nil || s.topic != "a.b" || commas(s.partitions) != "0,2" {
		t.Errorf("got %v, %v", s, err)
	}
	if s, err := parseScope("a"); err != nil || s.topic != "a" || s.partitions != nil {
		t.Errorf("got %v, %v", s, err)
	}
	for _, s := range []string{"", ":1", "a:", "a:1,", "a:-1", "a:99999999999"} {
		if got, err := parseScope(s); err == nil {
			t.Errorf("%q was read as %v", s, got)
		}
	}
}

func TestAssignmentAsKafkaPrintsIt(t *testing.T) {
	s := kadm.TopicsSet{}
	s.Add("t", 1, 0)
	s.Add("a", 7)
	if got := assignment(s); got != "a:7;t:0,1" || count(s) != 3 {
		t.Errorf("got %q, %d partitions", got, count(s))
	}
}

func TestConsumeStart(t *testing.T) {
	const earliest, end, after = 10, 100, 70
	now := time.UnixMilli(10_000_000)
	for _, c := range []struct {
		beginning bool
		offset    string
		want      int64
	}{
		{true, "", earliest}, {false, "earliest", earliest}, {false, "", end}, {false, "end", end}, {false, "42", 42}, {false, "-3", 97}, {false, "-1000", earliest},
	} {
		from, err := parseStart(c.beginning, "", c.offset)
		if err != nil {
			t.Fatal(err)
		}
		if got := from.at(earliest, end, after); got != c.want {
			t.Errorf("%v %q: got %d, want %d", c.beginning, c.offset, got, c.want)
		}
	}
	if _, err := parseStart(false, "", "soon"); err == nil {
		t.Error("--offset soon was accepted")
	}
	from, err := parseStart(false, "-10m", "")
	if err != nil || from.kind != "time" || from.at(earliest, end, after) != after || from.at(earliest, end, -1) != end {
		t.Errorf("%v, %v", from, err)
	}
	for s, want := range map[string]int64{"-10m": 10_000_000 - 600_000, "1500": 1500, "1970-01-01T00:00:02Z": 2000, "1970-01-01T00:00:02": 2000} {
		if got, err := parseTime(s, now); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", s, got, err, want)
		}
	}
	if got, err := parseTime("yesterday", now); err == nil {
		t.Errorf("yesterday was read as %d", got)
	}
}

// --exit ends when each partition has passed what was its end, and not before a group has given out partitions.
func TestExitAtTheEnd(t *testing.T) {
	k := &consumer{exit: true, ends: map[spot]int64{{"t", 0}: 5, {"t", 1}: 9, {"t", 2}: 1}}
	step := func(want bool, what string) {
		t.Helper()
		if got, err := k.finished(); err != nil || got != want {
			t.Errorf("%s: finished %t, %v, want %t", what, got, err, want)
		}
	}
	k.revoked(map[string][]int32{"t": {0, 1, 2}})
	step(false, "before the group has assigned anything")
	if wait, counts := k.patience(); counts {
		t.Errorf("waiting %v for the group counts as idling", wait)
	}
	k.known = true
	step(true, "nothing assigned")
	k.ends = map[spot]int64{{"t", 0}: 5, {"t", 1}: 9, {"t", 2}: 1}
	if wait, counts := k.patience(); wait != exitIdle || !counts {
		t.Errorf("patience %v, %t", wait, counts)
	}
	k.pass(&kgo.Record{Topic: "t", Partition: 0, Offset: 3})
	k.pass(&kgo.Record{Topic: "t", Partition: 1, Offset: 8})
	k.pass(&kgo.Record{Topic: "u", Partition: 0, Offset: 8})
	k.revoked(map[string][]int32{"t": {2}})
	step(false, "t-0 is one short")
	if err := k.stalled(); err == nil || !strings.Contains(err.Error(), "t-0: nothing came for 5s before offset 5") {
		t.Errorf("stalled: %v", err)
	}
	k.pass(&kgo.Record{Topic: "t", Partition: 0, Offset: 4})
	step(true, "all have passed")
	k.exit = false
	step(false, "without --exit")
}

func TestFormat(t *testing.T) {
	r := &kgo.Record{Topic: "orders", Partition: 3, Offset: 42, Key: []byte("k"), Value: []byte("hello"), Timestamp: time.UnixMilli(1234),
		Headers: []kgo.RecordHeader{{Key: "a", Value: []byte("1")}, {Key: "b"}}}
	for format, want := range map[string]string{
		`%t %p %o %k=%s %K %S %T %h\n`: "orders 3 42 k=hello 1 5 1234 a=1,b=\n",
		`100%%\t\\\x41\r\0`:            "100%\t\\A\r\x00",
		``:                             "",
		`plain`:                        "plain",
	} {
		f, err := parseFormat(format)
		if err != nil {
			t.Fatalf("%q: %v", format, err)
		}
		if got := string(f.append(nil, r)); got != want {
			t.Errorf("%q: got %q, want %q", format, got, want)
		}
	}
	f, err := parseFormat("[%k][%K][%S]")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(f.append(nil, &kgo.Record{Value: []byte{}})); got != "[][-1][0]" {
		t.Errorf("null key, empty payload: got %q", got)
	}
	for _, format := range []string{"%", "%z", `\`, `\q`, `\x4`, `\xzz`} {
		if _, err := parseFormat(format); err == nil {
			t.Errorf("%q was accepted", format)
		}
	}
}

func TestLinesToRecords(t *testing.T) {
	p := &producer{partition: 2, headers: []kgo.RecordHeader{{Key: "h", Value: []byte("v")}}}
	r, err := p.record([]byte("a:b\r\n"))
	if err != nil || r.Key != nil || string(r.Value) != "a:b" || r.Partition != 2 || len(r.Headers) != 1 {
		t.Errorf("%v, %v", r, err)
	}
	p.separator = ":"
	if r, err = p.record([]byte("a:b:c")); err != nil || string(r.Key) != "a" || string(r.Value) != "b:c" {
		t.Errorf("%v, %v", r, err)
	}
	if _, err := p.record([]byte("abc\n")); err == nil {
		t.Error("a line without the separator was accepted")
	}
}

// notify is a writer that tells of every write.
type notify struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	wrote chan struct{}
}

func (n *notify) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.buf.Write(p)
	select {
	case n.wrote <- struct{}{}:
	default:
	}
	return len(p), nil
}

func TestMeter(t *testing.T) {
	m := newMeter(true)
	w := &notify{wrote: make(chan struct{}, 1)}
	stop := m.watch(w)
	m.add(1, 100, 2*time.Millisecond)
	m.add(1, 100, time.Hour) // beyond what the histogram holds: counted at its end
	giveUp := time.After(time.Minute)
	for told := false; !told; { // the first line may have come before the second record
		select {
		case <-w.wrote:
			w.mu.Lock()
			told = strings.Contains(w.buf.String(), "2 records")
			w.mu.Unlock()
		case <-giveUp:
			t.Fatal("no progress of 2 records in a minute")
		}
	}
	stop()
	if line := w.buf.String(); !strings.Contains(line, "2 records") || !strings.Contains(line, "last latency 3600000.00 ms") || !strings.HasSuffix(line, "\r\x1b[K") {
		t.Errorf("progress %q", line)
	}
	if s := m.summary("produced"); !strings.HasPrefix(s, "produced 2 records, 200 B in ") || !strings.Contains(s, "p50 2.00 ms") {
		t.Errorf("summary %q", s)
	}
	if terminal(w) || terminal(nil) {
		t.Error("a buffer is taken for a terminal")
	}
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1500: "1.5 kB", 2_000_000: "2.0 MB", 3_500_000_000: "3.50 GB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
}
