// Command fakenats stands in for nats-server in tests of managed peers. FAKE_NATS tells it what to do wrong: "ends", "silent" or "deaf" (to SIGTERM).
// Called as go, it builds what FAKE_GO says: "fails", or itself, which is not the server that was asked for.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"

	"github.com/millrace/millrace/bench/natsfake"
)

func main() {
	if filepath.Base(os.Args[0]) == "go" {
		build()
		return
	}
	conf, err := os.ReadFile(os.Args[2])
	if err != nil {
		fail("%v", err)
	}
	address := value(conf, "listen")
	fmt.Fprintln(os.Stderr, "[INF] Starting fake for", address)
	if err := os.MkdirAll(filepath.Join(value(conf, "store_dir"), "jetstream"), 0o755); err != nil {
		fail("%v", err)
	}
	wrong := os.Getenv("FAKE_NATS")
	if wrong == "ends" {
		fail("[FTL] this server has ended")
	}
	if wrong != "silent" {
		if err := (&natsfake.Server{}).Start(address); err != nil {
			fail("%v", err)
		}
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	for range term {
		if wrong != "deaf" {
			return
		}
	}
}

// value is a quoted setting of the configuration.
func value(conf []byte, key string) string {
	m := regexp.MustCompile(`(?m)^\s*` + key + `: "(.*)"$`).FindSubmatch(conf)
	if m == nil {
		fail("no %s in the configuration", key)
	}
	return string(m[1])
}

func build() {
	if os.Getenv("FAKE_GO") == "fails" {
		fail("module lookup disabled")
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		fail("%v", err)
	}
	bin := os.Getenv("GOBIN")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		fail("%v", err)
	}
	if err := os.WriteFile(filepath.Join(bin, "nats-server"), self, 0o755); err != nil {
		fail("%v", err)
	}
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}
