package omb

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// fields are where a file's fields go, by name: pointers to string, int, int64, float64, bool or properties.
type fields map[string]any

// document is one file that was read: where each of its fields stands.
type document struct {
	path  string
	lines map[string]int
}

// errorf names the file, and the field with its line if the file has it.
func (d document) errorf(field, format string, args ...any) error {
	at := d.path
	if line := d.lines[field]; line > 0 {
		at = fmt.Sprintf("%s:%d", d.path, line)
	}
	return fmt.Errorf("%s: %s: %s", at, field, fmt.Sprintf(format, args...))
}

// read fills to from a file that is one flat mapping. A field that to does not have is an error, and so is one that is there twice.
func read(path string, to fields) (document, error) {
	d := document{path: path, lines: map[string]int{}}
	b, err := os.ReadFile(path)
	if err != nil {
		return d, err // names the path
	}
	var root yaml.Node
	if err := yaml.Unmarshal(b, &root); err != nil {
		return d, fmt.Errorf("%s: %w", path, err)
	}
	if root.Kind != yaml.DocumentNode || len(root.Content) != 1 || root.Content[0].Kind != yaml.MappingNode {
		return d, fmt.Errorf("%s: not a list of fields with values", path)
	}
	content := root.Content[0].Content
	for i := 0; i+1 < len(content); i += 2 {
		key, value := content[i], content[i+1]
		name := key.Value
		if d.lines[name] > 0 {
			return d, fmt.Errorf("%s:%d: %s is there twice, first in line %d", path, key.Line, name, d.lines[name])
		}
		d.lines[name] = key.Line
		target, ok := to[name]
		if !ok {
			return d, d.errorf(name, "no such field; there are %s", strings.Join(slices.Sorted(maps.Keys(to)), ", "))
		}
		if value.Kind != yaml.ScalarNode {
			return d, d.errorf(name, "not a single value")
		}
		if value.Tag == "!!null" { // as if it were not there
			continue
		}
		if p, ok := target.(*Properties); ok {
			first := value.Line
			if value.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
				first++ // the text begins below its mark
			}
			if *p, err = ParseProperties(value.Value); err != nil {
				return d, d.errorf(name, "%v", err)
			}
			for i := range *p {
				(*p)[i].Line += first - 1
			}
			continue
		}
		if err := value.Decode(target); err != nil {
			return d, d.errorf(name, "%q is not %s", value.Value, kind(target))
		}
	}
	return d, nil
}

func kind(target any) string {
	switch target.(type) {
	case *int, *int64:
		return "a whole number"
	case *float64:
		return "a number"
	case *bool:
		return "true or false"
	}
	return "a text"
}
