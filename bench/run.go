package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/millrace/millrace/bench/nullbroker"
	"golang.org/x/sys/unix"
)

const closeTimeout = 10 * time.Second

// Options are how a run is made and shown, not what it asks.
type Options struct {
	Verify    bool               // read back every acknowledged record
	VerifyMax int64              // bytes; more than this is not read back, and the result says so
	Keep      bool               // leave the topic
	Touch     int64              // bytes of memory to touch before the run; see Touched
	Each      func(Interval)     // told once a second; may be nil
	Phase     func(phase string) // told what is going on; may be nil

	memory  *memoryWatch                                                      // around the runs; may be nil
	bar     *progress                                                         // of the command that makes the runs; may be nil
	run     func(context.Context, Target, Workload, Options) (*Result, error) // makes it; nil: Run
	lateMax time.Duration                                                     // see lateMaxDefault; 0: that
}

func (o Options) phase(format string, args ...any) {
	if o.Phase != nil {
		o.Phase(fmt.Sprintf(format, args...))
	}
}

// producer is one client with what it has seen. The sending side is owned by
// one goroutine; what mu guards is shared with acknowledgements.
type producer struct {
	run     *run
	id      uint32
	client  Client
	next    []uint64 // per partition: sequence of the next record
	cursor  int      // next partition
	sending [][]byte // scratch of send
	tokens  chan struct{}

	mu       sync.Mutex
	free     [][]byte // values that may be sent again
	latency  *hdrhistogram.Histogram
	interval *hdrhistogram.Histogram // since the last collect
	acked    int64                   // acknowledged within the measured time
	window   Interval                // counts since the last collect
	failed   int64
	hanging  int64
	ended    int64     // records that are no longer with the client
	all      int64     // acknowledged, warm-up included
	fromSend *fromSend // with Streams
	err      error     // the first
	random   *rand.Rand
}

// run is one run in progress.
type run struct {
	w         Workload
	number    uint32
	start     time.Time
	ledger    *Ledger
	producers []*producer
	lagMu     sync.Mutex
	lag       *hdrhistogram.Histogram
	waits     *waitTimes
	finish    atomic.Int64 // when sending ends: nanoseconds from the start
	gaveUp    atomic.Bool  // the clients are being closed
	lateMax   time.Duration

	topics      []string
	subscriber  Subscriber // the target, where there are consumers
	groups      []string
	consumers   []Subscription
	arrivals    []*arrivals
	periods     []period
	periodFrom  time.Duration
	behindAtEnd int64
}

// Run measures w on t, which has been started. An interrupted run (ctx) gives
// a Result marked Partial with what there was. The error is for what kept the
// run from being made; loss is in the Result.
func Run(ctx context.Context, t Target, w Workload, o Options) (*Result, error) {
	if err := w.Validate(); err != nil {
		return nil, err
	}
	number := rand.Uint32()
	res := &Result{
		Started: time.Now().UTC(), Workload: w, Loop: w.Loop(), Target: t.Info(),
		Topic: fmt.Sprintf("millrace-bench-%08x", number),
	}
	res.Notes = slices.Clone(res.Target.Notes)
	if n := res.Target.Brokers; n > 0 && w.Replication > n {
		return nil, fmt.Errorf("%s: %d replicas are asked for, and brokers there are %d: --replication-factor %d (and --topic-config min.insync.replicas=%d)",
			res.Target.Name, w.Replication, n, n, n)
	}
	if o.Touch > 0 {
		o.phase("touching %d MiB of memory", o.Touch>>20)
		touched, err := touchMemory(ctx, o.Touch)
		if err != nil {
			return nil, err
		}
		if res.Touched = touched; touched.Bytes < o.Touch {
			res.note("less memory was touched before the run than the %d MiB that were asked for: no more was free", o.Touch>>20)
		}
	}
	res.FreeHuge = freeHuge(readFile("/proc/buddyinfo"))
	topics := w.Streams.topicNames(res.Topic)
	res.Topic = topics[0]
	o.phase("creating topic %s with %s", res.Topic, partitionsOf(w.Partitions))
	made := 0
	defer func() {
		if o.Keep {
			return
		}
		// Also after an interrupt. A topic that stays is untidy, not wrong.
		clearing, cancel := clearingContext(ctx, made)
		defer cancel()
		for i, topic := range topics[:made] {
			err := t.Remove(clearing, topic)
			if err == nil {
				continue
			}
			if clearing.Err() != nil {
				res.note("%d topics are left behind: %v", made-i, err)
				return
			}
			res.note("the topic is left behind: %v", err)
		}
	}()
	for _, topic := range topics {
		if err := t.Create(ctx, topic, w); err != nil {
			return nil, err
		}
		made++
	}
	settings, err := t.Settings(ctx, res.Topic)
	if err != nil {
		res.SettingsError = err.Error()
	}
	res.Settings, res.Class = settings, classOf(settings)

	r := &run{w: w, number: number, topics: topics, ledger: NewLedger(number, w.Producers, w.Partitions), lag: newHistogram(), waits: newWaitTimes(), lateMax: cmp.Or(o.lateMax, lateMaxDefault)}
	if w.Streams.on() {
		r.ledger = NewStreamsLedger(number, w.Producers, w.Partitions, w.Streams.Topics)
	}
	r.finish.Store(int64(w.Warmup + w.Duration))
	if w.Streams.Backlog > 0 {
		r.finish.Store(int64(always)) // it says when
	}
	// The pacer's thread sleeps in the kernel and senders may block, and so does a lean client's loop: none
	// may take a processor from the client's own goroutines.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(runtime.NumCPU() + 4 + leanLoops(t, w)))
	collector, restore := collectRarely()
	defer restore()
	if res.Collector = collector; os.Getenv("GOGC") != "" {
		res.note("the generator's collector ran at GOGC=%s, as was set, and not at %d", os.Getenv("GOGC"), generatorGC)
	}
	if err := r.connect(t); err != nil {
		return nil, err
	}
	defer r.close()
	leave := func() {
		clearing, cancel := clearingContext(ctx, len(r.groups))
		defer cancel()
		if err := r.unsubscribe(clearing, !o.Keep); err != nil {
			res.note("consumers' groups are left behind: %v", err)
		}
	}
	defer leave()
	if err := r.subscribe(ctx, t); err != nil {
		return nil, err
	}
	if err := r.load(ctx, res, newMeter(t.Info()), o); err != nil {
		return nil, err
	}
	if err := errors.Join(r.collect(res), r.collectStreams(res)); err != nil {
		return nil, err
	}
	leave()
	r.verify(ctx, t, res, o)
	res.judge()
	return res, nil
}

const (
	generatorGC    = 1000    // percent, as GOGC
	generatorBytes = 2 << 30 // of heap, above which it is collected as often as that takes
)

// collectRarely has Go's collector run a tenth as often until the returned function is called. The generator's heap is small, so it would be
// collected three times a second, each time in the way of records for a millisecond or more. Whoever sets GOGC is obeyed. percent is what
// holds: see Result.Collector.
func collectRarely() (percent int, restore func()) {
	if os.Getenv("GOGC") != "" {
		s := []metrics.Sample{{Name: "/gc/gogc:percent"}}
		metrics.Read(s)
		return int(s[0].Value.Uint64()), func() {} // off is all ones
	}
	before, limit := debug.SetGCPercent(generatorGC), debug.SetMemoryLimit(-1)
	debug.SetMemoryLimit(min(limit, generatorBytes))
	return generatorGC, func() {
		debug.SetGCPercent(before)
		debug.SetMemoryLimit(limit)
	}
}

// clearingContext is what n topics or groups are cleared away with, also after an interrupt. It ends: a broker that does not
// answer must not keep the bench from ending.
func clearingContext(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), time.Minute+time.Duration(n)*10*time.Millisecond)
}

// leanLoops is how many threads of lean clients a run has.
func leanLoops(t Target, w Workload) int {
	if k := kafkaOf(t); k != nil && k.Client == clientLean {
		return w.Producers
	}
	return 0
}

// connect makes the producers.
func (r *run) connect(t Target) error {
	for id := range r.w.Producers {
		p := &producer{
			run: r, id: uint32(id), next: make([]uint64, r.w.Partitions), latency: newHistogram(), interval: newCoarseHistogram(),
			random: rand.New(rand.NewPCG(uint64(r.number), uint64(id))),
			// Producers begin at different partitions, so that few records
			// still spread.
			cursor: id * r.w.Partitions / r.w.Producers,
		}
		if r.w.Streams.on() {
			p.fromSend = newFromSend()
		}
		if r.w.Rate == 0 {
			p.tokens = make(chan struct{}, max(1, r.w.InFlight/r.w.Producers/r.w.Batch))
		}
		client, err := t.NewClient(r.topics[id%len(r.topics)], r.w, p.done)
		if err != nil {
			r.close()
			return err
		}
		p.client = client
		if w, ok := client.(Waiting); ok {
			w.Watch(p.waited)
		}
		r.producers = append(r.producers, p)
	}
	return nil
}

func (r *run) close() {
	for _, p := range r.producers {
		p.client.Close()
	}
}

// end is when sending ends, from the start. With a backlog that is not known before.
func (r *run) end() time.Duration { return time.Duration(r.finish.Load()) }

// load offers the load, waits for its acknowledgements and reads the counters
// around the measured time.
func (r *run) load(ctx context.Context, res *Result, m meter, o Options) error {
	o.phase("%s; warm-up %v, then %v", res.Loop, r.w.Warmup, r.w.Duration)
	sending, cancel := context.WithCancel(ctx)
	defer cancel()
	r.start = time.Now()
	for _, a := range r.arrivals {
		a.begin(r.start)
	}

	var wait sync.WaitGroup
	var unsent atomic.Int64
	_, driven := r.producers[0].client.(Driven)
	if r.w.Rate > 0 && !driven {
		wait.Go(func() { unsent.Add(r.pace(sending)) })
	} else {
		for _, p := range r.producers {
			if client, ok := p.client.(Driven); ok {
				wait.Go(func() { unsent.Add(r.drive(sending, p, client)) })
			} else {
				wait.Go(func() { p.saturate(sending) })
			}
		}
	}
	sent := make(chan struct{})
	go func() { wait.Wait(); close(sent) }()

	var from, to sample
	var errs []error
	read := func(s *sample) {
		var err error
		if *s, err = m.read(); err != nil {
			errs = append(errs, err)
		}
	}
	warm, measured := time.After(r.w.Warmup), time.After(r.end())
	var over <-chan time.Time // measured, once warm: on a busy machine both may be due at once
	if r.w.Streams.Backlog > 0 {
		done := make(chan time.Time, 1)
		wait.Go(func() {
			res.Backlog = r.backlog(sending, o)
			r.finish.Store(int64(time.Since(r.start)))
			done <- time.Now()
		})
		measured = done
	}
	before, beforeErr := m.readCPU()
	each := time.NewTicker(time.Second)
	defer each.Stop()
	var period *time.Ticker
	var periodEnds <-chan time.Time // with Streams, once warm
	stop := ctx.Done()
	var fromAt, toAt time.Duration
	second := 0
	for toAt == 0 {
		select {
		case <-warm:
			fromAt, over = time.Since(r.start), measured
			read(&from)
			if every := r.w.Streams.Every; every > 0 {
				r.endPeriod() // the warm-up
				period = time.NewTicker(every)
				defer period.Stop()
				periodEnds = period.C
			}
		case <-periodEnds:
			r.periods = append(r.periods, r.endPeriod())
		case <-over:
			toAt = time.Since(r.start)
			read(&to)
		case <-stop: // interrupted: what there is counts
			res.Partial = true
			toAt = time.Since(r.start)
			cancel()
			read(&to)
		case <-each.C:
			second++
			in := r.second(second)
			now, err := m.readCPU()
			if err == nil && beforeErr == nil {
				in.CPU = before.cpuUntil(now)
			}
			before, beforeErr = now, err
			res.Intervals = append(res.Intervals, in)
			if o.Each != nil {
				o.Each(in)
			}
		}
	}
	if fromAt == 0 { // interrupted in the warm-up
		from, fromAt = to, toAt
	}
	if periodEnds != nil && toAt-r.periodFrom > r.w.Streams.Every/10 { // else it is a leftover
		r.periods = append(r.periods, r.endPeriod())
	}
	r.behindAtEnd = r.behind()
	res.Use = m.between(from, to)
	if from.trace != nil && to.trace != nil {
		res.Trace = to.trace.since(from.trace)
	} else if err := errors.Join(from.traceErr, to.traceErr); err != nil {
		res.note("it is not known where produce requests spent their time: %v", err)
	}
	res.Seconds = (toAt - fromAt).Seconds()

	o.phase("waiting for the last acknowledgements")
	drain, done := context.WithTimeout(context.WithoutCancel(ctx), r.w.DrainTimeout)
	defer done()
	select {
	case <-sent:
	case <-drain.Done(): // a send blocks because nothing is acknowledged: give up below
	}
	for _, p := range r.producers {
		_ = p.client.Drain(drain) // what it leaves is counted by done
	}
	r.arrive(drain)
	// The end may come before the last tick, and acknowledgements after it.
	if last := r.second(second + 1); last.Acked+last.Failed > 0 {
		if beforeErr == nil && to.at.Sub(before.at) > time.Second/2 { // of less, a clock tick is too much
			last.CPU = before.cpuUntil(to)
		}
		res.Intervals = append(res.Intervals, last)
	}
	for _, p := range r.producers {
		res.Batches.add(p.client.Stats())
	}
	r.gaveUp.Store(true)
	r.close() // what has not ended fails here
	<-sent
	if err := r.settle(); err != nil {
		return err
	}
	res.Unsent = unsent.Load()
	return errors.Join(errs...)
}

// settle waits until the closed clients have told how every record ended.
func (r *run) settle() error {
	deadline := time.Now().Add(closeTimeout)
	for _, p := range r.producers {
		handed := int64(0)
		for _, n := range p.next {
			handed += int64(n)
		}
		for {
			p.mu.Lock()
			open := handed - p.ended
			p.mu.Unlock()
			if open == 0 {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("producer %d: the client has not told how %d records ended, %v after it was closed", p.id, open, closeTimeout)
			}
			sleep(time.Millisecond)
		}
	}
	return nil
}

func (s *ClientStats) add(o ClientStats) {
	s.Batches += o.Batches
	s.Records += o.Records
	s.Bytes += o.Bytes
}

// pace sends on the schedule, from one thread, round all producers. It returns
// how many records were due and not sent by the end.
func (r *run) pace(ctx context.Context) (unsent int64) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// The default slack is 50 us, on every sleep.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	p := newPacer(r, 0, 1)
	for {
		wait, more := p.step(ctx)
		if !more {
			return p.unsent
		}
		if wait > 0 {
			sleep(wait)
		}
	}
}

// lateMaxDefault is how long after the end the pacer still sends what was due before
// it: a generator that was late by a hair is not a target over its capacity.
const lateMaxDefault = 100 * time.Millisecond

// late counts a send that was due at the time given and never happened, with
// its wait so far. Leaving it out would flatter a target that cannot keep up.
func (r *run) late(at, end time.Duration) {
	if at < r.w.Warmup {
		return
	}
	p := r.producers[0]
	p.mu.Lock()
	record(p.latency, end-at, int64(r.w.Batch))
	p.mu.Unlock()
}

// sleep blocks the thread. Go's timers round up to a millisecond when the
// process is idle; that is a large part of what is measured.
func sleep(d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &ts, nil) // a signal only wakes it early
}

// saturate sends as long as the bound on records in flight allows.
func (p *producer) saturate(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case p.tokens <- struct{}{}:
		}
		now := time.Since(p.run.start)
		if now >= p.run.end() {
			return
		}
		p.send(now)
	}
}

// send hands over one batch for the next partition.
func (p *producer) send(intended time.Duration) {
	w := &p.run.w
	partition := p.cursor
	if p.cursor++; p.cursor == w.Partitions {
		p.cursor = 0
	}
	row, mark := partition, uint32(partition)
	if w.Streams.on() {
		partition, row, mark = -1, 0, lateness(time.Since(p.run.start)-intended)
	}
	p.sending = p.sending[:0]
	p.mu.Lock()
	for range w.Batch {
		if n := len(p.free); n > 0 {
			p.sending, p.free = append(p.sending, p.free[n-1]), p.free[:n-1]
		} else {
			p.sending = append(p.sending, nil)
		}
	}
	p.mu.Unlock()
	for i, value := range p.sending {
		if value == nil {
			value = make([]byte, w.Size)
			w.Streams.fill(value, w.RandomBytes, p.run.number, p.random)
			p.sending[i] = value
		}
		header{run: p.run.number, producer: p.id, partition: mark, sequence: p.next[row], intended: intended}.put(value)
		p.next[row]++
	}
	p.client.Send(int32(partition), p.sending)
}

// done is the client's Done.
func (p *producer) done(value []byte, err error) {
	r := p.run
	now := time.Since(r.start)
	h := peek(value)
	p.mu.Lock()
	switch {
	case err != nil && r.gaveUp.Load():
		p.hanging++
		if h.intended >= r.w.Warmup {
			record(p.latency, now-h.intended, 1)
		}
	case err != nil:
		p.failed++
		p.window.Failed++
		p.fromSend.refused()
		if p.err == nil {
			p.err = err
		}
	default:
		r.ledger.Ack(p.id, h.partition, h.sequence)
		p.window.Acked++
		p.all++
		p.fromSend.acknowledged(h, now, now >= r.w.Warmup)
		record(p.interval, now-h.intended, 1)
		if h.intended >= r.w.Warmup {
			record(p.latency, now-h.intended, 1)
		}
		if now >= r.w.Warmup && now < r.end() {
			p.acked++
		}
	}
	p.free = append(p.free, value)
	p.ended++
	p.mu.Unlock()
	// A batch's records end in order: its last one ends the batch.
	if p.tokens != nil && (h.sequence+1)%uint64(r.w.Batch) == 0 {
		<-p.tokens
	}
}

// second closes the interval that ends now.
func (r *run) second(n int) Interval {
	in := Interval{Second: n, Warmup: time.Duration(n)*time.Second <= r.w.Warmup}
	all := newHistogram()
	for _, p := range r.producers {
		p.mu.Lock()
		in.Acked += p.window.Acked
		in.Failed += p.window.Failed
		all.Merge(p.interval)
		p.interval.Reset()
		p.window = Interval{}
		p.mu.Unlock()
	}
	l, _ := summarize(all, r.w.Batch, false) // only encoding can fail
	in.P50, in.P99, in.Max = l.P50, l.P99, l.Max
	return in
}

// collect merges what the producers saw. Everything has ended.
func (r *run) collect(res *Result) (err error) {
	all := newHistogram()
	for _, p := range r.producers {
		if dropped := all.Merge(p.latency); dropped > 0 {
			panic(fmt.Sprintf("BUG: %d samples lost in a merge of equal histograms", dropped))
		}
		res.Acked += p.acked
		res.Failed += p.failed
		res.Hanging += p.hanging
		if p.err != nil && res.Error == "" {
			res.Error = p.err.Error()
		}
	}
	if res.Seconds > 0 {
		res.RecordsPerSecond = float64(res.Acked) / res.Seconds
		res.BytesPerSecond = res.RecordsPerSecond * float64(r.w.Size)
	}
	if res.Latency, err = summarize(all, r.w.Batch, true); err != nil {
		return err
	}
	if res.Lag, err = summarize(r.lag, r.w.Batch, true); err != nil {
		return err
	}
	if res.Waits, err = r.waits.summarize(r.w.Batch); err == nil && res.Waits != nil && res.Waits.Flight.Count < res.Latency.Count {
		res.note("waits are of %d of %d records", res.Waits.Flight.Count, res.Latency.Count)
	}
	return err
}

// verify reads back what was acknowledged.
func (r *run) verify(ctx context.Context, t Target, res *Result, o Options) {
	bytes := int64(0)
	for _, p := range r.producers {
		for _, n := range p.next {
			bytes += int64(n) * int64(r.w.Size)
		}
	}
	switch {
	case !o.Verify:
		res.Verify.State = "skipped: asked not to"
		return
	case bytes > o.VerifyMax:
		res.Verify.State = fmt.Sprintf("skipped: %d MiB were sent, over the bound of %d MiB", bytes>>20, o.VerifyMax>>20)
		return
	case res.Class == Null:
		res.Verify.State = "skipped: " + nullbroker.Says
		return
	case r.w.Acks == "0":
		res.Verify.State = "skipped: with acks 0 nothing is acknowledged"
		return
	case res.Partial:
		res.Verify.State = "skipped: interrupted"
		return
	case r.acknowledged() == 0:
		res.Verify.State = "skipped: nothing was acknowledged"
		return
	}
	o.phase("reading back %d MiB", bytes>>20)
	v := NewVerifier(r.ledger)
	var err error
	for i, topic := range r.topics {
		err = errors.Join(err, t.ReadBack(ctx, topic, func(partition int32, value []byte) { v.VisitTopic(i, partition, value) }))
	}
	if ctx.Err() != nil {
		res.Partial, res.Verify.State = true, "skipped: interrupted"
		return
	}
	res.Verify = v.Finish()
	if err != nil {
		// What could not be read counts as lost: nobody else can read it either.
		res.Verify.State = "FAILED"
		res.Verify.Examples = append([]string{err.Error()}, res.Verify.Examples...)
	}
}
