package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

// recordFormat prints a record: literal text and fields by turns.
type recordFormat []func(dst []byte, r *kgo.Record) []byte

// parseFormat reads a format of kcat's kind: %t topic, %p partition, %o offset,
// %k key, %s payload, %K and %S their lengths (-1: null), %T timestamp in ms,
// %h headers as k=v,k=v, %% a percent sign; \n \t \r \0 \\ and \xHH.
func parseFormat(s string) (recordFormat, error) {
	var f recordFormat
	var literal []byte
	for i := 0; i < len(s); i++ {
		if s[i] != '%' && s[i] != '\\' {
			literal = append(literal, s[i])
			continue
		}
		if i+1 == len(s) {
			return nil, usagef("format %q ends in %q", s, s[i])
		}
		i++
		if s[i-1] == '\\' {
			b, n, err := escape(s[i:])
			if err != nil {
				return nil, usagef("format %q: %v", s, err)
			}
			literal = append(literal, b)
			i += n - 1
			continue
		}
		if s[i] == '%' {
			literal = append(literal, '%')
			continue
		}
		field, ok := formatFields[s[i]]
		if !ok {
			return nil, usagef("format %q: no field %%%c (there are %%t %%p %%o %%k %%s %%K %%S %%T %%h)", s, s[i])
		}
		f = append(f.text(literal), field)
		literal = nil
	}
	return f.text(literal), nil
}

var formatFields = map[byte]func(dst []byte, r *kgo.Record) []byte{
	't': func(dst []byte, r *kgo.Record) []byte { return append(dst, r.Topic...) },
	'p': func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, int64(r.Partition), 10) },
	'o': func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, r.Offset, 10) },
	'k': func(dst []byte, r *kgo.Record) []byte { return append(dst, r.Key...) },
	's': func(dst []byte, r *kgo.Record) []byte { return append(dst, r.Value...) },
	'K': func(dst []byte, r *kgo.Record) []byte { return appendLength(dst, r.Key) },
	'S': func(dst []byte, r *kgo.Record) []byte { return appendLength(dst, r.Value) },
	'T': func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, r.Timestamp.UnixMilli(), 10) },
	'h': func(dst []byte, r *kgo.Record) []byte {
		for i, h := range r.Headers {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(append(append(dst, h.Key...), '='), h.Value...)
		}
		return dst
	},
}

// appendLength appends the length of b, -1 where it is null.
func appendLength(dst, b []byte) []byte {
	if b == nil {
		return append(dst, "-1"...)
	}
	return strconv.AppendInt(dst, int64(len(b)), 10)
}

func (f recordFormat) text(literal []byte) recordFormat {
	if len(literal) == 0 {
		return f
	}
	return append(f, func(dst []byte, _ *kgo.Record) []byte { return append(dst, literal...) })
}

func (f recordFormat) append(dst []byte, r *kgo.Record) []byte {
	for _, part := range f {
		dst = part(dst, r)
	}
	return dst
}

// escape reads what follows a backslash; n is how much of s that is.
func escape(s string) (b byte, n int, err error) {
	if at := strings.IndexByte(`ntr0\`, s[0]); at >= 0 {
		return "\n\t\r\x00\\"[at], 1, nil
	}
	if s[0] == 'x' && len(s) >= 3 {
		if v, err := strconv.ParseUint(s[1:3], 16, 8); err == nil {
			return byte(v), 3, nil
		}
	}
	return 0, 0, fmt.Errorf("unknown escape \\%c", s[0])
}
