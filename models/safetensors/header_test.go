package safetensors

import (
	"encoding/binary"
	"os"
	"testing"
)

// FuzzHeader: no bytes make the parser panic, and what it accepts tiles the file exactly.
func FuzzHeader(f *testing.F) {
	whole, err := os.ReadFile("testdata/golden.safetensors")
	if err != nil {
		f.Fatal(err)
	}
	n := binary.LittleEndian.Uint64(whole)
	f.Add(string(whole[lengthBytes:lengthBytes+n]), n, len(whole)-lengthBytes-int(n))
	for _, seed := range []string{
		`{"a":{"dtype":"U8","shape":[1,0],"data_offsets":[0,0]},"b":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}`,
		`{"__metadata__":{"a":"b"}}   `,
		`{"a":{"dtype":"F64","shape":[9223372036854775807,2],"data_offsets":[0,18446744073709551614]}}`,
	} {
		f.Add(seed, uint64(len(seed)), 4)
	}
	f.Fuzz(func(t *testing.T, text string, length uint64, data int) {
		file := binary.LittleEndian.AppendUint64(nil, length)
		file = append(file, text...)
		file = append(file, make([]byte, uint(data)%1024)...)
		h, err := parseHeader(file)
		if err != nil {
			return
		}
		at := int64(0)
		for _, e := range h.entries {
			if size, err := e.Bytes(); err != nil || e.begin != at || e.end-e.begin != size {
				t.Fatalf("%+v at %d: %d bytes (%v)", e, at, size, err)
			}
			at = e.end
		}
		if h.dataAt+at != int64(len(file)) {
			t.Fatalf("tensors end at %d of %d", h.dataAt+at, len(file))
		}
	})
}
