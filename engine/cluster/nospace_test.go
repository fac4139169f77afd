package cluster_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/engine/cluster/file"
	"github.com/millrace/millrace/ring/fault"
)

// A full disk refuses a change, which has not taken effect, and the next one finds out whether there is space
// again. An error of the disk is final, and so is a sync of the directory without space: it comes after the rename.
func TestFileStoreOnABadDisk(t *testing.T) {
	for rules, final := range map[string]bool{
		`(Create (path "*.tmp") (nth 2) ENOSPC)`: false,
		`(Write (path "*.tmp") (nth 2) ENOSPC)`:  false,
		`(Sync (path "*.tmp") (nth 2) ENOSPC)`:   false,
		`(Rename (path "*.tmp") (nth 2) ENOSPC)`: false,
		`(SyncDir (from 3) ENOSPC)`:              true, // the first is Open's
		`(Write (path "*.tmp") (nth 2) EIO)`:     true,
		`(Sync (path "*.tmp") (nth 2) EIO)`:      true,
		`(Rename (path "*.tmp") (nth 2) EIO)`:    true,
	} {
		t.Run(rules, func(t *testing.T) {
			w, h := newHost(1)
			defer w.Close()
			l := &later{}
			r, err := fault.Parse(rules)
			if err != nil {
				t.Fatal(err)
			}
			s, err := file.Open(fault.WrapHost(h, r), "/metadata.json", l.work)
			if err != nil {
				t.Fatal(err)
			}
			if got := txn(s, l, nil, put("a", "1")); got != "ok=true rev=1 err=<nil>" {
				t.Fatal(got)
			}
			if got := txn(s, l, nil, put("a", "2")); !strings.Contains(got, "ok=false") || !strings.Contains(got, "/") {
				t.Fatal(got)
			}
			if got := under(s, l, ""); got != "a=1@1 rev=1 err=<nil>" {
				t.Fatalf("after a change that was refused: %s", got)
			}
			r.Clear()
			got := txn(s, l, nil, put("a", "3"))
			if final != strings.Contains(got, "an earlier write failed") || !final && got != "ok=true rev=2 err=<nil>" {
				t.Fatalf("the next change: %s", got)
			}
			again, err := file.Open(h, "/metadata.json", l.work)
			if err != nil {
				t.Fatal(err)
			}
			if kv := again.Load(); !final && fmt.Sprintf("%s", kv[0].Value) != "3" {
				t.Fatalf("on disk: %+v", kv)
			}
		})
	}
}
