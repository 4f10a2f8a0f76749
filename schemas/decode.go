package schemas

import (
	"fmt"
	"math"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// position is a place in a text, both from 1.
type position struct{ line, column int }

// decoder reads one YAML document into a Spec, records the position of each key, and collects all problems.
type decoder struct {
	file     string
	line     int // added to the parser's line numbers
	problems []Problem
	// at is the position of each key, by path; "" is the document.
	at map[string]position
	// failed is the set of keys whose value could not be used, so that checking reports nothing more about them.
	failed  map[string]bool
	anchors map[string]ast.Node
	// declared ignores the unknown keys of harmless sections.
	declared bool
}

func newDecoder(file string, line int) *decoder {
	return &decoder{
		file: file, line: line,
		at: map[string]position{}, failed: map[string]bool{}, anchors: map[string]ast.Node{},
	}
}

func (d *decoder) position(node ast.Node) position {
	tk := node.GetToken()
	if tk == nil {
		return position{}
	}
	return position{tk.Position.Line + d.line, tk.Position.Column}
}

func (d *decoder) problem(at position, key, format string, args ...any) {
	d.problems = append(d.problems, Problem{d.file, at.line, at.column, key, fmt.Sprintf(format, args...)})
	d.failed[key] = true
}

func (d *decoder) decodeSpec(body ast.Node, spec *Spec) {
	d.at[""] = d.position(body)
	if m, ok := body.(*ast.MappingNode); ok && len(m.Values) > 0 {
		d.at[""] = d.position(m.Values[0].Key)
	}
	d.value("", body, reflect.ValueOf(spec).Elem())
}

// find returns the position of a key, or of the nearest enclosing section in the document. failed reports that the value
// of one of these could not be used.
func (d *decoder) find(key string) (at position, failed bool) {
	for {
		if d.failed[key] {
			return position{}, true
		}
		if at, ok := d.at[key]; ok {
			return at, false
		}
		key = key[:max(0, strings.LastIndexByte(key, '.'))]
	}
}

// value reads a node into a field. path is the field's key path.
func (d *decoder) value(path string, node ast.Node, into reflect.Value) {
	switch n := node.(type) {
	case *ast.AnchorNode:
		d.anchors[n.Name.GetToken().Value] = n.Value
		d.value(path, n.Value, into)
		return
	case *ast.AliasNode:
		name := n.Value.GetToken().Value
		target, ok := d.anchors[name]
		if !ok {
			d.problem(d.position(node), path, "*%s has no anchor &%s above it in this document", name, name)
			return
		}
		d.value(path, target, into)
		return
	}
	if into.Kind() == reflect.Pointer {
		if node.Type() == ast.NullType {
			return
		}
		if into.IsNil() {
			into.Set(defaultSection(into.Type()))
		}
		into = into.Elem()
	}
	if into.Kind() == reflect.Struct {
		d.mapping(path, node, into)
		return
	}
	if err := setScalar(node, into); err != nil {
		d.problem(d.position(node), path, "%v", err)
		if e := example(path); e != "" {
			d.problems[len(d.problems)-1].Message += " such as " + e
		}
	}
}

// mapping reads the keys of a mapping into the fields of a struct.
func (d *decoder) mapping(path string, node ast.Node, into reflect.Value) {
	mapping, ok := node.(*ast.MappingNode)
	if !ok {
		if node.Type() == ast.NullType && path != "" {
			return // a section with all its keys commented out
		}
		keys := strings.Join(keysOf(into.Type()), ", ")
		d.problem(d.position(node), path, "found %s, expected keys: %s", describe(node), keys)
		return
	}
	seen := map[string]position{}
	for _, entry := range mapping.Values {
		name, at := keyText(entry.Key), d.position(entry.Key)
		full := join(path, name)
		if first, dup := seen[name]; dup {
			d.problem(at, full, "given twice; first at line %d", first.line)
			continue
		}
		seen[name] = at
		index, known := fieldOf(into.Type(), name)
		if !known && d.declared && harmless(path) {
			continue
		}
		if !known {
			message, meant := unknownKey(into.Type(), path, name)
			d.problem(at, full, "%s", message)
			if meant != "" {
				d.failed[meant] = true
			}
			continue
		}
		d.at[full] = at
		d.value(full, entry.Value, into.Field(index))
	}
}

// keyText is a key as written, in quotes if it would make a message hard to read.
func keyText(key ast.MapKeyNode) string {
	text := key.String()
	if tk := key.GetToken(); tk != nil && key.Type() == ast.StringType {
		text = tk.Value
	}
	if !ordinaryKey.MatchString(text) {
		return quoteShort(text)
	}
	return text
}

var ordinaryKey = regexp.MustCompile(`^[\w<-]{1,40}$`)

var (
	wholeNumber   = regexp.MustCompile(`^[-+]?[0-9]+$`)
	decimalNumber = regexp.MustCompile(`^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$`)
)

// setScalar reads a scalar into a field of kind string, bool, int, uint64 or float64. It reads numbers from their text as
// decimals, because YAML would read 010 as octal and 5e-7 as a text. The error reads "found …, expected …".
func setScalar(node ast.Node, into reflect.Value) error {
	text, plain := plainText(node)
	switch into.Kind() {
	case reflect.String:
		switch n := node.(type) {
		case *ast.StringNode:
			into.SetString(n.Value)
			return nil
		case *ast.LiteralNode:
			into.SetString(n.Value.Value)
			return nil
		}
		if plain && node.Type() != ast.NullType {
			return fmt.Errorf("found %s, expected text: write %q in quotes, or another text", describe(node), text)
		}
		return fmt.Errorf("found %s, expected a text", describe(node))
	case reflect.Bool:
		if plain && (text == "true" || text == "false") {
			into.SetBool(text == "true")
			return nil
		}
		return fmt.Errorf("found %s, expected true or false", describe(node))
	case reflect.Int:
		if plain && wholeNumber.MatchString(text) {
			n, err := strconv.ParseInt(text, 10, 32)
			if err == nil {
				into.SetInt(n)
				return nil
			}
			return fmt.Errorf("found %s, expected a whole number up to %d", text, math.MaxInt32)
		}
		return fmt.Errorf("found %s, expected a whole number", describe(node))
	case reflect.Uint64:
		if plain && wholeNumber.MatchString(text) {
			n, err := strconv.ParseUint(strings.TrimPrefix(text, "+"), 10, 64)
			if err == nil {
				into.SetUint(n)
				return nil
			}
			return fmt.Errorf("found %s, expected a whole number from 0 to %d", text, uint64(math.MaxUint64))
		}
		return fmt.Errorf("found %s, expected a whole number", describe(node))
	case reflect.Float64:
		if plain && decimalNumber.MatchString(text) {
			f, err := strconv.ParseFloat(text, 64)
			if err == nil {
				into.SetFloat(f)
				return nil
			}
			return fmt.Errorf("found %s, which is out of range; expected a number", text)
		}
		return fmt.Errorf("found %s, expected a number", describe(node))
	}
	return fmt.Errorf("a field of type %s cannot be read", into.Type())
}

// plainText is the source text of a scalar without quotes.
func plainText(node ast.Node) (string, bool) {
	scalar, ok := node.(ast.ScalarNode)
	if !ok || scalar.GetToken() == nil {
		return "", false
	}
	switch scalar.GetToken().Type {
	case token.SingleQuoteType, token.DoubleQuoteType, token.LiteralType, token.FoldedType, token.TagType:
		return "", false
	}
	return scalar.GetToken().Value, true
}

// describe names a value for a message.
func describe(node ast.Node) string {
	text, plain := plainText(node)
	switch node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a section with keys"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "nothing (leave the key out for its default)"
	case *ast.StringNode, *ast.LiteralNode:
		return fmt.Sprintf("the text %s", quoteShort(node.GetToken().Value))
	}
	if plain {
		return text // a number, true or false; these are short
	}
	return "a value with a YAML tag or sign that a run spec cannot have"
}

// quoteShort quotes a text and cuts a long one.
func quoteShort(s string) string {
	const most = 40
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return strconv.Quote(s)
}
