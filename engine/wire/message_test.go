package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func randomRequest(rng *rand.Rand, key, version int16) kmsg.Request {
	r := kmsg.RequestForKey(key)
	r.SetVersion(version)
	fill(rng, reflect.ValueOf(r).Elem(), true)
	return r
}

func TestParseRequest(t *testing.T) {
	for key := range APIs {
		if shapes[key] == nil {
			continue
		}
		key := int16(key)
		eachVersion(t, key, func(t *testing.T, rng *rand.Rand, version int16) {
			body := randomRequest(rng, key, version).AppendTo(nil)
			var got kmsg.Request
			everyPrefix(t, body, func(b []byte) (err error) {
				got, err = ParseRequest(key, version, b)
				return err
			})
			if again := got.AppendTo(nil); !bytes.Equal(again, body) {
				t.Errorf("got  %x\nwant %x", again, body)
			}
			for i := range body { // the frame's memory is used again
				body[i] ^= 0xff
			}
			for i, b := range got.AppendTo(nil) {
				if b == body[i] {
					t.Fatal("the request shares memory with its frame")
				}
			}
		})
	}
}

func TestParseRequestRefuses(t *testing.T) {
	for _, c := range []struct {
		key, version int16
		body         string
		want         error
	}{
		{KeyProduce, 9, "", ErrUnsupported},
		{4, 0, "", ErrUnsupported},
		{KeyMetadata, 14, "\x00\x01\x01\x00", ErrUnsupported},
		{KeyMetadata, -1, "", ErrUnsupported},
		{-1, 0, "", ErrUnsupported},
		{KeyHeartbeat, 0, "\xff\xff\x00\x00\x00\x01\x00\x01m", ErrMalformed}, // a null group
		{KeyHeartbeat, 0, "\x80\x00\x00\x00\x00\x01\x00\x01m", ErrMalformed}, // length -32768
		{KeyMetadata, 0, "\xff\xff\xff\xfe", ErrMalformed},                   // array of -2
		{KeyMetadata, 9, "\x80\x80\x80\x80\x10\x00\x00\x00\x00", ErrMalformed},
		{KeyMetadata, 9, "\x80\x80\x80\x80\x80\x00\x00\x00\x00\x00", ErrMalformed}, // overlong
	} {
		if r, err := ParseRequest(c.key, c.version, []byte(c.body)); err != c.want {
			t.Errorf("%d v%d %q: got %v, %v", c.key, c.version, c.body, r, err)
		}
	}
}

// A count that lies must cost neither memory nor time, wherever it stands.
func TestLyingCounts(t *testing.T) {
	big := make([]byte, 1<<16)
	lies := [][]byte{
		binary.BigEndian.AppendUint32(nil, 1<<31-1),
		binary.BigEndian.AppendUint32(nil, 1<<16-100),
		binary.AppendUvarint(nil, 1<<32-1),
		binary.AppendUvarint(nil, 1<<31-1),
		binary.AppendUvarint(nil, 1<<16-100),
	}
	for key := range APIs {
		if APIs[key].Name == "" {
			continue
		}
		key := int16(key)
		for _, version := range []int16{APIs[key].Min, APIs[key].Max} {
			body := randomRequest(rand.New(rand.NewPCG(3, uint64(key))), key, version).AppendTo(nil)
			for _, lie := range lies {
				for at := 0; at < len(body); at += 1 + len(body)/64 {
					b := append(append(append(big[:0:0], body[:at]...), lie...), big...)
					var before, after runtime.MemStats
					runtime.ReadMemStats(&before)
					switch key {
					case KeyProduce:
						new(ProduceRequest).Parse(version, b)
					case KeyFetch:
						new(FetchRequest).Parse(version, b)
					default:
						ParseRequest(key, version, b)
					}
					runtime.ReadMemStats(&after)
					if used := after.TotalAlloc - before.TotalAlloc; used > 32<<20 {
						t.Fatalf("%s v%d, lie %x at %d: %d MiB allocated", APIs[key].Name, version, lie, at, used>>20)
					}
				}
			}
		}
	}
}

func TestElementsMax(t *testing.T) {
	body := binary.BigEndian.AppendUint32(nil, ElementsMax+1)
	body = append(body, make([]byte, 2*(ElementsMax+1))...)
	if _, err := ParseRequest(KeyMetadata, 0, body); err != ErrMalformed {
		t.Errorf("got %v", err)
	}
	binary.BigEndian.PutUint32(body, ElementsMax)
	r, err := ParseRequest(KeyMetadata, 0, body)
	if err != nil || len(r.(*kmsg.MetadataRequest).Topics) != ElementsMax {
		t.Errorf("got %v", err)
	}
}

func TestHeader(t *testing.T) {
	for key := range APIs {
		if APIs[key].Name == "" {
			continue
		}
		for version := APIs[key].Min; version <= APIs[key].Max; version++ {
			r := kmsg.RequestForKey(int16(key))
			r.SetVersion(version)
			if r.IsFlexible() != Flexible(int16(key), version) {
				t.Errorf("%s v%d: flexible: %v", APIs[key].Name, version, r.IsFlexible())
			}
			frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID("me")).AppendRequest(nil, r, 77)
			if own := AppendRequest(nil, 77, "me", r); !bytes.Equal(own, frame) {
				t.Errorf("%s v%d: request: got %x, want %x", APIs[key].Name, version, own, frame)
			}
			h, body, err := ParseHeader(frame[SizePrefix:])
			if err != nil || h.Key != int16(key) || h.Version != version || h.CorrelationID != 77 || string(h.ClientID) != "me" {
				t.Errorf("%s v%d: got %+v, %v", APIs[key].Name, version, h, err)
			}
			if want := r.AppendTo(nil); !bytes.Equal(body, want) {
				t.Errorf("%s v%d: body: got %x, want %x", APIs[key].Name, version, body, want)
			}
			for n := range len(frame) - SizePrefix - len(body) {
				if _, _, err := ParseHeader(frame[SizePrefix : SizePrefix+n]); err == nil {
					t.Errorf("%s v%d: header of %d bytes accepted", APIs[key].Name, version, n)
				}
			}

			response := r.ResponseKind()
			response.SetVersion(version)
			frame = AppendResponse([]byte("before"), 78, response)[len("before"):]
			if size := binary.BigEndian.Uint32(frame); int(size) != len(frame)-SizePrefix {
				t.Errorf("%s v%d: size %d of %d", APIs[key].Name, version, size, len(frame))
			}
			id, body, err := ParseResponseHeader(frame[SizePrefix:], int16(key), version)
			if want := response.AppendTo(nil); err != nil || id != 78 || !bytes.Equal(body, want) {
				t.Errorf("%s v%d: response: got %d %x %v, want %x", APIs[key].Name, version, id, body, err, want)
			}
			header := len(frame) - SizePrefix - len(body)
			if want := map[bool]int{true: 5, false: 4}[response.IsFlexible() && key != int(KeyAPIVersions)]; header != want {
				t.Errorf("%s v%d: response header of %d bytes", APIs[key].Name, version, header)
			}
		}
	}
}

func TestHeaderRefuses(t *testing.T) {
	frame := []byte{0, 0, 0, 2, 0, 0, 0, 9, 0xff, 0xff} // Produce v2
	if h, _, err := ParseHeader(frame); err != ErrUnsupported || h.CorrelationID != 9 || h.Version != 2 {
		t.Errorf("got %+v, %v", h, err)
	}
	frame[3] = 3
	if h, _, err := ParseHeader(frame); err != nil || h.ClientID != nil {
		t.Errorf("null client id: got %+v, %v", h, err)
	}
	frame[8] = 0x80
	if _, _, err := ParseHeader(frame); err != ErrMalformed {
		t.Errorf("client id of -32513 bytes: got %v", err)
	}
	copy(frame, []byte{0, 18, 0x7f, 0xff, 0, 0, 0, 9, 0xff, 0xff, 0})
	if h, _, err := ParseHeader(append(frame, 0)); err != nil || h.Key != KeyAPIVersions || h.CorrelationID != 9 {
		t.Errorf("ApiVersions of the future: got %+v, %v", h, err)
	}
}

func TestAPIVersions(t *testing.T) {
	for version := int16(-1); version < 9; version++ {
		served := version >= 0 && version <= 5
		r := APIVersions(version)
		body := r.AppendTo(nil)
		got := kmsg.NewPtrApiVersionsResponse()
		if served {
			got.Version = version
		}
		if err := got.ReadFrom(body); err != nil {
			t.Fatal(err)
		}
		if served != (got.ErrorCode == None) || !served && got.ErrorCode != UnsupportedVersion {
			t.Errorf("v%d: error %d", version, got.ErrorCode)
		}
		if len(got.SupportedFeatures) != 0 || len(got.FinalizedFeatures) != 0 {
			t.Errorf("v%d: features %v %v", version, got.SupportedFeatures, got.FinalizedFeatures)
		}
		keys := map[int16]kmsg.ApiVersionsResponseApiKey{}
		for _, k := range got.ApiKeys {
			keys[k.ApiKey] = k
			if k.ApiKey == KeyProduce && k.MinVersion != 0 || k.ApiKey != KeyProduce && k.MinVersion != APIs[k.ApiKey].Min || k.MaxVersion != APIs[k.ApiKey].Max {
				t.Errorf("v%d: %+v", version, k)
			}
		}
		if len(keys) != 28 {
			t.Errorf("v%d: %d keys", version, len(keys))
		}
	}
}

// What is served is what kmsg and Kafka know by that number.
func TestTableAgreesWithKmsg(t *testing.T) {
	for key := range APIs {
		a := &APIs[key]
		if a.Name == "" {
			continue
		}
		r := kmsg.RequestForKey(int16(key))
		if r == nil || r.MaxVersion() < a.Max || kmsg.Key(key).Name() != a.Name && a.Name != "InitProducerId" {
			t.Errorf("%d %s: kmsg says %s", key, a.Name, kmsg.Key(key).Name())
		}
		if (a.Request == "") != (key == int(KeyProduce) || key == int(KeyFetch)) {
			t.Errorf("%s: shape %q", a.Name, a.Request)
		}
		if Name(int16(key)) != a.Name {
			t.Errorf("name of %d is %s", key, Name(int16(key)))
		}
	}
	if Name(4) != "Unknown" || Name(-1) != "Unknown" || Name(1000) != "Unknown" {
		t.Error("names for keys that are not served")
	}
}

func TestCodes(t *testing.T) {
	for code := int16(-1); code < 140; code++ {
		known := kerr.TypedErrorForCode(code)
		if known == nil || known.Code != code {
			if code != None && CodeName(code) != fmt.Sprintf("ERROR_%d", code) {
				t.Errorf("%d is %s", code, CodeName(code))
			}
			continue
		}
		name, retry := known.Message, known.Retriable
		switch code {
		case NotLeaderOrFollower:
			name = "NOT_LEADER_OR_FOLLOWER" // renamed in 2.6
		case ConcurrentTransactions:
			retry = true // Java's is a RetriableException
		}
		if CodeName(code) != name || Retriable(code) != retry {
			t.Errorf("%d: %s, retriable %v; franz-go has %s, %v", code, CodeName(code), Retriable(code), known.Message, known.Retriable)
		}
	}
	if CodeName(None) != "NONE" || Retriable(None) || Retriable(1000) || CodeName(-7) != "ERROR_-7" {
		t.Error("none, or unknown codes")
	}
}

func FuzzHeader(f *testing.F) {
	f.Add([]byte{0, 0, 0, 9, 0, 0, 0, 1, 0, 2, 'm', 'e', 1, 5, 1, 7, 0})
	f.Add([]byte{0, 18, 0x7f, 0xff, 0, 0, 0, 9, 0xff, 0xff, 0})
	f.Fuzz(func(t *testing.T, frame []byte) {
		h, body, err := ParseHeader(frame)
		if err != nil {
			return
		}
		if !Served(h.Key, h.Version) && h.Key != KeyAPIVersions || len(body)+len(h.ClientID) > len(frame) {
			t.Errorf("got %+v, %d bytes of body", h, len(body))
		}
		ParseRequest(h.Key, h.Version, body)
	})
}

func FuzzParseRequest(f *testing.F) {
	for key := range APIs {
		if shapes[key] != nil {
			rng := rand.New(rand.NewPCG(uint64(key), 5))
			f.Add(int16(key), APIs[key].Max, randomRequest(rng, int16(key), APIs[key].Max).AppendTo(nil))
			f.Add(int16(key), APIs[key].Min, randomRequest(rng, int16(key), APIs[key].Min).AppendTo(nil))
		}
	}
	f.Fuzz(func(t *testing.T, key, version int16, body []byte) {
		r, err := ParseRequest(key, version, body)
		if err != nil {
			return
		}
		if again, err := ParseRequest(key, version, r.AppendTo(nil)); err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("%s v%d: %v after encoding it again\n%+v\n%+v", Name(key), version, err, r, again)
		}
	})
}
