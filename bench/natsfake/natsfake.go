// Package natsfake stands in for a NATS server with JetStream, in tests only: it speaks as much of the protocol as package
// bench's client needs, keeps messages in memory, from one Start to the next, and misbehaves when told to.
package natsfake

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Server is one server. Its fields are set before Start.
type Server struct {
	// Publish decides about each message: what to answer (JSON; "" for nothing), and whether it is stored. With
	// nil every message is stored and acknowledged. It is called by one goroutine at a time.
	Publish func(stream string, sequence int, data []byte) (answer string, store bool)
	Config  string // what streams report beside what was asked, as `,"persist_mode":"async"`
	Mislay  int    // the delivery of this number, counted over all consumers from 1, does not arrive

	listener net.Listener
	wait     sync.WaitGroup

	mu      sync.Mutex
	conns   map[net.Conn]bool
	streams map[string]*stream
	readers map[string]*reader // by consumer's name
	given   int                // deliveries
}

// reader is a consumer: next is the index of the message that it is given next, given how many it has been given.
type reader struct{ next, given int }

type stream struct {
	config   string
	subject  string
	messages []message
}

type message struct {
	id   string // "": none; of those with the same one the first is kept
	data []byte
}

// Start listens at address.
func (s *Server) Start(address string) (err error) {
	s.conns, s.readers = map[net.Conn]bool{}, map[string]*reader{}
	if s.streams == nil {
		s.streams = map[string]*stream{}
	}
	if s.listener, err = net.Listen("tcp", address); err != nil {
		return err
	}
	s.wait.Go(func() {
		for {
			c, err := s.listener.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[c] = true
			s.mu.Unlock()
			s.wait.Go(func() { (&client{server: s, conn: c, subs: map[string]string{}}).serve() })
		}
	})
	return nil
}

// Address is where it listens.
func (s *Server) Address() string { return s.listener.Addr().String() }

// Streams names the streams that there are.
func (s *Server) Streams() (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.streams {
		names = append(names, name)
	}
	return names
}

// Forget removes the last n messages of each stream, as a power loss does that meets what was not synced.
func (s *Server) Forget(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.streams {
		st.messages = st.messages[:max(0, len(st.messages)-n)]
	}
}

// Hangup breaks every connection.
func (s *Server) Hangup() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
}

// Stop ends it.
func (s *Server) Stop() {
	s.listener.Close()
	s.Hangup()
	s.wait.Wait()
}

// client is one connection.
type client struct {
	server *Server
	conn   net.Conn
	in     *bufio.Reader
	subs   map[string]string // by id: subject, perhaps with a * at its end
}

func (c *client) serve() {
	defer c.conn.Close()
	c.in = bufio.NewReader(c.conn)
	c.say(`INFO {"server_id":"FAKE","version":"2.99.0","proto":1,"headers":true,"jetstream":true,"max_payload":1048576}`)
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			return
		}
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		switch strings.ToUpper(f[0]) {
		case "PING":
			c.say("PONG")
		case "SUB":
			c.subs[f[len(f)-1]] = f[1]
		case "UNSUB":
			if len(f) == 2 {
				delete(c.subs, f[1])
			}
		case "PUB", "HPUB":
			if !c.published(f) {
				return
			}
		}
	}
}

func (c *client) say(format string, args ...any) { fmt.Fprintf(c.conn, format+"\r\n", args...) }

// published reads one message's payload and answers it. f is PUB subject [reply] size, or HPUB with the header's size before.
func (c *client) published(f []string) bool {
	size, _ := strconv.Atoi(f[len(f)-1])
	payload := make([]byte, size+2)
	if _, err := io.ReadFull(c.in, payload); err != nil {
		return false
	}
	payload = payload[:size]
	fixed, id := 3, ""
	if strings.ToUpper(f[0]) == "HPUB" {
		header, _ := strconv.Atoi(f[len(f)-2])
		_, after, _ := strings.Cut(string(payload[:header]), "Nats-Msg-Id:")
		id, _, _ = strings.Cut(after, "\r\n")
		payload, fixed = payload[header:], 4
	}
	reply := ""
	if len(f) > fixed {
		reply = f[2]
	}
	if answer := c.answer(f[1], reply, id, payload); answer != "" && reply != "" {
		c.deliver(reply, "", []byte(answer))
	}
	return true
}

// deliver sends a message to whoever of this connection has subscribed to the subject.
func (c *client) deliver(subject, reply string, data []byte) {
	for id, pattern := range c.subs {
		prefix, wild := strings.CutSuffix(pattern, "*")
		if subject == pattern || wild && strings.HasPrefix(subject, prefix) {
			c.say("MSG %s %s %s %d\r\n%s", subject, id, reply, len(data), data)
		}
	}
}

// answer does what a subject asks for.
func (c *client) answer(subject, reply, id string, data []byte) string {
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	api, ok := strings.CutPrefix(subject, "$JS.API.")
	if !ok {
		return s.publish(subject, message{id, data})
	}
	f := strings.Split(api, ".")
	name := f[min(2, len(f)-1)]
	switch {
	case api == "INFO":
		return `{"memory":0}`
	case strings.HasPrefix(api, "STREAM.CREATE."):
		var config struct{ Subjects []string }
		if err := json.Unmarshal(data, &config); err != nil || len(config.Subjects) != 1 {
			return refusal(400, "no stream's configuration")
		}
		s.streams[name] = &stream{config: strings.TrimSuffix(string(data), "}") + s.Config + "}", subject: config.Subjects[0]}
		return s.info(name)
	case strings.HasPrefix(api, "STREAM.INFO."):
		return s.info(name)
	case strings.HasPrefix(api, "STREAM.DELETE."):
		delete(s.streams, name)
		return `{"success":true}`
	case strings.HasPrefix(api, "CONSUMER.CREATE."):
		// The client makes another consumer, from where it has come to, whenever it heard nothing for a while.
		var ask struct {
			Config struct {
				Start int `json:"opt_start_seq"`
			}
		}
		if err := json.Unmarshal(data, &ask); err != nil {
			return refusal(400, "no consumer's configuration")
		}
		s.readers[f[3]] = &reader{next: max(0, ask.Config.Start-1)}
		return fmt.Sprintf(`{"stream_name":%q,"name":%q,"config":{"name":%q,"ack_policy":"none"}}`, name, f[3], f[3])
	case strings.HasPrefix(api, "CONSUMER.DELETE."):
		return `{"success":true}`
	case strings.HasPrefix(api, "CONSUMER.MSG.NEXT."):
		var ask struct{ Batch int }
		if err := json.Unmarshal(data, &ask); err != nil {
			return refusal(400, "no pull request")
		}
		stream, consumer := f[3], f[4]
		messages, r := s.streams[stream].messages, s.readers[consumer]
		if r == nil {
			return refusal(404, "no consumer "+consumer)
		}
		for ; ask.Batch > 0 && r.next < len(messages); ask.Batch-- {
			i := r.next
			r.next++
			r.given++
			if s.given++; s.given == s.Mislay {
				continue
			}
			c.deliver(reply, fmt.Sprintf("$JS.ACK.%s.%s.1.%d.%d.1.%d", stream, consumer, i+1, r.given, len(messages)-i-1), messages[i].data)
		}
		return ""
	}
	return refusal(404, "not in this fake: "+subject)
}

func refusal(code int, why string) string {
	return fmt.Sprintf(`{"error":{"code":%d,"err_code":10000,"description":%q}}`, code, why)
}

func (s *Server) info(name string) string {
	st := s.streams[name]
	if st == nil {
		return refusal(404, "stream not found")
	}
	return fmt.Sprintf(`{"config":%s,"created":"2026-01-01T00:00:00Z","state":{"messages":%d,"first_seq":1,"last_seq":%d}}`, st.config, len(st.messages), len(st.messages))
}

// publish takes a message for the stream of that subject.
func (s *Server) publish(subject string, m message) string {
	for name, st := range s.streams {
		if st.subject != subject {
			continue
		}
		if at := slices.IndexFunc(st.messages, func(o message) bool { return m.id != "" && o.id == m.id }); at >= 0 {
			return fmt.Sprintf(`{"stream":%q,"seq":%d,"duplicate":true}`, name, at+1)
		}
		sequence := len(st.messages) + 1
		answer, store := fmt.Sprintf(`{"stream":%q,"seq":%d}`, name, sequence), true
		if s.Publish != nil {
			answer, store = s.Publish(name, sequence, m.data)
		}
		if store {
			st.messages = append(st.messages, m)
		}
		return answer
	}
	return refusal(404, "no stream of "+subject)
}
