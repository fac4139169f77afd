package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/millrace/millrace/engine"
	"github.com/millrace/millrace/engine/cluster"
	"github.com/millrace/millrace/engine/cluster/file"
	"github.com/millrace/millrace/engine/config"
	"github.com/millrace/millrace/engine/web"
	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/posix"
	"github.com/millrace/millrace/ring/uring"
	"golang.org/x/sys/unix"
)

const serveHelp = `usage: millrace serve [--config FILE] [--override KEY=VALUE]... [--list-keys]

Run a broker. It serves the Kafka protocol on "listeners" (default
127.0.0.1:9092); on "admin.listener" (default 127.0.0.1:9644) /live, /ready,
/metrics, /status, /trace and, at /, a page that shows how far each partition is
on disk; it keeps its logs in "log.dirs" (default ./data). FILE is in
the syntax of Kafka's server.properties, with Kafka's keys and a few of our own.
SIGTERM or Ctrl-C closes it cleanly.

  --config FILE         read settings from FILE
  --override KEY=VALUE  set a key, above the file; repeatable
  --list-keys           print every key with its default and meaning, and end

Example:
  millrace serve --override log.dirs=/var/lib/millrace --override flush.policy=file
`

// stringList is a flag that may be repeated.
type stringList []string

func (l *stringList) String() string { return strings.Join(*l, " ") }

// Set adds one.
func (l *stringList) Set(v string) error {
	*l = append(*l, v)
	return nil
}

// runServe runs a broker until it is told to stop and returns the exit code.
func runServe(args []string) int {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	path := flags.String("config", "", "")
	keys := flags.Bool("list-keys", false, "")
	var overrides stringList
	flags.Var(&overrides, "override", "")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Print(serveHelp)
			return 0
		}
		fmt.Fprintf(os.Stderr, "millrace: serve: %v (see: millrace help serve)\n", err)
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "millrace: serve: unexpected argument %q (see: millrace help serve)\n", flags.Arg(0))
		return 2
	}
	if *keys {
		listKeys(os.Stdout)
		return 0
	}
	text := ""
	if *path != "" {
		b, err := os.ReadFile(*path)
		if err != nil {
			fmt.Fprintf(os.Stderr, "millrace: serve: --config: %v\n", err)
			return 2
		}
		text = string(b)
	}
	set, warnings, err := config.Parse(*path, text, overrides)
	if err != nil {
		fmt.Fprintf(os.Stderr, "millrace: serve: %v\n", err)
		return 2
	}
	for _, w := range warnings {
		logf("warning: %s", w)
	}
	if err := serve(set); err != nil {
		fmt.Fprintf(os.Stderr, "millrace: serve: %v\n", err)
		return 1
	}
	return 0
}

func listKeys(w io.Writer) {
	for _, k := range config.BrokerKeys() {
		d := k.Default
		if d == "" {
			d = "(none)"
		}
		fmt.Fprintf(w, "%s=%s\n    %s\n", k.Name, d, k.Doc)
		if len(k.Values) > 0 {
			fmt.Fprintf(w, "    %s: %s.\n", map[bool]string{false: "One of", true: "One or more of"}[k.Type == config.List], strings.Join(k.Values, ", "))
		}
	}
}

var logMu sync.Mutex

// logf prints one line for people, with the time, to standard error.
func logf(format string, args ...any) {
	line := time.Now().Format("2006-01-02T15:04:05.000Z07:00 ") + strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " | ") + "\n"
	logMu.Lock()
	defer logMu.Unlock()
	io.WriteString(os.Stderr, line)
}

// serve runs a broker until SIGTERM or SIGINT. The second signal ends it at once.
func serve(set *config.Broker) error {
	start := time.Now()
	stop := make(chan os.Signal, 2)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)

	var admin *web.Server
	if addr := set.String("admin.listener"); addr != "" {
		var err error
		if admin, err = web.Listen(addr); err != nil {
			return err
		}
		defer admin.Close()
	}
	backend, why, err := chooseBackend(set.String("ring.backend"))
	if err != nil {
		return err
	}
	if why != "" {
		logf("WARNING: io_uring is not used, the slower epoll backend is: %s (millrace doctor says more)", why)
	}
	cpus := allowedCPUs()
	cores := int(set.Int("shards"))
	if cores == 0 {
		cores = min(len(cpus), quotaCPUs())
	}
	// A loop that blocks must not hold up the collector or the edge: see the design.
	if n := cores + 4; runtime.GOMAXPROCS(0) < n {
		runtime.GOMAXPROCS(n)
	}
	raiseFileLimit()
	host := posix.Host()
	pools := make([]*ring.Pool, cores)
	b, err := engine.Open(engine.Config{
		Set: set, Host: host, Cores: cores, Recovery: max(2, cores), Log: logf,
		NewIO: func(core int) (ring.IO, error) {
			if cores <= len(cpus) {
				var cpu unix.CPUSet
				cpu.Set(cpus[core])
				if err := unix.SchedSetaffinity(0, &cpu); err != nil {
					return nil, fmt.Errorf("core %d: pin to CPU %d: %w", core, cpus[core], err)
				}
			}
			io, err := newIO(backend, host, int(set.Int("memory.bytes")))
			if err == nil {
				pools[core] = io.Pool()
			}
			return io, err
		},
		OpenStore: func(dir string, run engine.Runner) (cluster.Store, []cluster.KV, error) {
			s, err := file.Open(host, filepath.Join(dir, "metadata.json"), file.Runner(run))
			if err != nil {
				return nil, nil, err
			}
			return s, s.Load(), nil
		},
	})
	if err != nil {
		return err
	}
	if limit, inUse, ok := descriptors(); ok {
		n := connectionsMax(limit, inUse)
		if most := set.Int("max.connections"); n < min(most, connectionsMany) {
			logf("connections: %d at most, fewer than max.connections=%d: of %d descriptors (RLIMIT_NOFILE) %d are in use and %d are kept for segments", n, most, limit, inUse, limit-inUse-n)
		}
		b.LimitConnections(n)
	}
	report, took := b.Report()
	for _, line := range strings.Split(strings.TrimSpace(report.String()), "\n") {
		logf("recovery: %s", strings.TrimSpace(line))
	}
	if err := b.Start(); err != nil {
		return err
	}
	if admin != nil {
		admin.Show(b)
	}
	logf("ready: %s, node %d, cluster %s, %d cores, ring %s, flush.policy=%s, %d logs opened in %.3f s, in %.3f s",
		b.Addr(), b.Shared().NodeID, b.Shared().ClusterID, cores, backend, set.String("flush.policy"), len(report.Logs), took.Seconds(), time.Since(start).Seconds())
	if set.Bool("memory.populate") {
		populate(pools, set.Int("tail.bytes"))
	}

	sig := <-stop
	closing := time.Now()
	logf("%v: closing", sig)
	go func() {
		logf("%v again: ending at once; the next start recovers", <-stop)
		os.Exit(1)
	}()
	if err := b.Close(); err != nil {
		return fmt.Errorf("closing: %w", err)
	}
	logf("closed cleanly in %.3f s", time.Since(closing).Seconds())
	return nil
}

// populate makes the memory of the tails resident, where there is enough: what is too much for a control group is not refused,
// the group's largest process is killed.
func populate(pools []*ring.Pool, bytes int64) {
	all, there := int64(len(pools))*bytes, machine{"/"}.memoryThere()
	if all > there/2 {
		logf("memory.populate: not done: %d cores of tail.bytes=%d are more than half of the %d MiB that there are", len(pools), bytes, there>>20)
		return
	}
	for _, p := range pools {
		p.Populate(int(bytes))
	}
}

// chooseBackend takes uring where it can be had; otherwise it says why not.
func chooseBackend(wanted string) (backend, why string, err error) {
	if wanted == "posix" {
		return "posix", "", nil
	}
	blocked := uringBlocked()
	switch {
	case blocked == nil:
		return "uring", "", nil
	case wanted == "uring":
		return "", "", fmt.Errorf("ring.backend=uring: %w", blocked)
	default:
		return "posix", blocked.Error(), nil
	}
}

// uringBlocked is why io_uring cannot be used; nil when it can.
func uringBlocked() error {
	_, err := uring.Probe()
	return err
}

func newIO(backend string, host ring.Host, pool int) (ring.IO, error) {
	if backend == "uring" {
		return uring.New(host, uring.Config{PoolBytes: pool, RecvBuffers: recvBuffers})
	}
	return posix.New(host, posix.Config{PoolBytes: pool, RecvBuffers: recvBuffers})
}

// recvBuffers is how many receive buffers of 16 KiB a core has: requests that wait
// for their acknowledgement on another core hold theirs.
const recvBuffers = 1024

// allowedCPUs are the CPUs that this process may run on.
func allowedCPUs() []int {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return make([]int, runtime.NumCPU())
	}
	var cpus []int
	for i := 0; len(cpus) < set.Count(); i++ {
		if set.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	return cpus
}

// quotaCPUs is the cgroup's CPU quota, rounded up. Go's runtime has read it.
func quotaCPUs() int { return max(1, runtime.GOMAXPROCS(0)) }

// descriptorsWanted is how many descriptors a broker asks for: who may raise the hard limit
// (root) gets them, everybody else what the hard limit allows.
const descriptorsWanted = 1 << 20

// raiseFileLimit takes all descriptors that can be had: segments and connections need them.
func raiseFileLimit() {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return
	}
	if l.Max < descriptorsWanted && unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: descriptorsWanted, Max: descriptorsWanted}) == nil {
		return
	}
	if l.Cur < l.Max {
		l.Cur = l.Max
		unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
	}
}

// descriptors are how many this process may open, and how many it has open. Not ok
// where the kernel does not say.
func descriptors() (limit, inUse int64, ok bool) {
	var l unix.Rlimit
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil || unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return 0, 0, false
	}
	return int64(min(l.Cur, math.MaxInt64)), int64(len(open)), true
}

const (
	// segmentDescriptors is how many descriptors are kept for segments that are still to be
	// opened, where there are four times as many; connections must not keep a log from rolling.
	segmentDescriptors = 1 << 16
	// connectionsMany are enough not to speak of, unless max.connections asks for more than there are.
	connectionsMany = 1 << 14
)

// connectionsMax is how many connections the descriptors that are left allow.
func connectionsMax(limit, inUse int64) int64 {
	left := max(limit-inUse, 2)
	return left - max(min(left/4, segmentDescriptors), 1)
}
