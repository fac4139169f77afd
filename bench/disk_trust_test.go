package bench

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What a disk's figures say of its word, from none to most.
func TestJudgeDisk(t *testing.T) {
	row := func(way string, p50, flushes float64) DiskRow {
		return DiskRow{Way: way, Place: PlaceOverwrite, Size: 4 << 10, Depth: 1, Latency: Latency{P50: &p50}, FlushesPerWrite: &flushes}
	}
	rows := func(p50, flushes float64) []DiskRow {
		return []DiskRow{row(WayBuffered, p50*1.2, flushes), row(WayDSync, p50, flushes), row(WayDirect, p50*1.1, flushes)}
	}
	vda := Disk{Device: "vda", FileSystem: "ext4", WriteCache: "write back"}
	with := func(d Disk, change func(*Disk)) Disk { change(&d); return d }
	uncounted := rows(900, 1)
	for i := range uncounted {
		uncounted[i].FlushesPerWrite = nil
	}
	fua := rows(900, 1)
	*fua[1].FlushesPerWrite = 0
	for _, c := range []struct {
		name    string
		disk    Disk
		rows    []DiskRow
		virtual bool
		want    Trust
		says    string
	}{
		{"nothing measured", vda, nil, false, TrustUnknown, "too few samples"},
		{"memory", Disk{FileSystem: "tmpfs"}, rows(4, 0), false, TrustNone, "that is memory"},
		{"no device", Disk{FileSystem: "overlay"}, rows(900, 0), false, TrustUnknown, "overlay has no block device"},
		{"several devices", with(vda, func(d *Disk) { d.Stacked = true }), rows(900, 0), false, TrustUnknown, "does not count flushes"},
		{"not counted", vda, uncounted, false, TrustUnknown, "does not count the flushes of vda"},
		{"flushes dropped", vda, rows(900, 0.4), false, TrustDoubtful, "only 0.40 flushes"},
		{"a cache", vda, rows(150, 1), false, TrustCache, "faster than a medium can (150 µs)"},
		{"a cache, virtual", vda, rows(150, 1), true, TrustCache, "the host behind a virtual disk"},
		{"a medium", vda, rows(900, 1), false, TrustMedium, "took as long as a medium does (900 µs)"},
		{"FUA", with(vda, func(d *Disk) { d.FUA = "1" }), fua, false, TrustMedium, "as far as can be told"},
		{"a disk that turns", with(vda, func(d *Disk) { d.Rotational = "1" }), rows(900, 1), false, TrustCache, "faster than a medium"},
		{"no volatile cache", with(vda, func(d *Disk) { d.WriteCache = "write through" }), rows(900, 0), false, TrustMedium, "no volatile cache"},
	} {
		f := DiskFile{Machine: Machine{Disk: c.disk, Hypervisor: c.virtual}, Rows: c.rows}
		if j := f.Judge(); j.Trust != c.want || !strings.Contains(j.Reason, c.says) || j.Device != c.disk.Device {
			t.Errorf("%s: %+v, want %s, %q", c.name, j, c.want, c.says)
		}
	}
}

func TestChoiceLine(t *testing.T) {
	for _, c := range []struct {
		choice *Choice
		want   string
	}{
		{nil, ""},
		{&Choice{Way: WayDSync, Micros: 150, Other: WayDirect, OtherMicros: 200, Sure: true}, "the cheapest way here, 150 µs against 200 µs"},
		{&Choice{Way: WayDirect, Micros: 150, Other: WayDSync, OtherMicros: 200, Sure: true}, "direct+fdatasync is cheaper here than RWF_DSYNC: 150 µs against 200 µs"},
		{&Choice{Way: WayDirect, Micros: 150, Other: WayDSync, OtherMicros: 200}, "costs here what direct+fdatasync costs"},
		{&Choice{Way: WayDSync, Micros: 150, Other: WayBuffered, OtherMicros: 151, Sure: true}, "costs here what write+fdatasync costs"},
	} {
		if got := (DiskFile{Choice: c.choice}).ChoiceLine(); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%+v: %q", c.choice, got)
		}
	}
}

func TestReadDiskFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.json")
	if _, err := ReadDiskFile(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	p50 := 150.0
	f := DiskFile{Format: resultFormat, Machine: Machine{Disk: Disk{Device: "vda"}}, Rows: []DiskRow{{Way: WayDSync, Place: PlaceOverwrite, Size: 4 << 10, Depth: 1, Latency: Latency{P50: &p50}}}}
	if err := f.Write(path); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadDiskFile(path); err != nil || got.Machine.Disk.Device != "vda" || median(got.durableRow()) == nil {
		t.Errorf("%+v, %v", got, err)
	}
	for _, text := range []string{"{", `{"format": 99}`} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadDiskFile(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
