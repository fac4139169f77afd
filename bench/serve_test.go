package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestMain lets the test binary be the broker that Serve starts: it answers
// what asks whether it is ready, and nothing else. It is the real null broker.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		os.Exit(pretendToServe(os.Args[2:]))
	}
	if len(os.Args) > 2 && os.Args[1] == "bench" { // a NullBroker
		os.Exit(Program{Rings: testRings()}.Main(os.Args[2:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func pretendToServe(args []string) int {
	settings := pairs{}
	for i := 0; i+1 < len(args); i += 2 {
		if args[i] != "--override" || settings.Set(args[i+1]) != nil {
			fmt.Fprintf(os.Stderr, "unexpected arguments %q\n", args)
			return 2
		}
	}
	if settings["flush.policy"] == "broken" {
		fmt.Fprintln(os.Stderr, "flush.policy: broken is not a policy")
		return 1
	}
	if err := os.WriteFile(settings["log.dirs"]+"/file", []byte("x"), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	listener, err := net.Listen("tcp", strings.TrimPrefix(settings["listeners"], "PLAINTEXT://"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go acceptAll(listener)
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	<-term
	return 0
}

// acceptAll answers until the listener is closed.
func acceptAll(listener net.Listener) {
	for {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		go answer(c, listener.Addr().(*net.TCPAddr))
	}
}

// answer replies to ApiVersions, Metadata and CreateTopics until the connection ends.
func answer(c net.Conn, self *net.TCPAddr) {
	defer c.Close()
	var size [4]byte
	for {
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		frame := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(c, frame); err != nil {
			return
		}
		r := kbin.Reader{Src: frame}
		key, version, correlation := r.Int16(), r.Int16(), r.Int32()
		var resp kmsg.Response
		switch key {
		case 18:
			v := kmsg.NewPtrApiVersionsResponse()
			for k, last := range map[int16]int16{3: 4, 18: 3, 19: 4} {
				v.ApiKeys = append(v.ApiKeys, kmsg.ApiVersionsResponseApiKey{ApiKey: k, MaxVersion: last})
			}
			version = min(version, 3)
			resp = v
		case 3:
			v := kmsg.NewPtrMetadataResponse()
			b := kmsg.NewMetadataResponseBroker()
			b.Host, b.Port = self.IP.String(), int32(self.Port)
			v.Brokers, v.ControllerID = append(v.Brokers, b), b.NodeID
			resp = v
		case 19:
			v := kmsg.NewPtrCreateTopicsResponse()
			v.Topics = append(v.Topics, kmsg.NewCreateTopicsResponseTopic())
			resp = v
		default:
			return
		}
		resp.SetVersion(version)
		out := binary.BigEndian.AppendUint32(nil, uint32(correlation))
		if resp.IsFlexible() && key != 18 {
			out = append(out, 0)
		}
		out = resp.AppendTo(out)
		if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(out))), out...)); err != nil {
			return
		}
	}
}

// started starts s. Another process may have taken its port in the moment in which
// nobody had it: then again, on another one.
func started(ctx context.Context, t *testing.T, s *Serve) {
	t.Helper()
	err := s.Start(ctx)
	for try := 1; err != nil && strings.Contains(err.Error(), "address already in use") && try < 5; try++ {
		err = s.Start(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func newServe(t *testing.T, policy string, cpus []int) *Serve {
	t.Helper()
	s := &Serve{Kafka: Kafka{Name: "test"}, Binary: os.Args[0], Parent: t.TempDir(), Overrides: []string{"flush.policy=" + policy}, CPUs: cpus}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// alive reports whether a process is there and is not a zombie.
func alive(pid int) bool {
	return syscall.Kill(pid, 0) == nil && !strings.Contains(readFile(fmt.Sprintf("/proc/%d/stat", pid)), ") Z ")
}

func TestServeStartsConfinedAndLeavesNothing(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cpus := allowedCPUs(0)[:1]
	s := newServe(t, "os", cpus)
	for range 2 { // a target is started once for each run
		started(ctx, t, s)
		info := s.Info()
		if got := allowedCPUs(info.PID); !slices.Equal(got, cpus) {
			t.Errorf("the broker may run on CPUs %v, want %v", got, cpus)
		}
		if info.Ready <= 0 || info.Brokers != 1 || info.CPUs != cpuList(cpus) || !slices.Contains(info.Command, "flush.policy=os") {
			t.Errorf("%+v", info)
		}
		if pid := listenerPID(s.Address); pid != info.PID {
			t.Errorf("process %d listens on %s, want %d", pid, s.Address, info.PID)
		}
		if _, err := os.Stat(info.DataDir + "/file"); err != nil {
			t.Error(err)
		}
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		if alive(info.PID) {
			t.Errorf("process %d is still there", info.PID)
		}
		if left, _ := os.ReadDir(s.Parent); len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

func TestServeThatEndsSaysWhy(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	s := newServe(t, "broken", nil)
	err := s.Start(ctx)
	if err == nil || !strings.Contains(err.Error(), "broken is not a policy") || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("error %v", err)
	}
	if left, _ := os.ReadDir(s.Parent); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestServeWithoutProgram(t *testing.T) {
	s := newServe(t, "os", nil)
	s.Binary += "-that-is-not-there"
	if err := s.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "that-is-not-there") {
		t.Errorf("error %v", err)
	}
	if left, _ := os.ReadDir(s.Parent); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestConfineAndBack(t *testing.T) {
	s := newServe(t, "os", nil)
	started(t.Context(), t, s)
	pid, before := s.Info().PID, allowedCPUs(s.Info().PID)
	if err := confine(pid, before[:1]); err != nil {
		t.Fatal(err)
	}
	if got := allowedCPUs(pid); !slices.Equal(got, before[:1]) {
		t.Errorf("confined to %v, want %v", got, before[:1])
	}
	if err := confine(pid, before); err != nil {
		t.Fatal(err)
	}
	if got := allowedCPUs(pid); !slices.Equal(got, before) {
		t.Errorf("back on %v, want %v", got, before)
	}
	if err := confine(1<<22+1, before); err == nil { // above pid_max
		t.Error("a process that is not there was confined")
	}
}
