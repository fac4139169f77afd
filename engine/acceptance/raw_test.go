package acceptance_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// replyTimeout is what the broker may take to answer, or to close a connection.
const replyTimeout = time.Minute

// rawConn speaks the protocol by hand, to say what no client would say.
type rawConn struct {
	net.Conn
	t           testing.TB
	correlation int32
}

func (b *broker) dial(t testing.TB) *rawConn {
	t.Helper()
	c, err := net.Dial("tcp", b.bootstrap)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return &rawConn{Conn: c, t: t}
}

// frame is the request as bytes on the wire.
func (c *rawConn) frame(request kmsg.Request) []byte {
	c.correlation++
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("raw")).AppendRequest(nil, request, c.correlation)
}

func (c *rawConn) send(frame []byte) {
	c.t.Helper()
	c.SetWriteDeadline(time.Now().Add(replyTimeout))
	_, err := c.Write(frame)
	must(c.t, err)
}

// receive reads one response: its correlation id and what follows it.
func (c *rawConn) receive() (correlation int32, body []byte, err error) {
	c.SetReadDeadline(time.Now().Add(replyTimeout))
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return 0, nil, err
	}
	frame := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(c, frame); err != nil {
		return 0, nil, err
	}
	return int32(binary.BigEndian.Uint32(frame)), frame[4:], nil
}

// ask sends the request at its version and decodes the response.
func ask[R kmsg.Response](c *rawConn, request kmsg.Request) R {
	c.t.Helper()
	c.send(c.frame(request))
	return answer[R](c, request)
}

func answer[R kmsg.Response](c *rawConn, request kmsg.Request) R {
	c.t.Helper()
	_, body, err := c.receive()
	if err != nil {
		c.t.Fatalf("no answer to %T version %d: %v", request, request.GetVersion(), err)
	}
	response := request.ResponseKind().(R)
	response.SetVersion(request.GetVersion())
	if response.IsFlexible() && response.Key() != kmsg.ApiVersions.Int16() {
		body = body[1:] // no tags in the response header
	}
	must(c.t, response.ReadFrom(body))
	return response
}

// expectClosed fails unless the broker closes the connection without an answer.
func (c *rawConn) expectClosed() {
	c.t.Helper()
	_, body, err := c.receive()
	var timeout net.Error
	switch {
	case err == nil:
		c.t.Fatalf("the broker answered %d bytes: %x", len(body), body[:min(64, len(body))])
	case errors.As(err, &timeout) && timeout.Timeout():
		c.t.Fatalf("the broker neither answered nor closed the connection in %v", replyTimeout)
	}
}

// rawBatch is a record batch, right unless a test makes it wrong.
type rawBatch struct {
	kmsg.RecordBatch
}

// newBatch holds one record per value.
func newBatch(values ...string) *rawBatch {
	b := &rawBatch{kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, LastOffsetDelta: int32(len(values) - 1), NumRecords: int32(len(values)),
		FirstTimestamp: time.Now().UnixMilli(), ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1,
	}}
	b.MaxTimestamp = b.FirstTimestamp
	for i, value := range values {
		b.Records = append(b.Records, rawRecord(int32(i), []byte(value))...)
	}
	return b
}

func rawRecord(offsetDelta int32, value []byte) []byte {
	record := kmsg.Record{OffsetDelta: offsetDelta, Value: value}
	record.Length = int32(len(record.AppendTo(nil)) - 1) // without the length itself, which is one byte so far
	return record.AppendTo(nil)
}

// encode fills in length and CRC.
func (b *rawBatch) encode() []byte {
	b.Length = int32(49 + len(b.Records)) // what follows the length field
	encoded := b.AppendTo(nil)
	binary.BigEndian.PutUint32(encoded[17:], crc32.Checksum(encoded[21:], crc32.MakeTable(crc32.Castagnoli)))
	return encoded
}

// produceRequest is one batch for partition 0 of the topic, at version 9, acks=all.
func produceRequest(topic string, batch []byte) *kmsg.ProduceRequest {
	request := kmsg.NewPtrProduceRequest()
	request.Version, request.Acks, request.TimeoutMillis = 9, -1, 10_000
	partition := kmsg.ProduceRequestTopicPartition{Records: batch}
	request.Topics = []kmsg.ProduceRequestTopic{{Topic: topic, Partitions: []kmsg.ProduceRequestTopicPartition{partition}}}
	return request
}

// produceRaw returns the error code and base offset that the broker answers.
func (c *rawConn) produceRaw(topic string, batch []byte) (code int16, base int64) {
	c.t.Helper()
	response := ask[*kmsg.ProduceResponse](c, produceRequest(topic, batch))
	partition := response.Topics[0].Partitions[0]
	return partition.ErrorCode, partition.BaseOffset
}

// fetchRequest is for partition 0 of the topic, at version 12.
func fetchRequest(topic string, offset int64, maxBytes, minBytes int32, maxWait time.Duration) *kmsg.FetchRequest {
	request := kmsg.NewPtrFetchRequest()
	request.Version, request.ReplicaID, request.SessionEpoch = 12, -1, -1
	request.MaxBytes, request.MinBytes, request.MaxWaitMillis = maxBytes, minBytes, int32(maxWait.Milliseconds())
	partition := kmsg.NewFetchRequestTopicPartition()
	partition.FetchOffset, partition.PartitionMaxBytes = offset, maxBytes
	topicRequest := kmsg.NewFetchRequestTopic()
	topicRequest.Topic, topicRequest.Partitions = topic, []kmsg.FetchRequestTopicPartition{partition}
	request.Topics = []kmsg.FetchRequestTopic{topicRequest}
	return request
}

// healthy fails the test unless a client can create, produce and consume, and the broker is up.
func (b *broker) healthy(t testing.TB) {
	t.Helper()
	topic := b.topic(t, 1)
	b.produce(t, topic, 0, "healthy")
	equal(t, "records", fmt.Sprint(values(b.readAll(t, topic)[0])), "[healthy]")
	_, err := kadm.NewClient(b.client(t)).DeleteTopic(timeout(t), topic)
	must(t, err)
	if b.proc != nil && b.proc.ended() {
		t.Fatalf("the broker has ended: %v", b.proc.err)
	}
}
