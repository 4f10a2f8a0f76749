package checkpoints

import (
	"context"
	"fmt"
	"strings"
)

// Segments returns the files that hold the earlier lines of a checkpoint's file of lines, in order. The segments of NAME.jsonl
// are called NAME/…. A state has them: lines that will not change are written once, and all later states name that segment.
// A policy or guide has all its lines in one file.
func (m Manifest) Segments(name string) []File {
	var segments []File
	for _, f := range m.Files {
		if SegmentOf(f.Name, name) {
			segments = append(segments, f)
		}
	}
	return segments
}

// SegmentOf reports whether a file is a segment of the file of lines called name.
func SegmentOf(file, name string) bool {
	return strings.HasPrefix(file, strings.TrimSuffix(name, ".jsonl")+"/")
}

// ReadLines reads and verifies a file of lines, with its segments before it, as ReadFile does.
func (r *Repository) ReadLines(ctx context.Context, m Manifest, name string) ([]byte, error) {
	last, ok := m.File(name)
	if !ok {
		return nil, fmt.Errorf("%w: checkpoint %s has no %s", ErrManifest, m.Key, name)
	}
	var lines []byte
	for _, f := range append(m.Segments(name), last) {
		data, err := r.ReadFile(ctx, m.Run, f)
		if err != nil {
			return nil, err
		}
		lines = append(lines, data...)
	}
	return lines, nil
}
