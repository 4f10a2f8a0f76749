package tensor_test

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ldalign/ldalign/models/tensor"
)

// A library without functions stands for NVIDIA's driver. It makes the package load libtorch_cuda.so, which fails because the
// library or CUDA is missing, or because the driver does not work. The error has to say which.
func TestCUDAIsLoadedWhereTheDriverIs(t *testing.T) {
	const child = "LDALIGN_TEST_CUDA"
	if os.Getenv(child) != "" {
		fmt.Print(tensor.CUDAAvailable())
		os.Exit(0)
	}
	folder := t.TempDir()
	source := filepath.Join(folder, "driver.c")
	if err := os.WriteFile(source, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), cmp.Or(os.Getenv("CC"), "gcc"), "-shared", "-o", filepath.Join(folder, "libcuda.so.1"), source)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
	run := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$")
	run.Env = append(os.Environ(), child+"=1", "LD_LIBRARY_PATH="+folder)
	out, err := run.Output()
	if err != nil {
		t.Fatalf("%v: %v", run, err)
	}
	if got := string(out); !strings.HasPrefix(got, "tensor: no CUDA: ") || strings.Contains(got, "no NVIDIA driver") {
		t.Errorf("the error is %q, want one about what is missing besides the driver", got)
	}
}
