package models

import (
	"context"
	"fmt"
	"io"

	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
)

// WriteTensors writes tensors of one engine as a safetensors file in their order, holding one at a time in Go's memory.
func WriteTensors(ctx context.Context, eng *tensor.Engine, w io.Writer, tensors []tensor.Named) error {
	var infos []safetensors.Info
	err := eng.Do(ctx, func(*tensor.Scope) (err error) {
		infos, err = infosOf(tensors)
		return err
	})
	if err != nil {
		return err
	}
	out, err := safetensors.NewWriter(w, infos, fileMetadata())
	if err != nil {
		return err
	}
	defer out.Abort()
	for _, p := range tensors {
		var data []byte
		err := eng.Do(ctx, func(*tensor.Scope) error {
			data = p.Tensor.Bytes()
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		if err := out.Write(p.Name, data); err != nil {
			return err
		}
	}
	return out.Close()
}

// infosOf declares tensors for a file. It is called inside Do.
func infosOf(tensors []tensor.Named) ([]safetensors.Info, error) {
	infos := make([]safetensors.Info, len(tensors))
	for i, p := range tensors {
		dtype, err := elementType(p.Tensor.DType())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
		infos[i] = safetensors.Info{Name: p.Name, DType: dtype, Shape: p.Tensor.Shape()}
	}
	return infos, nil
}

// fileMetadata is the metadata that transformers expects in a file of weights.
func fileMetadata() map[string]string { return map[string]string{"format": "pt"} }
