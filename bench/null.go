package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/millrace/millrace/bench/nullbroker"
	"github.com/millrace/millrace/bench/peer"
	"github.com/millrace/millrace/bench/process"
)

// nullName is the command by which this program runs as a null broker.
const nullName = "null"

// nullSetting is the setting by which a result against one is known.
const nullSetting = "null"

const nullPoolBytes = 64 << 20

// NullBroker is a broker that acknowledges without writing (package nullbroker), as a process of its own: the target that
// shows what of a figure is the client. Nothing is read back, and its results say so.
type NullBroker struct {
	Kafka

	Binary string // this program
	CPUs   []int  // what it is confined to; empty: nothing

	process *process.Process
}

// Start implements Target.
func (n *NullBroker) Start(ctx context.Context) error {
	addresses, err := peer.FreeAddresses(1)
	if err != nil {
		return err
	}
	n.Address = addresses[0]
	n.process = &process.Process{Path: n.Binary, Args: []string{"bench", nullName, n.Address}, CPUs: n.CPUs}
	began := time.Now()
	if err := n.process.Start(); err != nil {
		return errors.Join(err, n.Stop())
	}
	waiting, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := n.process.Poll(waiting, 2*time.Millisecond, func(ctx context.Context) error { return peer.TakesTopics(ctx, n.Address) }); err != nil {
		n.process.Kill() // Stop would tell again how it ended
		return errors.Join(err, n.Stop())
	}
	n.info = TargetInfo{PID: n.process.PID(), Command: []string{"millrace", "bench", nullName, n.Address}, Ready: time.Since(began).Seconds(), CPUs: cpuList(n.CPUs),
		Notes: []string{nullbroker.Says}}
	if err := n.Kafka.Start(ctx); err != nil {
		return errors.Join(err, n.Stop())
	}
	n.info.Version = toolVersion()
	return nil
}

// Stop implements Target.
func (n *NullBroker) Stop() error {
	errs := []error{n.Kafka.Stop()}
	if n.process != nil {
		errs = append(errs, n.process.Stop(stopTimeout))
		n.process = nil
	}
	return errors.Join(errs...)
}

// Settings implements Target: it says what the broker is.
func (n *NullBroker) Settings(context.Context, string) (map[string]string, error) {
	return map[string]string{nullSetting: "acknowledges without writing"}, nil
}

// ReadBack implements Target.
func (n *NullBroker) ReadBack(context.Context, string, func(int32, []byte)) error {
	return errors.New("a null broker has written nothing that could be read back")
}

// nullTarget is a null broker as a target.
func (p *produce) nullTarget(name, client string, c Confinement) (Target, error) {
	binary, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	if p.rings == nil {
		return nil, errors.New("a null broker needs a ring, and this program brings none")
	}
	return &NullBroker{Kafka: Kafka{Name: name, Client: client, Rings: p.rings}, Binary: binary, CPUs: c.Broker}, nil
}

// mainNull is the broker: ADDRESS, until it is told to end.
func mainNull(args []string, rings *Rings) error {
	if len(args) != 1 || rings == nil {
		return errors.New("not ADDRESS, or no ring in this program")
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	runtime.GOMAXPROCS(runtime.NumCPU() + 4) // the loop sleeps in the kernel with one of them
	runtime.LockOSThread()
	io, err := rings.New(nullPoolBytes)
	if err != nil {
		return fmt.Errorf("null broker: %w", err)
	}
	b, err := nullbroker.New(io, args[0])
	if err != nil {
		return errors.Join(err, io.Close())
	}
	go func() { <-stop; b.Stop() }()
	b.Run()
	return io.Close()
}
