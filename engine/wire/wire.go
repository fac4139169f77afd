// Package wire is the Kafka protocol as bytes: frames and headers, which versions
// are served, error codes, hand-written views of Produce and Fetch, and franz-go's
// kmsg, guarded, for everything else.
//
// Whatever a client sends is checked here once, before anything is allocated by it:
// a length or count that lies is ErrMalformed, never a panic and never memory.
// Views point into the frame and live as long as it does. Encoders append to dst.
// Nothing in this package locks or keeps state, apart from the structs that callers
// own and use again.
package wire

import (
	"encoding/binary"
	"errors"
)

// ErrMalformed is returned for bytes that are not what the protocol says should be
// there. The connection they came from can only be closed.
var ErrMalformed = errors.New("wire: malformed message")

// ErrUnsupported is returned for an API or a version that is not served.
var ErrUnsupported = errors.New("wire: API or version is not served")

// ElementsMax is how many array elements and tagged fields one request may hold in
// all: what parsing allocates is bounded by it, whatever the frame's size.
const ElementsMax = 1 << 20

// decoder reads one message. After the first error it reads zeros.
type decoder struct {
	b        []byte
	flexible bool
	elements int // read so far
	bad      bool
}

func (d *decoder) fail() {
	d.b, d.bad = nil, true
}

func (d *decoder) bytes(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.fail()
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) int8() int8 {
	if len(d.b) < 1 {
		d.fail()
		return 0
	}
	v := int8(d.b[0])
	d.b = d.b[1:]
	return v
}

func (d *decoder) int16() int16 {
	if len(d.b) < 2 {
		d.fail()
		return 0
	}
	v := int16(binary.BigEndian.Uint16(d.b))
	d.b = d.b[2:]
	return v
}

func (d *decoder) int32() int32 {
	if len(d.b) < 4 {
		d.fail()
		return 0
	}
	v := int32(binary.BigEndian.Uint32(d.b))
	d.b = d.b[4:]
	return v
}

func (d *decoder) int64() int64 {
	if len(d.b) < 8 {
		d.fail()
		return 0
	}
	v := int64(binary.BigEndian.Uint64(d.b))
	d.b = d.b[8:]
	return v
}

func (d *decoder) id() (v [16]byte) {
	copy(v[:], d.bytes(16))
	return v
}

// uvarint reads an unsigned varint of at most 5 bytes and 31 bits: no length,
// count or tag of the protocol is larger.
func (d *decoder) uvarint() int {
	var u uint32
	for i := 0; i < len(d.b) && i < 5; i++ {
		c := d.b[i]
		if i == 4 && c > 0x07 {
			break
		}
		u |= uint32(c&0x7f) << (7 * i)
		if c < 0x80 {
			d.b = d.b[i+1:]
			return int(u)
		}
	}
	d.fail()
	return 0
}

// nullableString is nil for null.
func (d *decoder) nullableString() []byte {
	var n int
	if d.flexible {
		n = d.uvarint() - 1
	} else {
		n = int(d.int16())
	}
	if n == -1 || d.bad {
		return nil
	}
	return d.bytes(n)
}

// string is what must not be null.
func (d *decoder) string() []byte {
	v := d.nullableString()
	if v == nil {
		d.fail()
	}
	return v
}

// nullableBytes is nil for null.
func (d *decoder) nullableBytes() []byte {
	var n int
	if d.flexible {
		n = d.uvarint() - 1
	} else {
		n = int(d.int32())
	}
	if n == -1 || d.bad {
		return nil
	}
	return d.bytes(n)
}

// count reads an array's length; null is 0. Each element takes at least a byte of
// what is left, and one of ElementsMax.
func (d *decoder) count() int {
	var n int
	if d.flexible {
		n = d.uvarint() - 1
	} else {
		n = int(d.int32())
	}
	if n == -1 || d.bad {
		return 0
	}
	return d.take(n)
}

// take accounts for n elements.
func (d *decoder) take(n int) int {
	d.elements += max(n, 0)
	if n < 0 || n > len(d.b) || d.elements > ElementsMax {
		d.fail()
		return 0
	}
	return n
}

// tagCount is how many tagged fields end a structure: 0 where it is not flexible.
func (d *decoder) tagCount() int {
	if !d.flexible {
		return 0
	}
	return d.take(d.uvarint())
}

// tag reads one tagged field; value reads what is in it.
func (d *decoder) tag() (tag int, value decoder) {
	tag = d.uvarint()
	return tag, decoder{b: d.bytes(d.uvarint()), flexible: true, elements: d.elements, bad: d.bad}
}

// tags skips the tagged fields that end a structure.
func (d *decoder) tags() {
	for n := d.tagCount(); n > 0 && !d.bad; n-- {
		d.tag()
	}
}

func (d *decoder) err() error {
	if d.bad {
		return ErrMalformed
	}
	return nil
}

func appendUvarint(dst []byte, n int) []byte { return binary.AppendUvarint(dst, uint64(n)) }

func appendInt16(dst []byte, v int16) []byte { return binary.BigEndian.AppendUint16(dst, uint16(v)) }

func appendInt32(dst []byte, v int32) []byte { return binary.BigEndian.AppendUint32(dst, uint32(v)) }

func appendInt64(dst []byte, v int64) []byte { return binary.BigEndian.AppendUint64(dst, uint64(v)) }

func appendString[T string | []byte](dst []byte, flexible bool, v T) []byte {
	if flexible {
		dst = appendUvarint(dst, len(v)+1)
	} else {
		dst = appendInt16(dst, int16(len(v)))
	}
	return append(dst, v...)
}

// appendMessage appends a nullable string; "" is null.
func appendMessage(dst []byte, flexible bool, v string) []byte {
	switch {
	case v != "":
		return appendString(dst, flexible, v)
	case flexible:
		return append(dst, 0)
	}
	return appendInt16(dst, -1)
}

// appendCount appends an array's length; -1 is null.
func appendCount(dst []byte, flexible bool, n int) []byte {
	if flexible {
		return appendUvarint(dst, n+1)
	}
	return appendInt32(dst, int32(n))
}

// appendTagsEnd ends a flexible structure that has no tagged fields.
func appendTagsEnd(dst []byte, flexible bool) []byte {
	if flexible {
		return append(dst, 0)
	}
	return dst
}
