package netio

import (
	"testing"

	"golang.org/x/sys/unix"
)

// The kernel looks after peers that have vanished, on whichever ring they were accepted.
func TestKeepAlive(t *testing.T) {
	for _, backend := range backends() {
		t.Run(backend, func(t *testing.T) {
			r := realRig(t, backend, Config{})
			r.serve = func(x *Exchange) {
				fd := int(x.Conn.fd)
				on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE)
				if err != nil || on == 0 {
					t.Errorf("SO_KEEPALIVE is %d, %v", on, err)
				}
				idle, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
				if err != nil || idle != 120 {
					t.Errorf("TCP_KEEPIDLE is %d s, %v", idle, err)
				}
				r.echo(x)
			}
			p := r.dial()
			p.write(frames("hello"))
			r.want(p, "hello")
			p.close()
		})
	}
}
