package schemas

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxSpecBytes is the largest spec file that is read, so that every resolved spec fits a message and a hostile file
// cannot exhaust memory.
const maxSpecBytes = 64 << 10

// LoadSpecs reads a file of run specs. See ParseSpecs.
func LoadSpecs(path string) ([]Spec, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("schemas: run spec: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSpecBytes+1))
	if err != nil {
		return nil, fmt.Errorf("schemas: run spec: %w", err)
	}
	return ParseSpecs(path, data)
}

// ParseSpecs reads run specs from YAML: one document per run, separated by ---, in the order in which the runs are to be
// executed. Keys that are absent take their Default. The specs returned are valid but not resolved. The error is a
// *SpecError with all problems found, which uses name as the name of the file.
func ParseSpecs(name string, data []byte) ([]Spec, error) { return parseSpecs(name, data, false) }

// parseSpecs is ParseSpecs, or with declared ParseDeclared.
func parseSpecs(name string, data []byte, declared bool) ([]Spec, error) {
	whole := func(message string) ([]Spec, error) {
		return nil, &SpecError{Problems: []Problem{{File: name, Message: message}}}
	}
	switch {
	case len(data) > maxSpecBytes:
		return whole(fmt.Sprintf("is longer than %d bytes, which no run spec is", maxSpecBytes))
	case !utf8.Valid(data):
		return whole("is not UTF-8 text")
	}
	var (
		specs    []Spec
		problems []Problem
		firstRun = map[string]position{}
	)
	for _, doc := range splitDocuments(string(data)) {
		spec, d := parseDocument(name, doc, declared)
		if d == nil {
			continue
		}
		problems = append(problems, d.problems...)
		if at, ok := d.at["run"]; ok && spec.Run != "" {
			if first, ok := firstRun[spec.Run]; ok {
				message := fmt.Sprintf("%q is already the name of the run at line %d; each run needs its own", spec.Run, first.line)
				problems = append(problems, Problem{name, at.line, at.column, "run", message})
			} else {
				firstRun[spec.Run] = at
			}
		}
		specs = append(specs, spec)
	}
	if len(problems) > 0 {
		slices.SortStableFunc(problems, func(a, b Problem) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
		})
		return nil, &SpecError{Problems: problems}
	}
	if len(specs) == 0 {
		return whole("declares no run; a spec needs at least run, model.from and data.train")
	}
	return specs, nil
}

// document is the text of one YAML document.
type document struct {
	text string
	// line is the number of lines before it.
	line int
}

// documentMarker starts (---) or ends (...) a document. YAML allows neither at the start of a line within a document,
// not even in a quoted text.
var documentMarker = regexp.MustCompile(`^(---|\.\.\.)([ \t\r\n]|$)`)

// splitDocuments cuts at the markers, so that the other documents can be checked when one has a syntax error.
func splitDocuments(text string) []document {
	docs := []document{{}}
	for i, line := range strings.SplitAfter(strings.TrimPrefix(text, "\uFEFF"), "\n") {
		if documentMarker.MatchString(line) {
			docs = append(docs, document{line: i})
			line = "   " + line[3:]
		}
		last := &docs[len(docs)-1]
		last.text += line
	}
	return docs
}

// parseDocument reads and checks one run. The decoder is nil for a document without content.
func parseDocument(name string, doc document, declared bool) (Spec, *decoder) {
	d := newDecoder(name, doc.line)
	spec := Default()
	var err error
	if d.declared = declared; declared {
		if spec, err = declaredDefault(); err != nil {
			d.syntax(err)
			return spec, d
		}
	}
	body, err := parseYAML(doc.text)
	if err != nil {
		d.syntax(err)
		return spec, d
	}
	if body == nil {
		return spec, nil
	}
	d.decodeSpec(body, &spec)
	if d.failed[""] {
		return spec, d
	}
	for _, p := range check(&spec) {
		at, failed := d.find(p.Key)
		if failed {
			continue
		}
		p.File, p.Line, p.Column = name, at.line, at.column
		d.problems = append(d.problems, p)
	}
	return spec, d
}

// parseYAML returns the content of one document, nil when there is none.
func parseYAML(text string) (body ast.Node, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the YAML parser failed: %v", r)
		}
	}()
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	file, err := parser.ParseBytes([]byte(text), 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, err
	}
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if body != nil {
			return nil, errors.New("two documents without --- between them")
		}
		body = doc.Body
	}
	return body, nil
}

// syntax records an error of the YAML parser as a problem.
func (d *decoder) syntax(err error) {
	p := Problem{File: d.file, Message: err.Error()}
	var ye yaml.Error
	if errors.As(err, &ye) {
		p.Message = ye.GetMessage()
		if tk := ye.GetToken(); tk != nil {
			p.Line, p.Column = tk.Position.Line+d.line, tk.Position.Column
		}
	}
	p.Message = "invalid YAML: " + p.Message
	d.problems = append(d.problems, p)
}
