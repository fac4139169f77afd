package simpower

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/millrace/millrace/engine"
	"github.com/millrace/millrace/engine/cluster"
	"github.com/millrace/millrace/engine/cluster/file"
	"github.com/millrace/millrace/engine/config"
	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/fault"
	"github.com/millrace/millrace/ring/sim"
)

const (
	dataDir = "/data"
	port    = 9092

	recvBuffers     = 16
	recvBufferBytes = 4 << 10
)

// broker is the simulated broker through all its lives.
type broker struct {
	history *history
	host    *sim.Host
	b       *engine.Broker // nil: it is down
	ios     []*sim.IO
	serving bool
	failure error // of the boot
}

func newBroker(h *history) *broker {
	return &broker{history: h, host: h.world.NewHost("broker", netip.AddrFrom4([4]byte{10, 0, 0, 1}))}
}

func (b *broker) addr() netip.AddrPort { return netip.AddrPortFrom(b.host.Addr(), port) }

// parseSettings makes a broker's settings, a later one before an earlier one.
func parseSettings(settings ...string) (*config.Broker, error) {
	set, _, err := config.Parse("simulation", "", append([]string{
		"log.dirs=" + dataDir,
		"log.index.interval.bytes=0", // each batch has an index entry: so segments roll after a few
		"log.segment.delete.delay.ms=500",
		"offsets.topic.num.partitions=1",
		"socket.request.max.bytes=1048576",
		"auto.create.topics.enable=false",
	}, settings...))
	return set, err
}

// start begins a life: recovery, which blocks in no time, and the boot.
func (b *broker) start() error {
	h := b.history
	if b.host.Crashed() {
		b.host.Restart()
	}
	b.stop()
	set, err := parseSettings(slices.Concat(h.settings, h.Overrides, []string{"listeners=PLAINTEXT://" + b.addr().String(), "flush.policy=" + h.policy})...)
	if err != nil {
		return err
	}
	h.flushMs, h.flushMessages, h.flushBytes = set.Int("flush.ms"), set.Int("flush.messages"), set.Int("flush.bytes")
	rules, err := fault.Parse(h.Faults)
	if err != nil {
		return err
	}
	host := fault.WrapHost(h.wrapHost(b.host), rules)
	e, err := engine.Open(engine.Config{
		Set: set, Host: host, Cores: h.cores, Recovery: 1, Log: func(string, ...any) {},
		OpenStore: func(dir string, run engine.Runner) (cluster.Store, []cluster.KV, error) {
			s, err := file.Open(host, filepath.Join(dir, "metadata.json"), file.Runner(run))
			if err != nil {
				return nil, nil, err
			}
			return s, s.Load(), nil
		},
	})
	switch {
	case b.host.Crashed():
		return nil
	case err != nil:
		return fmt.Errorf("the broker does not start: %w", err)
	}
	b.b = e
	b.report()
	for i := range h.cores {
		io := b.host.NewIO(sim.IOConfig{PoolBytes: h.poolBytes, RecvBuffers: recvBuffers, RecvBufferBytes: recvBufferBytes})
		b.ios = append(b.ios, io)
		if err := e.Setup(i, fault.Wrap(h.wrapIO(io), rules)); err != nil {
			return fmt.Errorf("core %d: %w", i, err)
		}
	}
	e.Boot(func(err error) { b.serving, b.failure = err == nil, err })
	return nil
}

// stop forgets a life that has ended.
func (b *broker) stop() { b.b, b.ios, b.serving, b.failure = nil, nil, false, nil }

// report counts what recovery did.
func (b *broker) report() {
	report, _ := b.b.Report()
	row := b.history.row
	for i := range report.Logs {
		l := &report.Logs[i]
		row.TornBytes += l.Cut
		if l.Damage != nil {
			row.DamagedLogs++
			row.Findings.Examples = append(row.Findings.Examples, fmt.Sprintf("%s: %v", b.history.where(), l))
		}
	}
	row.TornFrames += strings.Count(report.Journal, ": left out")
}

// step lets the cores that are due do something.
func (b *broker) step() {
	if b.b == nil {
		return
	}
	for i, io := range b.ios {
		if io.Due() {
			b.b.Loops()[i].Step()
		}
	}
}

// wrapped are what a test puts between the broker and the simulated machine.
type wrapped struct {
	host func(ring.Host) ring.Host
	io   func(ring.IO) ring.IO
}

func (w wrapped) wrapHost(h ring.Host) ring.Host {
	if w.host == nil {
		return h
	}
	return w.host(h)
}

func (w wrapped) wrapIO(io ring.IO) ring.IO {
	if w.io == nil {
		return io
	}
	return w.io(io)
}
