package safetensors

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

const (
	modelFile = "model.safetensors"
	indexFile = "model.safetensors.index.json"
)

// Model is the weights of a Hugging Face folder, in one file or in shards. The rules of File hold for it.
type Model struct {
	dir    string
	shards []*File
	byName map[string]*File
}

// OpenModel opens dir/model.safetensors, or, where there is none, the shards that dir/model.safetensors.index.json
// names. ErrNotFound names the missing file, shard or tensor; ErrFormat also means a shard outside dir.
func OpenModel(dir string) (*Model, error) {
	single := filepath.Join(dir, modelFile)
	file, err := Open(single)
	switch {
	case err == nil:
		m := &Model{dir: dir, shards: []*File{file}, byName: map[string]*File{}}
		for _, info := range file.Tensors() {
			m.byName[info.Name] = file
		}
		return m, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	return openShards(dir)
}

func openShards(dir string) (_ *Model, err error) {
	path := filepath.Join(dir, indexFile)
	text, err := readIndex(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s has neither %s nor %s (a folder of .bin files must be saved again as safetensors)",
			ErrNotFound, dir, modelFile, indexFile)
	}
	if err != nil {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	shardOf, err := parseIndex(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrFormat, path, err)
	}
	m := &Model{dir: dir, byName: make(map[string]*File, len(shardOf))}
	defer func() {
		if err != nil {
			_ = m.Close() // report the first error
		}
	}()
	opened := map[string]*File{}
	for _, shard := range slices.Sorted(maps.Values(shardOf)) {
		if opened[shard] != nil {
			continue
		}
		file, err := Open(filepath.Join(dir, shard))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %s names shard %s, which does not exist", ErrNotFound, path, shard)
		}
		if err != nil {
			return nil, err
		}
		opened[shard] = file
		m.shards = append(m.shards, file)
	}
	for _, name := range slices.Sorted(maps.Keys(shardOf)) {
		file := opened[shardOf[name]]
		if _, ok := file.byName[name]; !ok {
			return nil, fmt.Errorf("%w: %s says that %s holds tensor %q, but it does not",
				ErrNotFound, path, shardOf[name], name)
		}
		m.byName[name] = file
	}
	return m, nil
}

// readIndex reads no more of an index than the header of a file may have.
func readIndex(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxHeader+1))
	if err == nil && len(text) > maxHeader {
		err = fmt.Errorf("%w: %s is over the limit of %d bytes", ErrFormat, path, maxHeader)
	}
	return text, err
}

// parseIndex gives the shard of each tensor, a path within the folder.
func parseIndex(text []byte) (map[string]string, error) {
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if len(text) == 0 {
		return nil, errors.New("the file is empty")
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return nil, err
	}
	if len(index.WeightMap) == 0 {
		return nil, errors.New("weight_map is missing or empty")
	}
	for _, shard := range slices.Sorted(maps.Values(index.WeightMap)) {
		if !filepath.IsLocal(shard) {
			return nil, fmt.Errorf("shard %q lies outside the folder", shard)
		}
	}
	return index.WeightMap, nil
}

// Tensors lists the model's tensors, by shard name and then by offset. A tensor that the index does not name is left
// out.
func (m *Model) Tensors() []Info {
	var infos []Info
	for _, file := range m.shards {
		for _, info := range file.Tensors() {
			if m.byName[info.Name] == file {
				infos = append(infos, info)
			}
		}
	}
	return infos
}

// Tensor returns the named tensor, or ErrNotFound, or ErrClosed after Close.
func (m *Model) Tensor(name string) (Tensor, error) {
	file, ok := m.byName[name]
	if !ok {
		return Tensor{}, fmt.Errorf("%w: the model in %s has no tensor %q", ErrNotFound, m.dir, name)
	}
	return file.Tensor(name)
}

// Release is File.Release.
func (m *Model) Release(name string) {
	if file, ok := m.byName[name]; ok {
		file.Release(name)
	}
}

// Close unmaps all shards: every view becomes invalid.
func (m *Model) Close() error {
	var errs []error
	for _, file := range m.shards {
		errs = append(errs, file.Close())
	}
	return errors.Join(errs...)
}
