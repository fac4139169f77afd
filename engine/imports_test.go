package engine_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/millrace/millrace"

// layers are the packages from the bottom to the top: each may import those of the
// layers below its own, and nothing else of ours.
var layers = [][]string{
	{"engine/record", "engine/wire", "engine/cluster", "engine/metrics", "engine/config", "engine/cgroup"}, // leaves
	{"ring"},
	{"netio", "engine/shard", "engine/journal"},
	{"engine/log"},
	{"engine/replica"},
	{"engine/group"},
	{"engine/api"},
	{"engine"},
	{"bench/forgetfs", "bench/process", "bench/natsfake", "bench/kafkafake", "bench/lean", "bench/nullbroker", "bench/bare", "engine/simclient"},
	{"bench/peer", "bench/chart", "bench/omb"},
	{"bench", "engine/web", "engine/acceptance", "engine/simtest"},
	{"bench/simpower"},
	{"cmd/millrace"},
}

// plugs fill an interface that somebody above declares. They import what is named,
// and only cmd/millrace and the linkers import them.
var plugs = map[string][]string{
	"ring/uring":          {"ring", "ring/internal/host"},
	"ring/posix":          {"ring", "ring/internal/host"},
	"ring/internal/host":  {"ring"},
	"ring/sim":            {"ring"},
	"ring/fault":          {"ring"},
	"ring/ringtest":       {"ring"},
	"engine/cluster/file": {"ring", "engine/cluster"},
}

// linkers put the engine, or its clients, on the simulated backend: they may import these plugs.
var linkers = map[string][]string{
	"engine/simclient": {"ring/sim"},
	"bench/simpower":   {"ring/sim", "ring/fault", "engine/cluster/file"},
}

// only says who may import a package that is not ours.
var only = map[string][]string{
	"github.com/pawelgaczynski/giouring": {"ring/uring"},
	"gonum.org/v1/plot":                  {"bench/chart"},
	"go.yaml.in/yaml/v4":                 {"bench/omb"},
	"net/http":                           {"engine/web", "bench", "cmd/millrace"},
}

// The import rules of engine/doc.go. Tests may import what they like.
func TestImports(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	layer := map[string]int{}
	for i, names := range layers {
		for _, name := range names {
			layer[name] = i
		}
	}
	imports := map[string]map[string]string{} // by package: what it imports, and where
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		name := e.Name()
		switch {
		case err != nil:
			return err
		case e.IsDir() && path != root && (name[0] == '.' || name == "testdata" || name == "bin" || name == "data"):
			return filepath.SkipDir
		case e.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		dir = filepath.ToSlash(dir)
		if imports[dir] == nil {
			imports[dir] = map[string]string{}
		}
		if strings.HasSuffix(name, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, text, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, i := range file.Imports {
			what, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			imports[dir][what] = dir + "/" + name
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for dir, all := range imports {
		at, layered := layer[dir]
		allowed, plug := plugs[dir]
		if !layered && !plug {
			t.Errorf("%s is in no layer: give it one", dir)
			continue
		}
		for what, where := range all {
			if users, ok := only[what]; ok && !slices.Contains(users, dir) {
				t.Errorf("%s imports %s, which only %v may", where, what, users)
			}
			ours, ok := strings.CutPrefix(what, module+"/")
			if !ok {
				continue
			}
			below, known := layer[ours]
			_, isPlug := plugs[ours]
			switch {
			case plug && !slices.Contains(allowed, ours):
				t.Errorf("%s imports %s: it may only import %v", where, ours, allowed)
			case plug:
			case isPlug && dir != "cmd/millrace" && !slices.Contains(linkers[dir], ours):
				t.Errorf("%s imports %s: only cmd/millrace and linkers may", where, ours)
			case known && below >= at:
				t.Errorf("%s imports %s, which is not below it", where, ours)
			}
		}
	}
	if len(imports) < len(layer)+len(plugs) {
		t.Errorf("%d packages found, %d known", len(imports), len(layer)+len(plugs))
	}
}
