package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/millrace/millrace/bench/bare"
	"github.com/millrace/millrace/bench/peer"
	"github.com/millrace/millrace/bench/process"
)

// bareName is the command by which this program runs as a bare server.
const bareName = "sendfile"

// bareSetting is the setting by which a result against one is known.
const bareSetting = "sendfile"

// Bare is a server of the bench's own that sends a file of batches by sendfile(2) and does nothing else (package bare), as a process
// of its own on the broker's CPU: the target that shows what a loop of sendfile reaches. It takes no records: its file is made by Start.
type Bare struct {
	Name   string
	Binary string // this program
	Parent string // directory in which the file's is made
	CPUs   []int  // what it is confined to; empty: nothing
	Bytes  int64  // of the file, at least
	Values [][]byte
	Stream bool // it does not wait for requests

	layout  bare.Layout
	info    TargetInfo
	process *process.Process
	dir     string
}

// bareJob travels as JSON in its command line.
type bareJob struct {
	Address, File string
	Layout        bare.Layout
	Stream        bool
}

// Start implements Target.
func (b *Bare) Start(ctx context.Context) (err error) {
	if b.dir, err = os.MkdirTemp(b.Parent, "millrace-bench-"); err != nil {
		return fmt.Errorf("directory of %s: %w", b.Name, err)
	}
	job := bareJob{File: filepath.Join(b.dir, "batches"), Stream: b.Stream}
	if b.layout, err = bare.WriteFile(ctx, job.File, b.Bytes, b.Values); err != nil {
		return errors.Join(err, b.Stop())
	}
	addresses, err := peer.FreeAddresses(1)
	if err != nil {
		return errors.Join(err, b.Stop())
	}
	job.Address, job.Layout = addresses[0], b.layout
	arg, err := json.Marshal(job)
	if err != nil {
		return errors.Join(err, b.Stop())
	}
	args := []string{"bench", bareName, string(arg)}
	b.process = &process.Process{Path: b.Binary, Args: args, CPUs: b.CPUs}
	began := time.Now()
	if err := b.process.Start(); err != nil {
		return errors.Join(err, b.Stop())
	}
	waiting, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := b.process.Poll(waiting, 2*time.Millisecond, func(ctx context.Context) error {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", job.Address)
		if err == nil {
			err = c.Close()
		}
		return err
	}); err != nil {
		b.process.Kill() // Stop would tell again how it ended
		return errors.Join(err, b.Stop())
	}
	b.info = TargetInfo{Name: b.Name, Address: job.Address, Version: toolVersion(), Brokers: 1, PID: b.process.PID(), DataDir: b.dir,
		Command: append([]string{"millrace"}, args...), Ready: time.Since(began).Seconds(), CPUs: cpuList(b.CPUs)}
	return nil
}

// Stop implements Target.
func (b *Bare) Stop() error {
	var errs []error
	if b.process != nil {
		errs = append(errs, b.process.Stop(stopTimeout))
		b.process = nil
	}
	if b.dir != "" {
		errs = append(errs, os.RemoveAll(b.dir))
		b.dir = ""
	}
	return errors.Join(errs...)
}

// Info implements Target.
func (b *Bare) Info() TargetInfo { return b.info }

// Create implements Target: there is the file, whatever it is called.
func (b *Bare) Create(context.Context, string, Workload) error { return nil }

// Remove implements Target.
func (b *Bare) Remove(context.Context, string) error { return nil }

// Settings implements Target: it says what the server is.
func (b *Bare) Settings(context.Context, string) (map[string]string, error) {
	if b.Stream {
		return map[string]string{bareSetting: "a file, again and again, without requests"}, nil
	}
	return map[string]string{bareSetting: "a file, for each fetch"}, nil
}

var errBare = errors.New("a server of sendfile(2) takes no records")

// NewClient implements Target.
func (b *Bare) NewClient(string, Workload, Done) (Client, error) { return nil, errBare }

// ReadBack implements Target.
func (b *Bare) ReadBack(context.Context, string, func(int32, []byte)) error { return errBare }

// bareTargets are the two bare rows of bench catchup.
func (p *produce) bareTargets(c Confinement, bytes int64) (fetches, stream *Bare, err error) {
	binary, err := os.Executable()
	if err != nil {
		return nil, nil, fmt.Errorf("find this program: %w", err)
	}
	values, random := make([][]byte, p.workload.Batch), rand.NewChaCha8([32]byte{})
	for i := range values {
		values[i] = randomValue(random, p.workload.Size)
	}
	fetches = &Bare{Name: bareRow, Binary: binary, Parent: p.dir, CPUs: c.Broker, Bytes: bytes, Values: values}
	of := *fetches
	of.Name, of.Stream = streamRow, true
	return fetches, &of, nil
}

// mainBare is the server, until it is told to end.
func mainBare(args []string, stderr io.Writer) error {
	if len(args) != 1 {
		return errors.New("a job in JSON is its one argument")
	}
	var job bareJob
	if err := json.Unmarshal([]byte(args[0]), &job); err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	runtime.GOMAXPROCS(runtime.NumCPU() + catchUpReadersMax) // each connection's thread sleeps in the kernel with one of them
	f, err := os.Open(job.File)
	if err != nil {
		return err
	}
	defer f.Close()
	l, err := net.Listen("tcp", job.Address)
	if err != nil {
		return err
	}
	go func() { <-stop; l.Close() }()
	s := bare.Server{File: f, Layout: job.Layout, Stream: job.Stream}
	s.Serve(l.(*net.TCPListener), func(err error) { fmt.Fprintln(stderr, err) })
	return nil
}
