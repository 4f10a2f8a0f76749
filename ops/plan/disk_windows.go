package plan

import "golang.org/x/sys/windows"

// available returns the bytes of the disk of a folder that a user may still fill.
func available(dir string) (int64, error) {
	path, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, err
	}
	var free uint64
	err = windows.GetDiskFreeSpaceEx(path, &free, nil, nil)
	return int64(free), err
}
