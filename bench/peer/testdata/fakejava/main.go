// Command fakejava stands in for java and for mvn, by the name it is called with, in tests of managed peers. As java it is version $FAKE_JAVA_VERSION,
// formats like Kafka's storage tool and then answers Kafka's protocol as a broker does that has just started; as mvn it
// makes one jar. FAKE_KAFKA tells it what to do wrong: "format", "ends", "silent" or "deaf" (to SIGTERM).
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/millrace/millrace/bench/kafkafake"
)

func main() {
	args := os.Args[1:]
	switch {
	case filepath.Base(os.Args[0]) == "mvn":
		maven(args)
	case slices.Contains(args, "-version"):
		fmt.Fprintf(os.Stderr, "openjdk version %q\n", os.Getenv("FAKE_JAVA_VERSION"))
	case slices.Contains(args, "kafka.tools.StorageTool"):
		format(settings(args[len(args)-1]))
	case slices.Contains(args, "kafka.Kafka"):
		serve(args, settings(args[len(args)-1]))
	default:
		fail("unexpected arguments %q", args)
	}
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

func maven(args []string) {
	if os.Getenv("FAKE_KAFKA") == "mvn" {
		fail("no such artifact")
	}
	for _, a := range args {
		if dir, ok := strings.CutPrefix(a, "-DoutputDirectory="); ok {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				fail("%v", err)
			}
			if err := os.WriteFile(filepath.Join(dir, "kafka.jar"), nil, 0o644); err != nil {
				fail("%v", err)
			}
		}
	}
}

func settings(path string) map[string]string {
	text, err := os.ReadFile(path)
	if err != nil {
		fail("%v", err)
	}
	all := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			all[key] = value
		}
	}
	return all
}

func format(config map[string]string) {
	meta := filepath.Join(config["log.dirs"], "meta.properties")
	if _, err := os.Stat(meta); err == nil || os.Getenv("FAKE_KAFKA") == "format" {
		fail("log directory %s is already formatted", config["log.dirs"])
	}
	if err := os.WriteFile(meta, nil, 0o644); err != nil {
		fail("%v", err)
	}
}

func serve(args []string, config map[string]string) {
	for _, a := range args {
		if path, ok := strings.CutPrefix(a, "-Dmillrace.log="); ok {
			if err := os.WriteFile(path, []byte("INFO from the log of Kafka\n"), 0o644); err != nil {
				fail("%v", err)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(config["log.dirs"], "meta.properties")); err != nil {
		fail("not formatted: %v", err)
	}
	how := os.Getenv("FAKE_KAFKA")
	if how == "ends" {
		fail("this JVM has ended")
	}
	if how == "deaf" {
		signal.Ignore(syscall.SIGTERM)
	}
	address, _, _ := strings.Cut(strings.TrimPrefix(config["listeners"], "PLAINTEXT://"), ",")
	listener, err := net.Listen("tcp", address)
	if err != nil {
		fail("%v", err)
	}
	for how == "silent" {
		if _, err := listener.Accept(); err != nil {
			fail("%v", err)
		}
	}
	fail("%v", kafkafake.Serve(listener))
}
