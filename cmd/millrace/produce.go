package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	linesMax     = 1024            // lines read ahead of the producer
	flushTimeout = 5 * time.Second // for what is buffered when Ctrl-C comes
	errorsShown  = 5               // failed records that get a line each
)

func produce(c *cli, args []string) error {
	f := newFlags("produce", "TOPIC",
		"Writes lines to a topic, a record each: from standard input or a file, with a key before the separator where one is "+
			"given. The producer is idempotent unless --acks says less than all. It ends with a summary, and with exit code 1 "+
			"if any record was not acknowledged.",
		"millrace produce orders < orders.txt\nprintf 'k1:v1\\nk2:v2\\n' | millrace produce orders -K : --compression zstd --headers source=shell")
	bootstrap := f.bootstrapFlag()
	topicFlag := f.String("topic", "", "the `topic`, where it is not the argument")
	separator := f.String("key-separator", "", "`text` between key and value of a line; without it there are no keys")
	f.alias("K", "key-separator")
	headers := f.list("headers", "`key=value,...` to put on each record; may be repeated")
	f.alias("H", "headers")
	partition := f.Int("partition", -1, "the `partition`; -1: by key hash as Java's producer, batch by batch where there is no key")
	f.alias("p", "partition")
	acks := f.String("acks", "all", "who acknowledges: all, 1 (the leader), 0 (nobody)")
	compression := f.String("compression", "none", "`codec`: none, gzip, snappy, lz4, zstd")
	f.alias("z", "compression")
	linger := f.Duration("linger", 0, "how long a batch waits for more records")
	timeout := f.Duration("timeout", 30*time.Second, "how long a record is tried before it counts as failed")
	file := f.String("file", "-", "`path` to read; -: standard input")
	if err := f.parse(c, args); err != nil {
		return err
	}
	if *topicFlag != "" {
		f.rest = append(f.rest, *topicFlag)
	}
	if len(f.rest) != 1 {
		return usagef("name one topic")
	}
	opts, err := producerOptions(*acks, *compression, *partition)
	if err != nil {
		return err
	}
	var set []kgo.RecordHeader
	for _, list := range *headers {
		kvs, err := pairs(strings.Split(list, ","))
		if err != nil {
			return err
		}
		for _, kv := range kvs {
			set = append(set, kgo.RecordHeader{Key: kv[0], Value: []byte(kv[1])})
		}
	}
	in := c.in
	if *file != "-" {
		opened, err := os.Open(*file)
		if err != nil {
			return err
		}
		defer opened.Close()
		in = opened
	}
	opts = append(opts, kgo.ProducerLinger(*linger), kgo.RecordDeliveryTimeout(*timeout), kgo.AllowAutoTopicCreation(),
		kgo.DefaultProduceTopic(f.rest[0]))
	cl, err := connect(c, *bootstrap, opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	p := &producer{cli: c, client: cl, meter: newMeter(true), separator: *separator, headers: set, partition: int32(*partition)}
	return p.run(in)
}

func producerOptions(acks, compression string, partition int) (opts []kgo.Opt, err error) {
	switch acks {
	case "all", "-1":
	case "1":
		opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	case "0":
		opts = append(opts, kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite())
	default:
		return nil, usagef("--acks %q is not all, 1 or 0", acks)
	}
	codecs := map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression()}
	codec, ok := codecs[compression]
	if !ok {
		return nil, usagef("--compression %q is not none, gzip, snappy, lz4 or zstd", compression)
	}
	if partition >= 0 {
		opts = append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	}
	return append(opts, kgo.ProducerBatchCompression(codec)), nil
}

// producer turns lines into records and keeps count of what came of them.
type producer struct {
	*cli
	client    *kgo.Client
	meter     *meter // what was acknowledged
	separator string
	headers   []kgo.RecordHeader
	partition int32

	sent   int64
	failed int64 // written by promises, which kgo calls one at a time; read after the flush
	first  error
}

func (p *producer) run(in io.Reader) error {
	stop := func() {}
	if terminal(p.err) {
		stop = p.meter.watch(p.err)
	}
	readErr := p.produceLines(in)
	// After Ctrl-C what has been read is still worth a try, not a long one.
	ctx, cancel := context.WithCancel(context.Background())
	defer context.AfterFunc(p.ctx, func() { time.AfterFunc(flushTimeout, cancel) })()
	flushErr := p.client.Flush(ctx)
	cancel()
	stop()
	p.warnf("%s", p.meter.summary("produced"))
	var errs []error
	if readErr != nil {
		errs = append(errs, readErr)
	}
	if missing := p.sent - p.meter.records; missing > 0 {
		why := p.first
		if why == nil {
			why = flushErr
		}
		errs = append(errs, fmt.Errorf("%d of %d records were not acknowledged: %w", missing, p.sent, why))
	}
	return errors.Join(errs...)
}

// produceLines sends line after line until the end of the input or Ctrl-C.
func (p *producer) produceLines(in io.Reader) error {
	lines := make(chan []byte, linesMax)
	var readErr error
	go func() { // it may block in a read for ever; then it ends with the process
		defer close(lines)
		r := bufio.NewReaderSize(in, 1<<16)
		for {
			line, err := r.ReadBytes('\n')
			if len(line) > 0 {
				select {
				case lines <- line:
				case <-p.ctx.Done():
					return
				}
			}
			if err != nil {
				if err != io.EOF {
					readErr = err
				}
				return
			}
		}
	}()
	for number := int64(1); ; number++ {
		select {
		case <-p.ctx.Done():
			return nil
		case line, ok := <-lines:
			if !ok {
				return readErr
			}
			r, err := p.record(line)
			if err != nil {
				return fmt.Errorf("line %d: %w", number, err)
			}
			p.send(r, number)
		}
	}
}

// record makes a record of a line.
func (p *producer) record(line []byte) (*kgo.Record, error) {
	text := strings.TrimSuffix(strings.TrimSuffix(string(line), "\n"), "\r")
	r := &kgo.Record{Headers: p.headers, Partition: p.partition}
	if p.separator == "" {
		r.Value = []byte(text)
		return r, nil
	}
	key, value, ok := strings.Cut(text, p.separator)
	if !ok {
		return nil, fmt.Errorf("no key: %q is not in it", p.separator)
	}
	r.Key, r.Value = []byte(key), []byte(value)
	return r, nil
}

func (p *producer) send(r *kgo.Record, number int64) {
	p.sent++
	begin := time.Now()
	p.client.Produce(p.ctx, r, func(r *kgo.Record, err error) {
		if err == nil {
			p.meter.add(1, int64(len(r.Key)+len(r.Value)), time.Since(begin))
			return
		}
		if p.first == nil {
			p.first = err
		}
		if p.failed++; p.failed <= errorsShown {
			p.warnf("millrace: produce: record %d: %s", number, plain(err))
		}
	})
}
