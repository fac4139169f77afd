package peer

import (
	"context"
	"debug/buildinfo"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace/millrace/bench/process"
)

const (
	natsModule      = "github.com/nats-io/nats-server/v2"
	natsVersion     = "v2.15.2"
	natsSum         = "h1:yLsgt2kslgymvxvjFq1WGWck5hkat2YYfbXvQ145tzU=" // of the module's source, as go.sum has it
	natsReadyEvery  = 2 * time.Millisecond
	natsStopTimeout = 30 * time.Second
)

//go:embed nats/nats-server.conf
var natsConf string

var natsKind = Kind{Name: "nats", Version: natsVersion, Protocol: NATS,
	ServerSettings: map[string]func(string) error{"sync_interval": checkSyncInterval},
	New:            func(o Options) Peer { return &natsServer{Options: o} }}

// checkSyncInterval takes what the server documents: "always", or a duration.
func checkSyncInterval(value string) error {
	if value == "always" {
		return nil
	}
	if d, err := time.ParseDuration(value); err != nil || d <= 0 {
		return fmt.Errorf("%q is not always and no duration, as 10s", value)
	}
	return nil
}

// natsServer is one NATS server with JetStream, built from the Go module.
type natsServer struct {
	Options

	program   string
	dir       string   // its own: configuration, and data unless Options has it
	addresses []string // for clients, for monitoring
	process   *process.Process
	began     time.Time
	info      Info
}

// Install implements Peer. The server is built by the go command, as its README says, and is checked to be the version that is pinned here.
func (n *natsServer) Install(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("install NATS server %s: %w", natsVersion, err)
		}
	}()
	dir, err := installed("nats-server-" + natsVersion)
	if err != nil {
		return err
	}
	if err := fetch(ctx, dir, func(work string) (string, error) { return n.build(ctx, dir, work) }); err != nil {
		return err
	}
	n.program = filepath.Join(dir, "nats-server")
	return nil
}

// build makes the program in a directory within work, and returns that.
func (n *natsServer) build(ctx context.Context, dir, work string) (string, error) {
	tool, err := exec.LookPath("go")
	if err != nil {
		return "", errors.New("the server is built from its Go module, and there is no go in PATH: install Go")
	}
	n.say("building the server into %s with Go", dir)
	bin := filepath.Join(work, "bin")
	// As its releases are built, and without the flags that this program was built with.
	install := process.Process{Path: tool, Args: []string{"install", natsModule + "@" + natsVersion},
		Env: []string{"GOBIN=" + bin, "GOFLAGS=-trimpath", "CGO_ENABLED=0", "GOOS=", "GOARCH="}}
	if err := install.Start(); err != nil {
		return "", err
	}
	if err := install.Wait(ctx); err != nil {
		return "", fmt.Errorf("Go could not build the server: %w", err)
	}
	return bin, checkBuilt(filepath.Join(bin, "nats-server"))
}

// checkBuilt fails unless the program at path was built from the pinned source.
func checkBuilt(path string) error {
	built, err := buildinfo.ReadFile(path)
	if err != nil {
		return fmt.Errorf("what was built cannot be read: %w", err)
	}
	if m := built.Main; m.Path != natsModule || m.Version != natsVersion || m.Sum != natsSum {
		return fmt.Errorf("%s was built from %s %s %s, and not from %s %s %s", path, m.Path, m.Version, m.Sum, natsModule, natsVersion, natsSum)
	}
	return nil
}

// Start implements Peer.
func (n *natsServer) Start(ctx context.Context) error {
	if n.program == "" {
		if err := n.Install(ctx); err != nil {
			return err
		}
	}
	if err := n.prepare(); err != nil {
		return fmt.Errorf("prepare the NATS server: %w", err)
	}
	args := []string{"-c", n.file("nats-server.conf")}
	n.process = &process.Process{Path: n.program, Args: args, CPUs: n.CPUs}
	n.began = time.Now()
	if err := n.process.Start(); err != nil {
		return err
	}
	n.info = Info{Address: n.addresses[0], Monitor: n.addresses[1], Version: "NATS server " + strings.TrimPrefix(natsVersion, "v"),
		PID: n.process.PID(), DataDir: n.data(), Command: append([]string{"nats-server"}, args...)}
	return nil
}

func (n *natsServer) file(name string) string { return filepath.Join(n.dir, name) }

func (n *natsServer) data() string {
	if n.Data != "" {
		return n.Data
	}
	return n.file("data")
}

// prepare makes the directory with the configuration, unless it is there.
func (n *natsServer) prepare() (err error) {
	if n.dir != "" {
		return nil
	}
	dir, err := os.MkdirTemp(n.Parent, "millrace-bench-nats-")
	if err != nil {
		return err
	}
	n.dir = dir
	if n.dir, err = filepath.Abs(dir); err != nil { // its name goes into the configuration
		return err
	}
	if n.addresses == nil {
		if n.addresses, err = FreeAddresses(2); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(n.data(), 0o755); err != nil {
		return err
	}
	sync := "# sync_interval has its default."
	if v, ok := n.Settings["sync_interval"]; ok {
		sync = fmt.Sprintf("sync_interval: %q", v)
	}
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(n.data())
	conf := strings.NewReplacer("{client}", n.addresses[0], "{monitor}", n.addresses[1], "{data}", quoted, "{sync}", sync).Replace(natsConf)
	return os.WriteFile(n.file("nats-server.conf"), []byte(conf), 0o644)
}

// Ready implements Peer. The server logs to its standard error: an error has the end of that.
func (n *natsServer) Ready(ctx context.Context) error {
	if err := n.process.Poll(ctx, natsReadyEvery, func(ctx context.Context) error { return TakesStreams(ctx, n.addresses[0]) }); err != nil {
		return err
	}
	n.info.Ready = time.Since(n.began).Seconds()
	return nil
}

// Info implements Peer.
func (n *natsServer) Info() Info { return n.info }

// Kill implements Peer.
func (n *natsServer) Kill() {
	if n.process != nil {
		n.process.Kill()
	}
}

// Stop implements Peer.
func (n *natsServer) Stop() error {
	var errs []error
	if n.process != nil {
		errs = append(errs, n.process.Stop(natsStopTimeout))
		n.process = nil
	}
	if n.dir != "" {
		errs = append(errs, os.RemoveAll(n.dir))
	}
	n.dir = ""
	if n.Data == "" { // else the next Start is one on what is there
		n.addresses = nil
	}
	return errors.Join(errs...)
}
