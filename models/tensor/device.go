package tensor

// #include "shim.h"
import "C"

import "fmt"

// Device is where an engine computes. The zero value is the CPU.
type Device int

// CPU is the host's processor.
const CPU Device = 0

// CUDA is the n-th GPU, counted from 0. The CUDA path is written, linked by the CUDA build, and not run on a GPU yet.
func CUDA(n int) Device { return Device(n + 1) }

// String returns PyTorch's name of the device: "cpu", "cuda:0".
func (d Device) String() string {
	if d <= CPU {
		return "cpu"
	}
	return fmt.Sprintf("cuda:%d", int(d)-1)
}

// check returns an error that says what is missing if this machine does not have the device.
func (d Device) check() error {
	err := CUDAAvailable() // also for the CPU, because libtorch asks for CUDA once only
	if d <= CPU {
		return nil
	}
	if err != nil {
		return fmt.Errorf("device %v: %w", d, err)
	}
	var n C.int
	if msg := C.shim_devices(&n); msg != nil {
		return fmt.Errorf("device %v: tensor: %s", d, takeString(msg))
	}
	if int(d) > int(n) {
		return fmt.Errorf("device %v: tensor: this process sees %d GPUs (the first is cuda:0; see CUDA_VISIBLE_DEVICES)", d, int(n))
	}
	return nil
}

// FreeMemory returns the memory of a GPU that is free now, in bytes. It returns an error for the CPU, and if this machine does
// not have the GPU.
func FreeMemory(d Device) (int64, error) {
	if err := d.check(); err != nil {
		return 0, err
	}
	if d <= CPU {
		return 0, fmt.Errorf("device %v: tensor: only the free memory of a GPU is known", d)
	}
	var bytes C.size_t
	if msg := C.shim_free_memory(C.int(d.native()), &bytes); msg != nil {
		return 0, fmt.Errorf("device %v: tensor: %s", d, takeString(msg))
	}
	return int64(bytes), nil
}

// native returns libtch's number of a device: -1 is the CPU, n is CUDA(n).
func (d Device) native() int32 { return int32(d) - 1 }
