package bench

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/bench/peer"
	"golang.org/x/sys/unix"
)

func TestParseProduce(t *testing.T) {
	p, err := parseProduce(strings.Fields("--compare write,file,interval,os --rate 5000 --topic-config a=b --topic-config c=d=e --peer-bootstrap kafka=127.0.0.1:9092 --override x=y --update B.md --runs 3"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var own []string
	for _, row := range p.ours {
		own = append(own, row.name)
	}
	if !slices.Equal(own, []string{"write", "file", "interval", "os"}) || !p.serve || p.workload.Rate != 5000 ||
		p.workload.TopicConfig["c"] != "d=e" || len(p.peers) != 1 || p.rule.Runs != 3 {
		t.Errorf("%+v", p)
	}
}

func TestParseProduceRefuses(t *testing.T) {
	for _, bad := range []string{
		"--compare fast",
		"--compare journal+posix",
		"--compare journal,journal",
		"--compare journal+append.inline=false --bootstrap-server x:1",
		"--serve --bootstrap-server x:1",
		"--update B.md",
		"--compare os --runs 0",
		"--confine maybe",
		"--peer-bootstrap kafka",
		"--size 10",
		"--topic-config flush",
		"--peer rabbit",
		"--peer kafka+flush.mesages=1",
		"--peer kafka --peer kafka",
		"--peer os=kafka --compare os",
		"--partitions 1,16",
		"--partitions 1,1 --compare os",
		"--partitions 0,1 --compare os",
		"--partitions many",
		"stray",
		"--no-such-flag",
	} {
		if _, err := parseProduce(strings.Fields(bad), io.Discard); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestParseProduceWithPeers(t *testing.T) {
	p, err := parseProduce(strings.Fields("--peer kafka --peer sync=kafka+flush.messages=1 --partitions 1,16,256"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if !p.comparing() || len(p.managed) != 2 || !slices.Equal(p.partitions, []int{1, 16, 256}) || p.workload.Partitions != 1 || p.of(16).Partitions != 16 {
		t.Errorf("%+v", p)
	}
	rows, err := p.rows(Confinement{Broker: []int{0}})
	if err != nil || len(rows) != 2 || rows[1].Name != "sync" || rows[1].Config["flush.messages"] != "1" {
		t.Fatalf("%+v %v", rows, err)
	}
	if m := rows[1].Target.(*Managed); !slices.Equal(m.CPUs, []int{0}) || m.Peer == rows[0].Target.(*Managed).Peer {
		t.Errorf("%+v", m)
	}
}

func TestParseOwn(t *testing.T) {
	p, err := parseProduce(strings.Fields("--compare journal,journal+ring.backend=posix,slow=os+a=b+c=d --override x=y"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := p.rows(Confinement{})
	if err != nil || len(rows) != 3 {
		t.Fatalf("%+v %v", rows, err)
	}
	for i, want := range []struct {
		name, policy string
		overrides    []string
	}{
		{"journal", "journal", []string{"x=y", "flush.policy=journal"}},
		{"journal+ring.backend=posix", "journal", []string{"x=y", "flush.policy=journal", "ring.backend=posix"}},
		{"slow", "os", []string{"x=y", "flush.policy=os", "a=b", "c=d"}},
	} {
		if s := rows[i].Target.(*Serve); rows[i].Name != want.name || rows[i].Policy != want.policy || !slices.Equal(s.Overrides, want.overrides) {
			t.Errorf("%+v with %v, want %+v", rows[i], s.Overrides, want)
		}
	}
}

func TestMainUsage(t *testing.T) {
	for args, want := range map[string]int{"": exitUsage, "report": exitUsage, "report -h": exitOK, "compare": exitUsage, "help": exitOK, "nothing": exitUsage, "consume -h": exitOK, "produce --rate x": exitUsage, "produce -h": exitOK, "ceiling -h": exitOK, "ceiling --rate 0": exitUsage, "disk -h": exitOK, "durability": exitUsage, "durability -h": exitOK, "disk --seconds 0": exitUsage,
		"trace stray": exitUsage, "trace --worst -1": exitUsage, "trace --duration -1s": exitUsage, "trace --no-such-flag": exitUsage, "trace -h": exitOK} {
		var out bytes.Buffer
		if got := Main(strings.Fields(args), nil, &out, &out); got != want || out.Len() == 0 {
			t.Errorf("%q exits %d with %d bytes said, want %d", args, got, out.Len(), want)
		}
	}
}

// silentAddress is a port that is taken, so that nobody else gets it, and on which nobody listens.
func silentAddress(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", at.(*unix.SockaddrInet4).Port)
}

func TestMainUnreachableBroker(t *testing.T) {
	address := silentAddress(t)
	path := filepath.Join(t.TempDir(), "out.json")
	p, err := parseProduce([]string{"--bootstrap-server", address, "--out", path}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if p.serve || p.comparing() {
		t.Errorf("%+v", p)
	}
	if err := peer.TakesTopics(t.Context(), address); err == nil {
		t.Errorf("a broker answers at %s", address)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a result without a run")
	}
}

func TestCommandLineQuotes(t *testing.T) {
	got := commandLine([]string{"produce", "--dir", "/a b", "--x", "it's", "--y", "", "--compare", "os,write"})
	if want := `millrace bench produce --dir '/a b' --x 'it'\''s' --y '' --compare os,write`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
