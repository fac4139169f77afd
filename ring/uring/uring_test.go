//go:build uring

package uring

import (
	"testing"

	"github.com/millrace/millrace/ring/internal/host"
	"github.com/millrace/millrace/ring/ringtest"
)

func TestConformance(t *testing.T) {
	ringtest.Run(t, func(t *testing.T) ringtest.World {
		ringtest.NeedUring(t, Available())
		io, err := New(host.New(), Config{PoolBytes: ringtest.PoolBytes, RecvBuffers: ringtest.RecvBuffers})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := io.Close(); err != nil {
				t.Error(err)
			}
		})
		return ringtest.Real(io, t.TempDir())
	})
}
