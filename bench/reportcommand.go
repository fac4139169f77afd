package bench

import (
	"errors"
	"flag"
	"fmt"
	"io"
)

// mainReport is "millrace bench report".
func mainReport(args []string, stdout, stderr io.Writer) int {
	f := flag.NewFlagSet("millrace bench report", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprintln(stderr, "usage: millrace bench report RESULT.json... [flags]")
		f.PrintDefaults()
	}
	out := f.String("out", "report.html", "the page that is written, as `FILE.html`")
	paths, err := parseMixed(f, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		return exitUsage // the flags have said it
	case len(paths) == 0:
		fmt.Fprintln(stderr, "millrace bench report: no file named: it takes result files of bench produce (--out)")
		return exitUsage
	}
	var files []named
	for i, name := range shortNames(paths) {
		file, err := ReadFile(paths[i])
		if err != nil {
			fmt.Fprintf(stderr, "millrace bench report: %v\n", err)
			return exitUsage
		}
		files = append(files, named{name, file})
	}
	if err := writeReport(*out, files); err != nil {
		fmt.Fprintf(stderr, "millrace bench report: %v\n", err)
		return exitFailed
	}
	fmt.Fprintln(stdout, *out)
	return exitOK
}
