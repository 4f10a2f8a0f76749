package tensor

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

// native returns libtch's number of a device: -1 is the CPU, n is CUDA(n).
func (d Device) native() int32 { return int32(d) - 1 }
