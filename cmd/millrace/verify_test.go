package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
)

// dataDirectory is a data directory with the partition t-0: a first segment with
// one of everything and offsets 0 to 5, a second one with offsets 6 to 11 in three batches.
func dataDirectory(t *testing.T) (dir string, p *partitionFiles, spots []int) {
	dir = t.TempDir()
	p = golden(t, filepath.Join(dir, "t-0"))
	for i := range 3 {
		p.add(build(record.None, int64(4000+10*i), 9, int32(2*i), false, fmt.Sprint("x", i), fmt.Sprint("y", i)))
	}
	spots = p.spots
	p.flush()
	return dir, p, spots
}

func TestVerifySound(t *testing.T) {
	dir, _, _ := dataDirectory(t)
	code, out, errOut := invoke("log", "verify", dir, "--deep")
	if code != 0 || errOut != "" || !strings.HasPrefix(out, "1 partitions, 2 segments, 7 batches, ") || !strings.HasSuffix(out, ": 0 damaged, 0 notes\n") {
		t.Errorf("exit code %d, printed %q, error %q", code, out, errOut)
	}
	if code, _, errOut := invoke("log", "verify", t.TempDir()); code != 1 || !strings.Contains(errOut, "no partition below") {
		t.Errorf("empty directory: exit code %d, error %q", code, errOut)
	}
}

const (
	segment0 = "t-0/00000000000000000000"
	segment6 = "t-0/00000000000000000006"
)

func TestVerifyFindings(t *testing.T) {
	edit := func(file string, change func(b []byte) []byte) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			path := filepath.Join(dir, file)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			write(t, path, change(b))
		}
	}
	flip := func(at int) func(b []byte) []byte {
		return func(b []byte) []byte {
			if at < 0 {
				at += len(b)
			}
			b[at] ^= 0x40
			return b
		}
	}
	cut := func(n int) func(b []byte) []byte { return func(b []byte) []byte { return b[:len(b)-n] } }
	recovery := func(offset int) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "recovery-point-offset-checkpoint"), fmt.Appendf(nil, "0\n2\nu 0 5\nt 0 %d\n", offset))
		}
	}
	remove := func(file string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, file)); err != nil {
				t.Fatal(err)
			}
		}
	}
	type steps = []func(t *testing.T, dir string)
	for _, c := range []struct {
		name string
		do   steps
		code int
		want []string
	}{
		{"a flipped bit", steps{edit(segment6+".log", flip(150))}, 1,
			[]string{"damage " + segment6 + ".log: at 81, offset 8: the CRC of the batch is wrong", "the next valid batch is at"}},
		{"a flipped bit in an offset", steps{edit(segment6+".log", flip(81))}, 1,
			[]string{"damage " + segment6 + ".log: at 81, offsets 4611686018427387912 to 4611686018427387913: impossible offsets in segment 6",
				"damage " + segment6 + ".index: entry 0: no batch starts at position 81", ": 3 damaged, 0 notes"}},
		{"a flipped bit in a length", steps{edit(segment6+".log", flip(81+8))}, 1,
			[]string{"damage " + segment6 + ".log: at 81, offset 8: ", "the next valid batch is at 162"}},
		{"a torn tail, nothing known of recovery", steps{edit(segment6+".log", cut(1))}, 0,
			[]string{"note " + segment6 + ".log: at 162, offset 10: the batch is longer than the rest of the file; recovery cuts the last 80 bytes",
				"note " + segment6 + ".index: entry 1: no batch starts at position 162", "note " + segment6 + ".timeindex: entry 1: offset 11 is not in the segment"}},
		{"a torn tail below the recovery point", steps{recovery(12), edit(segment6+".log", cut(1))}, 1,
			[]string{"damage " + segment6 + ".log: at 162, offset 10: the batch is longer than the rest of the file; no valid batch in the last 80 bytes"}},
		{"a hole above the recovery point", steps{recovery(8), edit(segment6+".log", flip(150))}, 0,
			[]string{"note " + segment6 + ".log: at 81, offset 8: the CRC"}},
		{"a torn tail after a clean shutdown", steps{recovery(8), func(t *testing.T, dir string) { write(t, filepath.Join(dir, ".kafka_cleanshutdown"), nil) },
			edit(segment6+".log", cut(1))}, 1, []string{"damage " + segment6 + ".log"}},
		{"a torn segment that is not the last", steps{edit(segment0+".log", cut(1))}, 1, []string{"damage " + segment0 + ".log: at 263, offset 5"}},
		{"offsets again", steps{edit(segment6+".log", func(b []byte) []byte { return append(b, b[:81]...) })}, 1,
			[]string{"damage " + segment6 + ".log: at 243, offsets 6 to 7: offset 11 has been there before"}},
		{"a segment that overlaps", steps{func(t *testing.T, dir string) {
			b, err := os.ReadFile(filepath.Join(dir, segment6+".log"))
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "t-0/00000000000000000008.log"), b)
		}}, 1, []string{"damage t-0/00000000000000000008.log: starts at offset 8, and the segment before it ends at 11"}},
		{"an epoch that goes back", steps{edit(segment6+".log", func(b []byte) []byte { record.Batch(b[81:]).SetLeaderEpoch(2); return b })}, 1,
			[]string{"damage " + segment6 + ".log: at 81, offsets 8 to 9: leader epoch 2 after 3"}},
		{"another epoch than the checkpoint's", steps{edit(segment6+".log", func(b []byte) []byte { record.Batch(b[162:]).SetLeaderEpoch(4); return b })}, 1,
			[]string{"damage t-0/leader-epoch-checkpoint: offset 10 has leader epoch 4 in the log"}},
		{"an epoch beyond the end", steps{edit("t-0/leader-epoch-checkpoint", func([]byte) []byte { return []byte("0\n2\n3 0\n5 99\n") })}, 0,
			[]string{"note t-0/leader-epoch-checkpoint: epoch 5 starts at 99, beyond the end of the log, 12"}},
		{"epochs out of order", steps{edit("t-0/leader-epoch-checkpoint", func([]byte) []byte { return []byte("0\n2\n3 6\n4 0\n") })}, 1,
			[]string{"damage t-0/leader-epoch-checkpoint: epoch 4 from offset 0 does not follow epoch 3 from 6"}},
		{"no epochs, and batches that have one", steps{edit("t-0/leader-epoch-checkpoint", func([]byte) []byte { return nil })}, 1,
			[]string{"damage t-0/leader-epoch-checkpoint: offset 0 has leader epoch 3 in the log, and none here"}},
		{"no epochs and no batches", steps{func(t *testing.T, dir string) {
			newPartition(t, filepath.Join(dir, "empty-0")).flush()
			write(t, filepath.Join(dir, "empty-0/leader-epoch-checkpoint"), nil)
			write(t, filepath.Join(dir, "empty-0/partition.metadata"), []byte("version: 0\ntopic_id: QUB7ZSLtTly6jZlB-PHZkA"))
		}}, 0, []string{"2 partitions, 3 segments, 7 batches, ", ": 0 damaged, 0 notes"}},
		{"epochs that begin at the log's start, within a segment", steps{edit("t-0/leader-epoch-checkpoint", func([]byte) []byte { return []byte("0\n1\n3 2\n") })}, 0,
			[]string{"0 damaged, 0 notes"}},
		{"an epoch that the checkpoint does not know yet", steps{edit("t-0/leader-epoch-checkpoint", func([]byte) []byte { return []byte("0\n1\n2 2\n") })}, 1,
			[]string{"damage t-0/leader-epoch-checkpoint: offset 0 has leader epoch 3 in the log, and another one here"}},
		{"a checkpoint that is none", steps{edit("t-0/leader-epoch-checkpoint", func([]byte) []byte { return []byte("0\n5\n3 0\n") })}, 1,
			[]string{`damage t-0/leader-epoch-checkpoint: it says "5" entries and has 1`}},
		{"records that do not decode", steps{edit(segment6+".log", func(b []byte) []byte { b[60] = 1; record.Batch(b[:81]).UpdateCRC(); return b })}, 1,
			[]string{"damage " + segment6 + ".log: at 0, offsets 6 to 7: record: batch at offset 6: "}},
		{"a half index entry", steps{edit(segment0+".index", cut(3))}, 1, []string{"damage " + segment0 + ".index: 21 bytes are not a whole number of entries of 8"}},
		{"a wrong index position", steps{edit(segment0+".index", flip(7))}, 1, []string{"damage " + segment0 + ".index: entry 0: no batch starts at position 29 (offset 3)"}},
		{"a wrong index offset", steps{edit(segment0+".index", func(b []byte) []byte { b[3] = 2; return b })}, 1,
			[]string{"damage " + segment0 + ".index: entry 0: offset 2, and the batch at position 93 ends at 3"}},
		{"index entries out of order", steps{edit(segment0+".index", func(b []byte) []byte { return append(b, b[:8]...) })}, 1,
			[]string{"damage " + segment0 + ".index: entry 3: offset 3, position 93 is not above offset 5, position 263"}},
		{"a preallocated index", steps{edit(segment6+".index", func(b []byte) []byte { return append(b, make([]byte, 80)...) })}, 0, []string{"0 damaged, 0 notes"}},
		{"no index", steps{remove(segment0 + ".index")}, 0, []string{"note " + segment0 + ".index: is missing, and rebuilt at the next start"}},
		{"a wrong time", steps{edit(segment0+".timeindex", flip(7))}, 1, []string{"damage " + segment0 + ".timeindex: entry 0: timestamp 1938, and the batch with offset 3 has 2002"}},
		{"times out of order", steps{edit(segment0+".timeindex", func(b []byte) []byte { return append(b, b[:12]...) })}, 1,
			[]string{"damage " + segment0 + ".timeindex: entry 3: timestamp 2002, offset 3 does not follow timestamp 3001, offset 5"}},
		{"a transaction that was not aborted", steps{edit(segment0+".txnindex", func(b []byte) []byte { b[25] = 5; return b })}, 1,
			[]string{"damage " + segment0 + ".txnindex: entry 0: offset 5 is no abort marker of producer 7"}},
		{"a transaction index of the future", steps{edit(segment0+".txnindex", flip(1))}, 1, []string{"damage " + segment0 + ".txnindex: entry 0: unknown version 64"}},
		{"a snapshot with a flipped bit", steps{edit(segment6+".snapshot", flip(-1))}, 1, []string{"damage " + segment6 + ".snapshot: snapshot is corrupt: stored crc"}},
		{"a snapshot that knows the future", steps{edit(segment6+".snapshot", func([]byte) []byte { return snapshot(producerState{producerID: 1, lastOffset: 6, txnFirstOffset: -1}) })}, 1,
			[]string{"damage " + segment6 + ".snapshot: producer 1 has last offset 6"}},
		{"a snapshot beyond the end", steps{func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "t-0/00000000000000000099.snapshot"), snapshot())
		}}, 0,
			[]string{"note t-0/00000000000000000099.snapshot: is beyond the end of the log, 12"}},
		{"partition.metadata", steps{edit("t-0/partition.metadata", cut(1))}, 1, []string{"damage t-0/partition.metadata: not a partition.metadata of version 0"}},
		{"a partition that is being removed", steps{func(t *testing.T, dir string) {
			if err := os.Rename(filepath.Join(dir, "t-0"), filepath.Join(dir, "t-0.abc-delete")); err != nil {
				t.Fatal(err)
			}
		}}, 1, []string{"0 partitions"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, _, _ := dataDirectory(t)
			for _, step := range c.do {
				step(t, dir)
			}
			code, out, errOut := invoke("log", "verify", dir, "--deep")
			out = strings.ReplaceAll(out, dir+"/", "")
			for _, want := range c.want {
				if code != c.code || !strings.Contains(out, want) {
					t.Errorf("exit code %d, want %d; printed\n%swant %s\nerror %s", code, c.code, out, want, errOut)
				}
			}
		})
	}
}

// Every flipped byte and every cut of a partition's files is found, where the file says anything there.
func TestVerifyFindsDamage(t *testing.T) {
	dir, _, _ := dataDirectory(t)
	sum := crc32.Checksum([]byte("t 0 12\n"), crc32.MakeTable(crc32.Castagnoli))
	write(t, filepath.Join(dir, "recovery-point-offset-checkpoint"), fmt.Appendf(nil, "0\n2\nt 0 12\n#crc32c 0 %d\n", sum))
	write(t, filepath.Join(dir, "meta.properties"), ring.Seal([]byte("cluster.id=c\nnode.id=1\nversion=1\n")))
	write(t, filepath.Join(dir, "journal-checkpoint"), ring.Seal([]byte("version=2\ngeneration=1\n")))
	var paths []string
	for _, pattern := range []string{"*", "t-0/*"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, found...)
	}
	cases := 0
	for _, path := range paths {
		whole, err := os.ReadFile(path)
		if err != nil { // a directory
			continue
		}
		for at := range whole {
			for _, damage := range []struct {
				name string
				b    []byte
			}{{"flip", append(append(bytes.Clone(whole[:at]), whole[at]^0x04), whole[at+1:]...)}, {"cut", bytes.Clone(whole[:at])}} {
				if filepath.Ext(path) == ".txnindex" && damage.name == "flip" && at%abortedEntry >= abortedEntry-24 && at%abortedEntry < abortedEntry-16 ||
					filepath.Ext(path) == ".txnindex" && at%abortedEntry >= abortedEntry-8 {
					continue // where the transaction began, and the last stable offset then: nothing else says them
				}
				if named(path, "leader-epoch-checkpoint", "partition.metadata") && (damage.name == "flip" || at+1 == len(whole)) {
					continue // Kafka's text files have no CRC: see TestVerifyFindings
				}
				if named(path, "meta.properties", "journal-checkpoint", "offset-checkpoint") && at+20 >= len(whole) || strings.HasSuffix(path, "index") && damage.name == "cut" && at%4 == 0 {
					continue // the seal itself; an index that is only shorter
				}
				write(t, path, damage.b)
				code, out, _ := invoke("log", "verify", dir, "--deep")
				if strings.HasSuffix(out, ": 0 damaged, 0 notes\n") {
					t.Errorf("%s: %s at %d of %d: exit code %d, printed\n%s", filepath.Base(path), damage.name, at, len(whole), code, out)
				}
				cases++
			}
		}
		write(t, path, whole)
	}
	t.Logf("%d cases", cases)
}

func named(path string, ends ...string) bool {
	for _, end := range ends {
		if strings.HasSuffix(path, end) {
			return true
		}
	}
	return false
}

// The positions in TestVerifyFindings are those of the files.
func TestVerifyPositions(t *testing.T) {
	_, p, spots := dataDirectory(t)
	if fmt.Sprint(spots) != "[0 81 162]" || len(p.recent) != 81 || binary.BigEndian.Uint64(p.recent) != 10 {
		t.Errorf("batches at %v, the last one of %d bytes at offset %d", spots, len(p.recent), p.recent.BaseOffset())
	}
}

func TestVerifyJSON(t *testing.T) {
	dir, p, _ := dataDirectory(t)
	write(t, filepath.Join(p.dir, "leader-epoch-checkpoint"), nil)
	code, out, _ := invoke("log", "verify", dir, "--json")
	if code != 1 || !strings.Contains(out, `"damaged": 1`) || !strings.Contains(out, `"level": "damage"`) {
		t.Errorf("exit code %d, printed %s", code, out)
	}
}
