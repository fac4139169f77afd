package ring

import "testing"

// Every flipped bit, and every cut, of a sealed text is found, or leaves the text as it was.
func TestSealFindsDamage(t *testing.T) {
	text := "version=2\nid=abc\n"
	whole := Seal([]byte(text))
	if got, sealed, err := Unseal(whole); string(got) != text || !sealed || err != nil {
		t.Fatalf("%q, %v, %v", got, sealed, err)
	}
	for i := range len(whole) * 8 {
		b := append([]byte(nil), whole...)
		b[i/8] ^= 1 << (i % 8)
		if got, sealed, err := Unseal(b); sealed && err == nil {
			t.Fatalf("bit %d: %q", i, got)
		} else if !sealed && i/8 < len(text)-1 {
			t.Fatalf("bit %d of the text: taken for one without a seal", i)
		}
	}
	for n := range len(whole) {
		if got, sealed, err := Unseal(whole[:n]); sealed && err == nil {
			t.Fatalf("%d bytes: %q", n, got)
		}
	}
}
