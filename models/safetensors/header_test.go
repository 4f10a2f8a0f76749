package safetensors

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"strings"
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
		`{"a":{"dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}}`,
		`{"a":{"dtype":"BF16","shape":[1],"data_offsets":[2,4]},"b":{"dtype":"I8","shape":[2],"data_offsets":[0,2]}}`,
		`{"a":{"dtype":"F16","shape":[2],"data_offsets":[4,0]},"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}`,
		`{"a":{"dtype":"U8","shape":[-4],"data_offsets":[0,-4]}}`,
	} {
		f.Add(seed, uint64(len(seed)), 4)
	}
	f.Fuzz(func(t *testing.T, text string, length uint64, data int) {
		file := binary.LittleEndian.AppendUint64(nil, length)
		file = append(file, text...)
		file = append(file, make([]byte, uint(data)%1024)...)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		h, err := parseHeader(file)
		runtime.ReadMemStats(&after)
		// A length that lies costs nothing; nesting costs a little for each byte that is there.
		if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20+1000*uint64(len(file)) {
			t.Fatalf("%d bytes allocated for a file of %d", used, len(file))
		}
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

// FuzzIndex: no bytes make the parser of an index panic or allocate more than they warrant, and every shard that it names
// lies in the folder.
func FuzzIndex(f *testing.F) {
	for _, seed := range []string{
		`{"metadata": {"total_size": 12}, "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "sub/x.safetensors"}}`,
		`{"weight_map": {"a": "../x"}}`, `{"weight_map": {"a": "/etc/passwd"}}`, `{"weight_map": {"a": ""}}`,
		`{"weight_map": {"a": 1}}`, `{"weight_map": null}`, `[]`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		shardOf, err := parseIndex(text)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20+1000*uint64(len(text)) {
			t.Fatalf("%d bytes allocated for a file of %d", used, len(text))
		}
		if (err == nil) != (len(shardOf) > 0) {
			t.Fatalf("%d tensors, error %v", len(shardOf), err)
		}
		for name, shard := range shardOf {
			path := filepath.Join("folder", shard)
			if path != "folder" && !strings.HasPrefix(path, "folder"+string(filepath.Separator)) {
				t.Fatalf("%q is said to be in %q", name, path)
			}
		}
	})
}
