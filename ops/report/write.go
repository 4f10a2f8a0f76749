package report

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// ErrInput marks an Input that cannot be shown; the error says which part.
var ErrInput = errors.New("report: bad input")

// Write puts the report into dir/report: table.md, table.json, index.html, and each figure as .svg and .png. A killed
// Write leaves each file whole or as it was before (they are renamed into place, not synced: a report can be made
// again); index.html is last. Nothing is written when the input is bad or a figure cannot be drawn.
func Write(dir string, in Input) error {
	files, err := render(in)
	if err != nil {
		return err
	}
	dir = filepath.Join(dir, "report")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("report: making the folder: %w", err)
	}
	for _, f := range files {
		if err := replace(filepath.Join(dir, f.name), f.data); err != nil {
			return err
		}
	}
	return nil
}

type file struct {
	name string
	data []byte
}

// render makes every file of the report in the order of writing.
func render(in Input) ([]file, error) {
	for _, c := range in.Curves {
		known := func(g objectiveGroup) bool { return slices.Contains(g.objectives, c.Objective) }
		if !slices.ContainsFunc(objectiveGroups, known) {
			return nil, fmt.Errorf("%w: curve of %q has objective %q, want ldalign, spin, dpo, sft or guide",
				ErrInput, c.Method, c.Objective)
		}
	}
	figures, err := newFigureSet(in)
	if err != nil {
		return nil, err
	}
	files, svgs, err := paintAll(figures.all())
	if err != nil {
		return nil, err
	}
	data, err := tableJSON(in)
	if err != nil {
		return nil, fmt.Errorf("report: table.json: %w", err)
	}
	page, err := html5(in, figures, svgs)
	if err != nil {
		return nil, err
	}
	return append(files, file{"table.md", []byte(markdown(in))}, file{"table.json", data}, file{"index.html", page}), nil
}

// paintAll draws figures as SVG and PNG; svgs are the former by the figures' names.
func paintAll(figures []figure) (files []file, svgs map[string][]byte, err error) {
	svgs = map[string][]byte{}
	for _, f := range figures {
		svg, err := f.svg()
		if err != nil {
			return nil, nil, err
		}
		png, err := f.png()
		if err != nil {
			return nil, nil, err
		}
		svgs[f.Name] = svg
		files = append(files, file{f.Name + ".svg", svg}, file{f.Name + ".png", png})
	}
	return files, svgs, nil
}

// replace writes a file through a temporary one beside it.
func replace(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return fmt.Errorf("report: writing %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("report: writing %s: %w", path, err), os.Remove(f.Name()))
		}
	}()
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
