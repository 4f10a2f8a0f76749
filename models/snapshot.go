package models

import (
	"context"
	"fmt"
	"io"
	"syscall"

	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
)

// Snapshot is a copy of tensors at one moment. It is outside of Go's heap and of the engine, so any goroutine may write it to a
// file while the engine changes the tensors. It takes as much memory as the tensors, until Free.
type Snapshot struct {
	infos  []safetensors.Info
	memory []byte
	parts  [][]byte // of memory, one for each of infos
}

// TakeSnapshot copies tensors of one engine between two calls of its Do.
func TakeSnapshot(ctx context.Context, eng *tensor.Engine, tensors []tensor.Named) (_ *Snapshot, err error) {
	snap := &Snapshot{}
	err = eng.Do(ctx, func(s *tensor.Scope) error {
		if snap.infos, err = infosOf(tensors); err != nil {
			return err
		}
		if err := snap.reserve(); err != nil {
			return err
		}
		for i, p := range tensors {
			p.Tensor.CopyTo(snap.parts[i])
		}
		return s.Err()
	})
	if err != nil {
		snap.Free()
		return nil, fmt.Errorf("models: snapshot: %w", err)
	}
	return snap, nil
}

// reserve maps memory and divides it among the tensors.
func (s *Snapshot) reserve() error {
	var total int64
	sizes := make([]int64, len(s.infos))
	for i, info := range s.infos {
		n, err := info.Bytes()
		if err != nil {
			return err
		}
		sizes[i] = n
		total += n
	}
	if total > 0 {
		memory, err := syscall.Mmap(-1, 0, int(total), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
		if err != nil {
			return fmt.Errorf("%w (%w)", &tensor.OutOfMemory{Device: tensor.CPU, Bytes: total}, err)
		}
		s.memory = memory
	}
	rest := s.memory
	for _, n := range sizes {
		s.parts = append(s.parts, rest[:n:n])
		rest = rest[n:]
	}
	return nil
}

// Write writes the safetensors file that WriteTensors would have written at that moment.
func (s *Snapshot) Write(w io.Writer) error {
	out, err := safetensors.NewWriter(w, s.infos, fileMetadata())
	if err != nil {
		return err
	}
	defer out.Abort()
	for i, info := range s.infos {
		if err := out.Write(info.Name, s.parts[i]); err != nil {
			return err
		}
	}
	return out.Close()
}

// Free releases the memory. It may be called more than once, but not while Write runs.
func (s *Snapshot) Free() {
	if s.memory != nil {
		_ = syscall.Munmap(s.memory) // it fails only for memory that Mmap did not return
	}
	s.memory, s.parts = nil, nil
}
