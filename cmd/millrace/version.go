package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

func version(c *cli, args []string) error {
	f := newFlags("version", "", "Prints the version, the commit, the Go release and the ring backends that are built in.", "millrace version")
	asJSON := f.Bool("json", false, "print JSON")
	if err := f.parse(c, args); err != nil {
		return err
	}
	build, _ := debug.ReadBuildInfo()
	v := describeBuild(build)
	if *asJSON {
		return printJSON(c.out, v)
	}
	fmt.Fprintf(c.out, "millrace %s\ncommit   %s\ngo       %s %s/%s\nbackends %s\n", v.Version, v.Commit, v.Go, v.OS, v.Arch, strings.Join(v.Backends, ", "))
	return nil
}

type buildVersion struct {
	Version  string   `json:"version"`
	Commit   string   `json:"commit"`
	Go       string   `json:"go"`
	OS       string   `json:"os"`
	Arch     string   `json:"arch"`
	Backends []string `json:"backends"` // the first is the default
}

// describeBuild reads what the linker has written down; build may be nil.
func describeBuild(build *debug.BuildInfo) buildVersion {
	v := buildVersion{Version: "(devel)", Commit: "unknown", Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH, Backends: backends()}
	if build == nil {
		return v
	}
	if build.Main.Version != "" {
		v.Version = build.Main.Version
	}
	dirty := ""
	for _, s := range build.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				dirty = " (modified)"
			}
		}
	}
	v.Commit += dirty
	return v
}
