package bench

import (
	"bytes"
	"compress/flate"
	"math/rand/v2"
	"testing"
)

func TestValuesDoNotCompress(t *testing.T) {
	random := rand.NewChaCha8([32]byte{})
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	const values = 16 // of one batch
	for range values {
		if _, err := w.Write(randomValue(random, backlogValue)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if packed.Len() < values*backlogValue {
		t.Errorf("%d bytes became %d", values*backlogValue, packed.Len())
	}
}
