package bench

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/bench/kafkafake"
	"github.com/millrace/millrace/bench/peer"
)

// pretendPeer is a peer.Peer within this process: a listener that answers what a broker that is ready does.
type pretendPeer struct {
	refuses  error // of Ready
	listener net.Listener
	starts   int
	stops    int
	kills    int
}

func (p *pretendPeer) Install(context.Context) error { return nil }
func (p *pretendPeer) Ready(context.Context) error   { return p.refuses }
func (p *pretendPeer) Kill()                         { p.kills++ }
func (p *pretendPeer) Start(context.Context) (err error) {
	p.starts++
	if p.listener, err = net.Listen("tcp", "127.0.0.1:0"); err == nil {
		go kafkafake.Serve(p.listener)
	}
	return err
}

func (p *pretendPeer) Stop() error {
	p.stops++
	return p.listener.Close()
}

func (p *pretendPeer) Info() peer.Info {
	return peer.Info{Address: p.listener.Addr().String(), Version: "Pretence 1", DataDir: "/data", Command: []string{"java"}, Ready: 2.5}
}

func TestManagedIsStartedForEachRun(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p := &pretendPeer{}
	m := &Managed{Kafka: Kafka{Name: "pretence"}, Peer: p, CPUs: []int{0}}
	address := ""
	for i := range 2 {
		if err := m.Start(ctx); err != nil {
			t.Fatal(err)
		}
		info := m.Info()
		if info.Version != "Pretence 1" || info.Ready != 2.5 || info.DataDir != "/data" || info.CPUs != "0" || info.Brokers != 1 || info.Address == address {
			t.Errorf("%+v, after %s", info, address)
		}
		address = info.Address
		if err := m.Stop(); err != nil || p.starts != i+1 || p.stops != i+1 {
			t.Errorf("%d starts, %d stops, %v", p.starts, p.stops, err)
		}
	}
}

func TestManagedThatIsNotReadyIsStopped(t *testing.T) {
	p := &pretendPeer{refuses: errors.New("the end of its log")}
	m := &Managed{Kafka: Kafka{Name: "pretence"}, Peer: p}
	_, err := runRow(t.Context(), Row{Name: "row", Target: m}, Workload{}, Confinement{}, Options{})
	if err == nil || !strings.Contains(err.Error(), "the end of its log") || p.kills == 0 || p.stops == 0 {
		t.Errorf("%d kills, %d stops, error %v", p.kills, p.stops, err)
	}
}
