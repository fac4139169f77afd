// Package simclient is what a client of a simulated broker needs: a machine with one
// loop on ring/sim, and connections that speak the Kafka protocol, from dial to their
// end. engine/simtest and bench/simpower build producers and consumers from it.
//
// Everything belongs to the goroutine that drives the world.
package simclient

import (
	"net/netip"
	"slices"
	"time"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/sim"
)

// Machine is a client's machine with one loop.
type Machine struct {
	World  *sim.World
	Host   *sim.Host
	IO     *sim.IO
	alarms []alarm // by time, then in the order in which they were set
}

type alarm struct {
	at int64
	f  func()
}

// poolBytes is what a machine's connections take their buffers from.
const poolBytes = 4 << 20

// New adds a machine to the world.
func New(w *sim.World, name string, ip netip.Addr) *Machine {
	h := w.NewHost(name, ip)
	return &Machine{World: w, Host: h, IO: h.NewIO(sim.IOConfig{PoolBytes: poolBytes, RecvBuffers: 1})}
}

// After calls f on the machine's loop, later.
func (m *Machine) After(d time.Duration, f func()) {
	at := m.World.Now() + int64(d)
	i, _ := slices.BinarySearchFunc(m.alarms, at, func(a alarm, at int64) int {
		if a.at <= at {
			return -1
		}
		return 1
	})
	m.alarms = slices.Insert(m.alarms, i, alarm{at, f})
	m.IO.Wake()
}

// StepIfDue steps a machine that is due.
func (m *Machine) StepIfDue() {
	if m.IO.Due() {
		m.Step()
	}
}

// Step does what is due. The driver calls it when the IO is due.
func (m *Machine) Step() {
	until := int64(ring.Forever)
	if len(m.alarms) > 0 {
		until = m.alarms[0].at
	}
	m.IO.Wait(until)
	for len(m.alarms) > 0 && m.alarms[0].at <= m.IO.Now() {
		f := m.alarms[0].f
		m.alarms = slices.Delete(m.alarms, 0, 1)
		f()
	}
}
