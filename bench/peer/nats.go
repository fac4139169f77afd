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
	New:            func(o Options) Peer { return &natsServer{child: child{Options: o}} }}

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
	child // the addresses are for clients and for monitoring

	program string
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
	if err := n.prepare("nats", n.configure); err != nil {
		return fmt.Errorf("prepare the NATS server: %w", err)
	}
	err := n.start(n.program, []string{"-c", n.file("nats-server.conf")}, "nats-server", "NATS server "+strings.TrimPrefix(natsVersion, "v"))
	n.info.Monitor = n.addresses[1]
	return err
}

func (n *natsServer) configure() error {
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
	return n.ready(ctx, natsReadyEvery, TakesStreams)
}

// Stop implements Peer. What the server logged is in the error already.
func (n *natsServer) Stop() error {
	return n.stop(natsStopTimeout, func(err error) error { return err })
}
