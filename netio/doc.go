// Package netio is sockets on ring.IO: a listener per core, connections,
// size-prefixed frames, and replies in the order of their requests.
//
// # How to hold very many connections
//
// Each core listens on the same port (SO_REUSEPORT), so the kernel spreads
// connections over the cores, and a connection then lives on the core that
// accepted it: no lock, no hand-over, no thread and no goroutine each. A connection
// that says nothing owns no buffer: its receive is armed in the kernel without
// one (ring.Pick), and the ring chooses from the core's shared receive buffers
// only when bytes have arrived. What is left is a [Conn] of some hundred bytes
// and the kernel's socket. Memory therefore grows with what is in flight,
// which is bounded, and not with what is connected, which is bounded too
// (max.connections). Who stays silent for connections.max.idle.ms is closed,
// oldest first, from a list in order of last activity: that is also the end of
// half-open connections.
//
// # How to match every response to its request
//
// The client numbers its requests (the correlation id, which the reply repeats),
// and Kafka promises more: the replies of a connection come in the order of its
// requests. Many requests of one connection may be in the works at once, on
// several cores, and finish in any order. So every frame becomes an [Exchange], which
// takes its place in the connection's queue at once; whoever answers fills that
// Exchange, on the connection's core, and the connection sends from the head
// of the queue as far as it is answered. An Exchange is used for exactly one
// request; nothing is looked up, so nothing can be matched wrongly.
//
// # Back-pressure
//
// Nothing grows. A connection has at most [Config.InFlight] exchanges, and about
// a MiB of memory in unsent replies; at these bounds, or when the handler says so
// ([Server.Pause]), or when there is no memory for a frame, it stops reading its
// socket, and TCP tells the client. What had arrived is kept and served later. A
// frame larger than socket.request.max.bytes, or of no or negative size, closes the
// connection.
//
// # What one client can do to another
//
// The core's receive buffers and its pool are shared, so nobody may sit on them:
//
//   - Receive buffers: of those that hold requests in the works, or that wait to be
//     served, there are at most [Config.HeldMax]; further ones are copied to the pool
//     and go back at once.
//   - Requests: a size alone takes at most a MiB, and a few KiB once half of the
//     pool is out; the bytes that come earn more. A quarter of the pool is left to
//     replies.
//   - Replies: their memory belongs to others, such as the tail of a log. Where all
//     of them together hold more than [Config.UnsentMax], or requests have found no
//     memory, a connection that holds some and has not moved a byte for 5 s is closed;
//     otherwise after connections.max.idle.ms.
//   - Descriptors: max.connections holds over all cores.
//   - The log: what a peer does wrong is one line with its address, the first time on a
//     connection ([Conn.Say]); a core writes 64 of them at once, then ten a second, and counts
//     the rest in a line. Wrong are bytes that are no request or hold a bad batch, to leave
//     inside a frame, and to leave with replies unsent; to leave otherwise is no line.
//
// # Copies
//
// A frame that lies whole in one receive buffer is handed on in place. A frame
// that is larger than that is received straight into memory of its own
// size (up to a MiB, beyond that it may have to move as it grows); only the bytes
// that came in the same receive buffer as its start are copied there. So are
// frames that wait for a stalled connection or would hold too many receive buffers.
package netio
