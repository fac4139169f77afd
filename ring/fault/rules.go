// Package fault wraps any ring.IO and any ring.Host and breaks what goes through
// them by rules, which are text:
//
//	(Sync (path "*.log") (nth 2) EIO)        ; the second sync of a .log fails
//	(Write (path "*.log") (nth 3) short 100) ; only 100 bytes of the third write are written
//	(Write (from 7) (every 4) torn)          ; half of it is written, and it fails with EIO
//	(Write (after-bytes 1048576) ENOSPC)     ; the disk is full after a MiB
//	(Send (delay 5ms))                       ; each send begins 5 ms later
//	(Sync (nth 1) lie)                       ; success is reported, nothing is done
//
// A rule is a verb, conditions, and at least one effect. The verbs are the codes
// of ring.Op and the methods of ring.Host, spelled as in Go; Read, Write, Sync,
// Truncate, Allocate and Close are both. Open is every open, Create only those
// that may make the file.
//
//	(path "glob")     the file's path matches (filepath.Match); without a slash in
//	                  the glob, its last element does. The path of Listen and
//	                  Socket is the address; other sockets have none.
//	(nth N)           only the Nth time, from 1
//	(every N)         the Nth time, the 2Nth, ...
//	(from N)          the Nth time and later
//	(after-bytes N)   when this and the earlier ones ask for more than N bytes together
//
// "Time" counts, for each rule by itself, the requests of its verb and path, when
// they are submitted. A rule fires when all its conditions hold; the first rule
// that fires decides what happens. The effects:
//
//	EIO, ENOSPC, ...  it fails so, and is not done
//	short N           Read, Write, Recv, Send, SendFile: it moves at most N bytes
//	torn [N]          Write: N bytes are written (half of it in whole sectors, if
//	                  there is no N), and it fails with EIO
//	lie               Write, Sync, SyncDir: success is reported, nothing is done
//	unsynced          Write: it is done, and not made durable, whatever its flags ask
//	(delay 5ms)       it begins that much later; together with any of the above
//
// What no rule fires for passes through untouched and costs no allocation. It is
// for tests: while there are rules, each request takes a lock.
package fault

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/millrace/millrace/ring"
)

// Rules are the faults of one machine, and the paths of its open files. They are
// shared by the wrappers of its Host and of all its IOs, from any goroutine. Parse
// makes them; of no text too.
type Rules struct {
	// Sleep is how a delayed verb of a Host waits; time.Sleep where nil. (A
	// delayed op waits on the ring's clock, and does not need it.) Set it first.
	Sleep func(time.Duration)

	some  atomic.Bool // there are rules
	mu    sync.Mutex
	rules []*rule
	paths map[ring.FD]string // of the files that the Host has opened
}

type verb uint8

const (
	vNop verb = iota
	vRead
	vWrite
	vSync
	vSyncRange
	vPrefetch
	vForget
	vNoReadahead
	vAllocate
	vTruncate
	vClose
	vAccept
	vConnect
	vRecv
	vSend
	vSendFile
	vShutdown
	vTask
	vOpen // the first that is not a code of ring.Op
	vCreate
	vSize
	vStat
	vReadDir
	vMkdirAll
	vRename
	vRemove
	vSyncDir
	vLock
	vMap
	vFree
	vListen
	vSocket
	verbs
)

var verbNames = [verbs]string{"Nop", "Read", "Write", "Sync", "SyncRange", "Prefetch", "Forget", "NoReadahead", "Allocate", "Truncate", "Close",
	"Accept", "Connect", "Recv", "Send", "SendFile", "Shutdown", "Task",
	"Open", "Create", "Size", "Stat", "ReadDir", "MkdirAll", "Rename", "Remove", "SyncDir", "Lock", "Map", "Free", "Listen", "Socket"}

// verbOf is the verb of a code: they have the same order.
func verbOf(c ring.Code) verb {
	if verb(c) >= vOpen {
		panic(fmt.Sprintf("BUG: fault: %v has no verb", c))
	}
	return verb(c)
}

// effect is what a rule does.
type effect struct {
	delay time.Duration
	errno syscall.Errno
	short int64 // at most so many bytes; -1: all
	torn  int64 // so many bytes, then EIO; -1: no; tornHalf: half of them
	lie   bool
	loose bool // without DSync
}

const tornHalf = -2

var none = effect{short: -1, torn: -1}

// tornBytes is how much of size bytes a torn write writes.
func (e effect) tornBytes(size int64) int64 {
	if e.torn == tornHalf {
		return size / 2 / 512 * 512
	}
	return min(e.torn, size)
}

type rule struct {
	text  string
	verb  verb
	glob  string // "": any
	nth   int64  // 0: not asked
	every int64
	from  int64
	after int64 // bytes; -1: not asked
	effect

	times int64 // requests of this verb and path
	bytes int64 // that they asked for
	fired int64
}

func (r *rule) matches(v verb, path, other string) bool {
	return r.verb == v && (r.glob == "" || r.globs(path) || r.globs(other))
}

func (r *rule) globs(path string) bool {
	if path == "" {
		return false
	}
	if !strings.Contains(r.glob, "/") {
		path = filepath.Base(path)
	}
	ok, _ := filepath.Match(r.glob, path) // Parse has tried the pattern
	return ok
}

// count counts a request that matches, and says whether the rule fires for it.
func (r *rule) count(size int64) bool {
	r.times++
	r.bytes += size
	return (r.nth == 0 || r.times == r.nth) && (r.every == 0 || r.times%r.every == 0) &&
		r.times >= r.from && r.bytes > r.after
}

// decide says what happens to a request. other is the second path of a Rename.
func (r *Rules) decide(v verb, size int64, path, other string) (effect, bool) {
	if !r.some.Load() {
		return none, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.decideLocked(v, size, path, other)
}

func (r *Rules) decideLocked(v verb, size int64, path, other string) (effect, bool) {
	var first *rule
	for _, rule := range r.rules {
		if rule.matches(v, path, other) && rule.count(size) && first == nil {
			first = rule
		}
	}
	if first == nil {
		return none, false
	}
	first.fired++
	return first.effect, true
}

// decideFD is decide for an open file.
func (r *Rules) decideFD(v verb, size int64, fd ring.FD) (e effect, path string, fires bool) {
	if !r.some.Load() {
		return none, "", false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	path = r.paths[fd]
	e, fires = r.decideLocked(v, size, path, "")
	return e, path, fires
}

// Add adds the rules of text behind those that are there; if there is a mistake
// in it, none of them.
func (r *Rules) Add(text string) error {
	rules, err := parse(text)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules = append(r.rules, rules...)
	r.some.Store(len(r.rules) > 0)
	return nil
}

// Clear removes all rules. What has been delayed stays so.
func (r *Rules) Clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules = nil
	r.some.Store(false)
}

// Unfired lists the rules that have not fired: a test that was to meet them has not.
func (r *Rules) Unfired() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []string
	for _, rule := range r.rules {
		if rule.fired == 0 {
			list = append(list, rule.text)
		}
	}
	return list
}

// Fired counts how often rules have fired, all together.
func (r *Rules) Fired() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := int64(0)
	for _, rule := range r.rules {
		n += rule.fired
	}
	return int(n)
}

func (r *Rules) opened(fd ring.FD, path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.paths[fd] = path
}

func (r *Rules) closed(fd ring.FD) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.paths, fd)
}

func (r *Rules) path(fd ring.FD) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.paths[fd]
}

// renamed moves the open files at or below from.
func (r *Rules) renamed(from, to string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	from, to = filepath.Clean(from), filepath.Clean(to)
	for fd, path := range r.paths {
		if rest, ok := strings.CutPrefix(filepath.Clean(path), from); ok && (rest == "" || rest[0] == '/') {
			r.paths[fd] = to + rest
		}
	}
}
