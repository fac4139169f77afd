// Package peer installs, starts and ends brokers of other makes, for comparisons with ours.
//
// A [Peer] is one broker on this machine, a [Kind] is a make of them. There are Apache Kafka (kafka.go) and NATS
// with JetStream (nats.go); what they share is in child.go. A further one is a file that implements Peer and a line in kinds; one
// that speaks a further protocol needs a Target in package bench.
//
// Whoever measures decides about directory and CPUs ([Options]); a peer's own file, embedded here, is
// its configuration. What Start began, Stop ends and clears away, also after a failed or
// interrupted Start, and the kernel ends the process when the bench is killed (package process).
package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
)

// Peer is a broker that the bench starts and ends. One goroutine uses it.
type Peer interface {
	// Install fetches the programs, unless they are in the user's cache directory. It says by an
	// error which tool it misses. Peers of one kind share what is installed.
	Install(ctx context.Context) error
	// Start writes the configuration, formats the storage if the broker wants that and it has not been done, and starts the
	// process. After Kill, and after Stop with Options.Data, it starts on what is there, at the same address.
	Start(ctx context.Context) error
	// Ready waits until the broker takes topics, and fails when its process ends or ctx does.
	Ready(ctx context.Context) error
	// Info says what runs. It is complete after Ready.
	Info() Info
	// Kill ends the process with SIGKILL. Everything else stays, for the next Start.
	Kill()
	// Stop ends the process: SIGTERM, then SIGKILL after a bound, which is an error, as it is
	// when the process had ended by itself. Then all that Start made is removed. It may be called
	// after a failed Start, and twice.
	Stop() error
}

// Options are how a peer is to run.
type Options struct {
	Parent string // directory in which the peer's own is made; "": the system's temporary one
	Data   string // an empty directory for its records, which stays; "": one in its own, which goes
	CPUs   []int  // what it is confined to from its first instruction; empty: nothing
	Say    func(format string, args ...any)

	Settings map[string]string // of the broker, as Spec has them
}

func (o Options) say(format string, args ...any) {
	if o.Say != nil {
		o.Say(format, args...)
	}
}

// Info is what runs.
type Info struct {
	Address string // host:port
	Monitor string // host:port of its monitoring over HTTP; "" where the protocol itself tells settings
	Version string
	PID     int
	DataDir string
	Command []string
	Ready   float64 // seconds from exec until it took topics; without the formatting of its storage
}

// Protocol is what a broker speaks with those who produce and consume.
type Protocol string

// The protocols.
const (
	Kafka Protocol = "Kafka's protocol"
	NATS  Protocol = "NATS's protocol"
)

// Kind is a make of broker.
type Kind struct {
	Name           string
	Version        string
	Protocol       Protocol
	TopicSettings  []string                            // what it knows as a topic's settings
	ServerSettings map[string]func(value string) error // what may be set of the broker itself, each with what checks a value
	New            func(Options) Peer
}

var kinds = []Kind{kafkaKind, natsKind}

// Names lists the kinds that Lookup knows.
func Names() []string {
	var names []string
	for _, k := range kinds {
		names = append(names, k.Name)
	}
	return names
}

// Lookup finds a kind by its name.
func Lookup(name string) (Kind, error) {
	for _, k := range kinds {
		if k.Name == name {
			return k, nil
		}
	}
	if name == "iggy" {
		return Kind{}, errIggy()
	}
	return Kind{}, fmt.Errorf("%q is no peer that can be started here, which are: %s", name, strings.Join(Names(), ", "))
}

// errIggy says why Apache Iggy cannot be a peer: nothing of it can be had where dependencies come from.
func errIggy() error {
	const why = "Apache Iggy's server is in no package registry, and its client for Go in none that serves it"
	path, err := exec.LookPath("iggy-server")
	if err != nil {
		return errors.New("iggy: there is no iggy-server on the PATH: " + why)
	}
	return fmt.Errorf("iggy: %s is there, but nothing here speaks its protocol: %s", path, why)
}

// Spec is one peer as a command line asks for it.
type Spec struct {
	Label  string // what its row is called
	Kind   Kind
	Config map[string]string // its topics' settings
	Server map[string]string // its own settings
}

// Parse reads [LABEL=]KIND[+setting=value]... Without a label all of it is the label. A setting is a topic's or the broker's;
// one that the kind does not know is an error: the row would be named after what was not done.
func Parse(s string) (Spec, error) {
	parts := strings.Split(s, "+")
	label, name, labelled := strings.Cut(parts[0], "=")
	if !labelled {
		label, name = s, parts[0]
	}
	if label == "" {
		return Spec{}, fmt.Errorf("peer %q: the label before = is empty", s)
	}
	kind, err := Lookup(name)
	if err != nil {
		return Spec{}, fmt.Errorf("peer %q: %w", s, err)
	}
	spec := Spec{Label: label, Kind: kind, Config: map[string]string{}, Server: map[string]string{}}
	for _, kv := range parts[1:] {
		key, value, ok := strings.Cut(kv, "=")
		check, ofServer := kind.ServerSettings[key]
		switch {
		case !ok || value == "":
			return Spec{}, fmt.Errorf("peer %q: %q is not key=value", s, kv)
		case ofServer:
			if err := check(value); err != nil {
				return Spec{}, fmt.Errorf("peer %q: %s: %w", s, key, err)
			}
			spec.Server[key] = value
		case slices.Contains(kind.TopicSettings, key):
			spec.Config[key] = value
		default:
			return Spec{}, fmt.Errorf("peer %q: %s %s has no setting %q that can be given here", s, kind.Name, kind.Version, key)
		}
	}
	return spec, nil
}

// FreeAddresses finds n loopback addresses with ports on which nothing listens now.
func FreeAddresses(n int) ([]string, error) {
	var addresses []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close() // not before all are found: they differ
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}
