package checkpoints

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// inUse is how long a local file is safe from LimitCache after somebody asked for it: until then it is opened.
const inUse = time.Minute

// LimitCache bounds the files that Local keeps for a store that is no folder: after a download, it removes the least
// recently used until the rest takes at most that many bytes; 0 is no bound. Processes may share the folder. A file that
// somebody has open or mapped stays readable, and one that is needed again is downloaded again. Files of the last
// minute stay whatever they take, so a checkpoint larger than the bound still loads.
func (r *Repository) LimitCache(bytes int64) { r.cacheBytes = bytes }

// used notes that a local file was asked for now.
func used(path string) {
	now := time.Now()
	_ = os.Chtimes(path, now, now) // at worst the file is removed too early
}

// trim enforces LimitCache. A file that cannot be removed stays and costs space, no more.
func (r *Repository) trim(ctx context.Context) {
	if r.cacheBytes <= 0 {
		return
	}
	entries, err := os.ReadDir(r.cache)
	if err != nil {
		return
	}
	var files []fs.FileInfo
	var total int64
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && validSHA256.MatchString(e.Name()) {
			files = append(files, info)
			total += info.Size()
		}
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, f := range files {
		if total <= r.cacheBytes || time.Since(f.ModTime()) < inUse || ctx.Err() != nil {
			return
		}
		if os.Remove(filepath.Join(r.cache, f.Name())) == nil {
			total -= f.Size()
			r.log.Info().Str("file", f.Name()).Int64("bytes", f.Size()).Msg("dropped from the cache, which is full")
		}
	}
}
