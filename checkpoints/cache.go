package checkpoints

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// inUse is how long LimitCache keeps a local file after a caller asked for it, so that the caller has time to open it.
const inUse = time.Minute

// LimitCache limits the files that Local keeps for a store that is not a folder. After each download it removes the least
// recently used files until the rest takes at most bytes; 0 means no limit. Processes may share the folder. A file that is
// open or mapped stays readable, and a removed file is downloaded again when it is needed. Files that were used within the
// last minute are kept whatever their size, so a checkpoint that is larger than the limit still loads.
func (r *Repository) LimitCache(bytes int64) { r.cacheBytes = bytes }

// used notes that a caller asked for a local file now.
func used(path string) {
	now := time.Now()
	_ = os.Chtimes(path, now, now) // if this fails, the file may be removed too early and is downloaded again
}

// trim enforces LimitCache. It ignores a file that cannot be removed.
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
