// Command millrace is the broker, its clients and its instruments in one
// binary: it serves, it makes topics and moves groups, it produces and consumes
// over the Kafka protocol (against any broker that speaks it), it reads segment
// files (ours and Apache Kafka's), it measures, and it says what the machine
// lets it do.
//
// A command is a line in commands and a function in the file that bears its
// name. Results go to standard output, everything else (progress, summaries,
// errors) to standard error. The exit code is 0, 1 when the command failed, 2
// when it was asked wrongly.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
)

// command is a verb, or a noun with verbs below it.
type command struct {
	name  string
	short string // one line, for the list of commands
	below []command
	run   func(c *cli, args []string) error // a client command
	main  func(args []string) int           // serve and bench: they look after their own signals and output
}

// commands is the whole tree. It is a function because help reads it, and help is in it.
func commands() []command {
	return []command{
		{name: "serve", short: "run a broker", main: runServe},
		{name: "topic", short: "create, list, describe, alter and delete topics", below: []command{
			{name: "create", short: "create topics", run: topicCreate},
			{name: "list", short: "list topics", run: topicList},
			{name: "describe", short: "show partitions, replicas, offsets and configs", run: topicDescribe},
			{name: "alter", short: "add partitions, set and unset configs", run: topicAlter},
			{name: "delete", short: "delete topics and all their records", run: topicDelete},
		}},
		{name: "group", short: "list, describe, reset and delete consumer groups", below: []command{
			{name: "list", short: "list groups", run: groupList},
			{name: "describe", short: "show offsets and lag, members or state", run: groupDescribe},
			{name: "reset", short: "move a group's committed offsets", run: groupReset},
			{name: "delete", short: "delete groups and their offsets", run: groupDelete},
		}},
		{name: "produce", short: "write lines to a topic", run: produce},
		{name: "consume", short: "print the records of topics", run: consume},
		{name: "log", short: "read and check the files of partitions", below: []command{
			{name: "dump", short: "print segments, indexes and snapshots", run: logDump},
			{name: "verify", short: "check a data directory for damage", run: logVerify},
		}},
		{name: "explain", short: "say what a setting means, with figures of this broker", below: []command{
			{name: "durability", short: "what each fault takes from a topic, and what each policy costs", run: explainDurability},
		}},
		{name: "bench", short: "measure disks, durability settings and brokers", main: runBench},
		{name: "doctor", short: "say what this machine allows and what would be faster", run: doctor},
		{name: "version", short: "print the version and what is built in", run: version},
		{name: "help", short: "explain a command", run: help},
	}
}

// cli is where a command reads and writes, and how it learns that it should stop.
type cli struct {
	ctx      context.Context // done at the first Ctrl-C; a second one kills
	in       io.Reader
	out, err io.Writer
}

func (c *cli) warnf(format string, args ...any) { fmt.Fprintf(c.err, format+"\n", args...) }

// errUsage is a command asked wrongly: exit code 2.
type errUsage string

func (e errUsage) Error() string { return string(e) }

func usagef(format string, args ...any) error { return errUsage(fmt.Sprintf(format, args...)) }

// errHelp says that the help was asked for and printed.
var errHelp = errors.New("help")

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run finds the command, runs it and turns its error into lines and an exit code.
func run(args []string, in io.Reader, out, errOut io.Writer) int {
	c := &cli{ctx: context.Background(), in: in, out: out, err: errOut}
	if len(args) > 0 && (args[0] == "--help" || args[0] == "-h" || args[0] == "-help") {
		args[0] = "help"
	}
	if len(args) > 0 && args[0] == "--version" {
		args[0] = "version"
	}
	cmd, path, args, err := find(args)
	if err == nil && cmd.main != nil {
		return cmd.main(args)
	}
	if err == nil && cmd.run == nil {
		printCommands(out, path, cmd.below)
		return 0
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		context.AfterFunc(ctx, stop) // the next Ctrl-C is the runtime's: it ends us at once
		defer stop()
		c.ctx = ctx
		err = cmd.run(c, args)
	}
	return c.exit(path, err)
}

// exit prints err, a line for each error joined in it, and returns the exit code.
func (c *cli) exit(path []string, err error) int {
	if err == nil || errors.Is(err, errHelp) {
		return 0
	}
	prefix := strings.Join(append([]string{"millrace"}, strings.Join(path, " ")), ": ")
	if len(path) == 0 {
		prefix = "millrace"
	}
	if usage, ok := errors.AsType[errUsage](err); ok {
		c.warnf("%s: %s (see: %s)", prefix, usage, strings.TrimSpace("millrace help "+strings.Join(path, " ")))
		return 2
	}
	lines := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		lines = joined.Unwrap()
	}
	for _, e := range lines {
		c.warnf("%s: %s", prefix, plain(e))
	}
	return 1
}

// find walks args down the tree. path is as far as it came; what is left are
// the command's own arguments. A noun without a verb is returned as it is.
func find(args []string) (cmd command, path, rest []string, err error) {
	cmd = command{below: commands()}
	for {
		if cmd.below == nil || (len(path) > 0 && (len(args) == 0 || isHelp(args[0]))) {
			return cmd, path, args, nil
		}
		if len(args) == 0 {
			return cmd, path, args, usagef("no command: one of %s", names(cmd.below))
		}
		next, ok := lookup(cmd.below, args[0])
		if !ok {
			return cmd, path, args, usagef("unknown command %q%s", args[0], suggest(args[0], cmd.below))
		}
		cmd, path, args = next, append(path, args[0]), args[1:]
	}
}

func isHelp(arg string) bool { return arg == "-h" || arg == "-help" || arg == "--help" }

func lookup(list []command, name string) (command, bool) {
	for _, c := range list {
		if c.name == name {
			return c, true
		}
	}
	return command{}, false
}

func names(list []command) string {
	var all []string
	for _, c := range list {
		all = append(all, c.name)
	}
	return strings.Join(all, ", ")
}

// suggest is ", did you mean ...?" for the command nearest to what was typed.
func suggest(typed string, list []command) string {
	var all []string
	for _, c := range list {
		all = append(all, c.name)
	}
	if best := nearest(typed, all); best != "" {
		return fmt.Sprintf(", did you mean %q?", best)
	}
	return ": one of " + names(list)
}

// nearest is the name with the fewest edits from typed, or "" when none is
// within a third of its length and one more.
func nearest(typed string, all []string) string {
	best, edits := "", 0
	for _, name := range all {
		d := distance(typed, name)
		if d <= len(name)/3+1 && d < max(len(typed), len(name)) && (best == "" || d < edits) {
			best, edits = name, d
		}
	}
	return best
}

// distance is the Levenshtein distance, where swapping neighbours is one edit too.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

func printCommands(w io.Writer, path []string, list []command) {
	fmt.Fprintf(w, "usage: %s COMMAND [flags]\n\ncommands:\n", strings.Join(append([]string{"millrace"}, path...), " "))
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, c := range list {
		fmt.Fprintf(t, "  %s\t%s\n", c.name, c.short)
	}
	t.Flush()
	fmt.Fprintf(w, "\nmillrace help %s explains one.\n", strings.Join(append(path, "COMMAND"), " "))
}

// help prints the list of commands, or what COMMAND --help prints.
func help(c *cli, args []string) error {
	if len(args) == 0 {
		printCommands(c.out, nil, commands())
		return nil
	}
	cmd, path, rest, err := find(args)
	switch {
	case err != nil:
		return err
	case len(rest) > 0 && !isHelp(rest[0]):
		return usagef("%s has no command %q", strings.Join(path, " "), rest[0])
	case cmd.main != nil:
		cmd.main([]string{"--help"})
		return nil
	case cmd.run == nil:
		printCommands(c.out, path, cmd.below)
		return nil
	case cmd.name == "help":
		return nil
	}
	return cmd.run(c, []string{"--help"})
}
