package schemas

import (
	"path/filepath"
	"strings"
)

// LoadRuns reads a file of run specs and applies changes (see Set) to all of them. It makes paths relative to the file's
// folder. The specs are not resolved, and not validated after the changes.
func LoadRuns(path string, changes []string) ([]Spec, error) {
	specs, err := LoadSpecs(path)
	if err != nil {
		return nil, err
	}
	for i := range specs {
		for _, change := range changes {
			if err := Set(&specs[i], change); err != nil {
				return nil, err
			}
		}
		specs[i].RelativeTo(filepath.Dir(path))
	}
	return specs, nil
}

// RelativeTo prefixes the relative paths of a spec with dir, the folder of its file.
func (s *Spec) RelativeTo(dir string) {
	for _, list := range []*string{&s.Data.Train, &s.Data.Eval} {
		parts := strings.Split(*list, ",")
		for i := range parts {
			parts[i] = relativePath(strings.TrimSpace(parts[i]), dir)
		}
		*list = strings.Join(parts, ",")
	}
	paths := []*string{&s.Model.From, &s.Guide.Encoder, &s.Guide.Decoder}
	if s.Model.Scratch != nil {
		paths = append(paths, &s.Model.Scratch.Tokenizer)
	}
	for _, p := range paths {
		*p = relativePath(*p, dir)
	}
}

// relativePath prefixes a relative path with dir. It returns values that are not paths, such as scratch, unchanged.
func relativePath(p, dir string) string {
	named := p == "" || p == "scratch" || p == "policy" || strings.HasPrefix(p, runPrefix) ||
		strings.HasPrefix(p, "builtin:") || strings.HasPrefix(p, "scratch:")
	if named || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(dir, p)
}
