// Package safetensors reads and writes the safetensors format: an 8-byte little-endian header length, a JSON header
// that names each tensor's dtype, shape and byte range, and the tensors' raw little-endian bytes without holes.
//
// A File is a read-only memory map; its tensors are views on the map, so opening costs nothing but the header and a
// 500 MB model is paged in as it is read. A Model is the same over all shards of a Hugging Face folder. A Writer
// streams tensors in a declared order. The package handles bytes and dtype names; it does not compute with them.
package safetensors

import "errors"

var (
	// ErrFormat means that the bytes are not a valid safetensors file, or that a declared tensor cannot be one.
	ErrFormat = errors.New("safetensors: invalid format")
	// ErrTruncated means that the file ends before the bytes its header promises: an interrupted copy or download.
	ErrTruncated = errors.New("safetensors: file is truncated")
	// ErrNotFound means that there is no tensor or shard of that name.
	ErrNotFound = errors.New("safetensors: not found")
	// ErrOrder means that a tensor was written out of the declared order, with another size, or not at all.
	ErrOrder = errors.New("safetensors: not the declared tensor")
	// ErrClosed means use after Close.
	ErrClosed = errors.New("safetensors: already closed")
)
