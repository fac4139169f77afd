package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/millrace/millrace/bench"
	"golang.org/x/sys/unix"
)

// mount is a line of /proc/self/mountinfo.
type mount struct {
	device     string // major:minor
	point      string
	kind       string // ext4, xfs, tmpfs, ...
	options    string
	fromDevice string // /dev/vda1
}

// parseMounts reads mountinfo (proc(5)): id parent major:minor root point options [tags] - type source superoptions.
func parseMounts(s string) []mount {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var all []mount
	for line := range strings.Lines(s) {
		head, tail, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(head), strings.Fields(tail)
		if ok && len(f) >= 6 && len(g) >= 2 {
			all = append(all, mount{f[2], unescape.Replace(f[4]), g[0], f[5], unescape.Replace(g[1])})
		}
	}
	return all
}

// mountOf is the mount that an absolute path lies on: the longest mount point
// above it, the last one mounted there.
func mountOf(all []mount, path string) (best mount, ok bool) {
	for _, m := range all {
		inside := m.point == "/" || path == m.point || strings.HasPrefix(path, m.point+"/")
		if inside && len(m.point) >= len(best.point) {
			best, ok = m, true
		}
	}
	return best, ok
}

// existing is path or the nearest directory above it that exists.
func existing(path string) (string, error) {
	at, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	for {
		if real, err := filepath.EvalSymlinks(at); err == nil {
			if info, err := os.Stat(real); err == nil && info.IsDir() {
				return real, nil
			}
			return "", fmt.Errorf("%s is not a directory", at)
		}
		if at == "/" {
			return "", fmt.Errorf("%s: nothing above it exists", path)
		}
		at = filepath.Dir(at)
	}
}

func (m machine) storage(data string) []check {
	dir, err := existing(data)
	if err != nil {
		return []check{{"data directory", statusFail, err.Error(), "give an existing directory with --data"}}
	}
	var checks []check
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err == nil {
		free := int64(fs.Bavail) * fs.Bsize
		checks = append(checks, judge("data directory", fmt.Sprintf("%s, %s free", dir, size(free)), free >= 2<<30, statusWarn,
			"a segment and its journal need room: one segment is 1 GiB by default"))
	}
	on, ok := mountOf(parseMounts(m.read("proc/self/mountinfo")), dir)
	if ok {
		checks = append(checks, judgeFileSystem(on))
	}
	checks = append(checks, directIO(dir))
	if ok {
		checks = append(checks, m.disk(on)...)
	}
	return append(checks, measuredDisk(dir))
}

// measuredDisk is what bench disk found out in the directory, where it was run.
func measuredDisk(dir string) check {
	const name = "flushes"
	path := filepath.Join(dir, "disk.json")
	f, err := bench.ReadDiskFile(path)
	if err != nil {
		found := "not measured: no " + path
		if !errors.Is(err, fs.ErrNotExist) {
			found = err.Error()
		}
		return check{name, statusOK, found, "whether a flush reaches the disk, as far as that can be told: millrace bench disk --dir " + dir}
	}
	if now := bench.ReadMachine(dir).Disk.Device; now != f.Machine.Disk.Device {
		return check{name, statusWarn, fmt.Sprintf("%s was measured on %s, and the directory is on %s now", path, word(f.Machine.Disk.Device), word(now)),
			"measure again: millrace bench disk --dir " + dir}
	}
	j := f.Judge()
	found := fmt.Sprintf("%s (%s)", j.Reason, j.Started.Local().Format("2006-01-02"))
	if line := f.ChoiceLine(); line != "" {
		found += "; " + line
	}
	return judge(name, found, j.Trust != bench.TrustNone && j.Trust != bench.TrustDoubtful, statusWarn,
		"what is acknowledged as on disk may not outlive a power loss here, whatever flush.policy says")
}

func judgeFileSystem(on mount) check {
	found := fmt.Sprintf("%s on %s (%s), %s", on.kind, on.fromDevice, on.point, on.options)
	advice := map[string]string{
		"tmpfs":      "it is memory: nothing on it survives a restart of the machine, and every sync is free",
		"ramfs":      "it is memory: nothing on it survives a restart of the machine, and every sync is free",
		"overlay":    "a container's own layer: slow, and gone with the container; mount a volume",
		"nfs":        "a sync goes over the network, and locks and O_DIRECT are not what they are on a disk",
		"nfs4":       "a sync goes over the network, and locks and O_DIRECT are not what they are on a disk",
		"btrfs":      "copy on write makes each sync dearer: chattr +C on the empty directory, or use xfs or ext4",
		"zfs":        "no O_DIRECT before OpenZFS 2.3, and a sync waits for the intent log: use xfs or ext4",
		"9p":         "a directory of the host: each operation is a round trip to it; use a disk",
		"virtiofs":   "a directory of the host: each operation is a round trip to it; use a disk",
		"fuseblk":    "a file system in user space: each operation is a round trip to it; use xfs or ext4",
		"fuse.sshfs": "a file system in user space: each operation is a round trip to it; use xfs or ext4",
	}[on.kind]
	for _, option := range strings.Split(on.options, ",") {
		if option == "ro" {
			return check{"file system", statusFail, found, "it is mounted read-only"}
		}
		if option == "sync" && advice == "" {
			advice = "mounted with sync: every write waits for the disk, whatever flush.policy says"
		}
	}
	if on.kind == "ext4" && advice == "" {
		// Measured: buffered writes through the ring go to a kernel worker on ext4, and not on xfs.
		return check{"file system", statusOK, found, "appends through the ring would need no worker thread on xfs"}
	}
	return judge("file system", found, advice == "", statusWarn, advice)
}

// directIO tries an aligned write past the page cache, made durable.
func directIO(dir string) check {
	const name, block = "O_DIRECT", 4096
	path := filepath.Join(dir, fmt.Sprintf(".millrace-doctor-%d", os.Getpid()))
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC|unix.O_DIRECT, 0o600)
	switch {
	case errors.Is(err, unix.EINVAL):
		os.Remove(path) // ext4 and others make the file before they refuse the flag
		return check{name, statusWarn, "not supported in " + dir, "the page cache cannot be gone round here: use ext4 or xfs on a disk"}
	case err != nil:
		return check{name, statusFail, fmt.Sprintf("%s: %v", path, err), "the broker must be able to make files there"}
	}
	defer os.Remove(path)
	defer unix.Close(fd)
	page, err := unix.Mmap(-1, 0, block, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned, as O_DIRECT wants
	if err != nil {
		return check{name, statusFail, err.Error(), ""}
	}
	defer unix.Munmap(page)
	if _, err := unix.Pwritev2(fd, [][]byte{page}, 0, unix.RWF_DSYNC); err != nil {
		return check{name, statusWarn, fmt.Sprintf("%s: durable write of %d bytes: %v", dir, block, err), "the page cache cannot be gone round here: use ext4 or xfs on a disk"}
	}
	return check{name, statusOK, fmt.Sprintf("a durable write of %d bytes in %s", block, dir), ""}
}

// disk looks at the block device below a mount.
func (m machine) disk(on mount) []check {
	queue := "sys/dev/block/" + on.device + "/queue"
	if m.read(queue+"/write_cache") == "" {
		queue = "sys/dev/block/" + on.device + "/../queue" // a partition: the queue is its disk's
		real, err := filepath.EvalSymlinks(filepath.Join(m.root, "sys/dev/block", on.device))
		if err != nil {
			return []check{{"write cache", statusOK, "no block device below " + on.kind, ""}}
		}
		rel, err := filepath.Rel(m.root, filepath.Join(filepath.Dir(real), "queue"))
		if err == nil {
			queue = rel
		}
	}
	cache, fua := m.read(queue+"/write_cache"), m.read(queue+"/fua")
	if cache == "" {
		return []check{{"write cache", statusOK, "not told by " + on.fromDevice, ""}}
	}
	checks := []check{judge("write cache", fmt.Sprintf("%s, fua=%s, logical block %s bytes", cache, fua, m.read(queue+"/logical_block_size")),
		cache == "write through" || fua == "1", statusWarn,
		"volatile and without FUA: each durable write flushes the whole cache of the disk, so few large flushes win (flush.policy=file rather than write); a disk with power-loss protection has none of this")}
	if s := chosen(m.read(queue + "/scheduler")); s != "" {
		checks = append(checks, judge("disk scheduler", s, s == "none" || s == "mq-deadline" || s == "kyber", statusWarn,
			"it reorders at the price of latency: echo none > /"+queue+"/scheduler"))
	}
	return checks
}
