package acceptance_test

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// proxy stands between a producer and the broker, so that a test can hold a produce request back or refuse it.
// Metadata answers name the proxy instead of the broker, so that clients stay with it. It does not know acks=0.
type proxy struct {
	address string
	produce func(n int) (refuse bool) // asked for produce request n = 1, 2, ...; may block
	behind  time.Duration             // how long a refusal waits for another request behind the refused one

	mu       sync.Mutex
	produced int
}

// reply is what the client gets next: canned bytes, or the broker's next response.
type reply struct {
	canned   []byte
	refused  int                   // the number of the produce request that canned refuses
	metadata *kmsg.MetadataRequest // not nil where the broker's response names brokers
}

func (b *broker) proxy(t *testing.T, behind time.Duration, produce func(n int) bool) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", freeAddress(t))
	must(t, err)
	p := &proxy{address: l.Addr().String(), produce: produce, behind: behind}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", b.bootstrap)
			if err != nil {
				client.Close()
				continue
			}
			replies := make(chan reply, 1000) // more than a client has in flight
			go p.requests(client, server, replies)
			go p.responses(client, server, replies)
		}
	}()
	return p
}

func readFrame(r io.Reader) ([]byte, error) {
	size := make([]byte, 4)
	if _, err := io.ReadFull(r, size); err != nil {
		return nil, err
	}
	frame := append(size, make([]byte, binary.BigEndian.Uint32(size))...)
	_, err := io.ReadFull(r, frame[4:])
	return frame, err
}

// requests carries the client's requests to the broker, except for those that are refused.
func (p *proxy) requests(client, server net.Conn, replies chan<- reply) {
	defer server.Close()
	defer close(replies)
	in := bufio.NewReader(client)
	for {
		frame, err := readFrame(in)
		if err != nil {
			return
		}
		request := kmsg.RequestForKey(int16(binary.BigEndian.Uint16(frame[4:])))
		request.SetVersion(int16(binary.BigEndian.Uint16(frame[6:])))
		next := reply{}
		switch request := request.(type) {
		case *kmsg.MetadataRequest:
			next.metadata = request
		case *kmsg.ProduceRequest:
			p.mu.Lock()
			p.produced++
			n := p.produced
			p.mu.Unlock()
			if p.produce(n) && request.ReadFrom(requestBody(frame)) == nil {
				next.canned, next.refused = refusal(request, frame[8:12]), n
			}
		}
		replies <- next
		if next.canned == nil {
			if _, err := server.Write(frame); err != nil {
				return
			}
		}
	}
}

// requestBody is what follows a flexible request's header: client id and no tags.
func requestBody(frame []byte) []byte {
	clientID := int(int16(binary.BigEndian.Uint16(frame[12:])))
	return frame[14+max(0, clientID)+1:]
}

// refusal answers every partition with NOT_LEADER_OR_FOLLOWER, which clients retry.
func refusal(request *kmsg.ProduceRequest, correlation []byte) []byte {
	response := request.ResponseKind().(*kmsg.ProduceResponse)
	for _, topic := range request.Topics {
		answer := kmsg.NewProduceResponseTopic()
		answer.Topic, answer.TopicID = topic.Topic, topic.TopicID
		for _, partition := range topic.Partitions {
			one := kmsg.NewProduceResponseTopicPartition()
			one.Partition, one.ErrorCode, one.BaseOffset = partition.Partition, kerr.NotLeaderForPartition.Code, -1
			answer.Partitions = append(answer.Partitions, one)
		}
		response.Topics = append(response.Topics, answer)
	}
	return framed(correlation, response)
}

// framed is a flexible response as bytes on the wire.
func framed(correlation []byte, response kmsg.Response) []byte {
	frame := append(make([]byte, 4), correlation...)
	frame = response.AppendTo(append(frame, 0)) // no tags in the header
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
	return frame
}

// hold keeps a refusal back until the client has another request in flight behind the
// refused one, or until the time for that is over.
func (p *proxy) hold(refused int) {
	for end := time.Now().Add(p.behind); time.Now().Before(end); time.Sleep(time.Millisecond) {
		p.mu.Lock()
		behind := p.produced > refused
		p.mu.Unlock()
		if behind {
			return
		}
	}
}

// responses carries the broker's answers, and the canned ones, to the client in the order of the requests.
func (p *proxy) responses(client, server net.Conn, replies <-chan reply) {
	defer client.Close()
	in := bufio.NewReader(server)
	for next := range replies {
		frame := next.canned
		if frame != nil {
			p.hold(next.refused)
		} else {
			var err error
			if frame, err = readFrame(in); err != nil {
				return
			}
		}
		if next.metadata != nil && next.metadata.IsFlexible() {
			response := next.metadata.ResponseKind().(*kmsg.MetadataResponse)
			if response.ReadFrom(frame[9:]) != nil {
				return
			}
			host, port, _ := net.SplitHostPort(p.address)
			number, _ := strconv.Atoi(port)
			for i := range response.Brokers {
				response.Brokers[i].Host, response.Brokers[i].Port = host, int32(number)
			}
			frame = framed(frame[4:8], response)
		}
		if _, err := client.Write(frame); err != nil {
			return
		}
	}
}
