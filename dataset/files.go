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

// extensions are the file name endings that are read from a folder.
var extensions = []string{".parquet", ".jsonl", ".jsonl.gz"}

// shard matches the name of one of several files that make up a split, as on the Hugging Face Hub.
var shard = regexp.MustCompile(`^(.+)-\d{5}-of-\d{5}\b`)

// Files lists the files of a source, in the order in which they are read. The files of a folder or a pattern are sorted by
// name. A folder with several splits or several formats is an error, because its files may contain the same records.
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
				return nil, fmt.Errorf("dataset: %s appears twice in %s", name, source)
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
		return nil, fmt.Errorf("%s: no file matches: %w", part, fs.ErrNotExist)
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
		return nil, fmt.Errorf("%s contains no file that ends with %s", dir, strings.Join(extensions, ", "))
	case len(splits) > 1:
		return nil, fmt.Errorf("%s contains the splits %s: name one of them, such as %s",
			dir, strings.Join(splits, ", "), filepath.Join(dir, splits[0]+"-*"))
	case len(formats) > 1:
		return nil, fmt.Errorf("%s contains files that end with %s: name those to read, such as %s",
			dir, strings.Join(formats, ", "), filepath.Join(dir, "*"+formats[0]))
	}
	return files, nil
}
