package safetensors

import "maps"

// Metadata is a copy of the file's metadata, which programs write for other readers.
func (f *File) Metadata() map[string]string { return maps.Clone(f.head.metadata) }
