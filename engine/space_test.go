package engine_test

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/engine/wire"
)

// TestReserve: clients are refused before the reserve is touched, with an error that they try again on; metadata can
// still be changed; and with space again they are served, without a restart.
func TestReserve(t *testing.T) {
	const reserve = 1 << 20
	for _, policy := range []string{"os", "interval", "write", "file", "journal"} {
		t.Run(policy, func(t *testing.T) {
			m := newMachine(t, 3)
			defer m.world.Close()
			m.set = []string{"flush.policy=" + policy, "disk.reserve.bytes=1048576"}
			m.boot()
			m.make("data")
			l := &left{records: map[string][]acknowledged{}, produced: map[string]int{}}
			l.append(m, "data", 0)
			m.host.SetFree(reserve + 200<<10)
			m.pass(1e9)
			refused := int16(0)
			for n := 1; refused == 0; n++ {
				refused = l.tryAppend(m, "data", n).Code
				if n > 1000 {
					t.Fatal("the reserve is not kept")
				}
			}
			if refused != wire.KafkaStorageError {
				t.Errorf("refused with %d", refused)
			}
			m.pass(1e9)
			if free, err := m.host.Free("/data"); err != nil || free < reserve-64<<10 { // an index, a checkpoint
				t.Errorf("%d bytes are free: %v", free, err)
			}
			if len(l.records["data-0"]) < 50 {
				t.Errorf("only %d batches were taken", len(l.records["data-0"]))
			}
			m.make("more") // there is room for that
			if !strings.Contains(strings.Join(m.lines, "\n"), "NO SPACE: /data has ") {
				t.Error("nobody was told")
			}
			m.host.SetFree(1 << 30)
			m.pass(1e9)
			l.append(m, "data", 5000)
			if !strings.Contains(strings.Join(m.lines, "\n"), "space again: /data has ") {
				t.Error("nobody was told that it is over")
			}
			m.shutdown()
		})
	}
}
