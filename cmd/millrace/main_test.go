package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"golang.org/x/sys/unix"
)

// invoke runs a command line in this process.
func invoke(args ...string) (code int, out, errOut string) {
	var o, e bytes.Buffer
	code = run(args, strings.NewReader(""), &o, &e)
	return code, o.String(), e.String()
}

func TestWrongCommandLines(t *testing.T) {
	for _, c := range []struct {
		args string
		want string
	}{
		{"", "millrace: no command: one of serve, topic, group,"},
		{"topik", `millrace: unknown command "topik", did you mean "topic"? (see: millrace help)`},
		{"conusme", `did you mean "consume"?`},
		{"x", `millrace: unknown command "x": one of serve, topic,`},
		{"topic craete", `millrace: topic: unknown command "craete", did you mean "create"? (see: millrace help topic)`},
		{"topic create", "millrace: topic create: no topic named (see: millrace help topic create)"},
		{"topic create t --partition 3", "millrace: topic create: unknown flag --partition, did you mean --partitions? (see: millrace help topic create)"},
		{"topic create t --partitions many", `millrace: topic create: invalid value "many" for flag --partitions: parse error`},
		{"topic create t --partitions", "millrace: topic create: flag needs an argument: --partitions"},
		{"topic create t --config novalue", `millrace: topic create: "novalue" is not key=value`},
		{"topic alter t", "millrace: topic alter: nothing to change"},
		{"topic list t", `millrace: topic list: unexpected argument "t"`},
		{"topic delete", "millrace: topic delete: no topic named"},
		{"group describe --members --state", "millrace: group describe: --offsets, --members and --state exclude each other"},
		{"group delete", "millrace: group delete: no group named"},
		{"group reset", "millrace: group reset: name one group"},
		{"group reset g --topic t", "millrace: group reset: give one of --to-earliest"},
		{"group reset g --topic t --to-earliest --to-latest", "millrace: group reset: give one of --to-earliest"},
		{"group reset g --to-earliest", "millrace: group reset: give either --topic or --all-topics"},
		{"group reset g --topic t --all-topics --to-latest", "millrace: group reset: give either --topic or --all-topics"},
		{"group reset g --topic t:x --to-latest", `millrace: group reset: "t:x" is not TOPIC or TOPIC:0,1,2`},
		{"group reset g --topic t --to-latest --execute --dry-run", "millrace: group reset: --execute and --dry-run exclude each other"},
		{"group reset g --topic t --to-datetime noon", `millrace: group reset: "noon" is not a time`},
		{"group reset g --topic t --by-duration P1Y", `millrace: group reset: "P1Y" is not a duration`},
		{"produce", "millrace: produce: name one topic"},
		{"produce t --acks 2", `millrace: produce: --acks "2" is not all, 1 or 0`},
		{"produce t -z brotli", `millrace: produce: --compression "brotli" is not none,`},
		{"produce t -H novalue", `millrace: produce: "novalue" is not key=value`},
		{"consume", "millrace: consume: no topic named"},
		{"consume t --from-beginning --offset 3", "millrace: consume: --from-beginning, --from-time and --offset exclude each other"},
		{"consume t --group g --partition 1", "millrace: consume: --partition and --offset go without --group"},
		{"consume t --format %q", `millrace: consume: format "%q": no field %q`},
		{"consume t --format %s --print-key", "millrace: consume: --format says it all"},
		{"log dump", "millrace: log dump: no file named"},
		{"log verify", "millrace: log verify: no directory named"},
		{"version now", `millrace: version: unexpected argument "now"`},
		{"help topic nothing", `millrace: help: unknown command`},
	} {
		t.Run(c.args, func(t *testing.T) {
			code, out, errOut := invoke(strings.Fields(c.args)...)
			if code != 2 || out != "" {
				t.Errorf("exit code %d, want 2; printed %q", code, out)
			}
			if c.args == "help topic nothing" {
				c.want = `unknown command "nothing"`
			}
			if !strings.Contains(errOut, c.want) || strings.Count(errOut, "\n") != 1 {
				t.Errorf("got  %q\nwant %q in one line", errOut, c.want)
			}
		})
	}
}

// Every command of ours explains itself: usage, a paragraph, flags, an example.
func TestHelp(t *testing.T) {
	var walk func(path []string, list []command)
	walk = func(path []string, list []command) {
		for _, cmd := range list {
			at := append(append([]string{}, path...), cmd.name)
			if cmd.below != nil {
				code, out, _ := invoke(append([]string{"help"}, at...)...)
				if code != 0 || !strings.Contains(out, cmd.below[0].short) {
					t.Errorf("help %v: exit code %d, printed %q", at, code, out)
				}
				walk(at, cmd.below)
			}
			if cmd.run == nil || cmd.name == "help" {
				continue
			}
			code, out, errOut := invoke(append([]string{"help"}, at...)...)
			direct, same, _ := invoke(append(at, "--help")...)
			if code != 0 || direct != 0 || out != same || errOut != "" {
				t.Errorf("help %v: exit codes %d and %d, the same %t, error %q", at, code, direct, out == same, errOut)
			}
			usage := "usage: millrace " + strings.Join(at, " ") + " [flags]"
			if !strings.HasPrefix(out, usage) || !strings.Contains(out, "\nflags:\n") || !strings.Contains(out, "\nexample:\n  millrace "+strings.Join(at, " ")) &&
				!strings.Contains(out, "| millrace "+strings.Join(at, " ")) {
				t.Errorf("help %v:\n%s", at, out)
			}
		}
	}
	walk(nil, commands())
	if code, out, _ := invoke("--help"); code != 0 || !strings.Contains(out, "doctor") {
		t.Errorf("--help: exit code %d, printed %q", code, out)
	}
}

func TestNearest(t *testing.T) {
	all := []string{"create", "list", "describe", "alter", "delete"}
	for typed, want := range map[string]string{"crate": "create", "lsit": "list", "desc": "", "delet": "delete", "zzz": "", "alter": "alter", "": ""} {
		if got := nearest(typed, all); got != want {
			t.Errorf("nearest(%q) = %q, want %q", typed, got, want)
		}
	}
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0}, {"abcd", "acbd", 1}, {"kitten", "sitting", 3}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestOperandsAndFlagsMix(t *testing.T) {
	f := newFlags("x", "WHAT...", "", "")
	name := f.String("name", "none", "")
	f.alias("n", "name")
	list := f.list("item", "")
	other := f.Bool("other", false, "")
	if err := f.parse(&cli{}, []string{"a", "-n", "v", "b", "--item=1", "--item", "2", "--", "--other"}); err != nil {
		t.Fatal(err)
	}
	if *name != "v" || fmt.Sprint(*list) != "[1 2]" || fmt.Sprint(f.rest) != "[a b --other]" || *other {
		t.Errorf("name %q, items %v, rest %q, other %t", *name, *list, f.rest, *other)
	}
	if !f.given("name") || f.given("other") {
		t.Errorf("given: name %t, other %t", f.given("name"), f.given("other"))
	}
}

func TestNoBroker(t *testing.T) {
	// A port that is taken, so that nobody else gets it, and on which nobody listens.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", at.(*unix.SockaddrInet4).Port)
	code, _, errOut := invoke("topic", "list", "-b", addr)
	if want := "millrace: topic list: no broker at " + addr; code != 1 || !strings.HasPrefix(errOut, want) || strings.Count(errOut, "\n") != 1 {
		t.Errorf("exit code %d, error %q, want 1 and %q in one line", code, errOut, want)
	}
}

func TestPlainErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{about("topic", "x", kerr.TopicAlreadyExists, "Topic 'x' already exists."), `topic "x": already exists`},
		{about("group", "g", fmt.Errorf("offsets: %w", kerr.GroupIDNotFound), ""), `group "g": offsets: does not exist`},
		{about("topic", "x", kerr.InvalidConfig, "Unknown config foo."), `topic "x": Unknown config foo (INVALID_CONFIG)`},
		{kerr.NotController, "This is not the correct controller for this cluster (NOT_CONTROLLER)"},
		{fmt.Errorf("two\nlines"), "two lines"},
	} {
		if got := plain(c.err); got != c.want {
			t.Errorf("got  %q\nwant %q", got, c.want)
		}
	}
	if about("topic", "x", nil, "") != nil {
		t.Error("no error became one")
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	table := newTable(&b, "NAME", "N", "HOST")
	table.row("long-name", int64(-1), "/127.0.0.1")
	table.row("", 7, nil)
	table.Flush()
	want := "NAME       N  HOST\nlong-name  -  /127.0.0.1\n-          7  -\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestVersion(t *testing.T) {
	code, out, _ := invoke("version")
	if code != 0 || !strings.HasPrefix(out, "millrace ") || !strings.Contains(out, "posix") {
		t.Errorf("exit code %d, printed %q", code, out)
	}
	if v := describeBuild(nil); v.Commit != "unknown" {
		t.Errorf("commit %q without build information", v.Commit)
	}
}
