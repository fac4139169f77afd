package bench

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseProduce(t *testing.T) {
	p, err := parseProduce(strings.Fields("--compare write,file,interval,os --rate 5000 --topic-config a=b --topic-config c=d=e --peer-bootstrap kafka=127.0.0.1:9092 --override x=y --update B.md --runs 3"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.policies, []string{"write", "file", "interval", "os"}) || !p.serve || p.workload.Rate != 5000 ||
		p.workload.TopicConfig["c"] != "d=e" || len(p.peers) != 1 || p.rule.Runs != 3 {
		t.Errorf("%+v", p)
	}
}

func TestParseProduceRefuses(t *testing.T) {
	for _, bad := range []string{
		"--compare fast",
		"--serve --bootstrap-server x:1",
		"--update B.md",
		"--compare os --runs 0",
		"--confine maybe",
		"--peer-bootstrap kafka",
		"--size 10",
		"--topic-config flush",
		"stray",
		"--no-such-flag",
	} {
		if _, err := parseProduce(strings.Fields(bad), io.Discard); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestMainUsage(t *testing.T) {
	for args, want := range map[string]int{"": exitUsage, "help": exitOK, "consume": exitUsage, "produce --rate x": exitUsage, "produce -h": exitOK} {
		var out bytes.Buffer
		if got := Main(strings.Fields(args), &out, &out); got != want || out.Len() == 0 {
			t.Errorf("%q exits %d with %d bytes said, want %d", args, got, out.Len(), want)
		}
	}
}

func TestMainUnreachableBroker(t *testing.T) {
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "out.json")
	p, err := parseProduce([]string{"--bootstrap-server", address, "--out", path}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if p.serve || p.comparing() {
		t.Errorf("%+v", p)
	}
	if err := ping(t.Context(), address); err == nil {
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
