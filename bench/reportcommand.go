package bench

import (
	"errors"
	"flag"
	"fmt"
	"io"
)

// reportCommand is one parsed command line of "millrace bench report".
type reportCommand struct {
	out      string
	markdown bool
	update   string
	section  string
}

// mainReport is "millrace bench report".
func mainReport(args []string, stdout, stderr io.Writer) int {
	var c reportCommand
	f := flag.NewFlagSet("millrace bench report", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprintln(stderr, `usage: millrace bench report RESULT.json... [flags]

Draws result files of bench produce, curve, workload, ceiling, durability, consume, catchup, disk and powerloss. Beside a durability matrix
belongs the powerloss.json of the same run.`)
		f.PrintDefaults()
	}
	f.StringVar(&c.out, "out", "report.html", "the page that is written, as `FILE.html`; its tables go to FILE.md")
	f.BoolVar(&c.markdown, "markdown", false, "print tables in Markdown, and write no page")
	f.StringVar(&c.update, "update", "", "with --section: rewrite that section of this Markdown `FILE`, and write no page")
	f.StringVar(&c.section, "section", "", "`name` of the section, between <!-- millrace bench: NAME --> and <!-- end of millrace bench: NAME -->")
	paths, err := parseMixed(f, args)
	if err == nil && (c.update == "") != (c.section == "") {
		err = errors.New("--update and --section belong together")
		fmt.Fprintln(stderr, "millrace bench report:", err)
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		return exitUsage // it has been said
	case len(paths) == 0:
		fmt.Fprintln(stderr, "millrace bench report: no file named: it takes result files of bench produce (--out) and its like")
		return exitUsage
	}
	var files []resultFile
	for i, name := range shortNames(paths) {
		file, err := readResult(paths[i])
		if err != nil {
			fmt.Fprintf(stderr, "millrace bench report: %v\n", err)
			return exitUsage
		}
		file.Name = name
		files = append(files, file)
	}
	if err := c.run(files, stdout); err != nil {
		fmt.Fprintf(stderr, "millrace bench report: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// run writes what was asked for.
func (c reportCommand) run(files []resultFile, stdout io.Writer) error {
	if c.update == "" && !c.markdown {
		if err := checkTables(c.out); err != nil {
			return err
		}
		if err := writePage(c.out, files); err != nil {
			return err
		}
		fmt.Fprintln(stdout, c.out, beside(c.out, ".md"))
		return nil
	}
	text, err := markdownAll(files)
	if err != nil {
		return err
	}
	if c.update == "" {
		_, err := io.WriteString(stdout, text)
		return err
	}
	for _, f := range files { // a table that was cut short does not replace one that was not
		if f.partial() {
			return fmt.Errorf("%s was cut short: %s stays as it is", f.Name, c.update)
		}
	}
	if err := UpdateSection(c.update, c.section, text); err != nil {
		return err
	}
	fmt.Fprintln(stdout, c.update)
	return nil
}
