// Package docs_test holds the documentation to what is there.
package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ldalign/ldalign/schemas"
)

func pages(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, pattern := range []string{"../*.md", "*.md", "adr/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, found...)
	}
	if len(out) < 8 {
		t.Fatalf("found only %v", out)
	}
	return out
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestSpecInTheReadmeIsValid(t *testing.T) {
	block := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindStringSubmatch(read(t, "../README.md"))
	if block == nil {
		t.Fatal("README.md holds no run spec")
	}
	specs, err := schemas.ParseSpecs("README.md", []byte(block[1]))
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range specs {
		if err := schemas.Resolve(spec, 2).Validate(); err != nil {
			t.Error(err)
		}
	}
}

func TestLinksLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:\s]+)(?:#[^)]*)?\)`)
	for _, page := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", page, m[1], err)
			}
		}
	}
}

func TestFilesAndTargetsThatAreNamedExist(t *testing.T) {
	file := regexp.MustCompile("`((?:cmd|schemas|models|streams|checkpoints|stages|trainer|ops)/[\\w/-]+\\.[a-z]+)`")
	target := regexp.MustCompile("(?m)(?:^|`)make ([a-z][a-z-]*)")
	makefile := read(t, "../Makefile")
	for _, page := range pages(t) {
		text := read(t, page)
		for _, m := range file.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join("..", m[1])); err != nil {
				t.Errorf("%s names %s: %v", page, m[1], err)
			}
		}
		for _, m := range target.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s names `make %s`, which the Makefile lacks", page, m[1])
			}
		}
	}
}

// Every record is in the index, so that it is found.
func TestIndexOfDecisionsIsComplete(t *testing.T) {
	index := read(t, "adr/README.md")
	records, err := filepath.Glob("adr/[0-9]*.md")
	if err != nil || len(records) == 0 {
		t.Fatalf("records: %v, %v", records, err)
	}
	for _, r := range records {
		if !strings.Contains(index, "("+filepath.Base(r)+")") && filepath.Base(r) != "0000-template.md" {
			t.Errorf("adr/README.md lacks %s", r)
		}
		number := strings.SplitN(filepath.Base(r), "-", 2)[0]
		if !strings.HasPrefix(read(t, r), "# "+number+": ") {
			t.Errorf("%s does not begin with its number", r)
		}
	}
}
