package config

import (
	"bufio"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
)

// Broker is what is set for a broker: checked values by key. Not to be changed once in use.
type Broker struct {
	set    map[string]string
	source map[string]string // where a value came from, for messages
}

// Parse reads server.properties, given as text, and overrides (key=value), which win.
// Errors name the file, the line and the key; warnings are about Kafka's keys that
// do nothing here.
func Parse(file, text string, overrides []string) (*Broker, []string, error) {
	p := &parser{b: &Broker{set: map[string]string{}, source: map[string]string{}}}
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, 1<<20)
	n := 0
	for lines.Scan() {
		n++
		first := n
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' || line[0] == '!' {
			continue
		}
		for continued(line) { // as Java's properties have it
			line = line[:len(line)-1]
			if !lines.Scan() {
				break
			}
			n++
			line += strings.TrimSpace(lines.Text())
		}
		where := fmt.Sprintf("%s:%d", file, first)
		at := strings.IndexAny(line, "=:")
		if at <= 0 {
			return nil, nil, fmt.Errorf("%s: %q is not key=value", where, line)
		}
		if err := p.put(where, strings.TrimSpace(line[:at]), strings.TrimSpace(line[at+1:])); err != nil {
			return nil, nil, err
		}
	}
	if err := lines.Err(); err != nil {
		return nil, nil, fmt.Errorf("%s:%d: %w", file, n+1, err)
	}
	for _, o := range overrides {
		key, value, ok := strings.Cut(o, "=")
		key = strings.TrimSpace(key)
		if !ok || key == "" {
			return nil, nil, fmt.Errorf("--override %s: not key=value", o)
		}
		if err := p.put("--override "+key, key, strings.TrimSpace(value)); err != nil {
			return nil, nil, err
		}
	}
	if err := p.check(); err != nil {
		return nil, nil, err
	}
	return p.b, p.warnings, nil
}

// continued says that a line ends in a backslash that is not itself escaped.
func continued(line string) bool {
	n := len(line) - len(strings.TrimRight(line, `\`))
	return n%2 == 1
}

// parser is what Parse puts together.
type parser struct {
	b           *Broker
	warnings    []string
	controllers string // controller.listener.names
}

func (p *parser) put(where, key, value string) error {
	if to, ok := aliases[key]; ok {
		key = to
	}
	if key == "controller.listener.names" {
		p.controllers = value
	}
	k := brokerByName[key]
	if k == nil {
		if isRefused(key, value) {
			return fmt.Errorf("%s: %s is Kafka's and nothing here does what it says: this broker neither authenticates nor authorizes nor encrypts. Take it out, and keep strangers from the listener by other means", where, key)
		}
		if !isIgnored(key) {
			return fmt.Errorf("%s: unknown key %s%s", where, key, nearest(key))
		}
		p.warnings = append(p.warnings, fmt.Sprintf("%s: %s is Kafka's and does nothing here", where, key))
		return nil
	}
	if value == "" {
		switch {
		case k.Default == unset: // as if it were not there
			delete(p.b.set, key)
			return nil
		case key != "admin.listener":
			return fmt.Errorf("%s: %s has no value", where, key)
		}
	} else {
		var err error
		if value, err = k.Check(value); err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
	}
	p.b.set[key], p.b.source[key] = value, where
	return nil
}

func isIgnored(key string) bool {
	if ignored[key] || isProtection(key) { // of these only values that ask for nothing come here
		return true
	}
	for _, prefix := range ignoredPrefixes {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// isRefused says whether a key switches on a protection that does not exist here.
func isRefused(key, value string) bool {
	switch strings.ToLower(value) {
	case "", "none", "true": // true: only allow.everyone.if.no.acl.found has such values
		return false
	}
	return isProtection(key)
}

// isProtection says whether a key is one of refusedKeys.
func isProtection(key string) bool {
	name := key
	if rest, ok := strings.CutPrefix(key, "listener.name."); ok {
		_, name, _ = strings.Cut(rest, ".")
	}
	for _, refused := range refusedKeys {
		switch {
		case name == refused,
			strings.HasSuffix(refused, ".") && strings.HasPrefix(name, refused),
			name != key && strings.HasSuffix(name, "."+refused): // listener.name.NAME.MECHANISM.sasl.jaas.config
			return true
		}
	}
	return false
}

// check looks at what concerns several keys.
func (p *parser) check() error {
	b := p.b
	for _, key := range []string{"listeners", "advertised.listeners"} {
		p.dropControllers(key)
	}
	if _, err := b.Listener(); err != nil {
		return fmt.Errorf("%s: %w", b.where("listeners"), err)
	}
	if _, _, err := b.Advertised(); err != nil {
		return fmt.Errorf("%s: %w", b.where("advertised.listeners"), err)
	}
	if strings.Contains(b.String("log.dirs"), ",") {
		return fmt.Errorf("%s: log.dirs: one directory is supported, not a list", b.where("log.dirs"))
	}
	if tail, memory := b.Int("tail.bytes"), b.Int("memory.bytes"); tail > memory/2 {
		return fmt.Errorf("%s: tail.bytes: %d is more than half of memory.bytes, %d (%s)", b.where("tail.bytes"), tail, memory, b.where("memory.bytes"))
	}
	return nil
}

// dropControllers takes the listeners of Kafka's controllers out of a list: there
// are no such here, and the files that come with Kafka name one.
func (p *parser) dropControllers(key string) {
	v, ok := p.b.set[key]
	if !ok || p.controllers == "" {
		return
	}
	var keep []string
	for _, l := range strings.Split(v, ",") {
		l = strings.TrimSpace(l)
		name, _, _ := strings.Cut(l, "://")
		if slices.Contains(strings.Split(strings.ReplaceAll(p.controllers, " ", ""), ","), name) {
			p.warnings = append(p.warnings, fmt.Sprintf("%s: %s: %s is a controller's and does nothing here", p.b.where(key), key, l))
			continue
		}
		keep = append(keep, l)
	}
	p.b.set[key] = strings.Join(keep, ",")
}

func (b *Broker) where(key string) string {
	if w := b.source[key]; w != "" {
		return w
	}
	return "defaults"
}

// nearest suggests a known key for a mistyped one.
func nearest(key string) string {
	best, at := "", len(key)/3+1
	for _, k := range brokerKeys {
		if d := distance(key, k.Name); d < at {
			best, at = k.Name, d
		}
	}
	if best == "" {
		return ""
	}
	return " (did you mean " + best + "?)"
}

// distance is the Levenshtein distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		last := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := last
			if a[i-1] != b[j-1] {
				cost++
			}
			last = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}

// Value is a key's value, and whether it was set.
func (b *Broker) Value(key string) (string, bool) {
	if v, ok := b.set[key]; ok {
		return v, true
	}
	k := brokerByName[key]
	if k == nil {
		panic("BUG: config: there is no key " + key)
	}
	return k.Default, false
}

// String is a value as text.
func (b *Broker) String(key string) string {
	v, _ := b.Value(key)
	return v
}

// Int is a value as a number.
func (b *Broker) Int(key string) int64 {
	v, _ := b.Value(key)
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		panic(fmt.Sprintf("BUG: config: %s=%q is no number", key, v))
	}
	return n
}

// Float is a value as a number that need not be whole.
func (b *Broker) Float(key string) float64 { return float(key, b.String(key)) }

func float(key, v string) float64 {
	f, err := strconv.ParseFloat(v, 64)
	if err != nil {
		panic(fmt.Sprintf("BUG: config: %s=%q is no number", key, v))
	}
	return f
}

// Bool is a value as true or false.
func (b *Broker) Bool(key string) bool { return b.String(key) == "true" }

// Listener is the address to listen on, "host:port".
func (b *Broker) Listener() (string, error) {
	return endpoint("listeners", b.String("listeners"))
}

// Advertised is the address that clients are told. A port of 0 stands for the
// one that the listener got.
func (b *Broker) Advertised() (host string, port int32, err error) {
	key := "advertised.listeners"
	v := b.String(key)
	if v == "" {
		key, v = "listeners", b.String("listeners")
	}
	addr, err := endpoint(key, v)
	if err != nil {
		return "", 0, err
	}
	host, p, _ := net.SplitHostPort(addr)
	n, _ := strconv.Atoi(p)
	if host == "" || host == "0.0.0.0" || host == "::" {
		if key == "advertised.listeners" {
			return "", 0, fmt.Errorf("%s: %q names no address that a client could connect to", key, v)
		}
		host = "localhost"
	}
	return host, int32(n), nil
}

// endpoint takes NAME://HOST:PORT apart. Only one, and only plain TCP.
func endpoint(key, v string) (string, error) {
	if strings.Contains(v, ",") {
		return "", fmt.Errorf("%s: one listener is supported, not a list: %q", key, v)
	}
	name, addr, ok := strings.Cut(v, "://")
	if !ok {
		name, addr = "PLAINTEXT", v
	}
	if name != "PLAINTEXT" {
		return "", fmt.Errorf("%s: %s: only PLAINTEXT listeners are supported", key, name)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("%s: %q is not PLAINTEXT://HOST:PORT", key, v)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > math.MaxUint16 {
		return "", fmt.Errorf("%s: %q is no port", key, port)
	}
	return net.JoinHostPort(host, port), nil
}
