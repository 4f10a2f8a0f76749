package checkpoints_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/checkpoints"
)

// The cache stays within its limit by removing the files that were used longest ago, and never a file that was used just now.
func TestCacheIsBounded(t *testing.T) {
	both(t, func(t *testing.T, f fixture) {
		const size = 100_000
		var files []checkpoints.File
		for i := range 5 {
			m := f.commit(t, draft(checkpoints.Policy, uint32(i), checkpoints.FromBytes("weights", content(uint64(i), size))))
			files = append(files, m.Files[0])
		}
		f.LimitCache(3 * size)
		local := func(i int) string {
			path, err := f.Local(t.Context(), "run", files[i])
			if err != nil {
				t.Fatal(err)
			}
			return path
		}
		cached := func() (have []string) {
			for i := range files {
				if _, err := os.Stat(filepath.Join(f.cache, files[i].SHA256)); err == nil {
					have = append(have, fmt.Sprint(i))
				}
			}
			return have
		}
		for i := range 4 {
			local(i)
		}
		if _, isRemote := f.store.(*remote); !isRemote {
			if have := cached(); have != nil {
				t.Errorf("a store that is a folder needs no cache, it holds %v", have)
			}
			return
		}
		if diff := cmp.Diff([]string{"0", "1", "2", "3"}, cached()); diff != "" {
			t.Errorf("all were asked for just now (-want +got):\n%s", diff)
		}
		for i, hours := range []int{2, 4, 3, 5} { // since each was asked for
			then := time.Now().Add(-time.Duration(hours) * time.Hour)
			if err := os.Chtimes(filepath.Join(f.cache, files[i].SHA256), then, then); err != nil {
				t.Fatal(err)
			}
		}
		local(3) // again
		local(4)
		if diff := cmp.Diff([]string{"0", "3", "4"}, cached()); diff != "" {
			t.Errorf("kept (-want +got):\n%s", diff)
		}
		if data, err := os.ReadFile(local(1)); err != nil || len(data) != size {
			t.Errorf("a dropped file, asked for again: %d bytes, %v", len(data), err)
		}
	})
}
