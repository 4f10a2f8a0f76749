package tensor

// #cgo CXXFLAGS: -std=c++20
// #cgo LDFLAGS: -ltorch_cpu -lc10
// #cgo linux LDFLAGS: -ldl
// #include <stdlib.h>
// #include "shim.h"
// #cgo noescape shim_free
// #cgo nocallback shim_free
// #cgo noescape shim_info
// #cgo nocallback shim_info
// #cgo noescape shim_from_data
// #cgo nocallback shim_from_data
// #cgo noescape shim_read
// #cgo nocallback shim_read
// #cgo noescape shim_item
// #cgo nocallback shim_item
import "C"

import (
	"errors"
	"fmt"
	"regexp"
	"unsafe"
)

var torchVersion = regexp.MustCompile(`TORCH_VERSION=([^,\s]+)`)

// Version returns the version of the loaded libtorch, "2.15.0" for example.
func Version() (string, error) {
	C.shim_cuda()
	var text *C.char
	if msg := C.shim_config(&text); msg != nil {
		return "", fmt.Errorf("tensor: libtorch's configuration: %s", takeString(msg))
	}
	defer C.free(unsafe.Pointer(text))
	m := torchVersion.FindStringSubmatch(C.GoString(text))
	if m == nil {
		return "", errors.New("tensor: libtorch does not tell its version")
	}
	return m[1], nil
}

// CUDAAvailable returns nil if libtorch computes on GPUs of this machine, and otherwise an error that says what is missing.
func CUDAAvailable() error {
	if why := firstLine(C.GoString(C.shim_cuda())); why != "" {
		return errors.New("tensor: no CUDA: " + why)
	}
	return nil
}
