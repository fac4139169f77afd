package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/millrace/millrace/ring"
	"golang.org/x/sys/unix"
)

// backlog is how many connections the kernel keeps for us until Accept; it cuts
// this to net.core.somaxconn. Beyond it clients retry their SYN.
const backlog = 4096

// A peer that vanished without a word (its machine lost power, a router forgot it) is
// asked after keepIdle of silence, then every keepInterval, and given up after keepCount
// questions: within four minutes, seconds. Kafka leaves the kernel's two hours.
const (
	keepIdle     = 120
	keepInterval = 30
	keepCount    = 4
)

// Listen with exclusive has no window in which two brokers get the same port.
// The socket binds and listens before it sets SO_REUSEPORT, and listen(2)
// without it fails while anybody listens on an overlapping address. Setting it
// afterwards lets our other cores join, and only processes of our own user,
// which join deliberately. SO_REUSEADDR is for connections of the last run that
// are still in TIME_WAIT; it does not let two sockets listen.
func (h host) Listen(addr string, exclusive bool) (ring.FD, netip.AddrPort, error) {
	fail := func(fd ring.FD, err error) (ring.FD, netip.AddrPort, error) {
		if fd != ring.NoFD {
			h.Close(fd)
		}
		return ring.NoFD, netip.AddrPort{}, fmt.Errorf("listen on %s: %w", addr, err)
	}
	want, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return fail(ring.NoFD, err)
	}
	at := netip.AddrPortFrom(want.AddrPort().Addr().Unmap(), uint16(want.Port))
	if want.IP == nil { // ":9092" is every address; IPv6's takes IPv4's in
		at = netip.AddrPortFrom(netip.IPv6Unspecified(), at.Port())
	}
	fd, err := h.Socket(at)
	if errors.Is(err, unix.EAFNOSUPPORT) && want.IP == nil {
		at = netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port())
		fd, err = h.Socket(at)
	}
	if err != nil {
		return fail(ring.NoFD, err)
	}
	if err := bindAndListen(int(fd), at, want.IP == nil, exclusive); err != nil {
		return fail(fd, err)
	}
	sa, err := unix.Getsockname(int(fd))
	if err != nil {
		return fail(fd, err)
	}
	return fd, addrPort(sa), nil
}

func bindAndListen(fd int, at netip.AddrPort, dual, exclusive bool) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if at.Addr().Is6() {
		only := 1
		if dual {
			only = 0
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); err != nil {
			return err
		}
	}
	share := func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }
	if !exclusive {
		if err := share(); err != nil {
			return err
		}
	}
	// Accepted sockets inherit these from their listener: no call for each of them.
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, keepIdle},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, keepInterval},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepCount},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return err
		}
	}
	if err := unix.Bind(fd, sockaddr(at)); err != nil {
		return err
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return err
	}
	if exclusive {
		return share()
	}
	return nil
}

// Socket is non-blocking, and sends small writes at once (TCP_NODELAY).
func (h host) Socket(addr netip.AddrPort) (ring.FD, error) {
	family := unix.AF_INET6
	if addr.Addr().Unmap().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ring.NoFD, fmt.Errorf("socket for %s: %w", addr, err)
	}
	if errno := NoDelay(ring.FD(fd)); errno != 0 {
		h.Close(ring.FD(fd))
		return ring.NoFD, fmt.Errorf("socket for %s: %w", addr, errno)
	}
	return ring.FD(fd), nil
}

func (host) Peer(fd ring.FD) (netip.AddrPort, error) {
	sa, err := unix.Getpeername(int(fd))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("peer of socket %d: %w", fd, err)
	}
	return addrPort(sa), nil
}

func sockaddr(at netip.AddrPort) unix.Sockaddr {
	addr := at.Addr().Unmap()
	if addr.Is4() {
		return &unix.SockaddrInet4{Port: int(at.Port()), Addr: addr.As4()}
	}
	return &unix.SockaddrInet6{Port: int(at.Port()), Addr: addr.As16(), ZoneId: zone(addr)}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		addr := netip.AddrFrom16(sa.Addr).Unmap()
		if sa.ZoneId != 0 {
			addr = addr.WithZone(strconv.Itoa(int(sa.ZoneId)))
		}
		return netip.AddrPortFrom(addr, uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// zone is the interface index of a link-local address: %eth0 or %2. An unknown
// one is 0, with which the kernel refuses to connect.
func zone(addr netip.Addr) uint32 {
	if addr.Zone() == "" {
		return 0
	}
	if n, err := strconv.ParseUint(addr.Zone(), 10, 32); err == nil {
		return uint32(n)
	}
	if i, err := net.InterfaceByName(addr.Zone()); err == nil {
		return uint32(i.Index)
	}
	return 0
}
