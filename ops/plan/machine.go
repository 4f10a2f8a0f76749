package plan

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ThisMachine describes this machine for runs in the data folder dir, with at most cache bytes of downloaded checkpoints.
func ThisMachine(dir string, cache int64) (Machine, error) {
	free, err := freeOn(dir)
	return Machine{
		Memory: memoryOf("/proc/meminfo", "/sys/fs/cgroup/memory.max"), Folder: dir, Free: free, Cache: cache,
	}, err
}

// memoryOf returns the machine's memory, or the container's limit if that is lower; 0 if the system does not report it.
func memoryOf(meminfo, limit string) int64 {
	var total int64
	if file, err := os.Open(meminfo); err == nil {
		defer file.Close()
		for lines := bufio.NewScanner(file); lines.Scan(); {
			fields := strings.Fields(lines.Text())
			if len(fields) < 2 || fields[0] != "MemTotal:" {
				continue
			}
			if kib, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
				total = kib << 10
			}
			break
		}
	}
	text, err := os.ReadFile(limit)
	if err != nil {
		return total
	}
	if most, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && (total == 0 || most < total) {
		return most
	}
	return total
}

// freeOn returns the free bytes on the disk of a folder, or of its nearest existing parent.
func freeOn(dir string) (int64, error) {
	for {
		free, err := available(dir)
		if errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
			dir = filepath.Dir(dir)
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("find the free space on the disk of %s: %w", dir, err)
		}
		return free, nil
	}
}
