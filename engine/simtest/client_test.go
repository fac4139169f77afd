package simtest

import (
	"errors"
	"time"

	"github.com/millrace/millrace/engine/simclient"
	"github.com/millrace/millrace/engine/wire"
)

// client is a client with a machine of its own.
type client struct {
	*simclient.Machine
	run     *run
	name    string
	conn    *simclient.Conn // nil: none
	life    int             // of the broker, when the connection came up
	stopped bool
	recvMax int           // bytes that one receive takes at most; 0: the buffer
	lag     time.Duration // between two receives: a slow reader
}

func (r *run) client(name string) *client {
	c := &client{Machine: r.machine(name), run: r, name: name}
	r.clients = append(r.clients, c)
	return c
}

// stop ends a client for good.
func (c *client) stop() {
	c.stopped = true
	if c.conn != nil {
		c.conn.End(errStopped)
	}
}

// below is a random number from 0 to n-1, of this client's.
func (c *client) below(n int) int { return int(c.IO.Random() % uint64(n)) }

// think is the time between two pieces of work.
func (c *client) think() time.Duration {
	if c.below(40) == 0 {
		return 10 * c.run.pace
	}
	return time.Duration(c.below(int(2*c.run.pace)) + 1000)
}

// later calls f if the connection lasts until then.
func (c *client) later(d time.Duration, f func()) {
	n := c.conn
	c.After(d, func() {
		if n != nil && c.conn == n {
			f()
		}
	})
}

// version is a random version of an API, at least least.
func (c *client) version(key, least int16) int16 {
	a := &wire.APIs[key]
	least = max(least, a.Min)
	return least + int16(c.below(int(a.Max-least)+1))
}

var errStopped = errors.New("stopped")

// dial connects; up is told once, or down; and down once when an open one ends.
func (c *client) dial(up func(), down func(error)) {
	if c.stopped {
		return
	}
	c.conn = c.Dial(simclient.Config{
		Addr: c.run.broker.addr(), ClientID: c.name, RecvMax: c.recvMax, Lag: c.lag,
		Up: func() {
			c.life = c.run.broker.lives
			up()
		},
		Closed: func() { c.conn = nil },
		Down:   down,
		Fail:   c.run.fail,
	})
}

// redial connects until it works.
func (c *client) redial(up func(), down func(error)) {
	c.dial(up, func(err error) {
		down(err)
		c.After(time.Duration(c.below(100)+1)*time.Millisecond, func() {
			if !c.stopped && c.conn == nil {
				c.redial(up, down)
			}
		})
	})
}

// failed ends the connection when an answer says that it is of no use to go on.
func (c *client) failed(err error) {
	if c.conn != nil {
		c.conn.End(err)
	}
}
