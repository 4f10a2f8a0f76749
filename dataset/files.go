package dataset

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// extensions are those of files that a folder is searched for.
var extensions = []string{".parquet", ".jsonl", ".jsonl.gz"}

// shard is the name of one of several files that hold a split together, as the Hugging Face Hub has them.
var shard = regexp.MustCompile(`^(.+)-\d{5}-of-\d{5}\b`)

// Files lists the files of a source, in the order in which they are read: those of a folder and of a pattern by their
// names. A folder that holds more than one split or more than one format is refused, for its files may repeat one another.
func Files(source string) ([]string, error) {
	var out []string
	for part := range strings.SplitSeq(source, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		files, err := filesOf(part)
		if err != nil {
			return nil, fmt.Errorf("dataset: %w", err)
		}
		for _, name := range files {
			if slices.Contains(out, name) {
				return nil, fmt.Errorf("dataset: %s is named twice by %s", name, source)
			}
			out = append(out, name)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("dataset: %q names no file", source)
	}
	return out, nil
}

func filesOf(part string) ([]string, error) {
	info, err := os.Stat(part)
	switch {
	case err == nil && info.IsDir():
		return filesIn(part)
	case err == nil:
		return []string{part}, nil
	case !errors.Is(err, fs.ErrNotExist) || !strings.ContainsAny(part, "*?["):
		return nil, err
	}
	files, err := filepath.Glob(part)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", part, err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: no file has such a name: %w", part, fs.ErrNotExist)
	}
	return files, nil // sorted by name
}

// filesIn lists the data files of a folder.
func filesIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return nil, err
	}
	var files, splits, formats []string
	note := func(list *[]string, name string) {
		if !slices.Contains(*list, name) {
			*list = append(*list, name)
		}
	}
	for _, e := range entries {
		at := slices.IndexFunc(extensions, func(x string) bool { return strings.HasSuffix(e.Name(), x) })
		if e.IsDir() || at < 0 || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		files = append(files, filepath.Join(dir, e.Name()))
		note(&formats, extensions[at])
		if m := shard.FindStringSubmatch(e.Name()); m != nil {
			note(&splits, m[1])
		}
	}
	switch {
	case len(files) == 0:
		return nil, fmt.Errorf("%s holds no %s", dir, strings.Join(extensions, ", "))
	case len(splits) > 1:
		return nil, fmt.Errorf("%s holds the splits %s: name one of them, as %s",
			dir, strings.Join(splits, ", "), filepath.Join(dir, splits[0]+"-*"))
	case len(formats) > 1:
		return nil, fmt.Errorf("%s holds files with the endings %s: name those to read, as %s",
			dir, strings.Join(formats, ", "), filepath.Join(dir, "*"+formats[0]))
	}
	return files, nil
}
