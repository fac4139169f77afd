package simtest

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"time"

	"github.com/millrace/millrace/engine/simclient"
	"github.com/millrace/millrace/ring/sim"
)

// run is one simulation.
type run struct {
	world    *sim.World
	model    *model
	broker   *broker
	operator *simclient.Machine // breaks things; has no connections
	machines []*simclient.Machine
	clients  []*client

	names  []string          // of all topics
	steady []string          // those that stay
	first  map[string]string // their first policies

	producers []*producer
	consumers []*consumer

	loading  bool // clients make new work
	finished bool

	show  func(string)
	lines []string // the last of them
	steps int
	trace uint64

	settings
}

// settings are drawn from the seed once.
type settings struct {
	cores        int
	policy       string // the broker's flush.policy
	flushMs      int64
	flushCount   int64
	flushBytes   int64
	indexBytes   int
	tailBytes    int
	journalBytes int
	poolBytes    int
	recvBuffers  int
	recvBytes    int
	loadFor      time.Duration // virtual
	pace         time.Duration // of clients, between two pieces of work, about
}

// violation is what a checker found.
type violation struct{ text string }

const (
	linesKept = 120
	// stepsMax is far above what a run takes: a loop that never sleeps is a mistake.
	stepsMax = 20_000_000
)

// simulate does one run. show is told what happens in words, events each event of
// the world; both may be nil.
func simulate(seed uint64, show, events func(string)) (r *run, err error) {
	r = &run{world: sim.NewWorld(seed), show: show, loading: true}
	r.world.Log = events
	defer r.world.Close()
	defer func() {
		r.trace = r.world.Trace()
		switch p := recover().(type) {
		case nil:
		case violation:
			err = errors.New(p.text)
		default:
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	r.draw()
	r.build()
	for !r.finished {
		r.step()
	}
	return r, nil
}

// pick is a random one of several.
func pick[T any](r *run, from ...T) T { return from[r.world.Random()%uint64(len(from))] }

// below is a random number from 0 to n-1.
func (r *run) below(n int) int { return int(r.world.Random() % uint64(n)) }

// between is a random time.
func (r *run) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(r.world.Random()%uint64(hi-lo+1))
}

func (r *run) draw() {
	r.settings = settings{
		cores:        1 + r.below(3),
		policy:       pick(r, "os", "interval", "write", "file", "journal", "journal"),
		flushMs:      pick(r, int64(50), 100, 500),
		flushCount:   pick(r, int64(20), 200, 10000),
		flushBytes:   pick(r, int64(16<<10), 256<<10, 8<<20),
		indexBytes:   pick(r, 192, 1024, 4096),
		tailBytes:    pick(r, 1<<20, 4<<20),
		poolBytes:    pick(r, 8<<20, 32<<20),
		journalBytes: pick(r, 64<<10, 128<<10, 1<<20),
		recvBuffers:  pick(r, 4, 16, 64),
		recvBytes:    pick(r, 1<<10, 4<<10, 16<<10),
		loadFor:      r.between(10*time.Second, 90*time.Second),
	}
	// As much work, whether it comes in a rush or over a while.
	r.pace = r.loadFor / 160
	c := &r.world.Config
	c.ConnectTimeout, c.SendTimeout = 2*time.Second, 5*time.Second
	c.ResetAfter = sim.Range{Min: 20 * time.Millisecond, Max: time.Second}
	c.ShortWriteOneIn = pick(r, 0, 4, 16)
	c.ShortSendOneIn = pick(r, 0, 3, 8)
	c.NetBufferMin, c.NetBufferMax = 1<<10, pick(r, 4<<10, 64<<10, 256<<10)
}

func (r *run) build() {
	r.model = newModel(r)
	r.broker = newBroker(r)
	r.operator = r.machine("operator")
	r.topics()
	for i := range 2 + r.below(3) {
		r.addProducer(fmt.Sprintf("idempotent%d", i), true, pick(r, int16(-1), -1, 1))
	}
	r.addProducer("plain-all", false, -1)
	r.addProducer("plain-one", false, 1)
	r.addProducer("plain-none", false, 0)
	for i := range 2 {
		r.addConsumer(fmt.Sprintf("consumer%d", i), false)
	}
	r.addConsumer("slow", true)
	for i := range 1 + r.below(3) {
		r.addMember(fmt.Sprintf("member%d", i), "group")
	}
	r.addCommitter("committer")
	r.addAdmin("admin")
	r.addVisitor("visitor")
	r.addVandal("vandal")
	r.note("%+v", r.settings)
	r.broker.start()
	r.scheme()
	r.operator.After(r.loadFor, r.wrapUp)
}

// step moves the world on and lets everybody who is due do something.
func (r *run) step() {
	if r.steps++; r.steps > stepsMax {
		r.fail("%d steps and no end", r.steps)
	}
	if !r.world.Step() {
		r.fail("nothing is left to happen, and the run is not over")
	}
	r.broker.step()
	for _, m := range r.machines {
		m.StepIfDue()
	}
}

// fail ends the run.
func (r *run) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.note("FAILED: %s", text)
	panic(violation{fmt.Sprintf("at %.6f s: %s", float64(r.world.Now())/1e9, text)})
}

// note says what happens, for people.
func (r *run) note(format string, args ...any) {
	if len(r.lines) >= 2*linesKept {
		r.lines = slices.Delete(r.lines, 0, linesKept)
	}
	line := fmt.Sprintf("%12.6f ", float64(r.world.Now())/1e9) + fmt.Sprintf(format, args...)
	r.lines = append(r.lines, line)
	if r.show != nil {
		r.show(line)
	}
}

func (r *run) notes() []string { return r.lines[max(0, len(r.lines)-linesKept):] }

func (r *run) summary() string {
	m := r.model
	return fmt.Sprintf("%d steps, %.1f s, %d cores, policy %s, %d lives (%d kills, %d power losses, %d clean), %d batches sent, %d acknowledged, %d lost as they may be, %d read, %d commits; %d topics, %d fenced, %d compactions",
		r.steps, float64(r.world.Now())/1e9, r.cores, r.policy, r.broker.lives, r.broker.kills, r.broker.losses, r.broker.cleans,
		len(m.batches), m.acked, m.lost, m.read, m.commits, len(m.topics), r.broker.fences, r.broker.compactions)
}

// machine adds a client's machine.
func (r *run) machine(name string) *simclient.Machine {
	m := simclient.New(r.world, name, netip.AddrFrom4([4]byte{10, 0, 1, byte(len(r.machines) + 1)}))
	r.machines = append(r.machines, m)
	return m
}

// wrapUp ends the load, makes everything whole, and waits for what is under way.
func (r *run) wrapUp() {
	r.loading = false
	r.note("the load ends; all is healed")
	r.heal()
	if r.broker.state != down { // a fenced log is served again after a restart only
		r.broker.crash(sim.ProcessKill)
	}
	r.drained(r.world.Now() + 60e9)
}

// heal ends every fault.
func (r *run) heal() {
	for _, c := range r.clients {
		r.world.Heal(c.Host, r.broker.host)
	}
	r.broker.healDisk()
}

// drained waits until every producer has its answers.
func (r *run) drained(until int64) {
	left := 0
	for _, p := range r.producers {
		left += p.pending()
	}
	switch {
	case left == 0 && r.broker.state == serving:
		r.audit()
	case r.world.Now() > until:
		for _, p := range r.producers {
			if n := p.pending(); n > 0 {
				r.note("%s waits for %d batches: %s", p.name, n, p.where())
			}
		}
		r.fail("60 s after the last fault %d batches have no answer (broker %v)", left, r.broker.state)
	default:
		r.operator.After(50*time.Millisecond, func() { r.drained(until) })
	}
}

// audit reads everything there is, to the end.
func (r *run) audit() {
	r.note("everything is read once more")
	a := r.addConsumer("auditor", false)
	a.audit = func() {
		r.note("clean close, and then the power goes")
		for _, c := range r.clients {
			c.stop()
		}
		r.broker.close(func() {
			r.broker.host.Crash(sim.PowerLoss)
			r.broker.host.Restart()
			r.broker.then = func() {
				r.broker.then = nil
				r.broker.close(func() { r.finished = true })
			}
			r.broker.start()
		})
	}
	a.begin()
}
