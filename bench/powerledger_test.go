package bench

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"
)

// powerValue is a record of a PowerLedger with run 7.
func powerValue(producer, partition uint32, sequence uint64) []byte {
	value := make([]byte, 64)
	header{run: 7, producer: producer, partition: partition, sequence: sequence}.put(value)
	return value
}

func ackAll(l *PowerLedger, values ...[]byte) {
	for _, v := range values {
		l.Ack(v)
	}
}

func TestPowerLedgerFindsEverything(t *testing.T) {
	l := NewPowerLedger(7, 2, 2, time.Now)
	for sequence := range uint64(5) {
		ackAll(l, powerValue(0, 0, sequence), powerValue(1, 1, sequence))
	}
	l.acked[0][3] = int64(100 * time.Millisecond) // the oldest that is lost
	l.acked[0][4] = int64(150 * time.Millisecond)
	cut := l.start.Add(400 * time.Millisecond)
	read := func() Findings {
		c := l.Compare()
		for _, sequence := range []uint64{0, 1, 2, 1} {
			c.Visit(0, powerValue(0, 0, sequence))
		}
		for _, sequence := range []uint64{0, 2, 1, 3, 4, 5} { // 5 was never acknowledged
			c.Visit(1, powerValue(1, 1, sequence))
		}
		c.Visit(1, make([]byte, 64))
		return c.Finish(map[int32]int64{0: 6, 1: 7}, cut)
	}
	found := read()
	if found.Lost != 2 || found.Duplicated != 1 || found.Reordered != 1 || found.Corrupt != 1 || found.Holes != 2 ||
		found.Unacknowledged != 1 || found.Read != 11 || found.LossWindow != 300 || found.Whole() {
		t.Errorf("%+v", found)
	}
	// What has been counted is not counted again; what is new is.
	if found = read(); !found.Whole() || found.LossWindow != 0 {
		t.Errorf("a second time: %+v", found)
	}
	c := l.Compare()
	if found = c.Finish(nil, cut); found.Lost != 3+5 {
		t.Errorf("all gone: %+v", found)
	}
}

// A hole that stays is counted once, however the log grows behind it; what is added to it is counted.
func TestPowerLedgerCountsAHoleOnce(t *testing.T) {
	l := NewPowerLedger(7, 1, 1, time.Now)
	for i, cut := range []struct {
		read      uint64
		end, want int64
	}{{4, 6, 2}, {10, 12, 0}, {19, 24, 3}, {25, 30, 0}, {30, 30, 0}, {39, 40, 1}} {
		c := l.Compare()
		for sequence := range cut.read {
			c.Visit(0, powerValue(0, 0, sequence))
		}
		if found := c.Finish(map[int32]int64{0: cut.end}, time.Now()); found.Holes != cut.want || len(found.Examples) != int(min(1, cut.want)) {
			t.Errorf("reading %d, %d below %d: %+v", i, cut.read, cut.end, found)
		}
	}
}

func TestPowerRowKeepsItsPromise(t *testing.T) {
	lost := Findings{Lost: 1, Examples: []string{"partition 0: an example"}}
	for _, c := range []struct {
		row PowerRow
		ok  bool
	}{
		{PowerRow{Promises: true}, true},
		{PowerRow{Promises: true, Findings: lost}, false},
		{PowerRow{Findings: lost}, true},
		{PowerRow{Error: "x"}, false},
		{PowerRow{DamagedLogs: 1}, false},
		{PowerRow{BeyondBound: 1}, false},
		{PowerRow{Forgotten: 1}, true},
		{PowerRow{Forgotten: 1, Promises: true}, false},
	} {
		if c.row.OK() != c.ok {
			t.Errorf("%+v: OK %v", c.row, c.row.OK())
		}
	}
	var b bytes.Buffer
	PrintPower(&b, []*PowerRow{{Policy: "journal", Promises: true, Findings: lost}, {Policy: "kafka", Foreign: true}})
	if !strings.Contains(b.String(), "FAILED") || !strings.Contains(b.String(), "an example") || !strings.Contains(b.String(), " -       0.0 ms") {
		t.Errorf("%s", b.String())
	}
}

func TestRecoveryOutput(t *testing.T) {
	var o recoveryOutput
	io.WriteString(&o, "x recovery: /d: 8 logs opened after a crash in 3.1 ms: 500 bytes checked, 42 cut, 1 logs damaged\nrecovery: core-0.journal: the last write, 4096 bytes at 0, is torn or damaged\n")
	var row PowerRow
	o.take(&row)
	o.take(&row)
	if row.TornBytes != 42 || row.DamagedLogs != 1 || row.TornFrames != 1 {
		t.Errorf("%+v", row)
	}
}

func TestParsePowerLoss(t *testing.T) {
	p, err := parsePowerLoss(strings.Fields("--policies write,os --cuts 3 --seconds 0.5 --partitions 2 --seed 9 --override a=b --out x.json"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.policies) != 2 || p.Cuts != 3 || p.Life != 500*time.Millisecond || p.Seed != 9 || p.out != "x.json" || len(p.Overrides) != 1 {
		t.Errorf("%+v", p)
	}
	for args, want := range map[string][2]int{"--peer kafka": {0, 1}, "--peer kafka --peer kafka+flush.messages=1": {0, 2}, "--policies os,write --peer kafka": {2, 1},
		"--peer nats --peer nats+sync_interval=always": {0, 2}, "": {5, 0}} {
		if p, err := parsePowerLoss(strings.Fields(args), io.Discard); err != nil || len(p.policies) != want[0] || len(p.managed) != want[1] {
			t.Errorf("%q: %+v %v", args, p, err)
		}
	}
	p, err = parsePowerLoss(strings.Fields("--ground sim --points every --faults x"), io.Discard)
	if err != nil || !p.simulated || !p.simulation.EveryPoint || p.simulation.Cuts != 0 || p.Cuts != cutsDefaultSim || p.simulation.Faults != "x" {
		t.Errorf("%+v, %v", p, err)
	}
	for _, bad := range []string{"--ground moon", "--points every", "--faults x", "--ground sim --rate 9", "--ground sim --points few", "--ground sim --peer kafka", "--ground sim --command x", "--policies fast", "--cuts -1", "--seconds 0", "--recovering 1", "--peer rabbit", "--peer nats+flush.messages=1", "stray", "--nothing"} {
		if _, err := parsePowerLoss(strings.Fields(bad), io.Discard); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
