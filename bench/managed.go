package bench

import (
	"context"
	"errors"
	"time"

	"github.com/millrace/millrace/bench/peer"
)

// peerReadyTimeout is long: a JVM that shares one CPU with others takes half a minute to start.
const peerReadyTimeout = 2 * time.Minute

// startPeer starts a peer and waits until it takes topics. On an error nothing is left of it.
func startPeer(ctx context.Context, p peer.Peer, cpus []int) (TargetInfo, error) {
	err := p.Start(ctx)
	if err == nil {
		waiting, cancel := context.WithTimeout(ctx, peerReadyTimeout)
		defer cancel()
		err = p.Ready(waiting)
	}
	if err != nil {
		p.Kill() // Stop would tell again how it ended
		return TargetInfo{}, errors.Join(err, p.Stop())
	}
	at := p.Info()
	return TargetInfo{PID: at.PID, DataDir: at.DataDir, Command: at.Command, Ready: at.Ready, CPUs: cpuList(cpus)}, nil
}

// managed makes the target for a peer that is started here.
func managed(spec peer.Spec, o peer.Options) Target {
	o.Settings = spec.Server
	p := spec.Kind.New(o)
	if spec.Kind.Protocol == peer.NATS {
		return &ManagedNATS{NATS: NATS{Name: spec.Label}, Peer: p, CPUs: o.CPUs}
	}
	return &Managed{Kafka: Kafka{Name: spec.Label}, Peer: p, CPUs: o.CPUs}
}

// Managed is a peer that speaks Kafka's protocol and that the harness starts on an empty directory
// and free ports, and ends and clears away in Stop, as Serve does with a broker of our own.
type Managed struct {
	Kafka

	Peer peer.Peer
	CPUs []int // the peer's, for Info
}

// Start implements Target.
func (m *Managed) Start(ctx context.Context) (err error) {
	if m.info, err = startPeer(ctx, m.Peer, m.CPUs); err != nil {
		return err
	}
	at := m.Peer.Info()
	m.Address = at.Address
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

// ManagedNATS is the same for a NATS server with JetStream.
type ManagedNATS struct {
	NATS

	Peer peer.Peer
	CPUs []int // the peer's, for Info
}

// Start implements Target.
func (m *ManagedNATS) Start(ctx context.Context) (err error) {
	if m.info, err = startPeer(ctx, m.Peer, m.CPUs); err != nil {
		return err
	}
	at := m.Peer.Info()
	m.Address, m.Monitor = at.Address, at.Monitor
	if err := m.NATS.Start(ctx); err != nil {
		return errors.Join(err, m.Stop())
	}
	return nil
}

// Stop implements Target.
func (m *ManagedNATS) Stop() error { return errors.Join(m.NATS.Stop(), m.Peer.Stop()) }

// Kill does as Managed's.
func (m *ManagedNATS) Kill() error {
	m.Peer.Kill()
	return m.NATS.Stop()
}
