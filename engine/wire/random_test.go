package wire

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// fill sets every field below v at random; tags adds unknown tagged fields.
func fill(rng *rand.Rand, v reflect.Value, tags bool) {
	if t, ok := v.Addr().Interface().(*kmsg.Tags); ok {
		if tags && rng.IntN(3) == 0 {
			t.Set(100+uint32(rng.IntN(1000)), randomBytes(rng))
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); f.CanSet() && v.Type().Field(i).Name != "Version" {
				fill(rng, f, tags)
			}
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes(randomBytes(rng))
			return
		}
		n := rng.IntN(4)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(rng, v.Index(i), tags)
		}
	case reflect.Pointer:
		if rng.IntN(2) == 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(rng, v.Elem(), tags)
		}
	case reflect.Array:
		for i := range v.Len() {
			v.Index(i).SetUint(rng.Uint64() & 0xff)
		}
	case reflect.String:
		v.SetString(string(randomBytes(rng)))
	case reflect.Bool:
		v.SetBool(rng.IntN(2) == 0)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(rng.Uint64()) >> (64 - v.Type().Bits()))
	default:
		panic("fill: " + v.Type().String())
	}
}

func randomBytes(rng *rand.Rand) []byte {
	b := make([]byte, 1+rng.IntN(1<<rng.IntN(9)))
	for i := range b {
		b[i] = byte('a' + rng.IntN(26))
	}
	return b
}

// eachVersion runs f some times for every served version of an API.
func eachVersion(t *testing.T, key int16, f func(t *testing.T, rng *rand.Rand, version int16)) {
	t.Helper()
	for v := APIs[key].Min; v <= APIs[key].Max; v++ {
		for seed := range uint64(50) {
			f(t, rand.New(rand.NewPCG(uint64(v), seed)), v)
			if t.Failed() {
				t.Fatalf("%s v%d seed %d", APIs[key].Name, v, seed)
			}
		}
	}
}

// everyPrefix checks that parse takes body and refuses all that is shorter.
func everyPrefix(t *testing.T, body []byte, parse func([]byte) error) {
	t.Helper()
	for n := range body {
		if err := parse(body[:n:n]); err != ErrMalformed {
			t.Fatalf("%d of %d bytes: %v", n, len(body), err)
		}
	}
	if err := parse(body); err != nil {
		t.Fatalf("whole body: %v", err)
	}
}
