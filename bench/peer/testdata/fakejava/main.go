// fakejava stands in for java and for mvn, by the name it is called with, in tests of managed peers. As java it is version $FAKE_JAVA_VERSION,
// formats like Kafka's storage tool and then answers Kafka's protocol as a broker does that has just started; as mvn it
// makes one jar. FAKE_KAFKA tells it what to do wrong: "format", "ends", "silent" or "deaf" (to SIGTERM).
package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
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
	for {
		c, err := listener.Accept()
		if err != nil {
			fail("%v", err)
		}
		if how != "silent" {
			go answer(c, listener.Addr().(*net.TCPAddr))
		}
	}
}

// answer replies to what a probe asks until the connection ends.
func answer(c net.Conn, self *net.TCPAddr) {
	defer c.Close()
	var size [4]byte
	for {
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		frame := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(c, frame); err != nil {
			return
		}
		r := kbin.Reader{Src: frame}
		key, version, correlation := r.Int16(), r.Int16(), r.Int32()
		var resp kmsg.Response
		switch key {
		case 3:
			v := kmsg.NewPtrMetadataResponse()
			b := kmsg.NewMetadataResponseBroker()
			b.Host, b.Port = self.IP.String(), int32(self.Port)
			v.Brokers, v.ControllerID = append(v.Brokers, b), b.NodeID
			resp = v
		case 18:
			v := kmsg.NewPtrApiVersionsResponse()
			for k, last := range map[int16]int16{3: 4, 18: 3, 19: 4} {
				v.ApiKeys = append(v.ApiKeys, kmsg.ApiVersionsResponseApiKey{ApiKey: k, MaxVersion: last})
			}
			resp, version = v, min(version, 3)
		case 19:
			v := kmsg.NewPtrCreateTopicsResponse()
			v.Topics = append(v.Topics, kmsg.NewCreateTopicsResponseTopic())
			resp = v
		default:
			return
		}
		resp.SetVersion(version)
		out := resp.AppendTo(binary.BigEndian.AppendUint32(nil, uint32(correlation)))
		if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(out))), out...)); err != nil {
			return
		}
	}
}
