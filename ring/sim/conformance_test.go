package sim_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/ringtest"
	"github.com/millrace/millrace/ring/sim"
)

// machine is a host with one IO, driven alone.
type machine struct {
	world *sim.World
	host  *sim.Host
	io    *sim.IO
}

func (m *machine) IO() ring.IO             { return m.io }
func (m *machine) Dir() string             { return "/data" }
func (m *machine) Traits() ringtest.Traits { return ringtest.Traits{} }

// Drive gives up after an hour of virtual time.
func (m *machine) Drive(done func() bool) bool {
	giveUp := m.world.Now() + int64(time.Hour)
	for !done() {
		if !m.io.Due() && (!m.world.Step() || m.world.Now() > giveUp) {
			return false
		}
		if m.io.Due() {
			m.io.Wait(ring.Forever)
		}
	}
	return true
}

func TestConformance(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			ringtest.Run(t, func(t *testing.T) ringtest.World {
				w := sim.NewWorld(seed)
				// The suite expects of a loopback what a real one gives.
				w.Config.ShortSendOneIn, w.Config.SplitOneIn = 0, 0
				w.Config.NetBufferMin = w.Config.NetBufferMax
				t.Cleanup(func() { w.Close() })
				h := w.NewHost("a", netip.MustParseAddr("10.0.0.1"))
				if err := h.MkdirAll("/data"); err != nil {
					t.Fatal(err)
				}
				return &machine{w, h, h.NewIO(sim.IOConfig{PoolBytes: ringtest.PoolBytes, RecvBuffers: ringtest.RecvBuffers})}
			})
		})
	}
}
