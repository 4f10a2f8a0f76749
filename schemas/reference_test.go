package schemas_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/schemas"
)

// TestSpecReference keeps docs/spec.md equal to testdata/reference_head.md and the doc comments and defaults in the
// code.
func TestSpecReference(t *testing.T) {
	const path = "../docs/spec.md"
	got := reference(t)
	if *update {
		if err := os.MkdirAll("../docs", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("docs/spec.md is not current; run: go test ./schemas -run TestSpecReference -update\n-want +got:\n%s", diff)
	}
	example := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindStringSubmatch(got)
	parse(t, example[1])
}

// reference is the text of docs/spec.md.
func reference(t *testing.T) string {
	t.Helper()
	docs := commentsOf(t, "spec.go")
	head, err := os.ReadFile("testdata/reference_head.md")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.Write(head)
	fields := schemas.Fields()
	section := func(f schemas.Field) string { return f.Key[:max(0, strings.LastIndexByte(f.Key, '.'))] }
	place := map[string]int{} // the index of a section's first field, so that a nested section follows the outer one
	for i, f := range fields {
		if _, ok := place[section(f)]; !ok {
			place[section(f)] = i
		}
	}
	slices.SortStableFunc(fields, func(a, b schemas.Field) int { return place[section(a)] - place[section(b)] })
	current := "none"
	for _, f := range fields {
		section, key := "", f.Key
		if i := strings.LastIndexByte(f.Key, '.'); i >= 0 {
			section, key = f.Key[:i], f.Key[i+1:]
		}
		if section != current {
			current = section
			fmt.Fprintf(&b, "\n%s\n\n| key | type | default | meaning |\n|---|---|---|---|\n", heading(t, section, docs))
		}
		meaning := docs[f.Key]
		if meaning == "" {
			t.Errorf("%s has no doc comment in spec.go", f.Key)
		}
		if !f.Digested {
			key += "°"
		}
		def := f.Default
		switch {
		case def != "":
			def = "`" + def + "`"
		case f.Example != "":
			meaning += fmt.Sprintf(" Example: `%s`", f.Example)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", key, f.Type, def, strings.ReplaceAll(meaning, "|", `\|`))
	}
	return b.String()
}

func heading(t *testing.T, section string, docs map[string]string) string {
	if section == "" {
		return "## The run"
	}
	if docs[section] == "" {
		t.Errorf("%s has no doc comment in spec.go", section)
	}
	return "## " + section + "\n\n" + docs[section]
}

// commentsOf maps the key path of each field of Spec to its doc comment, and that of a section to its type's comment.
func commentsOf(t *testing.T, file string) map[string]string {
	t.Helper()
	tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	types, docs := map[string]*ast.StructType{}, map[string]string{}
	about := map[string]string{}
	for _, decl := range tree.Decls {
		if d, ok := decl.(*ast.GenDecl); ok && d.Tok == token.TYPE {
			spec := d.Specs[0].(*ast.TypeSpec)
			if s, ok := spec.Type.(*ast.StructType); ok {
				types[spec.Name.Name], about[spec.Name.Name] = s, d.Doc.Text()
			}
		}
	}
	var walk func(path, name string)
	walk = func(path, name string) {
		for _, field := range types[name].Fields.List {
			tag, err := strconv.Unquote(field.Tag.Value)
			if err != nil {
				t.Fatal(err)
			}
			key, _, _ := strings.Cut(reflect.StructTag(tag).Get("yaml"), ",")
			full := strings.TrimPrefix(path+"."+key, ".")
			typ := field.Type
			if p, ok := typ.(*ast.StarExpr); ok {
				typ = p.X
			}
			typeName := typ.(*ast.Ident).Name
			docs[full] = prose(field.Doc.Text(), field.Names[0].Name, "`"+key+"`")
			if types[typeName] != nil {
				if docs[full] == "" {
					docs[full] = prose(about[typeName], typeName, "It")
				}
				walk(full, typeName)
			}
		}
	}
	walk("", "Spec")
	return docs
}

// plainWords are the first words of descriptions that do not begin with a value.
var plainWords = []string{
	"K,", "a", "added", "an", "empty", "how", "one", "pairs", "sequences", "the", "what", "when", "where", "which",
}

// prose puts a comment on one line. It drops a leading "Name is"; otherwise it replaces the Go name by key.
func prose(comment, name, key string) string {
	text := strings.Join(strings.Fields(comment), " ")
	if rest, ok := strings.CutPrefix(text, name+" is "); ok {
		if first, _, _ := strings.Cut(rest, " "); slices.Contains(plainWords, first) {
			return strings.ToUpper(rest[:1]) + rest[1:]
		}
		return rest // it begins with a value, whose case must not change
	}
	if rest, ok := strings.CutPrefix(text, name+" "); ok {
		return key + " " + rest
	}
	return text
}
