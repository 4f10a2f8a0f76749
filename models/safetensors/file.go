package safetensors

import (
	"fmt"
	"os"
	"slices"
)

// Tensor is a tensor with its bytes: little-endian, row-major.
type Tensor struct {
	Info
	// Data is a view on the read-only memory map: valid until Close, never to be written to.
	Data []byte
}

// File is an open safetensors file. Its methods may be called from several goroutines; Close only after all views are
// done with. The file must not be changed or cut while it is open.
type File struct {
	path   string
	data   []byte
	head   *header
	byName map[string]int
}

// Open maps the file and checks its header in full; tensors are read when they are touched. Errors name the file and
// the tensor and wrap ErrFormat, ErrTruncated or the system's error.
func Open(path string) (*File, error) {
	data, err := mapFile(path)
	if err != nil {
		return nil, fmt.Errorf("safetensors: open %s: %w", path, err)
	}
	head, err := parseHeader(data)
	if err != nil {
		_ = unmap(data) // report the header's error
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	f := &File{path: path, data: data, head: head, byName: make(map[string]int, len(head.entries))}
	for i, e := range head.entries {
		f.byName[e.Name] = i
	}
	return f, nil
}

func mapFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the map outlives the descriptor
	stat, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !stat.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: not a regular file", ErrFormat)
	}
	if stat.Size() == 0 {
		return nil, nil
	}
	if int64(int(stat.Size())) != stat.Size() {
		return nil, fmt.Errorf("%d bytes are more than this machine can map", stat.Size())
	}
	return mapped(f, int(stat.Size()))
}

func unmap(data []byte) error {
	if data == nil {
		return nil
	}
	return unmapped(data)
}

// Tensors lists what the file holds, ordered by offset.
func (f *File) Tensors() []Info {
	infos := make([]Info, len(f.head.entries))
	for i, e := range f.head.entries {
		infos[i] = e.Info
		infos[i].Shape = slices.Clone(e.Shape)
	}
	return infos
}

// Tensor returns the named tensor, or ErrNotFound, or ErrClosed after Close.
func (f *File) Tensor(name string) (Tensor, error) {
	i, ok := f.byName[name]
	if !ok {
		return Tensor{}, fmt.Errorf("%w: %s has no tensor %q", ErrNotFound, f.path, name)
	}
	if f.data == nil {
		return Tensor{}, fmt.Errorf("%w: %s", ErrClosed, f.path)
	}
	e := f.head.entries[i]
	begin, end := f.head.dataAt+e.begin, f.head.dataAt+e.end
	e.Shape = slices.Clone(e.Shape)
	return Tensor{Info: e.Info, Data: f.data[begin:end:end]}, nil
}

// Release tells the system that the named tensor's bytes are not needed for now, so that a large file that is read once
// does not fill the process's memory. They can be read again.
func (f *File) Release(name string) {
	i, ok := f.byName[name]
	if !ok || f.data == nil {
		return
	}
	page := int64(os.Getpagesize())
	e := f.head.entries[i]
	begin, end := (f.head.dataAt+e.begin)/page*page, f.head.dataAt+e.end
	release(f.data[begin:end])
}

// Close unmaps the file: every view becomes invalid, reading one crashes. A second Close does nothing.
func (f *File) Close() error {
	data := f.data
	f.data = nil
	if err := unmap(data); err != nil {
		return fmt.Errorf("safetensors: close %s: %w", f.path, err)
	}
	return nil
}
