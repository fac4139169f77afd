package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode/utf8"
)

// flags is a flag.FlagSet with one-letter aliases, with operands anywhere
// between the flags, and with a help text of the same form for every command.
type flags struct {
	flag.FlagSet
	command  string // "topic create"
	operands string // "TOPIC..."; empty: the command takes none
	about    string // one paragraph
	example  string // command lines
	short    map[string]string
	rest     []string // the operands, once parsed
}

func newFlags(command, operands, about, example string) *flags {
	f := &flags{command: command, operands: operands, about: about, example: example, short: map[string]string{}}
	f.Init(command, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	return f
}

// alias lets -short stand for --long.
func (f *flags) alias(short, long string) {
	f.Var(f.Lookup(long).Value, short, "")
	f.short[long] = short
}

// list declares a flag that may be given several times.
func (f *flags) list(name, usage string) *listFlag {
	l := new(listFlag)
	f.Var(l, name, usage)
	return l
}

// parse reads args. It returns errHelp once the help has been printed to c.out.
func (f *flags) parse(c *cli, args []string) error {
	for {
		err := f.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			f.help(c.out)
			return errHelp
		}
		if err != nil {
			return f.explain(err)
		}
		left := f.Args()
		if len(left) == 0 {
			break
		}
		if at := len(args) - len(left); at > 0 && args[at-1] == "--" {
			f.rest = append(f.rest, left...)
			break
		}
		f.rest = append(f.rest, left[0])
		args = left[1:]
	}
	if f.operands == "" && len(f.rest) > 0 {
		return usagef("unexpected argument %q", f.rest[0])
	}
	return nil
}

// explain words the flag package's errors with two dashes, and names the nearest flag.
func (f *flags) explain(err error) error {
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		var all []string
		f.VisitAll(func(g *flag.Flag) { all = append(all, g.Name) })
		if best := nearest(name, all); best != "" {
			return usagef("unknown flag --%s, did you mean --%s?", name, best)
		}
		return usagef("unknown flag --%s", name)
	}
	text = strings.Replace(text, "flag needs an argument: -", "flag needs an argument: --", 1)
	return errUsage(strings.Replace(text, "for flag -", "for flag --", 1))
}

// given says whether the flag was on the command line.
func (f *flags) given(name string) bool {
	found := false
	f.Visit(func(g *flag.Flag) { found = found || g.Name == name || g.Name == f.short[name] })
	return found
}

func (f *flags) help(w io.Writer) {
	fmt.Fprintf(w, "usage: %s\n\n%s\n", strings.TrimSpace("millrace "+f.command+" [flags] "+f.operands), wrap(f.about, 78))
	aliases := map[string]bool{}
	for _, short := range f.short {
		aliases[short] = true
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprint(t, "\nflags:\n")
	f.VisitAll(func(g *flag.Flag) {
		if aliases[g.Name] {
			return
		}
		value, usage := flag.UnquoteUsage(g)
		name := "--" + g.Name
		if short, ok := f.short[g.Name]; ok {
			name = "-" + short + ", " + name
		}
		if g.DefValue != "" && g.DefValue != "false" {
			usage += fmt.Sprintf(" (default %s)", g.DefValue)
		}
		fmt.Fprintf(t, "  %s\t%s\n", strings.TrimSpace(name+" "+value), usage)
	})
	t.Flush()
	fmt.Fprintf(w, "\nexample:\n  %s\n", strings.ReplaceAll(f.example, "\n", "\n  "))
}

// wrap breaks text into lines of at most width characters, words kept whole.
func wrap(text string, width int) string {
	var b strings.Builder
	column := 0
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
		case column+1+utf8.RuneCountInString(word) > width:
			b.WriteByte('\n')
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += utf8.RuneCountInString(word)
	}
	return b.String()
}

// listFlag is a flag that may be given several times.
type listFlag []string

func (l *listFlag) String() string     { return strings.Join(*l, ",") }
func (l *listFlag) Set(s string) error { *l = append(*l, s); return nil }

// pairs reads key=value strings, in order.
func pairs(list []string) ([][2]string, error) {
	var all [][2]string
	for _, s := range list {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return nil, usagef("%q is not key=value", s)
		}
		all = append(all, [2]string{k, v})
	}
	return all, nil
}
