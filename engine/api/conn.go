package api

import "github.com/millrace/millrace/netio"

// conn is what waits for something on behalf of a connection. It is its
// netio.Conn's User, from the first request that had to wait.
type conn struct {
	first, last *produceCall // wait for credits, in the order in which they came
	fetches     *fetchCall   // wait for more records
}

func connOf(x *netio.Conn) *conn {
	k, ok := x.User.(*conn)
	if !ok {
		k = &conn{}
		x.User = k
	}
	return k
}

// Closed is netio.Handler's: nobody waits any more for what a fetch waits for.
func (c *Core) Closed(x *netio.Conn) {
	k, ok := x.User.(*conn)
	if !ok {
		return
	}
	for k.fetches != nil {
		k.fetches.reply()
	}
}
