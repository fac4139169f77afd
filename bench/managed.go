package bench

import (
	"context"
	"errors"
	"time"

	"github.com/millrace/millrace/bench/peer"
)

// peerReadyTimeout is long: a JVM that shares one CPU with others takes half a minute to start.
const peerReadyTimeout = 2 * time.Minute

// Managed is a peer that speaks Kafka's protocol and that the harness starts on an empty directory
// and free ports, and ends and clears away in Stop, as Serve does with a broker of our own.
type Managed struct {
	Kafka

	Peer peer.Peer
	CPUs []int // the peer's, for Info
}

// Start implements Target.
func (m *Managed) Start(ctx context.Context) error {
	err := m.Peer.Start(ctx)
	if err == nil {
		waiting, cancel := context.WithTimeout(ctx, peerReadyTimeout)
		defer cancel()
		err = m.Peer.Ready(waiting)
	}
	if err != nil {
		m.Peer.Kill() // Stop would tell again how it ended
		return errors.Join(err, m.Stop())
	}
	at := m.Peer.Info()
	m.Address = at.Address
	m.info = TargetInfo{PID: at.PID, DataDir: at.DataDir, Command: at.Command, Ready: at.Ready, CPUs: cpuList(m.CPUs)}
	if err := m.Kafka.Start(ctx); err != nil {
		return errors.Join(err, m.Stop())
	}
	m.info.Version = at.Version
	return nil
}

// Stop implements Target.
func (m *Managed) Stop() error { return errors.Join(m.Kafka.Stop(), m.Peer.Stop()) }

// Kill ends the process with SIGKILL and closes the connections of m itself. The peer's directory stays.
func (m *Managed) Kill() error {
	m.Peer.Kill()
	return m.Kafka.Stop()
}
