package wire

import (
	"encoding/binary"
	"fmt"
	"math"
)

// SizePrefix is the length of a frame's size, which counts what follows it, bytes.
const SizePrefix = 4

// Header is a request's header.
type Header struct {
	Key           int16
	Version       int16
	CorrelationID int32
	ClientID      []byte // a view of the frame; nil: null
}

// ParseHeader splits a request, without its size prefix, into header and body.
// ErrUnsupported: the key or version is not served, and h has what could be read; a
// Kafka broker closes the connection then, except for ApiVersions, which is
// answered at every version and is never ErrUnsupported here.
func ParseHeader(frame []byte) (h Header, body []byte, err error) {
	d := decoder{b: frame}
	h.Key, h.Version, h.CorrelationID = d.int16(), d.int16(), d.int32()
	if d.bad {
		return h, nil, ErrMalformed
	}
	if !Served(h.Key, h.Version) && h.Key != KeyAPIVersions {
		return h, nil, ErrUnsupported
	}
	h.ClientID = d.nullableString() // not compact even in header v2
	d.flexible = Flexible(h.Key, h.Version)
	d.tags()
	return h, d.b, d.err()
}

// AppendResponseHeader appends a frame's size, still 0, and the response's header.
// PutSize completes the frame. The response to ApiVersions always has header v0, so
// that a client can read it before it knows the broker.
func AppendResponseHeader(dst []byte, key, version int16, correlationID int32) []byte {
	dst = append(dst, 0, 0, 0, 0)
	dst = appendInt32(dst, correlationID)
	return appendTagsEnd(dst, key != KeyAPIVersions && Flexible(key, version))
}

// PutSize writes the size of a frame into its prefix: frame is what is in memory,
// prefix included, and elsewhere how many bytes more belong to it (records that
// are sent from a file or from the log's memory).
func PutSize(frame []byte, elsewhere int) {
	size := len(frame) - SizePrefix + elsewhere
	if size < 0 || size > math.MaxInt32 {
		panic(fmt.Sprintf("BUG: wire: frame of %d bytes, %d of them elsewhere", size, elsewhere))
	}
	binary.BigEndian.PutUint32(frame, uint32(size))
}

// AppendRequestHeader appends a frame's size, still 0, and a request's header, as a
// client sends it: a follower, a tool. PutSize completes the frame.
func AppendRequestHeader(dst []byte, key, version int16, correlationID int32, clientID string) []byte {
	dst = append(dst, 0, 0, 0, 0)
	dst = appendInt16(dst, key)
	dst = appendInt16(dst, version)
	dst = appendInt32(dst, correlationID)
	dst = appendString(dst, false, clientID)
	return appendTagsEnd(dst, Flexible(key, version))
}

// ParseResponseHeader splits a response to a request of that key and version,
// without its size prefix, into correlation id and body.
func ParseResponseHeader(frame []byte, key, version int16) (correlationID int32, body []byte, err error) {
	d := decoder{b: frame}
	correlationID = d.int32()
	d.flexible = key != KeyAPIVersions && Flexible(key, version)
	d.tags()
	return correlationID, d.b, d.err()
}
