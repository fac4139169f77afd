package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/engine/api"
	"github.com/millrace/millrace/engine/cluster"
	"github.com/millrace/millrace/engine/config"
	"github.com/millrace/millrace/engine/journal"
	"github.com/millrace/millrace/engine/log"
	"github.com/millrace/millrace/engine/metrics"
	"github.com/millrace/millrace/engine/shard"
	"github.com/millrace/millrace/netio"
	"github.com/millrace/millrace/ring"
)

// Config is what a broker is made of. Whoever links the program (cmd/millrace, the
// simulator) fills it: the engine knows no backend.
type Config struct {
	Set   *config.Broker
	Host  ring.Host
	Cores int
	// NewIO makes a core's ring, on the thread that will use it; pin, if there is
	// something to pin, happens in it.
	NewIO func(core int) (ring.IO, error)
	// OpenStore opens the metadata store, whose completions run where run brings
	// them, and returns what it holds.
	OpenStore func(dir string, run Runner) (cluster.Store, []cluster.KV, error)
	// Recovery is how many partitions are recovered at the same time.
	Recovery int
	// Log takes one line for people.
	Log func(format string, args ...any)
}

// Runner runs blocking work away from a core, and done back on it.
type Runner = func(work func() error, done func(error))

// Broker is one broker.
type Broker struct {
	cfg    Config
	shared *api.Shared
	dir    *log.Dir
	files  *journal.Files
	loops  []*shard.Loop
	cores  []*api.Core
	store  cluster.Store
	report *log.RecoveryReport
	opened time.Duration

	listeners []ring.FD
	addr      netip.AddrPort
	open      atomic.Int64 // connections
	openMax   int64        // see LimitConnections
	ready     atomic.Bool

	edge    sync.RWMutex  // held by who posts to the cores from the edge
	stopped chan struct{} // closed when no core is posted to or woken any more

	paths        netio.Paths // of ranges of segments; core 0 measures them in its Setup
	way          journal.Way // how frames of the journals become durable; so is this
	closing      bool        // core 0's: no timer is set again
	checkpoint   shard.Timer
	checkpointed int64 // when the last one was due, ring's clock
	space        *log.Space
	look         spaceTimer
	running      sync.WaitGroup
}

// Recovery points and the like are written down after checkpointBytes of records, looked at each
// checkpointLook, and at least each checkpointEvery, ns.
const (
	checkpointBytes = 256 << 20
	checkpointLook  = 1e9
	checkpointEvery = 30e9
)

// Open locks the log directory, recovers what is in it and reads the metadata. It
// blocks; nothing runs yet. When it returns an error nothing is left open.
func Open(cfg Config) (_ *Broker, err error) {
	set := cfg.Set
	b := &Broker{cfg: cfg, stopped: make(chan struct{}), openMax: set.Int("max.connections"), shared: &api.Shared{NodeID: int32(set.Int("node.id")), Log: cfg.Log}}
	b.shared.Config.Store(set)
	b.shared.FetchMax = int(set.Int("fetch.max.bytes"))
	path := set.String("log.dirs")
	b.shared.LogDir = path
	if abs, err := filepath.Abs(path); err == nil {
		b.shared.LogDir = abs
	}
	start := cfg.Host.Monotonic()
	journals := set.String("journal.dir")
	if journals == "" {
		journals = filepath.Join(path, log.JournalName)
	}
	b.files = journal.NewFiles(cfg.Host, journal.Config{Dir: journals, LogDir: path, Cores: cfg.Cores, Bytes: set.Int("journal.bytes"), Reserve: set.Int("disk.reserve.bytes"), Log: cfg.Log})
	b.dir, b.report, err = log.OpenDir(cfg.Host, path, log.DirConfig{
		NodeID: b.shared.NodeID, Parallel: cfg.Recovery, Config: b.topicConfig(nil), Journal: b.files,
	})
	if err != nil {
		b.files.Close(false)
		return nil, err
	}
	// All that the journals held is in the logs now, durably.
	if err := b.files.Begin(); err != nil {
		b.abandon()
		return nil, err
	}
	b.report.Journal = b.files.Report().String()
	b.opened = time.Duration(cfg.Host.Monotonic() - start)
	b.shared.ClusterID = b.dir.ClusterID()
	b.space = log.NewSpace(b.dir, set.Int("disk.reserve.bytes"), cfg.Cores)
	b.look.broker = b
	defer func() {
		if err != nil {
			b.abandon()
		}
	}()
	store, kvs, err := cfg.OpenStore(path, b.runOnCore0)
	if err != nil {
		return nil, err
	}
	b.store = store
	image, err := cluster.Decode(kvs)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := b.listen(); err != nil {
		return nil, err
	}
	b.shared.Image.Store(image)
	b.shared.Routes.Store(&api.Routes{ByName: map[string]*api.TopicRoute{}, ByID: map[[16]byte]*api.TopicRoute{}})
	b.loops = shard.New(cfg.Cores)
	b.cores = make([]*api.Core, cfg.Cores)
	for i := range b.cores {
		b.cores[i] = &api.Core{Shared: b.shared, Loop: b.loops[i], Metrics: &metrics.Shard{}}
	}
	b.shared.Cores = b.cores
	b.shared.Controller = &cluster.Controller{
		Store: store, NodeID: b.shared.NodeID, Apply: b.apply, Publish: b.publish,
		CheckTopic: config.CheckTopic,
		NewID:      func() cluster.ID { return newID(cfg.Host) },
	}
	return b, nil
}

// listen opens a listener for each core on the same port. The first asks for the
// port to be free.
func (b *Broker) listen() error {
	addr, err := b.cfg.Set.Listener()
	if err != nil {
		return err
	}
	for i := range b.cfg.Cores {
		fd, at, err := b.cfg.Host.Listen(addr, i == 0)
		if err != nil {
			return fmt.Errorf("listeners: %w", err)
		}
		b.listeners = append(b.listeners, fd)
		b.addr = at
		addr = at.String()
	}
	host, port, err := b.cfg.Set.Advertised()
	if err != nil {
		return err
	}
	if port == 0 {
		port = int32(b.addr.Port())
	}
	b.shared.Host, b.shared.Port = host, port
	return nil
}

func newID(h ring.Host) (id cluster.ID) {
	for i := range id {
		if i%8 == 0 {
			r := h.Random()
			for j := range 8 {
				id[i+j] = byte(r >> (8 * j))
			}
		}
	}
	id[6] = id[6]&0x0f | 0x40 // a random UUID
	id[8] = id[8]&0x3f | 0x80
	return id
}

// runOnCore0 is the store's Runner.
func (b *Broker) runOnCore0(work func() error, done func(error)) {
	io := b.loops[0].IO
	io.Submit(&ring.Op{Code: ring.Task, Func: work, Done: taskDone(done)})
}

type taskDone func(error)

// Complete hands the outcome on.
func (d taskDone) Complete(op *ring.Op) { d(op.Error()) }

// Setup gives a core its ring and its journal. On the core's thread, before its first step.
func (b *Broker) Setup(core int, io ring.IO) error {
	set := b.cfg.Set
	l, c := b.loops[core], b.cores[core]
	l.IO = io
	if core == 0 { // before anything else is on the ring
		b.choosePaths(io)
		b.chooseWay(io)
	}
	var err error
	if c.Journal, err = b.files.NewCore(core, io); err != nil {
		return err
	}
	c.Logs = log.NewCore(io, log.CoreConfig{
		TailBytes: int(set.Int("tail.bytes")), Inline: set.Bool("append.inline"), Journal: c.Journal, Space: b.space,
		Readahead: set.Int("fetch.readahead.bytes"), DropBehind: set.Bool("fetch.drop.behind"), Cleaner: cleaner(set, len(b.cores)),
	})
	c.SetupGroups()
	l.AddSource(c.Logs)
	l.AddSource(c.Journal)
	l.AfterStep(c.AfterStep)
	l.AfterStep(c.Journal.AfterStep) // last: the entries of all partitions that the step brought share one write
	return nil
}

// LimitConnections holds connections below max.connections: to what descriptors are left
// for them. Before Start.
func (b *Broker) LimitConnections(n int64) {
	if b.openMax == 0 || n < b.openMax {
		b.openMax = n
	}
}

// serve begins to accept on a core. On the core.
func (b *Broker) serve(c *api.Core) {
	set := b.cfg.Set
	c.Server = netio.NewServer(c.Loop.IO, b.listeners[c.Loop.ID], netio.Config{
		FrameMax: int(set.Int("socket.request.max.bytes")),
		InFlight: int(set.Int("max.inflight.requests")),
		IdleMax:  set.Int("connections.max.idle.ms") * 1e6,
		ConnMax:  b.openMax,
		// Unsent replies look into the tail: they must not hold most of it.
		UnsentMax: int(set.Int("tail.bytes") / 4),
		Open:      &b.open,
		Log:       b.cfg.Log,
	}, c)
	c.Server.SetPaths(b.paths)
	c.Loop.AddSource(c.Server)
}

// Boot brings the broker up, once every core has its ring: a new epoch for every
// partition, durable before anything is appended; the logs to their cores; the
// groups from their log; then the listeners. done is called on core 0.
func (b *Broker) Boot(done func(error)) {
	b.loops[0].Post(shard.Func(func(*shard.Loop) {
		ctl := b.shared.Controller
		ctl.Start(b.shared.Image.Load())
		ctl.NewEpochs(func(err error) {
			if err != nil {
				done(err)
				return
			}
			b.useWay(func() {
				b.attachAll(func(err error) {
					if err != nil {
						done(err)
						return
					}
					b.each(func(c *api.Core, end func(error)) {
						b.serve(c)
						end(nil)
					}, func(error) {
						b.setCheckpointTimer()
						b.look.Fire(0)
						b.ready.Store(true)
						done(nil)
					})
				})
			})
		})
	}))
}

func (b *Broker) setCheckpointTimer() { b.setTimer(&b.checkpoint, checkpointLook, b) }

// setTimer sets one of core 0's, for so many ns from now, unless the broker closes: what a timer
// has begun may end after that.
func (b *Broker) setTimer(t *shard.Timer, after int64, f interface{ Fire(now int64) }) {
	if l := b.loops[0]; !b.closing {
		l.SetTimer(t, l.IO.Now()+after, f)
	}
}

// Fire writes the checkpoints, where they are due.
func (b *Broker) Fire(now int64) {
	bytes := int64(checkpointBytes)
	if now-b.checkpointed >= checkpointEvery {
		bytes = 0
	}
	done := false
	b.runOnCore0(func() (err error) {
		done, err = b.dir.CheckpointDue(bytes)
		return err
	}, func(err error) {
		if err != nil {
			b.cfg.Log("checkpoint: %v", err)
		}
		if done {
			b.checkpointed = now
		}
		b.setCheckpointTimer()
	})
}

// spaceEvery is how often the room on the disk is looked at, ns.
const spaceEvery = 200e6

// spaceTimer looks how much room there is, and says when the reserve is touched and when it is whole again.
type spaceTimer struct {
	shard.Timer
	broker *Broker
	short  bool
}

// Fire looks.
func (t *spaceTimer) Fire(int64) {
	b := t.broker
	free, short := int64(0), false
	b.runOnCore0(func() (err error) {
		free, short, err = b.space.Check()
		return err
	}, func(err error) {
		switch {
		case err != nil:
			b.cfg.Log("how much space is left: %v", err)
		case short && !t.short:
			b.cfg.Log("NO SPACE: %s has %d bytes left, and disk.reserve.bytes is %d: producers are refused until there are more", b.dir.Path(), free, b.cfg.Set.Int("disk.reserve.bytes"))
		case !short && t.short:
			b.cfg.Log("space again: %s has %d bytes left: producers are served", b.dir.Path(), free)
		}
		t.short = short
		b.setTimer(&t.Timer, spaceEvery, t)
	})
}

// Ready says whether clients are served.
func (b *Broker) Ready() bool { return b.ready.Load() }

// Addr is where clients connect.
func (b *Broker) Addr() netip.AddrPort { return b.addr }

// Report says what recovery did, and how long it took.
func (b *Broker) Report() (*log.RecoveryReport, time.Duration) { return b.report, b.opened }

// Loops are the cores' loops: the simulator steps them.
func (b *Broker) Loops() []*shard.Loop { return b.loops }

// Shared is what the cores share: for metrics and the status pages.
func (b *Broker) Shared() *api.Shared { return b.shared }

// Start runs every core on a thread of its own and returns when clients are served,
// or why they cannot be.
func (b *Broker) Start() error {
	errs := make(chan error, len(b.loops))
	run := make(chan struct{})
	for i := range b.loops {
		b.running.Add(1)
		go func() {
			defer b.running.Done()
			runtime.LockOSThread() // for ever: the ring and the CPU belong to the thread
			io, err := b.cfg.NewIO(i)
			if err == nil {
				err = b.Setup(i, io)
			}
			errs <- err
			<-run
			if b.loops[i].IO != nil {
				b.loops[i].Run()
				<-b.stopped // nobody wakes a ring that is closed
				b.loops[i].IO.Close()
			}
		}()
	}
	var first error
	for range b.loops {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	close(run)
	if first != nil {
		b.halt()
		b.abandon()
		return first
	}
	booted := make(chan error, 1)
	b.Boot(func(err error) { booted <- err })
	if err := <-booted; err != nil {
		b.halt()
		b.abandon()
		return err
	}
	return nil
}

func (b *Broker) halt() {
	b.edge.Lock()
	for _, l := range b.loops {
		if l.IO != nil {
			l.Stop()
		}
	}
	close(b.stopped)
	b.edge.Unlock()
	b.running.Wait()
}

// abandon gives up a broker that has not begun to serve.
func (b *Broker) abandon() {
	b.dir.Abandon()
	b.files.Close(false)
	for _, fd := range b.listeners {
		b.cfg.Host.Close(fd)
	}
}

// Close ends the broker cleanly: no more connections, produces in the works get
// up to a second to end, every log is written, synced and closed, and the directory is
// marked as cleanly closed. An error means that the next start recovers.
func (b *Broker) Close() error {
	b.ready.Store(false)
	closed := make(chan error, 1)
	for !b.BeginClose(func(err error) { closed <- err }) {
		time.Sleep(time.Millisecond)
	}
	err := <-closed
	b.halt()
	if err != nil {
		b.dir.Abandon()
		b.files.Close(false)
		return err
	}
	return b.FinishClose()
}

// BeginClose closes connections, then logs; done is called on core 0. It says no
// when core 0's queue is full: try again.
func (b *Broker) BeginClose(done func(error)) bool {
	return b.loops[0].Post(shard.Func(func(l *shard.Loop) {
		b.closing = true
		l.StopTimer(&b.checkpoint)
		l.StopTimer(&b.look.Timer)
		b.each(func(c *api.Core, end func(error)) { c.Drain(func() { end(nil) }) }, func(error) {
			b.each(func(c *api.Core, end func(error)) { c.CloseLogs(end) }, done)
		})
	}))
}

// FinishClose marks the directory as cleanly closed, when BeginClose had no error
// and no core runs any more. For the simulator; Close does all of it.
func (b *Broker) FinishClose() error {
	for i, c := range b.cores {
		b.files.SetZeroed(i, c.Journal.Zeroed())
	}
	err := b.dir.CloseClean()
	return errors.Join(err, b.files.Close(err == nil))
}

// publish shows a new image. The routes were shown before it, so that who sees a
// topic can reach it.
func (b *Broker) publish(im *cluster.Image) { b.shared.Image.Store(im) }

// topicConfig resolves a topic's settings for its logs.
func (b *Broker) topicConfig(set map[string]string) log.Config {
	return resolve(b.shared.Config.Load(), set)
}

// cleaner is one core's share of what compaction may take.
func cleaner(set *config.Broker, cores int) log.CleanerConfig {
	c := log.CleanerConfig{
		Enabled: set.Bool("log.cleaner.enable"), BackoffMs: min(set.Int("log.cleaner.backoff.ms"), 1<<40),
		DedupeBytes: set.Int("log.cleaner.dedupe.buffer.size") / int64(cores), BytesPerSecond: log.Never,
	}
	if rate := set.Float("log.cleaner.io.max.bytes.per.second") / float64(cores); rate < 1<<50 {
		c.BytesPerSecond = max(int64(rate), 1<<10)
	}
	return c
}

func resolve(cfg *config.Broker, set map[string]string) log.Config {
	n := func(key string) int64 { return cfg.TopicInt(set, key) }
	c := log.DefaultConfig()
	c.SegmentBytes, c.IndexBytes = int32(n("segment.bytes")), int32(n("segment.index.bytes"))
	c.IndexIntervalBytes, c.MaxMessageBytes = int32(n("index.interval.bytes")), int32(n("max.message.bytes"))
	c.SegmentMs, c.RetentionMs, c.RetentionBytes = n("segment.ms"), n("retention.ms"), n("retention.bytes")
	c.LogAppendTime = cfg.TopicString(set, "message.timestamp.type") == "LogAppendTime"
	cleanup := cfg.TopicString(set, "cleanup.policy")
	c.Compacted = listed(cleanup, "compact")
	c.MinDirtyRatio, c.DeleteRetentionMs = cfg.TopicFloat(set, "min.cleanable.dirty.ratio"), n("delete.retention.ms")
	c.MinCompactionLagMs, c.MaxCompactionLagMs = n("min.compaction.lag.ms"), n("max.compaction.lag.ms")
	if !listed(cleanup, "delete") {
		c.RetentionMs, c.RetentionBytes = -1, -1
	}
	c.TimestampBeforeMax, c.TimestampAfterMax = n("message.timestamp.before.max.ms"), n("message.timestamp.after.max.ms")
	c.ProducerExpirationMs = cfg.Int("producer.id.expiration.ms")
	c.FileDeleteDelayMs = n("file.delete.delay.ms")
	c.InspectCompressed = cfg.Bool("validate.compressed")
	resolveFlush(cfg, set, &c)
	return c
}

// resolveFlush chooses the flush policy and its bounds.
func resolveFlush(cfg *config.Broker, set map[string]string, c *log.Config) {
	name, source := cfg.Topic(set, "flush.policy")
	policy, err := log.ParsePolicy(name)
	if err != nil {
		panic("BUG: engine: " + err.Error())
	}
	c.Policy, c.FlushMs, c.FlushMessages, c.FlushBytes = log.FlushSettings{
		Policy: policy, Own: source == config.FromTopic,
		Ms: cfg.TopicInt(set, "flush.ms"), Messages: cfg.TopicInt(set, "flush.messages"), Bytes: cfg.TopicInt(set, "flush.bytes"),
		BrokerMs: cfg.Int("flush.ms"), BrokerMessages: cfg.Int("flush.messages"),
	}.Resolve()
}

func listed(list, want string) bool {
	return slices.Contains(splitList(list), want)
}
