package peer

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// builds of the programs that stand in for others
var fake, fakeNATS struct {
	sync.Once
	dir string
	err error
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, dir := range []string{fake.dir, fakeNATS.dir} {
		if dir != "" {
			os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

// newFake is a Kafka whose java and mvn are testdata/fakejava, with a cache directory of its own.
func newFake(t *testing.T, wrong string, o Options) *kafka {
	t.Helper()
	fake.Do(func() {
		if fake.dir, fake.err = os.MkdirTemp("", "fakejava-"); fake.err != nil {
			return
		}
		out, err := exec.Command("go", "build", "-o", filepath.Join(fake.dir, "java"), "./testdata/fakejava").CombinedOutput()
		fake.err = errors.Join(err, os.Link(filepath.Join(fake.dir, "java"), filepath.Join(fake.dir, "mvn")))
		if err != nil {
			t.Logf("%s", out)
		}
	})
	if fake.err != nil {
		t.Fatal(fake.err)
	}
	for name, value := range map[string]string{"PATH": fake.dir, "JAVA_HOME": "", "XDG_CACHE_HOME": t.TempDir(), "FAKE_KAFKA": wrong, "FAKE_JAVA_VERSION": "21.0.1", "KAFKA_HEAP_OPTS": "", "KAFKA_JVM_PERFORMANCE_OPTS": ""} {
		t.Setenv(name, value)
	}
	o.Parent = t.TempDir()
	k := kafkaKind.New(o).(*kafka)
	t.Cleanup(func() { k.Stop() }) // tests look at its error where they expect none
	return k
}

// gone fails if there is a process with that id.
func gone(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, 0); err == nil {
		t.Errorf("process %d is still there", pid)
	}
}

func TestKafkaStartsConfinedAndLeavesNothing(t *testing.T) {
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	cpu := 0
	for !before.IsSet(cpu) {
		cpu++
	}
	k := newFake(t, "", Options{CPUs: []int{cpu}})
	if err := k.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	ports := map[string]bool{}
	for range 2 { // each on a fresh directory, at another address
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := errors.Join(k.Start(ctx), k.Ready(ctx)); err != nil {
			t.Fatal(err)
		}
		info := k.Info()
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(info.PID, &set); err != nil || set.Count() != 1 || !set.IsSet(cpu) {
			t.Errorf("confined to %d CPUs, %v", set.Count(), err)
		}
		if info.Ready <= 0 || info.Version != "Apache Kafka "+kafkaVersion || !slices.Contains(info.Command, "-Xmx1G") || !slices.Contains(info.Command, "-XX:+UseG1GC") {
			t.Errorf("%+v", info)
		}
		if _, err := os.Stat(filepath.Join(info.DataDir, "meta.properties")); err != nil {
			t.Error(err)
		}
		config, err := os.ReadFile(k.file("server.properties"))
		if err != nil || strings.ContainsAny(string(config), "{}") && strings.Contains(string(config), "={") || !strings.Contains(string(config), "log.dirs="+info.DataDir) {
			t.Errorf("%v\n%s", err, config)
		}
		ports[info.Address] = true
		if err := k.Stop(); err != nil {
			t.Fatal(err)
		}
		gone(t, info.PID)
		if left, _ := os.ReadDir(k.Parent); len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	if err := k.Stop(); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func TestKafkaStartsAgainWhereItWasKilled(t *testing.T) {
	data := t.TempDir()
	k := newFake(t, "", Options{Data: data})
	var first Info
	for i := range 2 {
		if err := errors.Join(k.Start(t.Context()), k.Ready(t.Context())); err != nil { // a second format would fail
			t.Fatal(err)
		}
		if i == 0 {
			first = k.Info()
		} else if k.Info().Address != first.Address || k.Info().DataDir != data {
			t.Errorf("%+v after %+v", k.Info(), first)
		}
		k.Kill()
		gone(t, k.Info().PID)
	}
	if err := k.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(data, "meta.properties")); err != nil {
		t.Errorf("the data that it was given is gone: %v", err)
	}
}

func TestKafkaSaysWhatWentWrong(t *testing.T) {
	for wrong, want := range map[string][]string{
		"format": {"format", "is already formatted"},
		"ends":   {"ended before it was ready", "exit status 1", "this JVM has ended", "INFO from the log of Kafka"},
		"silent": {"not ready in time", "INFO from the log of Kafka"},
		"mvn":    {"Maven could not fetch", "no such artifact"},
	} {
		t.Run(wrong, func(t *testing.T) {
			saysWhatWentWrong(t, want, func() (Peer, string) { k := newFake(t, wrong, Options{}); return k, k.Parent })
		})
	}
}

func TestKafkaThatEndedByItselfIsToldAtTheEnd(t *testing.T) {
	k := newFake(t, "", Options{})
	if err := errors.Join(k.Start(t.Context()), k.Ready(t.Context())); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(k.Info().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-k.process.Exited()
	if err := k.Stop(); err == nil || !strings.Contains(err.Error(), "had ended by itself: signal: killed") || !strings.Contains(err.Error(), "INFO from the log of Kafka") {
		t.Errorf("error %v", err)
	}
}

func TestDeafProcessIsKilled(t *testing.T) {
	k := newFake(t, "deaf", Options{})
	if err := errors.Join(k.Start(t.Context()), k.Ready(t.Context())); err != nil {
		t.Fatal(err)
	}
	pid := k.Info().PID
	if err := k.process.Stop(50 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "did not end within") {
		t.Errorf("error %v", err)
	}
	gone(t, pid)
}

func TestInterruptedStartLeavesNothing(t *testing.T) {
	k := newFake(t, "silent", Options{})
	ctx, cancel := context.WithCancel(t.Context())
	if err := k.Start(ctx); err != nil {
		t.Fatal(err)
	}
	pid := k.Info().PID
	cancel()
	if err := k.Ready(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if err := k.Stop(); err != nil {
		t.Error(err)
	}
	gone(t, pid)
}

func TestInstallNeedsJavaAndMaven(t *testing.T) {
	k := newFake(t, "", Options{})
	t.Setenv("FAKE_JAVA_VERSION", "11.0.2")
	if err := k.Install(t.Context()); err == nil || !strings.Contains(err.Error(), "needs Java 17 or newer") || !strings.Contains(err.Error(), "version 11") {
		t.Errorf("an old Java: %v", err)
	}
	t.Setenv("FAKE_JAVA_VERSION", "17.0.2")
	only := t.TempDir()
	if err := os.Symlink(filepath.Join(fake.dir, "java"), filepath.Join(only, "java")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", only)
	if err := k.Install(t.Context()); err == nil || !strings.Contains(err.Error(), "no mvn in PATH") {
		t.Errorf("no mvn: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if err := k.Install(t.Context()); err == nil || !strings.Contains(err.Error(), "needs Java 17 or newer") {
		t.Errorf("no java: %v", err)
	}
	// With the jars there, Maven is not asked for.
	t.Setenv("PATH", fake.dir)
	if err := k.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", only)
	if err := k.Install(t.Context()); err != nil {
		t.Errorf("the jars are there: %v", err)
	}
}

func TestParse(t *testing.T) {
	s, err := Parse("kafka")
	if err != nil || s.Label != "kafka" || s.Kind.Name != "kafka" || len(s.Config) != 0 {
		t.Errorf("%+v %v", s, err)
	}
	s, err = Parse("kafka+flush.messages=1+segment.bytes=1048576")
	if err != nil || s.Label != "kafka+flush.messages=1+segment.bytes=1048576" || len(s.Config) != 2 || s.Config["flush.messages"] != "1" {
		t.Errorf("%+v %v", s, err)
	}
	s, err = Parse("sync=kafka+flush.messages=1")
	if err != nil || s.Label != "sync" || s.Kind.Name != "kafka" || s.Config["flush.messages"] != "1" {
		t.Errorf("%+v %v", s, err)
	}
	for _, bad := range []string{"", "rabbit", "=kafka", "x=rabbit", "kafka+flush.messages", "kafka+flush.messages=", "kafka+flush.mesages=1", "kafka+num.io.threads=4"} {
		if s, err := Parse(bad); err == nil {
			t.Errorf("%q was taken: %+v", bad, s)
		}
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := Parse("iggy"); err == nil || !strings.Contains(err.Error(), "no iggy-server on the PATH") {
		t.Error(err)
	}
}

// saysWhatWentWrong starts peers that fail, and clears them away, until one has said all of want within the time it was given: on a busy machine that may
// be too short for it to say anything.
func saysWhatWentWrong(t *testing.T, want []string, made func() (p Peer, parent string)) {
	t.Helper()
	for within := 3 * time.Second; ; within *= 4 {
		p, parent := made()
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		err := p.Start(ctx)
		if err == nil {
			err = p.Ready(ctx)
		}
		p.Kill()
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		if left, _ := os.ReadDir(parent); len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
		missing := slices.DeleteFunc(slices.Clone(want), func(part string) bool { return err != nil && strings.Contains(err.Error(), part) })
		if len(missing) == 0 {
			return
		}
		if within > time.Minute {
			t.Fatalf("no %q in: %v", missing, err)
		}
	}
}
