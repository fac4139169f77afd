package engine_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/engine/api"
	"github.com/millrace/millrace/engine/cluster"
	"github.com/millrace/millrace/engine/log"
	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/engine/replica"
	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/sim"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestDamage damages each file that a broker leaves behind, in each of several ways, and
// starts on it. Whatever was damaged, what is served then is what was acknowledged, byte
// by byte, and every case ends in exactly one way: repaired; or the partition, or the
// start, refused with an error that names the file; or, of what cannot be told from a torn write, cut
// and printed as torn or damaged.
func TestDamage(t *testing.T) {
	for _, policy := range []string{"journal", "write", "os"} {
		for _, stop := range stops {
			if stop.mode == sim.PowerLossClean && policy == "os" {
				continue // promises nothing
			}
			t.Run(policy+"/"+stop.name, func(t *testing.T) {
				t.Parallel()
				base := leave(t, policy, stop.mode)
				outcomes := map[string]int{}
				for _, path := range base.paths() {
					for _, d := range damages(path, base.files[path], os.Getenv("MILLRACE_TEST_FULL") != "") {
						c := &damageCase{TB: t, left: base, path: path, damage: d}
						outcomes[c.run()]++
					}
				}
				t.Log(outcomes)
			})
		}
	}
}

// stops are how a broker ends.
var stops = []struct {
	name string
	mode sim.Crash
}{{"clean", cleanStop}, {"kill", sim.ProcessKill}, {"power-loss", sim.PowerLossClean}}

const cleanStop = sim.Crash(255)

// left is what a broker left behind, and what it had acknowledged.
type left struct {
	policy   string
	stop     sim.Crash
	files    map[string][]byte
	dirs     []string
	records  map[string][]acknowledged // by partition's directory
	aborted  [][2]int64                // of data-0: first offset, and the marker's
	produced map[string]int            // batches of two records
	starts   map[string]int64
	ends     map[string]int64
	wall     int64
}

// acknowledged is a batch that was.
type acknowledged struct {
	base, last int64
	value      string
	timestamp  int64
}

func (l *left) paths() []string {
	var all []string
	for path := range l.files {
		all = append(all, path)
	}
	slices.Sort(all)
	return all
}

// The topics: one of several segments and epochs, one whose first records were deleted, the groups',
// and one with a few records.
var damagedTopics = []string{"begun", "data", "other", cluster.OffsetsTopic}

// leave has a broker write, end cleanly, write again under another epoch, and end.
func leave(t *testing.T, policy string, stop sim.Crash) *left {
	m := newMachine(t, 7)
	defer m.world.Close()
	m.set = []string{"flush.policy=" + policy}
	l := &left{policy: policy, stop: stop, records: map[string][]acknowledged{}, produced: map[string]int{}, starts: map[string]int64{}, ends: map[string]int64{}, files: map[string][]byte{}}
	m.what = "make"
	m.boot()
	for _, name := range damagedTopics {
		m.make(name)
	}
	n := 0
	fill := func(topic string, batches int) {
		for range batches {
			n++
			l.append(m, topic, n)
		}
	}
	fill("data", 35)
	fill("begun", 15)
	fill("other", 3)
	fill(cluster.OffsetsTopic, 15)
	m.deleteRecords("begun", 7)
	l.starts["begun-0"] = 7
	m.pass(31e9) // the checkpoints are written
	fill("data", 5)
	l.abort(m, "data")
	m.shutdown()
	m.boot()
	fill("data", 30)
	fill("begun", 2)
	fill(cluster.OffsetsTopic, 10)
	m.pass(31e9)
	fill("data", 8)
	l.abort(m, "data")
	fill("begun", 2)
	fill("other", 2)
	fill(cluster.OffsetsTopic, 2)
	if stop == cleanStop {
		m.shutdown()
	} else {
		if stop == sim.ProcessKill {
			m.pass(1e9)
		}
		m.host.Crash(stop)
		m.host.Restart()
	}
	l.wall = m.host.WallMillis()
	l.read(t, m.host, "/data")
	for name, all := range l.records {
		l.ends[name] = all[len(all)-1].last + 1
	}
	return l
}

// abort appends a transaction that is aborted. (Clients cannot have one yet.)
func (l *left) abort(m *machine, topic string) {
	m.Helper()
	p := m.Shared().Routes.Load().ByName[topic].Partitions[0]
	var b record.Builder
	b.Begin(nil, record.None)
	ts := m.host.WallMillis()
	b.SetProducer(77, 0, int32(len(l.aborted)), true)
	b.Add(ts, nil, []byte("not to be seen"))
	marker := record.AppendMarker(nil, 77, 0, record.Marker{Type: record.Abort, CoordinatorEpoch: 1}, ts)
	var at [2]int64
	for i, batch := range [][]byte{b.Finish(), marker} {
		a := &acked{}
		a.Records, a.Acks, a.Origin, a.Done = batch, -1, log.Coordinator, a
		m.Loops()[p.Core].Post(api.Func(m.Shared().Cores[p.Core], func(c *api.Core) { c.Append(p.Partition, &a.Produce) }))
		m.drive(&a.done)
		if !a.done || a.Code != 0 {
			m.Fatalf("%s: append to %s: %d %s", m.what, topic, a.Code, a.Message)
		}
		at[i] = a.BaseOffset
	}
	l.records[topic+"-0"] = append(l.records[topic+"-0"], acknowledged{at[0], at[0], "not to be seen", ts}, acknowledged{at[1], at[1], "", ts})
	l.aborted = append(l.aborted, at)
}

// append appends a batch of two records and wants it acknowledged.
func (l *left) append(m *machine, topic string, n int) {
	m.Helper()
	if a := l.tryAppend(m, topic, n); a.Code != 0 {
		m.Fatalf("%s: append to %s: %d %s", m.what, topic, a.Code, a.Message)
	}
}

// tryAppend appends a batch and, where it is acknowledged, notes that.
func (l *left) tryAppend(m *machine, topic string, n int) *acked {
	m.Helper()
	p := m.Shared().Routes.Load().ByName[topic].Partitions[0]
	var b record.Builder
	b.Begin(nil, record.None)
	ts := m.host.WallMillis() + int64(n)
	key, value := []byte(fmt.Sprint(n)), []byte(strings.Repeat(fmt.Sprintf("value %d.", n), 40))
	if topic == cluster.OffsetsTopic {
		key, value = offsetCommit(n)
	} else {
		b.SetProducer(1000+int64(topic[0]), 0, int32(2*l.produced[topic]), false)
		b.Add(ts, key, value)
	}
	b.Add(ts, key, value)
	a := &acked{}
	a.Records, a.Acks, a.Origin, a.Done = b.Finish(), -1, log.Client, a
	m.Loops()[p.Core].Post(api.Func(m.Shared().Cores[p.Core], func(c *api.Core) { c.Append(p.Partition, &a.Produce) }))
	m.drive(&a.done)
	if a.Code == 0 {
		l.produced[topic]++
		l.records[topic+"-0"] = append(l.records[topic+"-0"], acknowledged{a.BaseOffset, a.LastOffset, string(value), ts})
	}
	return a
}

// offsetCommit is a record of __consumer_offsets.
func offsetCommit(n int) (key, value []byte) {
	k, v := kmsg.NewOffsetCommitKey(), kmsg.NewOffsetCommitValue()
	k.Version, k.Group, k.Topic, k.Partition = 1, fmt.Sprint("group", n), "data", 0
	v.Version, v.Offset, v.Metadata = 3, int64(n), strings.Repeat("m", 300)
	return k.AppendTo(nil), v.AppendTo(nil)
}

// read takes in what the disk holds.
func (l *left) read(t *testing.T, h ring.Host, dir string) {
	t.Helper()
	entries, err := h.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	l.dirs = append(l.dirs, dir)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name)
		if e.Dir {
			l.read(t, h, path)
			continue
		}
		if l.files[path], err = ring.ReadFile(h, path); err != nil {
			t.Fatal(err)
		}
	}
}

// damage is one way to damage a file.
type damage struct {
	name string
	do   func(b []byte) []byte
}

func flip(at int) damage {
	return damage{fmt.Sprint("flip byte ", at), func(b []byte) []byte { b[at] ^= 0x04; return b }}
}

func zero(at int) damage {
	return damage{fmt.Sprint("zero 4 KiB at ", at), func(b []byte) []byte { clear(b[at:min(at+4096, len(b))]); return b }}
}

func cut(to int) damage {
	return damage{fmt.Sprint("truncate to ", to), func(b []byte) []byte { return b[:to] }}
}

// damages are the ways to damage a file; all of them, or a few.
func damages(path string, b []byte, all bool) []damage {
	n := len(b)
	if n == 0 {
		return nil
	}
	// The used part: what follows are zeros, of an index or a journal.
	used := len(bytes.TrimRight(b, "\x00"))
	if used == 0 {
		used = n
	}
	list := []damage{flip(used / 2), cut(n / 2), zero(used / 2 &^ 4095)}
	if all {
		list = append(list, flip(0), flip(used-1), flip(n-1), cut(0), cut(n-1), zero(0), zero((used-1)&^4095))
		for i := range 16 {
			list = append(list, flip(used*i/16))
		}
		list = append(list, damagesOf(path, b, used)...)
	}
	return slices.DeleteFunc(list, func(d damage) bool {
		after := d.do(bytes.Clone(b))
		// A .txnindex that is cut between two entries looks whole: log verify finds it.
		short := strings.HasSuffix(path, ".txnindex") && len(after) < n && len(after) > 0 && len(after)%34 == 0
		return short || bytes.Equal(after, b)
	})
}

// damagesOf are those that a kind of file has of its own: each byte of the header of a batch, the headers of frames.
func damagesOf(path string, b []byte, used int) (list []damage) {
	switch filepath.Ext(path) {
	case ".log":
		at := 0
		for next := 0; next < len(b)/2; {
			size, ok := record.PeekSize(b[next:])
			if !ok {
				break
			}
			at, next = next, next+size
		}
		for i := at; i < at+record.HeaderSize && i < len(b); i++ {
			list = append(list, flip(i))
		}
	case ".journal":
		for at := 0; at < used; at += 4096 {
			list = append(list, zero(at), flip(at), flip(at+40), flip(at+100))
		}
	}
	return list
}

// damageCase is one damage, and the start after it.
type damageCase struct {
	testing.TB
	*left
	path   string
	damage damage
	m      *machine
	out    []string // partitions that serve less than everything
}

func (c *damageCase) fail(format string, args ...any) {
	c.Helper()
	c.Errorf("%s, stop %d, %s, %s: %s\n%s", c.policy, c.stop, c.path, c.damage.name, fmt.Sprintf(format, args...), c.said())
}

// said is what the broker printed.
func (c *damageCase) said() string {
	if c.m == nil {
		return ""
	}
	return strings.Join(c.m.lines, "\n")
}

// named says that a text names the file; or what an earlier start has kept of the journal because of it.
func (c *damageCase) named(text string) bool {
	return strings.Contains(text, filepath.Base(c.path)) || strings.Contains(text, ".log.aside has records")
}

// run is the outcome.
func (c *damageCase) run() (outcome string) {
	defer func() {
		if p := recover(); p != nil {
			c.fail("panic: %v", p)
			outcome = "panic"
		}
	}()
	w := sim.NewWorld(11)
	defer w.Close()
	c.m = &machine{TB: c.TB, world: w, host: w.NewHost("a", netip.AddrFrom4([4]byte{10, 0, 0, 1})), what: c.path + ", " + c.damage.name, set: []string{"flush.policy=" + c.policy}}
	c.put()
	err := c.m.tryBoot()
	if err != nil {
		if !c.named(err.Error()) {
			c.fail("the start is refused, and the error does not name the file: %v", err)
		}
		c.unchanged()
		return "refused(start)"
	}
	outcome = c.judge()
	if outcome == "failed" {
		return outcome
	}
	// What is served stays what it is: after a stop and another start too.
	before := c.out
	c.m.shutdownAnyhow()
	if err := c.m.tryBoot(); err != nil {
		c.fail("%s, and the next start is refused: %v", outcome, err)
		return "failed"
	}
	if again := c.judge(); again == "failed" || !slices.Equal(c.out, before) {
		c.fail("%s %v at the first start, %s %v at the second", outcome, before, again, c.out)
	}
	return outcome
}

// put writes the files, with the damage.
func (c *damageCase) put() {
	h := c.m.host
	for _, dir := range c.dirs {
		c.m.must(ring.MkdirAll(h, dir))
	}
	for _, path := range c.paths() {
		b := bytes.Clone(c.files[path])
		if path == c.path {
			b = c.damage.do(b)
		}
		fd, err := h.Open(path, ring.Create)
		c.m.must(err)
		_, err = h.WriteAt(fd, b, 0)
		c.m.must(err)
		c.m.must(h.Sync(fd))
		h.Close(fd)
	}
	for _, dir := range c.dirs {
		c.m.must(h.SyncDir(dir))
	}
}

// unchanged: a start that is refused leaves the damaged file to be looked at, and what holds records as it was.
func (c *damageCase) unchanged() {
	for path, b := range c.files {
		if path == c.path {
			b = c.damage.do(bytes.Clone(b))
		} else if filepath.Ext(path) != ".log" {
			continue
		}
		is, err := ring.ReadFile(c.m.host, path)
		if err != nil || !bytes.HasPrefix(is, b) {
			c.fail("the start was refused, and %s has been changed (%v)", path, err)
		}
	}
}

// judge compares what is served with what was acknowledged.
func (c *damageCase) judge() string {
	outcome, bad := "repaired", false
	c.out = nil
	for _, topic := range damagedTopics {
		name := topic + "-0"
		route := c.m.Shared().Routes.Load().ByName[topic]
		if route == nil {
			c.fail("%s is not there", name)
			return "failed"
		}
		how := c.partition(name, route.Partitions[0])
		switch {
		case how == "repaired":
		case how == "failed":
			bad = true
		default:
			c.out = append(c.out, name)
			if outcome != "repaired" && outcome != how {
				c.fail("both %s and %s", outcome, how)
				bad = true
			}
			outcome = how
		}
	}
	if len(c.out) > 1 && !strings.HasSuffix(c.path, ".journal") {
		c.fail("more is refused than what is damaged: %v", c.out)
		bad = true
	}
	if bad {
		return "failed"
	}
	return outcome
}

// partition reads everything that was acknowledged to a partition.
func (c *damageCase) partition(name string, route api.Route) string {
	l := route.Partition.Log()
	refused := l.Err() != nil
	var why []string
	if refused {
		why = append(why, l.Err().Error())
	}
	if l.LogStart() != c.starts[name] && !c.named(c.said()) {
		c.fail("%s starts at %d, and is to start at %d", name, l.LogStart(), c.starts[name])
		return "failed"
	}
	if got := l.AppendAborted(nil, 0, l.LogEnd()); name == "data-0" && !refused {
		for i, want := range c.aborted {
			if want[1] < l.LogEnd() && (i >= len(got) || got[i].FirstOffset != want[0] || got[i].LastOffset != want[1] || got[i].ProducerID != 77) {
				c.fail("%s: aborted transactions %+v, to be %v", name, got, c.aborted)
				return "failed"
			}
		}
	}
	missing := 0
	torn := false
	for _, want := range c.records[name] {
		if want.last < c.starts[name] {
			continue
		}
		b, err := c.m.readAt(route, max(want.base, c.starts[name]))
		switch {
		case err != nil:
			refused = true
			why = append(why, err.Error())
		case len(b) == 0:
			torn = true
			missing++
			if !refused && !strings.Contains(c.said(), "torn or damaged") {
				c.fail("%s: offset %d, which was acknowledged, is gone without a word; it ends at %d", name, want.base, l.LogEnd())
				return "failed"
			}
		default:
			if wrong := want.differs(b); wrong != "" {
				c.fail("%s: WRONG BYTES at offset %d: %s", name, want.base, wrong)
				return "failed"
			}
		}
	}
	if !refused && !torn {
		if err := c.byTime(name, route); err != nil {
			c.fail("%s: %v", name, err)
			return "failed"
		}
		a := &acked{}
		a.Records, a.Acks, a.Origin, a.Done = batchAt(c.m.host.WallMillis(), 1, 10), -1, log.Coordinator, a
		if name == cluster.OffsetsTopic+"-0" {
			return "repaired"
		}
		c.m.Loops()[route.Core].Post(api.Func(c.m.Shared().Cores[route.Core], func(x *api.Core) { x.Append(route.Partition, &a.Produce) }))
		c.m.drive(&a.done)
		if a.Code != 0 {
			c.fail("%s: append: %d %s", name, a.Code, a.Message)
			return "failed"
		}
		if a.BaseOffset < c.ends[name] {
			c.fail("%s: appended at %d, below the end %d of what was acknowledged", name, a.BaseOffset, c.ends[name])
			return "failed"
		}
		return "repaired"
	}
	if refused {
		text := strings.Join(why, "\n")
		if !c.named(text) {
			c.fail("%s is refused, and the error does not name the file: %s", name, text)
			return "failed"
		}
		return "refused(partition)"
	}
	if strings.HasSuffix(c.path, ".journal") && missing > 1 {
		c.fail("%s: %d batches are cut as the journal's last write, which held one", name, missing)
		return "failed"
	}
	if !c.mayBeTorn(name) {
		c.fail("%s: cut as torn, and it had been flushed: it ends at %d of %d", name, l.LogEnd(), c.ends[name])
		return "failed"
	}
	return "torn or damaged"
}

// byTime asks for offsets by time.
func (c *damageCase) byTime(name string, route api.Route) error {
	all := c.records[name]
	for _, i := range []int{len(all) / 4, len(all) / 2, len(all) - 2} {
		at := all[i].timestamp
		want := int64(-1)
		for _, a := range all { // of records: control batches are passed over
			if want < 0 && a.last >= c.starts[name] && a.timestamp >= at && a.value != "" {
				want = max(a.base, c.starts[name])
			}
		}
		q := &query{}
		q.Timestamp, q.TimeQuery.Done = at, q
		c.m.Loops()[route.Core].Post(api.Func(c.m.Shared().Cores[route.Core], func(*api.Core) { q.done = route.Partition.Log().FindTimestamp(&q.TimeQuery) }))
		c.m.drive(&q.done)
		if q.Err != nil || q.Offset != want {
			return fmt.Errorf("timestamp %d is at offset %d (%v), to be %d", at, q.Offset, q.Err, want)
		}
	}
	return nil
}

// query is a time query that a test waits for.
type query struct {
	log.TimeQuery
	done bool
}

func (q *query) TimeDone(*log.TimeQuery) { q.done = true }

// mayBeTorn: the last write of a journal and the tail of a segment after a crash.
func (c *damageCase) mayBeTorn(name string) bool {
	if c.stop == cleanStop {
		return false
	}
	return strings.HasSuffix(c.path, ".journal") || strings.HasSuffix(c.path, ".log")
}

// differs says how a batch is not what was acknowledged.
func (a *acknowledged) differs(b []byte) string {
	x, _, err := record.Next(b)
	switch {
	case err != nil:
		return err.Error()
	case !x.CheckCRC():
		return "the CRC does not match"
	case x.BaseOffset() != a.base || x.LastOffset() != a.last:
		return fmt.Sprintf("offsets %d to %d, to be %d to %d", x.BaseOffset(), x.LastOffset(), a.base, a.last)
	case x.MaxTimestamp() != a.timestamp:
		return fmt.Sprintf("timestamp %d, to be %d", x.MaxTimestamp(), a.timestamp)
	}
	var r record.Reader
	r.Reset(x, nil)
	for r.Next() {
		if !x.Control() && string(r.Value) != a.value {
			return "another value"
		}
	}
	if r.Err() != nil {
		return r.Err().Error()
	}
	return ""
}

// reading is a read that a test waits for.
type reading struct {
	log.Read
	done bool
}

func (r *reading) ReadDone(*log.Read) { r.done = true }

// readAt is the batch that holds an offset.
func (m *machine) readAt(route api.Route, offset int64) (b []byte, err error) {
	m.Helper()
	r := &reading{}
	l := route.Partition.Log()
	r.Offset, r.Limit, r.MaxBytes, r.MinOne, r.Read.Done = offset, route.Partition.HighWatermark(), 1, true, r
	if offset >= r.Limit {
		if l.Err() != nil {
			return nil, l.Err()
		}
		return nil, nil
	}
	m.Loops()[route.Core].Post(api.Func(m.Shared().Cores[route.Core], func(*api.Core) {
		if l.Read(&r.Read) {
			r.done = true
		}
	}))
	m.drive(&r.done)
	if r.Err != nil {
		return nil, r.Err
	}
	b, err = r.Bytes(m.host)
	released := false
	m.Loops()[route.Core].Post(api.Func(m.Shared().Cores[route.Core], func(*api.Core) { l.Release(&r.Read); released = true }))
	m.drive(&released)
	return b, err
}

// pass lets time pass, ns.
func (m *machine) pass(nanos int64) {
	m.Helper()
	for end := m.world.Now() + nanos; m.world.Now() < end; {
		due := false
		for i, io := range m.ios {
			if io.Due() {
				due = true
				m.Loops()[i].Step()
			}
		}
		if !due && !m.world.Step() {
			m.Fatalf("%s: nothing happens any more", m.what)
		}
	}
}

// deleteRecords moves a log's start.
func (m *machine) deleteRecords(topic string, to int64) {
	m.Helper()
	done := false
	p := m.Shared().Routes.Load().ByName[topic].Partitions[0]
	m.Loops()[p.Core].Post(api.Func(m.Shared().Cores[p.Core], func(*api.Core) {
		p.Partition.Log().AdvanceLogStart(to, log.DoneFunc(func(_ *log.Log, err error) { m.must(err); done = true }))
	}))
	m.drive(&done)
}

// shutdown ends the broker cleanly.
func (m *machine) shutdown() {
	m.Helper()
	m.must(m.stop())
}

// shutdownAnyhow ends a broker that may have damaged partitions.
func (m *machine) shutdownAnyhow() {
	m.Helper()
	if err := m.stop(); err != nil {
		m.lines = append(m.lines, err.Error())
	}
}

func (m *machine) stop() error {
	m.Helper()
	done := false
	var failed error
	if !m.BeginClose(func(err error) { failed, done = err, true }) {
		m.Fatal("no place in the queue")
	}
	m.drive(&done)
	err := m.FinishClose()
	for _, io := range m.ios {
		io.Close()
	}
	if failed != nil {
		return failed
	}
	return err
}

var (
	_ replica.Produced = (*acked)(nil)
)
