package omb

import (
	"fmt"
	"strconv"
	"strings"
)

// Property is one line of a Java properties text.
type Property struct {
	Key, Value string
	Line       int // from 1; in a Driver, of the file
}

// Properties are in the order of the text. A later one of the same key counts.
type Properties []Property

// ParseProperties reads what java.util.Properties.load does: key=value, key:value or key value; # and ! begin a comment; a
// backslash at the end continues a line; \t, \n, \r, \f and \uXXXX. Blanks at the end of a value are cut, as Kafka's configuration does.
func ParseProperties(text string) (Properties, error) {
	var all Properties
	lines := strings.Split(strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		first, line := i+1, strings.TrimLeft(lines[i], " \t\f")
		if line == "" || line[0] == '#' || line[0] == '!' {
			continue
		}
		for continued(line) {
			line = line[:len(line)-1]
			if i++; i == len(lines) {
				break
			}
			line += strings.TrimLeft(lines[i], " \t\f")
		}
		end := keyEnd(line)
		rest := strings.TrimLeft(line[end:], " \t\f")
		if rest != "" && (rest[0] == '=' || rest[0] == ':') {
			rest = strings.TrimLeft(rest[1:], " \t\f")
		}
		key, err := unescape(line[:end])
		if err != nil {
			return nil, fmt.Errorf("line %d of the text: %w", first, err)
		}
		value, err := unescape(rest)
		if err != nil {
			return nil, fmt.Errorf("line %d of the text: %s: %w", first, key, err)
		}
		all = append(all, Property{key, strings.TrimRight(value, " \t\f"), first})
	}
	return all, nil
}

// continued reports whether a line ends with an odd number of backslashes.
func continued(line string) bool {
	return (len(line)-len(strings.TrimRight(line, `\`)))%2 == 1
}

// keyEnd is where a line's key ends: at the first blank, = or : without a backslash before it.
func keyEnd(line string) int {
	for i := 0; i < len(line); i++ {
		switch line[i] {
		case '\\':
			i++
		case '=', ':', ' ', '\t', '\f':
			return i
		}
	}
	return len(line)
}

func unescape(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch s[i] {
		case 't':
			b.WriteByte('\t')
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 'f':
			b.WriteByte('\f')
		case 'u':
			if i+4 >= len(s) {
				return "", fmt.Errorf(`\u%s is not four hexadecimal digits`, s[i+1:])
			}
			n, err := strconv.ParseUint(s[i+1:i+5], 16, 16)
			if err != nil {
				return "", fmt.Errorf(`\u%s is not four hexadecimal digits`, s[i+1:i+5])
			}
			b.WriteRune(rune(n))
			i += 4
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), nil
}

// Map gives each key its last value.
func (p Properties) Map() map[string]string {
	m := map[string]string{}
	for _, x := range p {
		m[x.Key] = x.Value
	}
	return m
}
