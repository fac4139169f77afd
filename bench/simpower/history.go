package simpower

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/millrace/millrace/bench"
	"github.com/millrace/millrace/ring/sim"
)

// shape is what a history is like: fixed, or drawn from its seed.
type shape struct {
	cores     int
	settings  []string // key=value
	poolBytes int
	pace      time.Duration // of producers, between two pieces of work, about
	batchMax  int           // records
	valueMax  int           // bytes, beside what says which record it is
	batches   int           // of each producer in the history; -1: until the power goes
	switches  bool          // the topic's policy is switched, and back

	flushMs, flushMessages, flushBytes int64 // the bound of interval
}

// history is one world, and the row that it adds to.
type history struct {
	bench.PowerSimulation
	wrapped
	shape
	policy string
	row    *bench.PowerRow
	seed   uint64
	random *rand.Rand

	world     *sim.World
	ledger    *bench.PowerLedger
	sizes     map[recordKey]int // of values, bytes
	broker    *broker
	producers []*producer
	visitor   *visitor

	cut     bench.PowerCut
	dark    bool  // cut is made, and what it left is not read yet
	cutAt   int64 // world's clock
	loadAt  int64
	stage   int   // of the policy's switches
	loadDue int64 // of the next switch, where time says it
}

// recordKey names a record as the ledger does.
type recordKey struct {
	producer, partition int
	sequence            uint64
}

// violation is what no broker may do.
type violation struct{ text string }

// errDark says that the power went while something was waited for.
var errDark = errors.New("the power went")

// Bounds in simulated time, far above what anything takes.
const (
	startMax = 60 * time.Second  // a start, with all it recovers
	loadMax  = 120 * time.Second // a load
	drainMax = 30 * time.Second  // every answer, after a start
)

func nameOf(what string, n int) string { return what + strconv.Itoa(n) }

func clientIP(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 1 + byte(n>>8), byte(n)}) }

func newHistory(s bench.PowerSimulation, w wrapped, policy string, seed uint64, row *bench.PowerRow) *history {
	f := fnv.New64a()
	f.Write([]byte(policy))
	h := &history{
		PowerSimulation: s, wrapped: w, policy: policy, seed: seed, row: row,
		random: rand.New(rand.NewPCG(seed, f.Sum64())), sizes: map[recordKey]int{},
	}
	h.world = sim.NewWorld(h.random.Uint64())
	return h
}

// build puts the machines into the world, once the shape is known.
func (h *history) build() {
	c := &h.world.Config
	c.ConnectTimeout, c.SendTimeout = 2*time.Second, 5*time.Second
	c.ResetAfter = sim.Range{Min: 20 * time.Millisecond, Max: 200 * time.Millisecond}
	h.ledger = bench.NewPowerLedger(h.random.Uint32(), h.Producers, h.Partitions, h.now)
	h.broker = newBroker(h)
	h.visitor = newVisitor(h)
	for i := range h.Producers {
		p := newProducer(h, i)
		p.left = h.batches
		h.producers = append(h.producers, p)
	}
}

func (h *history) now() time.Time { return time.Unix(0, h.world.Now()) }

// play makes the world, has f use it, and brings what went wrong home as an error that says
// where.
func (h *history) play(f func() error) (err error) {
	defer h.world.Close()
	defer func() {
		switch p := recover().(type) {
		case nil:
		case violation:
			err = errors.New(p.text)
		default:
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
		if err != nil {
			err = fmt.Errorf("%s: at %.6f s: %w", h.where(), float64(h.world.Now())/1e9, err)
		}
		if h.dark { // nobody can read anything
			h.take(h.ledger.Compare().Finish(nil, time.Unix(0, h.cutAt)))
		}
		if h.ledger != nil {
			h.row.Acknowledged += h.ledger.Acknowledged()
		}
		for _, p := range h.producers {
			h.row.Failed += p.failed
		}
	}()
	h.build()
	return f()
}

// where names the history and its cut, so that it can be played again.
func (h *history) where() string {
	return fmt.Sprintf("seed %d, cut %d before disk event %d, %s", h.seed, h.cut.Cut, h.cut.Point, h.cut.Outcome)
}

// fail ends the history.
func (h *history) fail(format string, args ...any) {
	panic(violation{fmt.Sprintf(format, args...)})
}

// find notes something wrong that the history can go on with.
func (h *history) find(format string, args ...any) {
	h.cut.Findings.Examples = append(h.cut.Findings.Examples, h.where()+": "+fmt.Sprintf(format, args...))
}

// step moves the world on to its next event.
func (h *history) step() {
	if !h.world.Step() {
		h.fail("nothing is left to happen")
	}
	h.broker.step()
	h.visitor.StepIfDue()
	for _, p := range h.producers {
		p.StepIfDue()
	}
}

// until moves the world on until done. The error is errDark, or that it took too long.
func (h *history) until(what string, most time.Duration, done func() bool) error {
	limit := h.world.Now() + int64(most)
	for !h.broker.host.Crashed() {
		switch {
		case done():
			return nil
		case h.world.Now() > limit:
			return fmt.Errorf("not within %v: %s", most, what)
		}
		h.step()
	}
	h.broker.stop()
	return errDark
}

// up starts the broker and waits until it serves.
func (h *history) up() error {
	if err := h.broker.start(); err != nil {
		return err
	}
	b := h.broker
	err := h.until("the broker serves", startMax, func() bool { return b.serving || b.failure != nil })
	if err == nil && b.failure != nil {
		return fmt.Errorf("boot: %w", b.failure)
	}
	return err
}

// begin is the first boot, and the topic.
func (h *history) begin() error {
	if err := h.up(); err != nil {
		return err
	}
	h.visitor.ask(h.visitor.create)
	return h.until("the topic is made", startMax, h.visitor.idle)
}

// load has the producers work until the power goes or, where their batches are counted, all
// are acknowledged. It returns how many disk events there were.
func (h *history) load() (events int, err error) {
	from := h.broker.host.DiskEvents()
	h.loadAt, h.stage = h.world.Now(), 0
	h.loadDue = h.loadAt + h.random.Int64N(int64(20*h.pace))
	for _, p := range h.producers {
		p.loading = true
	}
	err = h.until("the power goes", loadMax, func() bool {
		h.switchPolicy()
		return h.ended()
	})
	for _, p := range h.producers {
		p.loading = false
	}
	h.visitor.task = nil // who asks for the policy, asks no more
	if err == errDark {
		err = nil
	}
	return h.broker.host.DiskEvents() - from, err
}

// ended says that everything the load was to do is done.
func (h *history) ended() bool {
	for _, p := range h.producers {
		if p.left != 0 || len(p.lanes) == 0 || p.pending() > 0 {
			return false
		}
	}
	return h.visitor.idle() && (!h.switches || h.stage == 2)
}

// other is the policy that a topic is switched to for a while: one that promises no less.
func (h *history) other() string {
	if h.policy == "journal" {
		return "file"
	}
	return "journal"
}

// switchPolicy switches to the other policy and back: after a third and after half of the batches
// where they are counted, else now and then.
func (h *history) switchPolicy() {
	if !h.switches || !h.visitor.idle() {
		return
	}
	if h.batches >= 0 {
		made := 0
		for _, p := range h.producers {
			made += h.batches - p.left - p.pending()
		}
		if total := h.batches * len(h.producers); h.stage == 2 || h.stage == 1 && made < total/2 || made < total/3 {
			return
		}
	} else if h.world.Now() < h.loadDue {
		return
	}
	policy := h.other()
	if h.stage%2 == 1 {
		policy = h.policy
	}
	h.stage++
	h.loadDue = h.world.Now() + h.random.Int64N(int64(40*h.pace))
	h.visitor.ask(h.visitor.alter(policy))
}

// cutPower notes that the power has gone, or takes it away.
func (h *history) cutPower(outcome sim.Crash) {
	if !h.broker.host.Crashed() {
		h.broker.host.Crash(outcome)
		h.broker.stop()
	}
	h.row.Cuts++
	h.dark, h.cutAt = true, h.world.Now()
	h.cut.After = float64(h.cutAt-h.loadAt) / 1e9
}

// recoveringMax is among how many disk events of a start a cut is drawn.
const recoveringMax = 120

// recover starts the broker, as often as the power goes, has it answer everything, and reads
// it back.
func (h *history) recover() error {
	for {
		again := h.random.Float64() < h.Recovering
		h.pause(time.Duration(h.random.Int64N(int64(downMax))))
		h.broker.host.Restart()
		if again {
			h.world.CrashAfter(h.broker.host, 1+h.random.IntN(pick(h, 10, 50, recoveringMax)), pick(h, outcomes...))
		}
		began := h.world.Now()
		err := h.up()
		h.cut.Ready = float64(h.world.Now()-began) / 1e9
		if err == nil && !h.row.Promises {
			h.calm()
		}
		if err == nil {
			err = h.drain()
		}
		switch {
		case err == errDark:
			h.row.InRecovery++
		case h.broker.serving: // where not everything is answered, what there is is read all the same
			h.calm()
			return errors.Join(err, h.readBack())
		default:
			return err
		}
	}
}

// calm calls off the cut that is to come.
func (h *history) calm() { h.world.CrashAfter(h.broker.host, 0, sim.PowerLoss) }

// downMax is how long the machine is down at most: clients see that, or not, and come again.
const downMax = 300 * time.Millisecond

// pause lets time pass while the broker is down.
func (h *history) pause(d time.Duration) {
	passed := false
	h.visitor.After(d, func() { passed = true })
	for !passed {
		h.step()
	}
}

// drain waits until every producer has its answers.
func (h *history) drain() error {
	return h.until("every producer has its answers", drainMax, func() bool {
		for _, p := range h.producers {
			if p.pending() > 0 {
				return false
			}
		}
		return true
	})
}
