package peer

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// newFakeNATS is a NATS server whose program is testdata/fakenats, as if it had been installed. There is no go but fakenats.
func newFakeNATS(t *testing.T, wrong string, o Options) *natsServer {
	t.Helper()
	fakeNATS.Do(func() {
		if fakeNATS.dir, fakeNATS.err = os.MkdirTemp("", "fakenats-"); fakeNATS.err != nil {
			return
		}
		out, err := exec.Command("go", "build", "-o", filepath.Join(fakeNATS.dir, "go"), "./testdata/fakenats").CombinedOutput()
		if fakeNATS.err = err; err != nil {
			t.Logf("%s", out)
		}
	})
	if fakeNATS.err != nil {
		t.Fatal(fakeNATS.err)
	}
	for name, value := range map[string]string{"PATH": fakeNATS.dir, "XDG_CACHE_HOME": t.TempDir(), "FAKE_NATS": wrong, "FAKE_GO": ""} {
		t.Setenv(name, value)
	}
	dir, err := installed("nats-server-" + natsVersion)
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = os.Symlink(filepath.Join(fakeNATS.dir, "go"), filepath.Join(dir, "nats-server"))
	}
	if err != nil {
		t.Fatal(err)
	}
	o.Parent = t.TempDir()
	n := natsKind.New(o).(*natsServer)
	t.Cleanup(func() { n.Stop() }) // tests look at its error where they expect none
	return n
}

func TestNATSStartsAndLeavesNothing(t *testing.T) {
	n := newFakeNATS(t, "", Options{Settings: map[string]string{"sync_interval": "always"}})
	for range 2 { // each on a fresh directory
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := errors.Join(n.Start(ctx), n.Ready(ctx)); err != nil {
			t.Fatal(err)
		}
		info := n.Info()
		if info.Ready <= 0 || "NATS server "+strings.TrimPrefix(natsVersion, "v") != info.Version || info.Monitor == "" || info.Monitor == info.Address {
			t.Errorf("%+v", info)
		}
		if _, err := os.Stat(filepath.Join(info.DataDir, "jetstream")); err != nil {
			t.Error(err)
		}
		conf, err := os.ReadFile(n.file("nats-server.conf"))
		if err != nil || !strings.Contains(string(conf), "\n  sync_interval: \"always\"\n") || !strings.Contains(string(conf), info.Monitor) {
			t.Errorf("%v\n%s", err, conf)
		}
		if err := n.Stop(); err != nil {
			t.Fatal(err)
		}
		gone(t, info.PID)
		if left, _ := os.ReadDir(n.Parent); len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	if err := n.Stop(); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func TestNATSStartsAgainWhereItWasKilled(t *testing.T) {
	data := t.TempDir()
	n := newFakeNATS(t, "", Options{Data: data})
	var first Info
	for i := range 2 {
		if err := errors.Join(n.Start(t.Context()), n.Ready(t.Context())); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = n.Info()
		} else if n.Info().Address != first.Address || n.Info().DataDir != data {
			t.Errorf("%+v after %+v", n.Info(), first)
		}
		n.Kill()
		gone(t, n.Info().PID)
	}
	if err := n.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(data, "jetstream")); err != nil {
		t.Errorf("the data that it was given is gone: %v", err)
	}
}

func TestNATSSaysWhatWentWrong(t *testing.T) {
	for wrong, want := range map[string][]string{
		"ends":   {"ended before it was ready", "exit status 1", "[FTL] this server has ended"},
		"silent": {"not ready in time", "[INF] Starting fake"},
	} {
		t.Run(wrong, func(t *testing.T) {
			saysWhatWentWrong(t, want, func() (Peer, string) { n := newFakeNATS(t, wrong, Options{}); return n, n.Parent })
		})
	}
}

func TestNATSThatEndedByItselfIsToldAtTheEnd(t *testing.T) {
	n := newFakeNATS(t, "", Options{})
	if err := errors.Join(n.Start(t.Context()), n.Ready(t.Context())); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(n.Info().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-n.process.Exited()
	if err := n.Stop(); err == nil || !strings.Contains(err.Error(), "had ended by itself: signal: killed") || !strings.Contains(err.Error(), "[INF] Starting fake") {
		t.Errorf("error %v", err)
	}
}

// What is installed is what is pinned, or nothing is.
func TestNATSInstallsOnlyWhatIsPinned(t *testing.T) {
	n := newFakeNATS(t, "", Options{})
	if err := n.Install(t.Context()); err != nil {
		t.Fatalf("it is there: %v", err)
	}
	dir := filepath.Dir(n.program)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	refused := func(wants ...string) {
		t.Helper()
		err := n.Install(t.Context())
		for _, want := range wants {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("no %q in: %v", want, err)
			}
		}
		if _, err := os.Stat(dir); err == nil {
			t.Error("something was installed")
		}
	}
	refused("was built from github.com/millrace/millrace", natsModule+" "+natsVersion)
	t.Setenv("FAKE_GO", "fails")
	refused("Go could not build the server", "module lookup disabled")
	t.Setenv("PATH", t.TempDir())
	refused("no go in PATH")
}

func TestParseSettingsOfTheServer(t *testing.T) {
	for _, value := range []string{"always", "10s", "2m"} {
		s, err := Parse("n=nats+sync_interval=" + value)
		if err != nil || s.Label != "n" || s.Kind.Protocol != NATS || s.Server["sync_interval"] != value || len(s.Config) != 0 {
			t.Errorf("%s: %+v %v", value, s, err)
		}
	}
	for _, bad := range []string{"nats+sync_interval", "nats+sync_interval=", "nats+sync_interval=never", "nats+sync_interval=-1s", "nats+flush.messages=1", "kafka+sync_interval=always"} {
		if s, err := Parse(bad); err == nil {
			t.Errorf("%q was taken: %+v", bad, s)
		}
	}
}
