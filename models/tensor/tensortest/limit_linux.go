// Package tensortest is for tests that compute tensors.
package tensortest

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// LimitMemory lets this process have at most more bytes of memory beyond what it has now, until the test ends. An allocation
// beyond that fails. Go's own memory counts too, and a program whose Go memory cannot grow ends: leave it some 50 MB.
func LimitMemory(t testing.TB, more uint64) {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_DATA, &before); err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	var kib uint64
	_, text, _ := strings.Cut(string(status), "VmData:")
	if _, err := fmt.Sscan(text, &kib); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_DATA, &syscall.Rlimit{Cur: kib<<10 + more, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_DATA, &before); err != nil {
			t.Error(err)
		}
	})
}
