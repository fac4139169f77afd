package wire

import (
	"fmt"
	"strconv"
	"strings"
)

// A shape is the structure of a request: what kmsg needs to be told, because it
// believes the counts that it reads. (One tagged-field count of 2^32-1 keeps it
// busy for a minute, an array count makes it allocate a structure for each byte
// that is left.) A shape is written as fields in the order of the wire:
//
//	1 2 4 8 16      an integer, bool or id of that many bytes
//	s b             a string, bytes; null or not
//	*4 *s           an array of integers, of strings
//	[ ... ]         an array of structures
//	?{ ... }        a structure that may be null
//	4@3 s@0-7 ]@8   only from version 3, in versions 0 to 7; an array from 8
//
// Tagged fields end every structure of a flexible version.
type shape []field

type field struct {
	kind     byte // one of 's', 'b', '*', '[', '?'; 0: fixed size
	size     int  // of a fixed one
	min, max int16
	inner    shape
}

var shapes [len(APIs)]shape

func init() {
	for key := range APIs {
		if APIs[key].Request == "" {
			continue
		}
		tokens := strings.Fields(APIs[key].Request)
		s, rest := parseShape(tokens)
		if len(rest) != 0 {
			panic(fmt.Sprintf("BUG: wire: shape of %s: %q is left", APIs[key].Name, rest))
		}
		shapes[key] = s
	}
}

// parseShape reads fields up to the end or to a closing token, which is left.
func parseShape(tokens []string) (s shape, rest []string) {
	for len(tokens) > 0 && tokens[0][0] != ']' && tokens[0][0] != '}' {
		token := tokens[0]
		tokens = tokens[1:]
		var f field
		if token == "[" || token == "?{" {
			f.kind = token[0]
			f.inner, tokens = parseShape(tokens)
			token, tokens = tokens[0], tokens[1:] // the closing one has the versions
		}
		kind, versions, gated := strings.Cut(token, "@")
		f.min, f.max = 0, never
		if gated {
			from, to, bounded := strings.Cut(versions, "-")
			f.min = int16(mustAtoi(from))
			if bounded {
				f.max = int16(mustAtoi(to))
			}
		}
		switch {
		case f.kind != 0:
		case kind == "s" || kind == "b":
			f.kind = kind[0]
		case kind[0] == '*':
			f.kind = '*'
			f.inner, _ = parseShape([]string{kind[1:]})
		default:
			f.size = mustAtoi(kind)
		}
		s = append(s, f)
	}
	return s, tokens
}

func mustAtoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(fmt.Sprintf("BUG: wire: shape: %v", err))
	}
	return n
}

// skip walks one structure of that shape, tagged fields included.
func (d *decoder) skip(s shape, version int16) {
	d.skipFields(s, version)
	d.tags()
}

func (d *decoder) skipFields(s shape, version int16) {
	for i := range s {
		f := &s[i]
		if version < f.min || version > f.max || d.bad {
			continue
		}
		switch f.kind {
		case 's':
			d.nullableString()
		case 'b':
			d.nullableBytes()
		case '[':
			for n := d.count(); n > 0 && !d.bad; n-- {
				d.skip(f.inner, version)
			}
		case '*':
			for n := d.count(); n > 0 && !d.bad; n-- {
				d.skipFields(f.inner, version)
			}
		case '?':
			if d.int8() >= 0 {
				d.skip(f.inner, version)
			}
		default:
			d.bytes(f.size)
		}
	}
}
