package simtest

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace/millrace/engine"
	"github.com/millrace/millrace/engine/cluster"
	"github.com/millrace/millrace/engine/cluster/file"
	"github.com/millrace/millrace/engine/config"
	"github.com/millrace/millrace/ring/fault"
	"github.com/millrace/millrace/ring/sim"
)

// broker is the simulated broker through all its lives.
type broker struct {
	run   *run
	host  *sim.Host
	rules *fault.Rules // of this life
	b     *engine.Broker
	ios   []*sim.IO
	state brokerState
	then  func() // instead of going on, when it serves

	armed  sim.Crash // the mode of the crash that is armed
	full   bool      // the disk is full
	pardon bool      // a fault has been made in this life that a log may be fenced for
	power  bool      // the power was lost since the disk was last checked
	diedAt int64     // the first time since then

	lives, kills, losses, cleans, fences int
	compactions                          uint64
}

type brokerState uint8

const (
	down brokerState = iota
	booting
	serving
	closing
)

func (s brokerState) String() string {
	return [...]string{"down", "booting", "serving", "closing"}[s]
}

const (
	dataDir = "/data"
	port    = 9092
)

func newBroker(r *run) *broker {
	return &broker{run: r, host: r.world.NewHost("broker", netip.AddrFrom4([4]byte{10, 0, 0, 1}))}
}

func (b *broker) addr() netip.AddrPort { return netip.AddrPortFrom(b.host.Addr(), port) }

func (b *broker) settings() *config.Broker {
	r := b.run
	set := func(key string, v any) string { return fmt.Sprintf("%s=%v", key, v) }
	cfg, _, err := config.Parse("sim", "", []string{
		set("listeners", "PLAINTEXT://"+b.addr().String()),
		set("log.dirs", dataDir),
		set("flush.policy", r.policy),
		set("flush.ms", r.flushMs),
		set("flush.messages", r.flushCount),
		set("flush.bytes", r.flushBytes),
		set("tail.bytes", r.tailBytes),
		set("journal.bytes", r.journalBytes),
		set("journal.sync", []string{"dsync", "fdatasync"}[r.world.Seed()%2]),
		set("log.index.size.max.bytes", r.indexBytes),
		set("log.index.interval.bytes", 512),
		set("log.segment.delete.delay.ms", 500),
		set("offsets.topic.num.partitions", 3),
		// So that __consumer_offsets, which rolls where its indexes are small, is compacted.
		set("log.cleaner.backoff.ms", 50),
		set("log.cleaner.min.cleanable.ratio", 0.01),
		set("group.initial.rebalance.delay.ms", 50),
		set("group.min.session.timeout.ms", 100),
		set("connections.max.idle.ms", 20000),
		set("max.inflight.requests", 8),
		set("socket.request.max.bytes", 1<<20),
		set("auto.create.topics.enable", false),
	})
	if err != nil {
		r.fail("settings: %v", err)
	}
	return cfg
}

// start begins a life: recovery, which blocks in no time, and the boot.
func (b *broker) start() {
	r := b.run
	b.lives++
	if b.host.Crashed() {
		b.host.Restart()
	}
	if r.loading && r.below(4) == 0 { // a crash inside recovery, or soon after
		b.arm(1+r.below(80), pick(r, sim.ProcessKill, sim.PowerLoss, sim.PowerLossClean))
	}
	if b.lives > 1 && r.below(3) == 0 { // another number of cores: partitions move between journals
		r.cores = 1 + r.below(3)
	}
	b.state, b.pardon = booting, b.full
	b.rules, _ = fault.Parse("")
	host := fault.WrapHost(b.host, b.rules)
	e, err := engine.Open(engine.Config{
		Set: b.settings(), Host: host, Cores: r.cores, Recovery: 1,
		Log: func(format string, args ...any) { r.note("  broker: "+format, args...) },
		OpenStore: func(dir string, run engine.Runner) (cluster.Store, []cluster.KV, error) {
			s, err := file.Open(host, filepath.Join(dir, "metadata.json"), file.Runner(run))
			if err != nil {
				return nil, nil, err
			}
			return s, s.Load(), nil
		},
	})
	if b.host.Crashed() {
		b.died()
		return
	}
	if err != nil {
		if open := b.host.OpenFiles(); len(open) > 0 {
			r.fail("the start failed (%v) and left open: %v", err, open)
		}
		if !b.full {
			r.fail("the broker does not start: %v", err)
		}
		r.note("the start failed on a full disk: %v", err)
		b.state = down
		r.operator.After(100*time.Millisecond, b.start)
		return
	}
	b.b = e
	report, _ := e.Report()
	line, _, _ := strings.Cut(report.String(), "\n")
	r.note("life %d: %s", b.lives, line)
	r.model.recovered(b, report)
	b.power = false
	for i := range r.cores {
		io := b.host.NewIO(sim.IOConfig{PoolBytes: r.poolBytes, RecvBuffers: r.recvBuffers, RecvBufferBytes: r.recvBytes})
		b.ios = append(b.ios, io)
		if err := e.Setup(i, fault.Wrap(io, b.rules)); err != nil {
			r.fail("setup of core %d: %v", i, err)
		}
	}
	life := b.lives
	r.operator.After(30*time.Second, func() {
		if b.lives == life && b.state == booting {
			r.fail("the broker has not come up in 30 s")
		}
	})
	e.Boot(func(err error) {
		switch {
		case b.host.Crashed():
		case err != nil && !b.pardon:
			r.fail("boot: %v", err)
		case err != nil:
			r.note("boot: %v", err)
			r.operator.After(time.Millisecond, b.exit)
		default:
			b.state = serving
			r.note("serving")
			if b.then != nil {
				r.operator.After(time.Millisecond, b.then)
			}
		}
	})
}

// step lets the cores that are due do something, and looks at what they did.
func (b *broker) step() {
	for i, io := range b.ios {
		if io.Due() {
			b.b.Loops()[i].Step()
			b.look(i)
		}
	}
	if b.host.Crashed() && b.state != down {
		b.died()
	}
}

func (b *broker) look(core int) {
	if b.state == down {
		return
	}
	for _, p := range b.b.Shared().Cores[core].Partitions() {
		b.run.model.look(p)
	}
}

// arm has the host crash just before its n-th disk event from now.
func (b *broker) arm(n int, mode sim.Crash) {
	b.armed = mode
	b.run.world.CrashAfter(b.host, n, mode)
	b.run.note("%v armed, in %d disk events", mode, n)
}

// crash crashes the host now.
func (b *broker) crash(mode sim.Crash) {
	b.armed = mode
	b.host.Crash(mode)
	b.died()
}

// exit ends a process that cannot go on.
func (b *broker) exit() {
	if b.state == booting || b.state == closing {
		b.crash(sim.ProcessKill)
	}
}

// died takes note of a crash, and starts the broker again after a while.
func (b *broker) died() {
	r := b.run
	r.note("crash: %v while %v", b.armed, b.state)
	if b.b != nil {
		b.diedAt = r.world.Now()
	}
	b.kills++
	if b.armed != sim.ProcessKill {
		b.kills--
		b.losses++
		b.power = true
	}
	r.model.crashed(b)
	b.ended()
	b.state, b.b, b.ios = down, nil, nil
	r.operator.After(r.between(0, 500*time.Millisecond), b.start)
}

// ended counts what a life has done.
func (b *broker) ended() {
	for i := range b.ios {
		b.compactions += b.b.Shared().Cores[i].Logs.Stats().Cleanings
	}
}

// healDisk ends a full disk, what the rules break, and an armed crash.
func (b *broker) healDisk() {
	b.full = false
	b.host.SetFree(1 << 40)
	if b.rules != nil {
		b.rules.Clear()
	}
	if !b.host.Crashed() {
		b.run.world.CrashAfter(b.host, 0, sim.ProcessKill)
	}
}

// close ends a life cleanly, looks for leaks, and calls then.
func (b *broker) close(then func()) {
	r := b.run
	r.note("clean close")
	b.state = closing
	life := b.lives
	r.operator.After(30*time.Second, func() {
		if b.lives == life && b.state == closing {
			r.fail("the broker has not closed in 30 s")
		}
	})
	b.b.BeginClose(func(err error) {
		if err != nil && !b.host.Crashed() {
			if !b.pardon {
				r.fail("close: %v", err)
			}
			r.note("close: %v", err)
			r.operator.After(time.Millisecond, b.exit)
			return
		}
		r.operator.After(time.Millisecond, func() { b.settle(life, then, r.world.Now()+5e9) })
	})
}

// settle waits until nothing of the broker is left, and ends the process.
func (b *broker) settle(life int, then func(), until int64) {
	r := b.run
	if b.lives != life || b.state != closing {
		return
	}
	leak := b.leak(2 + r.cores) // the locks and the journals
	if leak != "" && r.world.Now() < until {
		r.operator.After(time.Millisecond, func() { b.settle(life, then, until) })
		return
	}
	if leak != "" {
		r.fail("after a clean close: %s", leak)
	}
	err := b.b.FinishClose()
	switch {
	case b.host.Crashed(): // step sees it
		return
	case err != nil && b.pardon:
		r.note("close: %v", err)
		b.exit()
		return
	case err != nil:
		r.fail("close: %v", err)
	}
	if leak := b.leak(0); leak != "" {
		r.fail("after a clean close: %s", leak)
	}
	b.cleans++
	r.model.crashed(b)
	for _, io := range b.ios {
		io.Close()
	}
	b.ended()
	b.state, b.b, b.ios, b.diedAt = down, nil, nil, r.world.Now()
	then()
}

// leak is what is still held, with so many descriptors allowed.
func (b *broker) leak(files int) string {
	if open := b.host.OpenFiles(); len(open) > files {
		return fmt.Sprintf("%d descriptors are open: %v", len(open), open)
	}
	for i, io := range b.ios {
		if n := io.Lent(); n > 0 {
			return fmt.Sprintf("core %d: %d receive buffers are lent", i, n)
		}
		if n := io.Pool().Used() - b.b.Shared().Cores[i].Journal.Memory(); n > 0 {
			return fmt.Sprintf("core %d: %d bytes of the pool are used", i, n)
		}
	}
	return ""
}

// describe is what the broker has of a partition, for messages.
func (b *broker) describe(p *part) string {
	if b.b != nil {
		for _, c := range b.b.Shared().Cores {
			for _, q := range c.Partitions() {
				if q.ID == p.topic.id && int(q.Index) == p.index {
					return fmt.Sprintf("logStart %d, highWatermark %d, logEnd %d", q.Log().LogStart(), q.HighWatermark(), q.Log().LogEnd())
				}
			}
		}
	}
	return "nothing"
}

// scheme is the operator's: now and then something breaks.
func (r *run) scheme() {
	gap := r.between(r.loadFor/80, r.loadFor/8)
	r.operator.After(gap, func() {
		if !r.loading {
			return
		}
		r.breakSomething()
		r.scheme()
	})
}

func (r *run) breakSomething() {
	b := r.broker
	modes := []sim.Crash{sim.ProcessKill, sim.PowerLoss, sim.PowerLossClean}
	if b.state != serving {
		return
	}
	switch r.below(12) {
	case 0:
		b.crash(pick(r, modes...))
	case 1, 2, 3:
		b.arm(1+r.below(pick(r, 10, 100, 400)), pick(r, modes...))
	case 4, 5:
		b.close(func() { r.operator.After(r.between(0, 300*time.Millisecond), b.start) })
	case 6:
		free := r.below(128 << 10)
		b.full, b.pardon = true, true
		b.host.SetFree(int64(free))
		r.note("the disk is full, but for %d bytes", free)
		r.operator.After(r.between(100*time.Millisecond, 3*time.Second), func() {
			b.full = false
			b.host.SetFree(1 << 40)
			r.note("the disk has space again")
		})
	case 7, 8:
		r.breakLog()
	default:
		r.breakNetwork()
	}
}

// breakLog makes writes or syncs of logs fail, and restarts the broker later.
func (r *run) breakLog() {
	b := r.broker
	path := "*.log"
	if r.below(3) > 0 {
		path = fmt.Sprintf("%s/%s-%d/*.log", dataDir, pick(r, "steady0", "steady1", "steady2", cluster.OffsetsTopic), r.below(2))
	}
	n := 1 + r.below(30)
	rule := pick(r,
		fmt.Sprintf(`(Sync (path %q) (nth %d) EIO)`, path, n),
		fmt.Sprintf(`(Write (path %q) (nth %d) EIO)`, path, n),
		fmt.Sprintf(`(Write (path %q) (nth %d) torn)`, path, n),
		fmt.Sprintf(`(Write (path %q) (every 3) short 100)`, path),
		fmt.Sprintf(`(Sync (path %q) (every 2) (delay 15ms))`, path))
	if err := b.rules.Add(rule); err != nil {
		r.fail("%v", err)
	}
	b.pardon = true
	r.note("rule: %s", rule)
	life := b.lives
	r.operator.After(r.between(500*time.Millisecond, 5*time.Second), func() {
		if b.lives != life || b.state != serving {
			return
		}
		if r.below(2) == 0 {
			b.crash(pick(r, sim.ProcessKill, sim.PowerLoss, sim.PowerLossClean))
		} else {
			b.close(func() { r.operator.After(time.Millisecond, b.start) })
		}
	})
}

func (r *run) breakNetwork() {
	c := pick(r, r.clients...)
	h := r.broker.host
	switch r.below(4) {
	case 0:
		r.note("%s is cut off", c.name)
		r.world.Partition(c.Host, h)
	case 1:
		from, to := c.Host, h
		if r.below(2) == 0 {
			from, to = h, c.Host
		}
		r.note("%s does not reach %s", from.Name(), to.Name())
		r.world.PartitionOneWay(from, to)
	case 2:
		r.note("%s is reset", c.name)
		r.world.Reset(c.Host, h)
		return
	default:
		r.note("%s's connections fall silent", c.name)
		r.world.HalfOpen(c.Host, h)
		return
	}
	r.operator.After(r.between(50*time.Millisecond, 4*time.Second), func() {
		r.note("%s is back", c.name)
		r.world.Heal(c.Host, h)
	})
}
