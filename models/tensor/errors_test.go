package tensor

import (
	"errors"
	"testing"
)

// The messages are those of libtorch 2.15 for CUDA, which the tests have not.
func TestOutOfMemoryOfCUDA(t *testing.T) {
	for text, want := range map[string]OutOfMemory{
		"CUDA out of memory. Tried to allocate 20.50 GiB. GPU 1 has a total capacity of 79.15 GiB of which " +
			"17.19 GiB is free.": {CUDA(1), 41 << 29},
		"CUDA out of memory. Tried to allocate 2.00 MiB.":                            {CUDA(1), 2 << 20},
		"CUDA error: out of memory":                                                  {CUDA(1), 0},
		"CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`": {CUDA(1), 0},
		"[enforce fail at alloc_cpu.cpp:132] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 96 bytes. " +
			"Error code 12 (Cannot allocate memory)": {CPU, 96},
	} {
		var got *OutOfMemory
		if err := nativeError("Matmul", text, CUDA(1)); !errors.As(err, &got) || *got != want {
			t.Errorf("%s\n%v of %+v, want %+v", text, err, got, want)
		}
	}
	err := nativeError("Matmul", "CUDA error: an illegal memory access was encountered", CUDA(1))
	if failed := new(DeviceFailure); errors.As(err, new(*OutOfMemory)) || !errors.As(err, &failed) || failed.Device != CUDA(1) {
		t.Errorf("%v is not taken for a failure of the device", err)
	}
}
