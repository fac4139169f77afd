package wire

import (
	"bytes"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// ParseRequest reads the body of a request other than Produce and Fetch.
// ErrUnsupported and ErrMalformed are its errors. The result shares nothing with
// body. What it allocates is bounded by the body's size and by ElementsMax.
func ParseRequest(key, version int16, body []byte) (kmsg.Request, error) {
	if !Served(key, version) || shapes[key] == nil {
		return nil, ErrUnsupported
	}
	d := decoder{b: body, flexible: Flexible(key, version)}
	d.skip(shapes[key], version)
	if d.bad {
		return nil, ErrMalformed
	}
	body = bytes.Clone(body[:len(body)-len(d.b)]) // kmsg's []byte fields are views
	r := kmsg.RequestForKey(key)
	r.SetVersion(version)
	if err := r.ReadFrom(body); err != nil { // null where it must not be
		return nil, ErrMalformed
	}
	return r, nil
}

// AppendResponse appends a whole frame: size, header, body. The response's version
// must be the request's.
func AppendResponse(dst []byte, correlationID int32, r kmsg.Response) []byte {
	at := len(dst)
	dst = AppendResponseHeader(dst, r.Key(), r.GetVersion(), correlationID)
	dst = r.AppendTo(dst)
	PutSize(dst[at:], 0)
	return dst
}

// AppendRequest appends a whole frame, as a client sends it.
func AppendRequest(dst []byte, correlationID int32, clientID string, r kmsg.Request) []byte {
	at := len(dst)
	dst = AppendRequestHeader(dst, r.Key(), r.GetVersion(), correlationID, clientID)
	dst = r.AppendTo(dst)
	PutSize(dst[at:], 0)
	return dst
}

// APIVersions is the response to ApiVersions at any version: for one that is not
// served, UNSUPPORTED_VERSION with a version 0 body that lists the served versions,
// from which the client picks (KIP-511). No features are advertised:
// transaction.version would make clients use transactions' second protocol, and
// group.version the new group protocol. The caller may change what it gets.
//
// The least version of Produce is said to be 0, though 3 is the least that is
// served: some librdkafka versions would else switch features off (KAFKA-18659).
func APIVersions(version int16) *kmsg.ApiVersionsResponse {
	r := kmsg.NewPtrApiVersionsResponse()
	if Served(KeyAPIVersions, version) {
		r.Version = version
	} else {
		r.ErrorCode = UnsupportedVersion
	}
	for key := range APIs {
		a := &APIs[key]
		if a.Name == "" {
			continue
		}
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = int16(key), a.Min, a.Max
		if k.ApiKey == KeyProduce {
			k.MinVersion = 0
		}
		r.ApiKeys = append(r.ApiKeys, k)
	}
	return r
}
