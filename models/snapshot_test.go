package models_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
)

// TestSnapshotIsOfItsMoment: it holds what WriteTensors would have written then, whatever happens to the tensors later.
func TestSnapshotIsOfItsMoment(t *testing.T) {
	engine := newEngine(t, 1)
	var tensors []tensor.Named
	run := func(f func(s *tensor.Scope) error) {
		t.Helper()
		if err := engine.Do(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	run(func(s *tensor.Scope) error {
		tensors = []tensor.Named{
			{Name: "matrix", Tensor: s.FromFloat32([]float32{1, 2, 3, 4, 5, 6}, 2, 3).Keep()},
			{Name: "turned", Tensor: s.FromFloat32([]float32{1, 2, 3, 4, 5, 6}, 2, 3).Transpose(0, 1).Keep()},
			{Name: "half", Tensor: s.FromFloat32([]float32{0.5, -8}, 2).To(tensor.BFloat16).Keep()},
			{Name: "step", Tensor: s.Zeros(tensor.Int64).Keep()},
			{Name: "empty", Tensor: s.Zeros(tensor.Float32, 0, 4).Keep()},
		}
		return s.Err()
	})
	var want, got bytes.Buffer
	if err := models.WriteTensors(t.Context(), engine, &want, tensors); err != nil {
		t.Fatal(err)
	}
	snap, err := models.TakeSnapshot(t.Context(), engine, tensors)
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Free()
	run(func(s *tensor.Scope) error {
		for _, n := range tensors {
			n.Tensor.Fill_(0)
			n.Tensor.Free()
		}
		return s.Err()
	})
	if err := snap.Write(&got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want.Bytes(), got.Bytes()) {
		t.Errorf("%d bytes, want the %d that were there", got.Len(), want.Len())
	}
	snap.Free()
	snap.Free() // does nothing
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := models.TakeSnapshot(ctx, engine, tensors); err == nil {
		t.Error("a snapshot was taken after the context had ended")
	}
}
