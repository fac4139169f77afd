package fault

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/ring"
)

// Parse reads rules: see the package comment. What follows a semicolon is a
// comment. An error names the rule and the position, as line:column.
func Parse(text string) (*Rules, error) {
	r := &Rules{paths: map[ring.FD]string{}}
	if err := r.Add(text); err != nil {
		return nil, err
	}
	return r, nil
}

// token is a parenthesis, a "string" (with its quotes) or a word.
type token struct {
	text string
	at   int // offset in the text
}

// parser reads one text. Mistakes are panics of parseError, within parse.
type parser struct {
	text   string
	tokens []token
	next   int
	number int    // of the rule, from 1
	verb   string // its verb, once that is known
}

type parseError string

func parse(text string) (rules []*rule, err error) {
	p := &parser{text: text}
	defer func() {
		switch e := recover().(type) {
		case nil:
		case parseError:
			err = fmt.Errorf("fault: %s", string(e))
		default:
			panic(e)
		}
	}()
	p.scan()
	for p.next < len(p.tokens) {
		p.number++
		p.verb = ""
		rules = append(rules, p.rule())
	}
	return rules, nil
}

func (p *parser) fail(at int, format string, args ...any) {
	line := 1 + strings.Count(p.text[:at], "\n")
	column := at - strings.LastIndexByte(p.text[:at], '\n')
	rule := ""
	switch {
	case p.verb != "":
		rule = fmt.Sprintf("rule %d (%s): ", p.number, p.verb)
	case p.number > 0:
		rule = fmt.Sprintf("rule %d: ", p.number)
	}
	panic(parseError(fmt.Sprintf("%s%d:%d: ", rule, line, column) + fmt.Sprintf(format, args...)))
}

func (p *parser) scan() {
	for i := 0; i < len(p.text); {
		start := i
		switch c := p.text[i]; c {
		case ' ', '\t', '\n', '\r':
			i++
			continue
		case ';':
			for i < len(p.text) && p.text[i] != '\n' {
				i++
			}
			continue
		case '(', ')':
			i++
		case '"':
			for i++; i < len(p.text) && p.text[i] != '"'; i++ {
				if p.text[i] == '\n' {
					p.fail(start, "a string without its end")
				}
			}
			if i++; i > len(p.text) {
				p.fail(start, "a string without its end")
			}
		default:
			for i < len(p.text) && !slices.Contains([]byte(" \t\r\n();\""), p.text[i]) {
				i++
			}
		}
		p.tokens = append(p.tokens, token{p.text[start:i], start})
	}
}

func (p *parser) take() token {
	if p.next == len(p.tokens) {
		p.fail(len(p.text), "the text ends inside a rule")
	}
	p.next++
	return p.tokens[p.next-1]
}

func (p *parser) expect(what string) token {
	t := p.take()
	if t.text != what {
		p.fail(t.at, "%s, want %s", t.text, what)
	}
	return t
}

func (p *parser) rule() *rule {
	r := &rule{after: -1, effect: none}
	begin := p.expect("(")
	t := p.take()
	v := slices.Index(verbNames[:], t.text)
	if v < 0 {
		p.fail(t.at, "%s is no verb", t.text)
	}
	r.verb, p.verb = verb(v), t.text
	for {
		switch t = p.take(); t.text {
		case ")":
			if r.effect == none {
				p.fail(t.at, "the rule has no effect")
			}
			r.text = p.text[begin.at : t.at+1]
			return r
		case "(":
			p.clause(r, p.take())
			p.expect(")")
		default:
			p.effect(r, t)
		}
	}
}

// clause reads what is inside parentheses: a condition, or an effect.
func (p *parser) clause(r *rule, t token) {
	switch t.text {
	case "path":
		t = p.take()
		if len(t.text) < 3 || t.text[0] != '"' {
			p.fail(t.at, "%s, want a path in quotes", t.text)
		}
		r.glob = t.text[1 : len(t.text)-1]
		if _, err := filepath.Match(r.glob, ""); err != nil {
			p.fail(t.at, "%s: %v", t.text, err)
		}
	case "nth":
		r.nth = p.count(1)
	case "every":
		r.every = p.count(1)
	case "from":
		r.from = p.count(1)
	case "after-bytes":
		r.after = p.count(0)
	case "delay":
		t = p.take()
		d, err := time.ParseDuration(t.text)
		if err != nil || d <= 0 {
			p.fail(t.at, "%s is no time, such as 5ms", t.text)
		}
		r.delay = d
	default:
		p.effect(r, t)
	}
}

func (p *parser) effect(r *rule, t token) {
	if was := r.effect; was.errno != 0 || was.short >= 0 || was.torn != -1 || was.lie || was.loose {
		p.fail(t.at, "%s is a second effect", t.text)
	}
	only := func(allowed ...verb) {
		if !slices.Contains(allowed, r.verb) {
			p.fail(t.at, "%s is not for %s", t.text, verbNames[r.verb])
		}
	}
	switch t.text {
	case "short":
		only(vRead, vWrite, vRecv, vSend, vSendFile)
		r.short = p.count(0)
	case "torn":
		only(vWrite)
		r.torn = tornHalf
		if p.next < len(p.tokens) && isDigit(p.tokens[p.next].text[0]) {
			r.torn = p.count(0)
		}
	case "lie":
		only(vWrite, vSync, vSyncDir)
		r.lie = true
	case "unsynced":
		only(vWrite)
		r.loose = true
	default:
		if r.errno = errnoNamed(t.text); r.errno == 0 {
			p.fail(t.at, "%s is neither a condition nor an effect", t.text)
		}
	}
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func (p *parser) count(least int64) int64 {
	t := p.take()
	n, err := strconv.ParseInt(t.text, 10, 64)
	if err != nil || n < least {
		p.fail(t.at, "%s is no number of %d or more", t.text, least)
	}
	return n
}

// errnoNamed is the error of a name such as EIO, 0 if there is none.
func errnoNamed(name string) syscall.Errno {
	for e := syscall.Errno(1); e < 256; e++ {
		if unix.ErrnoName(e) == name {
			return e
		}
	}
	return 0
}
