package lean

import (
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/millrace/millrace/engine/wire"
	"github.com/millrace/millrace/ring"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// leaders is what is asked for beside producing: who leads each partition, and at the start a producer id.
type leaders struct {
	wanted, wantsID bool          // the leaders, the producer id
	asked, askedID  *conn         // who has been asked for them
	at              int64         // ask not before
	last            error         // why there are none yet
	ready           chan struct{} // closed when all that New waits for is there
	told            bool
}

// want has the leaders asked for, not before at.
func (l *leaders) want(at int64) {
	if !l.wanted {
		l.wanted, l.at = true, at
	}
}

func (l *leaders) open() bool { return l.wanted && l.asked == nil || l.wantsID && l.askedID == nil }

// lost forgets what a connection has been asked.
func (l *leaders) lost(n *conn) {
	if l.asked == n {
		l.asked = nil
	}
	if l.askedID == n {
		l.askedID = nil
	}
}

func (l *leaders) deadline() int64 {
	if l.open() {
		return l.at
	}
	return ring.Forever
}

// ask asks on a connection that is up, or sees to it that there will be one.
func (c *Client) ask(now int64) {
	l := &c.leaders
	if !l.open() || now < l.at {
		return
	}
	l.at = now + int64(askAgain)
	var up *conn
	dialing := false
	for _, n := range c.conns {
		switch {
		case n.state == ready:
			up = n
		case n.state != idle:
			dialing = true
		}
	}
	if up == nil {
		for _, n := range c.conns {
			if !dialing && n.state == idle && n.dialAt <= now {
				n.dial(now)
				dialing = true
			}
		}
		return
	}
	if l.wantsID && l.askedID == nil {
		l.askedID = up
		up.producer(c.identified)
	}
	if l.wanted && l.asked == nil {
		l.asked = up
		up.metadata(c.led)
	}
}

// identified takes the producer id.
func (c *Client) identified(a *kmsg.InitProducerIDResponse) {
	l := &c.leaders
	l.askedID = nil
	if a.ErrorCode != 0 {
		l.last = fmt.Errorf("producer id: %s", wire.CodeName(a.ErrorCode))
		l.at = c.io.Now() + int64(askAgain)
		return
	}
	l.wantsID = false
	c.producerID, c.epoch = a.ProducerID, a.ProducerEpoch
	c.tellReady()
}

// led takes the leaders.
func (c *Client) led(a *kmsg.MetadataResponse) {
	l := &c.leaders
	now := c.io.Now()
	l.asked, l.wanted = nil, false
	brokers := map[int32]string{}
	for _, b := range a.Brokers {
		brokers[b.NodeID] = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
	}
	known := make([]bool, len(c.partitions))
	missing := errors.New("the brokers know no such topic")
	for _, t := range a.Topics {
		if t.ErrorCode != 0 {
			missing = errors.New(wire.CodeName(t.ErrorCode))
		}
		for _, tp := range t.Partitions {
			address, ok := brokers[tp.Leader]
			if !ok || tp.ErrorCode != 0 || tp.Partition < 0 || int(tp.Partition) >= len(c.partitions) {
				continue
			}
			known[tp.Partition] = true
			p, n := &c.partitions[tp.Partition], c.connTo(address)
			if p.conn != n {
				p.leave(now)
				p.holding = p.holding || p.inFlight > 0
				p.conn = n
			}
			n.wanted = true
			if n.state == ready {
				p.see(now)
			}
			p.resume()
		}
	}
	for i, ok := range known {
		if !ok {
			l.last = fmt.Errorf("partition %d has no leader: %w", i, missing)
			l.want(now + int64(askAgain))
			return
		}
	}
	c.tellReady()
}

// tellReady lets New return.
func (c *Client) tellReady() {
	l := &c.leaders
	if !l.told && !l.wanted && !l.wantsID {
		l.told = true
		close(l.ready)
	}
}
