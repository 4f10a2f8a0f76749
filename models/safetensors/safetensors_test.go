package safetensors_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/models/safetensors"
)

// golden is what testdata/make_goldens.py put into golden.safetensors.
type golden struct {
	Tensors map[string]struct {
		Shape []int64
		Hex   string
	}
}

func readGolden(t *testing.T) golden {
	t.Helper()
	text, err := os.ReadFile("testdata/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(text, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

func open(t *testing.T, path string) *safetensors.File {
	t.Helper()
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func TestOpenReadsTheReferencesFile(t *testing.T) {
	f := open(t, "testdata/golden.safetensors")
	want := readGolden(t)
	if got := len(f.Tensors()); got != len(want.Tensors) {
		t.Fatalf("%d tensors, want %d", got, len(want.Tensors))
	}
	for name, w := range want.Tensors {
		tensor, err := f.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(w.Shape, tensor.Shape); diff != "" {
			t.Errorf("%s: shape: %s", name, diff)
		}
		if got := hex.EncodeToString(tensor.Data); got != w.Hex {
			t.Errorf("%s: data %s, want %s", name, got, w.Hex)
		}
	}
	if diff := cmp.Diff(map[string]string{"format": "np"}, f.Metadata()); diff != "" {
		t.Error(diff)
	}
	if _, err := f.Tensor("nobody"); !errors.Is(err, safetensors.ErrNotFound) || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("a missing tensor: %v", err)
	}
}

// The same tensors in the same order give the reference's bytes.
func TestWriterWritesTheReferencesBytes(t *testing.T) {
	want, err := os.ReadFile("testdata/golden.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	f := open(t, "testdata/golden.safetensors")
	var got bytes.Buffer
	w, err := safetensors.NewWriter(&got, f.Tensors(), f.Metadata())
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range f.Tensors() {
		tensor, err := f.Tensor(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Write(info.Name, tensor.Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("wrote\n%q\nwant\n%q", got.Bytes(), want)
	}
}

func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	dtypes := []safetensors.DType{
		safetensors.Bool, safetensors.F8E4M3, safetensors.BF16, safetensors.F32, safetensors.I64,
	}
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.String(), 0, 6, rapid.ID[string]).Draw(t, "names")
		metadata := rapid.MapOfN(rapid.String(), rapid.String(), 0, 3).Draw(t, "metadata")
		var infos []safetensors.Info
		var data [][]byte
		for _, name := range names {
			info := safetensors.Info{
				Name:  name,
				DType: rapid.SampledFrom(dtypes).Draw(t, "dtype"),
				Shape: rapid.SliceOfN(rapid.Int64Range(0, 4), 0, 3).Draw(t, "shape"),
			}
			size, err := info.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			infos = append(infos, info)
			data = append(data, rapid.SliceOfN(rapid.Byte(), int(size), int(size)).Draw(t, "data"))
		}
		path := filepath.Join(dir, "model.safetensors")
		w, err := safetensors.Create(path, infos, metadata)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Abort()
		for i, info := range infos {
			if err := w.Write(info.Name, data[i]); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		f, err := safetensors.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if diff := cmp.Diff(metadata, f.Metadata()); diff != "" {
			t.Fatal(diff)
		}
		got := f.Tensors()
		if len(got) != len(infos) {
			t.Fatalf("%d tensors, want %d", len(got), len(infos))
		}
		for i, info := range infos {
			tensor, err := f.Tensor(info.Name)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(info, tensor.Info); diff != "" {
				t.Fatal(diff)
			}
			if !bytes.Equal(tensor.Data, data[i]) {
				t.Fatalf("%q: data %v, want %v", info.Name, tensor.Data, data[i])
			}
		}
	})
}

// raw makes a file of a header and so many bytes of data.
func raw(header string, data int) []byte {
	file := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	file = append(file, header...)
	return append(file, make([]byte, data)...)
}

func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOpenRefuses(t *testing.T) {
	const good = `{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`
	tests := map[string]struct {
		file []byte
		want error
		says string
	}{
		"empty file":            {nil, safetensors.ErrTruncated, "0 bytes"},
		"half a length":         {[]byte{1, 0, 0}, safetensors.ErrTruncated, "3 bytes"},
		"lying header length":   {raw(good, 8)[:30], safetensors.ErrTruncated, "header of"},
		"huge header length":    {[]byte{255, 255, 255, 255, 255, 255, 255, 255, '{'}, safetensors.ErrFormat, "limit"},
		"truncated data":        {raw(good, 7), safetensors.ErrTruncated, `"a"`},
		"bytes left over":       {raw(good, 9), safetensors.ErrFormat, "1 bytes follow"},
		"not JSON":              {raw("{]", 0), safetensors.ErrFormat, "header"},
		"not an object":         {raw("[]", 0), safetensors.ErrFormat, "header"},
		"text after the object": {raw(good+"{}", 8), safetensors.ErrFormat, "follows"},
		"not UTF-8":             {raw("{\"\xff\":1}", 0), safetensors.ErrFormat, "UTF-8"},
		"duplicate name": {
			raw(`{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}`, 0),
			safetensors.ErrFormat, `"a" is declared twice`,
		},
		"duplicate field": {
			raw(`{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}`, 0), safetensors.ErrFormat, `"dtype"`,
		},
		"unknown field":  {raw(`{"a":{"Dtype":"U8","shape":[0],"data_offsets":[0,0]}}`, 0), safetensors.ErrFormat, `"Dtype"`},
		"missing field":  {raw(`{"a":{"dtype":"U8","shape":[0]}}`, 0), safetensors.ErrFormat, "missing"},
		"unknown dtype":  {raw(`{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}`, 1), safetensors.ErrFormat, `"F4"`},
		"one offset":     {raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[1]}}`, 1), safetensors.ErrFormat, "of 2"},
		"negative shape": {raw(`{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}`, 1), safetensors.ErrFormat, "-1"},
		"fraction":       {raw(`{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}`, 1), safetensors.ErrFormat, "1.0"},
		"size overflow": {
			raw(`{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}`, 0),
			safetensors.ErrFormat, "overflow",
		},
		"shape and range": {raw(`{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}`, 8), safetensors.ErrFormat, `"a"`},
		"backwards":       {raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}`, 1), safetensors.ErrFormat, "[1, 0]"},
		"overlap": {
			raw(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 3),
			safetensors.ErrFormat, `"b"`,
		},
		"hole": {
			raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}`, 3),
			safetensors.ErrFormat, `"b"`,
		},
		"metadata not text": {raw(`{"__metadata__":{"n":1}}`, 0), safetensors.ErrFormat, "__metadata__"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			path := write(t, "bad.safetensors", test.file)
			f, err := safetensors.Open(path)
			if err == nil {
				f.Close()
				t.Fatal("opened")
			}
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %q, want %v that says %q and names the file", err, test.want, test.says)
			}
		})
	}
}

// Every cut of a good file is refused, and never as anything but truncated.
func TestOpenRefusesEveryCut(t *testing.T) {
	whole, err := os.ReadFile("testdata/golden.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "cut.safetensors")
	for n := range whole {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := safetensors.Open(path); !errors.Is(err, safetensors.ErrTruncated) {
			t.Fatalf("the first %d of %d bytes: %v", n, len(whole), err)
		}
	}
}

func TestOpenNamesTheMissingFile(t *testing.T) {
	_, err := safetensors.Open("testdata/nobody")
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "testdata/nobody") {
		t.Error(err)
	}
	if _, err := safetensors.Open("testdata"); !errors.Is(err, safetensors.ErrFormat) {
		t.Errorf("a folder: %v", err)
	}
}

func TestTensorAfterClose(t *testing.T) {
	f, err := safetensors.Open("testdata/golden.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.Tensor("half"); !errors.Is(err, safetensors.ErrClosed) {
		t.Error(err)
	}
}

func TestWriterKeepsTheDeclaredOrder(t *testing.T) {
	infos := []safetensors.Info{
		{Name: "a", DType: safetensors.U8, Shape: []int64{2}},
		{Name: "b", DType: safetensors.U8, Shape: []int64{1}},
	}
	tests := map[string]func(w *safetensors.Writer) error{
		"wrong order": func(w *safetensors.Writer) error { return w.Write("b", []byte{1}) },
		"wrong size":  func(w *safetensors.Writer) error { return w.Write("a", []byte{1}) },
		"too many": func(w *safetensors.Writer) error {
			return errors.Join(w.Write("a", []byte{1, 2}), w.Write("b", []byte{3}), w.Write("b", []byte{3}))
		},
		"too few": func(w *safetensors.Writer) error {
			err := w.Write("a", []byte{1, 2})
			closed := w.Close()
			return errors.Join(err, closed)
		},
	}
	for name, misuse := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			w, err := safetensors.Create(filepath.Join(dir, "x.safetensors"), infos, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := misuse(w); !errors.Is(err, safetensors.ErrOrder) {
				t.Errorf("error %v, want ErrOrder", err)
			}
			if err := w.Close(); !errors.Is(err, safetensors.ErrOrder) {
				t.Errorf("Close forgets the error: %v", err)
			}
			wantEmpty(t, dir)
		})
	}
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestWriterRefusesWhatCannotBeATensor(t *testing.T) {
	u8 := safetensors.Info{Name: "a", DType: safetensors.U8, Shape: []int64{1}}
	for name, infos := range map[string][]safetensors.Info{
		"twice":    {u8, u8},
		"reserved": {{Name: "__metadata__", DType: safetensors.U8}},
		"dtype":    {{Name: "a", DType: "F12"}},
		"negative": {{Name: "a", DType: safetensors.U8, Shape: []int64{-1}}},
		"overflow": {{Name: "a", DType: safetensors.F64, Shape: []int64{1 << 62}}},
		"UTF-8":    {{Name: "\xff", DType: safetensors.U8}},
	} {
		dir := t.TempDir()
		if _, err := safetensors.Create(filepath.Join(dir, "x"), infos, nil); !errors.Is(err, safetensors.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
		wantEmpty(t, dir)
	}
}

func TestAbortLeavesTheOldFile(t *testing.T) {
	path := write(t, "model.safetensors", []byte("old"))
	w, err := safetensors.Create(path, []safetensors.Info{{Name: "a", DType: safetensors.U8, Shape: []int64{1}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Abort()
	if err := w.Write("a", []byte{1}); !errors.Is(err, safetensors.ErrClosed) {
		t.Errorf("Write after Abort: %v", err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Fatalf("left behind: %v %v", left, err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "old" {
		t.Errorf("the old file is now %q %v", text, err)
	}
}

// fullDisk takes so many bytes and then answers as a full disk does.
type fullDisk struct{ free int }

func (d *fullDisk) Write(p []byte) (int, error) {
	if len(p) > d.free {
		n := d.free
		d.free = 0
		return n, syscall.ENOSPC
	}
	d.free -= len(p)
	return len(p), nil
}

func TestWriterOnAFullDisk(t *testing.T) {
	infos := []safetensors.Info{
		{Name: "a", DType: safetensors.U8, Shape: []int64{100}},
		{Name: "b", DType: safetensors.U8, Shape: []int64{100}},
	}
	all := func(to io.Writer) error {
		w, err := safetensors.NewWriter(to, infos, nil)
		if err != nil {
			return err
		}
		data := make([]byte, 100)
		_ = w.Write("a", data) // the first error stays with the writer
		_ = w.Write("b", data)
		return w.Close()
	}
	var whole bytes.Buffer
	if err := all(&whole); err != nil {
		t.Fatal(err)
	}
	for free := range whole.Len() {
		if err := all(&fullDisk{free}); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("with room for %d of %d bytes: %v", free, whole.Len(), err)
		}
	}
	if err := all(&fullDisk{whole.Len()}); err != nil {
		t.Errorf("with room for all: %v", err)
	}
}

// save writes a file of one-byte tensors, each holding value.
func save(t *testing.T, path string, value byte, names ...string) {
	t.Helper()
	var infos []safetensors.Info
	for _, name := range names {
		infos = append(infos, safetensors.Info{Name: name, DType: safetensors.U8, Shape: []int64{1}})
	}
	w, err := safetensors.Create(path, infos, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := w.Write(name, []byte{value}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOpenModel(t *testing.T) {
	single, sharded := t.TempDir(), t.TempDir()
	save(t, filepath.Join(single, "model.safetensors"), 1, "a", "b")
	save(t, filepath.Join(sharded, "model-00001-of-00002.safetensors"), 1, "a", "unlisted")
	save(t, filepath.Join(sharded, "model-00002-of-00002.safetensors"), 1, "b")
	index := `{"metadata":{"total_size":2},"weight_map":{
		"b":"model-00002-of-00002.safetensors","a":"model-00001-of-00002.safetensors"}}`
	if err := os.WriteFile(filepath.Join(sharded, "model.safetensors.index.json"), []byte(index), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{single, sharded} {
		m, err := safetensors.OpenModel(dir)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, info := range m.Tensors() {
			names = append(names, info.Name)
		}
		if diff := cmp.Diff([]string{"a", "b"}, names); diff != "" {
			t.Error(diff)
		}
		if b, err := m.Tensor("b"); err != nil || !bytes.Equal(b.Data, []byte{1}) {
			t.Errorf("b is %v, %v", b, err)
		}
		if _, err := m.Tensor("unlisted"); !errors.Is(err, safetensors.ErrNotFound) {
			t.Errorf("unlisted: %v", err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if _, err := m.Tensor("b"); !errors.Is(err, safetensors.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

func TestOpenModelRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		index string
		want  error
		says  string
	}{
		"no index":       {"", safetensors.ErrNotFound, "model.safetensors.index.json"},
		"not JSON":       {"{", safetensors.ErrFormat, "index.json"},
		"no map":         {`{}`, safetensors.ErrFormat, "weight_map"},
		"missing shard":  {`{"weight_map":{"a":"s1.safetensors","b":"s2.safetensors"}}`, safetensors.ErrNotFound, "s2"},
		"missing tensor": {`{"weight_map":{"a":"s1.safetensors","b":"s1.safetensors"}}`, safetensors.ErrNotFound, `"b"`},
		"escape":         {`{"weight_map":{"a":"../s1.safetensors"}}`, safetensors.ErrFormat, "outside"},
		"absolute":       {`{"weight_map":{"a":"/s1.safetensors"}}`, safetensors.ErrFormat, "outside"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			save(t, filepath.Join(dir, "s1.safetensors"), 1, "a")
			if test.index != "" {
				if err := os.WriteFile(filepath.Join(dir, "model.safetensors.index.json"), []byte(test.index), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := safetensors.OpenModel(dir)
			if !errors.Is(err, test.want) || !strings.Contains(fmt.Sprint(err), test.says) {
				t.Errorf("error %v, want %v that says %q", err, test.want, test.says)
			}
		})
	}
}

// A broken model.safetensors is told, not passed over in favour of shards.
func TestOpenModelTellsABrokenFile(t *testing.T) {
	path := write(t, "model.safetensors", []byte("x"))
	if _, err := safetensors.OpenModel(filepath.Dir(path)); !errors.Is(err, safetensors.ErrTruncated) {
		t.Error(err)
	}
}
