package bench

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// memory is a Target that keeps records in memory and does wrong what it is
// told to.
type memory struct {
	stallFrom, stallTo time.Duration // from the first send: nothing is acknowledged
	blocks             bool          // Send blocks during the stall too
	forgets            int           // acknowledges every nth record without keeping it
	refuses            int           // fails every nth record
	hangs              bool          // never acknowledges, and Send blocks until Close

	mu      sync.Mutex
	began   time.Time
	logs    map[int32][][]byte
	n       int
	removed bool
}

func (m *memory) Start(context.Context) error { return nil }
func (m *memory) Stop() error                 { return nil }
func (m *memory) Info() TargetInfo            { return TargetInfo{Name: "memory"} }
func (m *memory) Create(context.Context, string, Workload) error {
	m.logs = map[int32][][]byte{}
	return nil
}
func (m *memory) Remove(context.Context, string) error { m.removed = true; return nil }
func (m *memory) Settings(context.Context, string) (map[string]string, error) {
	return nil, errors.New("memory has no settings")
}

func (m *memory) ReadBack(_ context.Context, _ string, visit func(int32, []byte)) error {
	for p, log := range m.logs {
		for _, v := range log {
			visit(p, v)
		}
	}
	return nil
}

var errRefused = errors.New("refused")

// memoryClient acknowledges from one goroutine, in order.
type memoryClient struct {
	target *memory
	done   Done
	queue  chan func()
	closed chan struct{}
	once   sync.Once
	stats  ClientStats

	mu   sync.Mutex
	open int // records that have not ended
}

func (c *memoryClient) count(n int) {
	c.mu.Lock()
	c.open += n
	c.mu.Unlock()
}

func (m *memory) NewClient(_ string, _ Workload, done Done) (Client, error) {
	c := &memoryClient{target: m, done: done, queue: make(chan func(), 1<<16), closed: make(chan struct{})}
	go func() {
		for f := range c.queue {
			f()
		}
	}()
	return c, nil
}

// stalled waits out the stall, if it is on.
func (m *memory) stalled() {
	m.mu.Lock()
	if m.began.IsZero() {
		m.began = time.Now()
	}
	since := time.Since(m.began)
	m.mu.Unlock()
	if since >= m.stallFrom && since < m.stallTo {
		<-time.After(m.stallTo - since)
	}
}

func (c *memoryClient) Send(partition int32, values [][]byte) {
	m := c.target
	if m.blocks {
		m.stalled()
	}
	c.stats.Batches++
	c.stats.Records += int64(len(values))
	for _, v := range values {
		c.count(1)
		if m.hangs {
			<-c.closed
			c.queue <- func() { c.done(v, errRefused); c.count(-1) }
			continue
		}
		c.queue <- func() {
			defer c.count(-1)
			m.stalled()
			m.mu.Lock()
			m.n++
			refuse := m.refuses > 0 && m.n%m.refuses == 0
			if !refuse && (m.forgets == 0 || m.n%m.forgets != 0) {
				m.logs[partition] = append(m.logs[partition], slices.Clone(v))
			}
			m.mu.Unlock()
			if refuse {
				c.done(v, errRefused)
				return
			}
			c.done(v, nil)
		}
	}
}

func (c *memoryClient) Drain(ctx context.Context) error {
	for {
		c.mu.Lock()
		open := c.open
		c.mu.Unlock()
		if open == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

func (c *memoryClient) Stats() ClientStats { return c.stats }

// Close may be called twice, as Run does.
func (c *memoryClient) Close() { c.once.Do(func() { close(c.closed) }) }

func short1s() Workload {
	return Workload{Rate: 4000, Partitions: 3, Size: 64, Batch: 1, Acks: "all", Producers: 2, Compression: "none",
		Warmup: 100 * time.Millisecond, Duration: time.Second, DrainTimeout: time.Minute}
}

// allSent has all that is due sent, though others have the CPUs for a while, and read back.
func allSent() Options { return Options{Verify: true, VerifyMax: 1 << 30, lateMax: time.Minute} }

func mustRun(t *testing.T, m *memory, w Workload) *Result {
	t.Helper()
	return mustRunWith(t, m, w, allSent())
}

func mustRunWith(t *testing.T, m *memory, w Workload, o Options) *Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r, err := Run(ctx, m, w, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRunOpenLoop(t *testing.T) {
	t.Parallel()
	m := &memory{}
	w := short1s()
	w.Batch = 4
	r := mustRun(t, m, w)
	if !r.OK() || r.Verify.Acknowledged != 4400 || r.Verify.Read != 4400 || r.Latency.Count != 4000 || r.Failed != 0 || r.Unsent != 0 {
		t.Errorf("acknowledged %d, read %d, in latency %d, failed %d, unsent %d; want 4400 4400 4000 0 0; read back %+v",
			r.Verify.Acknowledged, r.Verify.Read, r.Latency.Count, r.Failed, r.Unsent, r.Verify)
	}
	if r.Lag.Count != 4000 || r.perBatch() != 4 || !m.removed || r.SettingsError == "" {
		t.Errorf("lag of %d, %v a batch, topic removed %v, settings error %q", r.Lag.Count, r.perBatch(), m.removed, r.SettingsError)
	}
}

// A pacer that is behind gets to whoever drives it after a burst.
func TestPacerBehind(t *testing.T) {
	w := short1s()
	w.Producers, w.Duration = 1, time.Hour
	r := &run{w: w, topics: []string{"t"}, ledger: NewLedger(0, 1, w.Partitions), lag: newHistogram(), waits: newWaitTimes()}
	r.finish.Store(int64(w.Duration))
	if err := r.connect(&memory{logs: map[int32][][]byte{}}); err != nil {
		t.Fatal(err)
	}
	defer r.close()
	r.start = time.Now().Add(-time.Second) // 4000 sends are due
	p := newPacer(r, 0, 1)
	for n := int64(1); n < 4; n++ {
		if wait, more := p.step(t.Context()); wait != 0 || !more || p.next != n*burst {
			t.Errorf("step %d: wait %v, more %v, %d sent", n, wait, more, p.next)
		}
	}
	if err := r.producers[0].client.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}

// Where nothing was acknowledged nothing was read back either.
func TestNothingAcknowledged(t *testing.T) {
	t.Parallel()
	w := short1s()
	w.Duration = 50 * time.Millisecond
	r := mustRun(t, &memory{refuses: 1}, w)
	if want := "skipped: nothing was acknowledged"; r.Verify.State != want || r.OK() || Summarize("r", 3, []*Result{r}).Verified != "skipped" {
		t.Errorf("read back %q, want %q", r.Verify.State, want)
	}
}

// stuck is a memory that does not answer when a topic is to go.
type stuck struct {
	memory
	cleared func(context.Context)
}

func (s *stuck) Remove(ctx context.Context, _ string) error {
	s.cleared(ctx)
	return nil
}

// Clearing away goes on after an interrupt, and not for ever.
func TestClearingIsBounded(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	cleared := false
	s := &stuck{cleared: func(clearing context.Context) {
		at, bounded := clearing.Deadline()
		cleared = bounded && clearing.Err() == nil && time.Until(at) < 2*time.Minute
	}}
	w := short1s()
	w.Duration = 50 * time.Millisecond
	if _, err := Run(ctx, s, w, Options{}); err != nil {
		t.Fatal(err)
	}
	if !cleared {
		t.Error("the topic was not removed, or that has no bound")
	}
}

// A stall must cost what users waiting through it would feel: with a third of
// the records due in a stall of 333 ms, a tenth of all waited 233 ms at least.
// A harness that waits for its target would have sent one record in that time.
func TestRunStallIsInThePercentiles(t *testing.T) {
	t.Parallel()
	for name, blocks := range map[string]bool{"acknowledgements stall": false, "sends block too": true} {
		t.Run(name, func(t *testing.T) {
			m := &memory{stallFrom: 300 * time.Millisecond, stallTo: 633 * time.Millisecond, blocks: blocks}
			r := mustRun(t, m, short1s())
			if r.Latency.P90 == nil || *r.Latency.P90 < 200e3 || r.Latency.Max < 320e3 {
				t.Errorf("latency %s; want p90 over 200 ms, max over 320 ms", latencyLine(r.Latency))
			}
			if blocks && r.Lag.Max < 200e3 {
				t.Errorf("send lag %s; want the blocked sends in it", latencyLine(r.Lag))
			}
			if !r.OK() || r.Latency.Count != 4000 {
				t.Errorf("%d in latency, read back %+v", r.Latency.Count, r.Verify)
			}
		})
	}
}

func TestRunCatchesLoss(t *testing.T) {
	t.Parallel()
	m := &memory{forgets: 1000}
	r := mustRun(t, m, short1s())
	if forgotten := int64(m.n / 1000); r.OK() || r.Verify.State != "FAILED" || r.Verify.Lost != forgotten || forgotten < 1 {
		t.Errorf("%d records of %d acknowledged and not kept: %+v", forgotten, m.n, r.Verify)
	}
}

func TestRunFailuresAreNoLoss(t *testing.T) {
	t.Parallel()
	m := &memory{refuses: 100}
	r := mustRun(t, m, short1s())
	if !r.OK() || r.Failed != int64(m.n/100) || r.Failed < 10 || r.Error != "refused" || len(r.Notes) == 0 {
		t.Errorf("failed %d (%s), read back %+v, notes %q", r.Failed, r.Error, r.Verify, r.Notes)
	}
}

// What was due and never sent, or never acknowledged, counts with its wait so far.
func TestRunHangingTarget(t *testing.T) {
	t.Parallel()
	m := &memory{hangs: true}
	w := short1s()
	w.DrainTimeout = 100 * time.Millisecond
	o := allSent()
	o.lateMax = 0 // some are never sent
	r := mustRunWith(t, m, w, o)
	if r.OK() || r.Acked != 0 || r.Hanging+r.Unsent != 4400 || r.Latency.Count != 4000 || r.Latency.P50 == nil || *r.Latency.P50 < 400e3 {
		t.Errorf("acknowledged %d, unfinished %d, unsent %d, latency %s", r.Acked, r.Hanging, r.Unsent, latencyLine(r.Latency))
	}
}

func TestRunClosedLoop(t *testing.T) {
	t.Parallel()
	w := short1s()
	w.Rate, w.InFlight, w.Batch = 0, 64, 4
	w.Duration = 300 * time.Millisecond
	r := mustRun(t, &memory{}, w)
	for try := 1; r.Acked < 1000 && try < 5; try++ { // others had the CPUs for most of it
		r = mustRun(t, &memory{}, w)
	}
	if !r.OK() || r.Acked < 1000 || r.Lag.Count != 0 || r.Unsent != 0 {
		t.Errorf("acknowledged %d, lag of %d, unsent %d, read back %+v", r.Acked, r.Lag.Count, r.Unsent, r.Verify)
	}
}

func TestRunInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	w := short1s()
	w.Duration = time.Hour
	m := &memory{}
	r, err := Run(ctx, m, w, Options{Verify: true, VerifyMax: 1 << 30, Each: func(Interval) { cancel() }})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Partial || r.Acked == 0 || r.Unsent != 0 || r.Latency.Max > 60e6 || r.Seconds > 60 || !m.removed {
		t.Errorf("partial %v, acknowledged %d, unsent %d, %v s, topic removed %v", r.Partial, r.Acked, r.Unsent, r.Seconds, m.removed)
	}
}

// told is a memory whose broker has an admin listener.
type told struct {
	*memory
	admin string
}

func (m told) Info() TargetInfo { return TargetInfo{Name: "told", Admin: m.admin} }

// A broker that does not say where its requests spend their time is measured all the same.
func TestRunWithoutATrace(t *testing.T) {
	t.Parallel()
	w := short1s()
	w.Duration = 100 * time.Millisecond
	admin := silentAddress(t)
	r, err := Run(t.Context(), told{&memory{}, admin}, w, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Trace != nil || r.Acked == 0 || !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.Contains(n, admin) }) {
		t.Errorf("trace %v, %d acknowledged, notes %q", r.Trace, r.Acked, r.Notes)
	}
}

// The measured time ends when it is over, and not when the admin listener has answered.
func TestRunIsNotLongerForASlowTrace(t *testing.T) {
	t.Parallel()
	const hold = time.Second
	var asked []time.Time
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked = append(asked, time.Now()); len(asked) == 2 { // at the end
			<-time.After(hold)
		}
		w.Write([]byte("{}"))
	}))
	defer admin.Close()
	w := short1s()
	w.Duration = 100 * time.Millisecond
	r, err := Run(t.Context(), told{&memory{}, strings.TrimPrefix(admin.URL, "http://")}, w, Options{})
	if err != nil {
		t.Fatal(err)
	}
	// With the answer in it it would be longer by all of hold; the first question may be late, too.
	if longest := asked[1].Sub(asked[0]) + hold; r.Trace == nil || r.Seconds >= longest.Seconds() {
		t.Errorf("trace %v; %v s measured, want less than %v", r.Trace, r.Seconds, longest)
	}
}

// How often the generator's garbage is collected is in the result; whoever sets it is obeyed, and it is noted.
func TestRunRecordsTheCollector(t *testing.T) {
	t.Setenv("GOGC", "")
	w := short1s()
	w.Warmup, w.Duration = 0, 10*time.Millisecond
	const note = "the generator's collector ran at GOGC="
	if r := mustRun(t, &memory{}, w); r.Collector != generatorGC || slices.ContainsFunc(r.Notes, func(n string) bool { return strings.HasPrefix(n, note) }) {
		t.Errorf("%d, %q", r.Collector, r.Notes)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	for set, percent := range map[string]int{"77": 77, "off": -1} {
		t.Setenv("GOGC", set)
		debug.SetGCPercent(percent) // as the runtime does when it starts
		if r := mustRun(t, &memory{}, w); r.Collector != percent || !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.HasPrefix(n, note+set) }) {
			t.Errorf("%s: %d, %q", set, r.Collector, r.Notes)
		}
	}
}

func TestRunTooMuchToReadBack(t *testing.T) {
	t.Parallel()
	r, err := Run(t.Context(), &memory{}, short1s(), Options{Verify: true, VerifyMax: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if r.Verify.State == "passed" || r.Verify.State == "FAILED" {
		t.Errorf("read back %q", r.Verify.State)
	}
}

func TestCompareInterleavesAndReports(t *testing.T) {
	t.Parallel()
	w := short1s()
	w.Warmup, w.Duration = 0, 100*time.Millisecond
	rows := []Row{{Name: "good", Target: &memory{}}, {Name: "liar", Target: &memory{forgets: 10}}}
	var order []string
	// A bound that no machine reaches: this test is of the order.
	table, runs, err := Compare(t.Context(), rows, w, RepeatRule{Runs: 2}, Confinement{}, Options{Verify: true, VerifyMax: 1 << 30},
		func(row string, _, _ int, _ *Result) { order = append(order, row) })
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(order, []string{"good", "liar", "good", "liar"}) || len(runs) != 4 {
		t.Errorf("order %v, %d runs", order, len(runs))
	}
	if table[0].Verified != "passed" || table[1].Verified != "FAILED" || exitOf(runs) != exitFailed {
		t.Errorf("read back %q and %q", table[0].Verified, table[1].Verified)
	}
}

func TestCompareKeepsWhatThereIsAfterAnInterrupt(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	w := short1s()
	w.Warmup, w.Duration = 0, 50*time.Millisecond
	rows := []Row{{Name: "a", Target: &memory{}}, {Name: "b", Target: &memory{}}}
	table, runs, err := Compare(ctx, rows, w, RepeatRule{Runs: 3}, Confinement{}, Options{}, func(string, int, int, *Result) { cancel() })
	if !errors.Is(err, context.Canceled) || len(runs) != 1 || len(table) != 2 || table[1].Runs != 0 {
		t.Errorf("error %v, %d runs, table %+v", err, len(runs), table)
	}
}
