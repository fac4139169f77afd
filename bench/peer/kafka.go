package peer

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/bench/process"
)

const (
	kafkaVersion     = "4.3.1" // as kafka/pom.xml has it
	kafkaJava        = 17      // the oldest that Kafka 4 runs on
	kafkaReadyEvery  = 10 * time.Millisecond
	kafkaStopTimeout = 30 * time.Second // a shutdown closes every log
)

var (
	//go:embed kafka/pom.xml
	kafkaPom []byte
	//go:embed kafka/server.properties
	kafkaProperties string
	//go:embed kafka/log4j2.xml
	kafkaLog4j []byte
)

var kafkaKind = Kind{Name: "kafka", Version: kafkaVersion, Protocol: Kafka, TopicSettings: kafkaTopicSettings, New: func(o Options) Peer { return &kafka{child: child{Options: o}} }}

// kafkaTopicSettings are what DescribeConfigs gives for a topic of Kafka 4.3.1.
var kafkaTopicSettings = []string{
	"cleanup.policy", "compression.gzip.level", "compression.lz4.level", "compression.type", "compression.zstd.level",
	"delete.retention.ms", "file.delete.delay.ms", "flush.messages", "flush.ms", "follower.replication.throttled.replicas",
	"index.interval.bytes", "leader.replication.throttled.replicas", "local.retention.bytes", "local.retention.ms",
	"max.compaction.lag.ms", "max.message.bytes", "message.timestamp.after.max.ms", "message.timestamp.before.max.ms",
	"message.timestamp.type", "min.cleanable.dirty.ratio", "min.compaction.lag.ms", "min.insync.replicas", "preallocate",
	"remote.log.copy.disable", "remote.log.delete.on.disable", "remote.storage.enable", "retention.bytes", "retention.ms",
	"segment.bytes", "segment.index.bytes", "segment.jitter.ms", "segment.ms", "unclean.leader.election.enable",
}

// The JVM options of Kafka's kafka-server-start.sh (heap) and kafka-run-class.sh (the rest). KAFKA_HEAP_OPTS and
// KAFKA_JVM_PERFORMANCE_OPTS in the environment replace them, as they do there.
const (
	kafkaHeap = "-Xmx1G -Xms1G"
	kafkaPerf = "-server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent -XX:MaxInlineLevel=15 -Djava.awt.headless=true"
)

// kafka is Apache Kafka: one node, broker and controller, from the jars of kafka/pom.xml.
type kafka struct {
	child // the addresses are the broker's and the controller's

	java, jars string
	formatted  bool
}

// Install implements Peer.
func (k *kafka) Install(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("install Apache Kafka %s: %w", kafkaVersion, err)
		}
	}()
	if k.java, err = findJava(ctx, kafkaJava); err != nil {
		return err
	}
	if k.jars, err = jarsOf("kafka-"+kafkaVersion, kafkaPom); err != nil {
		return err
	}
	return fetchJars(ctx, k.jars, kafkaPom, k.say)
}

var javaVersion = regexp.MustCompile(`version "(\d+)`)

// findJava finds a Java of that version or newer: JAVA_HOME's, or the one in PATH.
func findJava(ctx context.Context, oldest int) (string, error) {
	java, err := exec.LookPath("java")
	if home := os.Getenv("JAVA_HOME"); home != "" {
		java, err = exec.LookPath(filepath.Join(home, "bin", "java"))
	}
	if err != nil {
		return "", fmt.Errorf("it needs Java %d or newer, and none is in PATH or JAVA_HOME: %w", oldest, err)
	}
	said, err := exec.CommandContext(ctx, java, "-version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s -version: %w\n%s", java, err, said)
	}
	m := javaVersion.FindSubmatch(said)
	if m == nil {
		return "", fmt.Errorf("%s -version names no version:\n%s", java, said)
	}
	if v, _ := strconv.Atoi(string(m[1])); v < oldest {
		return "", fmt.Errorf("it needs Java %d or newer, and %s is of version %s", oldest, java, m[1])
	}
	return java, nil
}

// Start implements Peer.
func (k *kafka) Start(ctx context.Context) error {
	if k.java == "" {
		if err := k.Install(ctx); err != nil {
			return err
		}
	}
	if err := k.prepare("kafka", k.configure); err != nil {
		return fmt.Errorf("prepare Apache Kafka: %w", err)
	}
	if err := k.format(ctx); err != nil {
		return fmt.Errorf("format Apache Kafka's storage: %w", err)
	}
	args := append(strings.Fields(environment("KAFKA_HEAP_OPTS", kafkaHeap)), strings.Fields(environment("KAFKA_JVM_PERFORMANCE_OPTS", kafkaPerf))...)
	args = append(args, k.jvm("server.log")...)
	args = append(args, "kafka.Kafka", k.file("server.properties"))
	return k.start(k.java, args, "java", "Apache Kafka "+kafkaVersion)
}

func environment(name, other string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return other
}

// jvm is what every Java here is given: where the jars are, and where its log goes.
func (k *kafka) jvm(log string) []string {
	return []string{"-Dlog4j2.configurationFile=" + k.file("log4j2.xml"), "-Dmillrace.log=" + k.file(log), "-cp", filepath.Join(k.jars, "*")}
}

func (k *kafka) configure() error {
	properties := strings.NewReplacer("{broker}", k.addresses[0], "{controller}", k.addresses[1], "{data}", k.data()).Replace(kafkaProperties)
	return errors.Join(os.WriteFile(k.file("server.properties"), []byte(properties), 0o644), os.WriteFile(k.file("log4j2.xml"), kafkaLog4j, 0o644))
}

// format makes the storage a new cluster's, once. Kafka's tool leaves bootstrap.checkpoint unsynced, and a broker that finds it
// empty does not start. Nobody cuts the power within seconds of an installation, so it is synced here: what is cut
// in a test of power loss is the broker, not its installation.
func (k *kafka) format(ctx context.Context) error {
	if k.formatted {
		return nil
	}
	args := append(k.jvm("format.log"), "-Xmx256M", "kafka.tools.StorageTool", "format", "--standalone", "-t", clusterID(), "-c", k.file("server.properties"))
	format := process.Process{Path: k.java, Args: args, CPUs: k.CPUs}
	err := format.Start()
	if err == nil {
		err = format.Wait(ctx)
	}
	if err == nil {
		err = syncAll(k.data())
	}
	k.formatted = err == nil
	return err
}

// syncAll makes a directory durable, with all below it.
func syncAll(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}

// clusterID is a random UUID in Kafka's spelling. One that begins with a dash would be an option of the tool.
func clusterID() string {
	id := make([]byte, 16)
	rand.Read(id)
	id[0] &= 0x7f
	return base64.RawURLEncoding.EncodeToString(id)
}

// Ready implements Peer. An error has the end of Kafka's log.
func (k *kafka) Ready(ctx context.Context) error {
	err := k.ready(ctx, kafkaReadyEvery, TakesTopics)
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("Apache Kafka %s: %w\n%s", kafkaVersion, err, k.logged())
}

// logged is the end of Kafka's log, with its name.
func (k *kafka) logged() string {
	return fmt.Sprintf("the end of %s:\n%s", k.file("server.log"), process.FileTail(k.file("server.log")))
}

// Stop implements Peer.
func (k *kafka) Stop() error {
	k.formatted = k.formatted && k.Data != "" // as addresses
	return k.stop(kafkaStopTimeout, func(err error) error { return fmt.Errorf("%w\n%s", err, k.logged()) })
}
