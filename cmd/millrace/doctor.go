package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// check is one line of the doctor: what was found, and, where it is not OK, what it
// costs and which setting changes it.
type check struct {
	Name   string `json:"check"`
	Status string `json:"status"`
	Found  string `json:"found"`
	Advice string `json:"advice,omitempty"`
}

const (
	statusOK   = "OK"
	statusWarn = "WARN" // works, and would be faster or safer otherwise
	statusFail = "FAIL" // does not work
)

// judge is a check that is OK, or else has the status and the advice.
func judge(name, found string, ok bool, otherwise, advice string) check {
	if ok {
		return check{Name: name, Status: statusOK, Found: found}
	}
	return check{name, otherwise, found, advice}
}

func doctor(c *cli, args []string) error {
	f := newFlags("doctor", "",
		"Says what this machine allows: io_uring and which setting blocks it, limits, the file system and the disk's write "+
			"cache under the data directory, CPUs, memory and network settings. Each line is OK, WARN (it works, and would be faster "+
			"or safer otherwise) or FAIL; exit code 1 if any is FAIL. It writes one small file into the data directory and removes it.",
		"millrace doctor --data /var/lib/millrace")
	data := f.String("data", ".", "data `directory`, or where it will be")
	asJSON := f.Bool("json", false, "print JSON")
	if err := f.parse(c, args); err != nil {
		return err
	}
	m := machine{root: "/"}
	var all []check
	for _, part := range [][]check{m.kernel(), uringReport(m), m.limits(), m.storage(*data), m.cpus(), m.memory(), m.network()} {
		all = append(all, part...)
	}
	failed := 0
	for _, k := range all {
		if k.Status == statusFail {
			failed++
		}
	}
	if *asJSON {
		if err := printJSON(c.out, all); err != nil {
			return err
		}
	} else {
		printChecks(c, all)
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d checks failed", failed, len(all))
	}
	return nil
}

func printChecks(c *cli, all []check) {
	t := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
	for _, k := range all {
		fmt.Fprintf(t, "%s\t%s\t%s\n", k.Status, k.Name, k.Found)
		if k.Advice != "" {
			fmt.Fprintf(t, "\t\t-> %s\n", k.Advice)
		}
	}
	t.Flush()
}

// machine reads the settings of the kernel below root, which is / but in tests.
type machine struct{ root string }

// read is a file of /proc or /sys, trimmed; "" where there is none.
func (m machine) read(path string) string {
	b, err := os.ReadFile(filepath.Join(m.root, path))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (m machine) sysctl(name string) string {
	return m.read("proc/sys/" + strings.ReplaceAll(name, ".", "/"))
}

// number is the sysctl's first number; ok is false where there is none.
func (m machine) number(name string) (n int64, ok bool) {
	f := strings.Fields(m.sysctl(name))
	if len(f) == 0 {
		return 0, false
	}
	n, err := strconv.ParseInt(f[0], 10, 64)
	return n, err == nil
}

// field is the value of a "Name: value" line of a /proc file.
func (m machine) field(path, name string) string {
	for line := range strings.Lines(m.read(path)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

func (m machine) kernel() []check {
	release := m.sysctl("kernel.osrelease")
	var major, minor int
	fmt.Sscanf(release, "%d.%d", &major, &minor)
	return []check{judge("kernel", "Linux "+release, major > 6 || major == 6 && minor >= 1, statusWarn,
		"io_uring as we use it needs Linux 6.1; below that the broker runs on epoll")}
}

func (m machine) limits() []check {
	var files, memory unix.Rlimit
	errFiles := unix.Getrlimit(unix.RLIMIT_NOFILE, &files)
	errMemory := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &memory)
	if err := errors.Join(errFiles, errMemory); err != nil {
		return []check{{"limits", statusFail, err.Error(), ""}}
	}
	checks := []check{
		judge("open files", limit(files.Cur), files.Cur >= 65536, statusWarn,
			"each partition holds at least three files open and each connection one: raise LimitNOFILE (ulimit -n) to 65536 or more"),
		judge("locked memory", limit(memory.Cur), memory.Cur >= 8<<20, statusWarn,
			"registered buffers of the ring count against it: raise LimitMEMLOCK (ulimit -l) to 8 MiB or more"),
	}
	if n, ok := m.number("vm.max_map_count"); ok {
		checks = append(checks, judge("memory maps", fmt.Sprintf("vm.max_map_count=%d", n), n >= 262144, statusWarn,
			"each segment maps two indexes: with many partitions set vm.max_map_count=262144"))
	}
	return checks
}

func limit(n uint64) string {
	if n == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return strconv.FormatUint(n, 10)
}

func (m machine) memory() []check {
	var checks []check
	if thp := m.read("sys/kernel/mm/transparent_hugepage/enabled"); thp != "" {
		mode, advice := chosen(thp), "the kernel may stall a core while it makes huge pages"
		if mode == "never" {
			advice = "recent batches are kept in pages of 4 KiB, into which copying is slow where free memory is in pieces"
		}
		checks = append(checks, judge("huge pages", "transparent_hugepage="+mode, mode == "madvise", statusWarn, advice+": echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"))
	}
	if n, ok := m.number("vm.swappiness"); ok {
		swap := m.field("proc/meminfo", "SwapTotal")
		checks = append(checks, judge("swap", fmt.Sprintf("vm.swappiness=%d, swap %s", n, cmp.Or(swap, "unknown")),
			n <= 10 || strings.HasPrefix(swap, "0 "), statusWarn, "memory of the broker may be swapped out for page cache: set vm.swappiness=1"))
	}
	return append(checks, m.writeBack()...)
}

// writeBackMax is how many dirty bytes may gather before the kernel starts to
// write: one disk's work of a second or so. More comes as a burst that stalls writers.
const writeBackMax = 1 << 30

func (m machine) writeBack() []check {
	ratio, ok := m.number("vm.dirty_background_ratio")
	if !ok {
		return nil
	}
	hard, _ := m.number("vm.dirty_ratio")
	expire, _ := m.number("vm.dirty_expire_centisecs")
	found := fmt.Sprintf("starts at vm.dirty_background_ratio=%d, blocks writers at vm.dirty_ratio=%d, pages age %d s", ratio, hard, expire/100)
	bytes, _ := m.number("vm.dirty_background_bytes")
	if bytes > 0 {
		found = fmt.Sprintf("starts at vm.dirty_background_bytes=%d, pages age %d s", bytes, expire/100)
	} else if kb, err := strconv.ParseInt(strings.TrimSuffix(m.field("proc/meminfo", "MemAvailable"), " kB"), 10, 64); err == nil {
		bytes = kb * 1024 / 100 * ratio
		found += fmt.Sprintf(" (%s dirty before write-back starts)", size(bytes))
	}
	return []check{judge("write-back", found, bytes <= writeBackMax, statusWarn,
		"with flush.policy=os that much is lost at a power failure, and it is written in bursts: set vm.dirty_background_bytes=268435456")}
}

func (m machine) network() []check {
	var checks []check
	if n, ok := m.number("net.core.somaxconn"); ok {
		checks = append(checks, judge("listen queue", fmt.Sprintf("net.core.somaxconn=%d", n), n >= 1024, statusWarn,
			"many clients that connect at once are refused: set net.core.somaxconn=4096"))
	}
	if n, ok := m.number("net.ipv4.tcp_max_syn_backlog"); ok {
		checks = append(checks, judge("half-open connections", fmt.Sprintf("net.ipv4.tcp_max_syn_backlog=%d", n), n >= 1024, statusWarn,
			"set net.ipv4.tcp_max_syn_backlog=4096"))
	}
	for _, way := range []string{"rmem", "wmem"} {
		if f := strings.Fields(m.sysctl("net.ipv4.tcp_" + way)); len(f) == 3 {
			n, _ := strconv.ParseInt(f[2], 10, 64)
			checks = append(checks, judge("tcp "+way, fmt.Sprintf("net.ipv4.tcp_%s at most %s", way, size(n)), n >= 4<<20, statusWarn,
				fmt.Sprintf("a connection over a long line can not fill it: set net.ipv4.tcp_%s='4096 131072 16777216'", way)))
		}
	}
	if n, ok := m.number("net.ipv4.tcp_slow_start_after_idle"); ok {
		checks = append(checks, judge("tcp slow start", fmt.Sprintf("net.ipv4.tcp_slow_start_after_idle=%d", n), n == 0, statusWarn,
			"the first large fetch after a pause takes extra round trips: set net.ipv4.tcp_slow_start_after_idle=0"))
	}
	return checks
}

// chosen is the word in brackets, as in "always [madvise] never".
func chosen(s string) string {
	_, rest, _ := strings.Cut(s, "[")
	word, _, ok := strings.Cut(rest, "]")
	if !ok {
		return s
	}
	return word
}
