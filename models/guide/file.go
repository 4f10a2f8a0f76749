package guide

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
)

// ConfigJSON returns the content of the guide's guide.json.
func (g *Guide) ConfigJSON() ([]byte, error) { return g.cfg.JSON() }

// WriteWeights writes guide.safetensors: all weights of encoder and decoder, and the projections, one after the other.
func (g *Guide) WriteWeights(ctx context.Context, w io.Writer) error {
	if err := models.WriteTensors(ctx, g.Engine(), w, g.Weights()); err != nil {
		return fmt.Errorf("guide: write weights: %w", err)
	}
	return nil
}

// Weights returns all tensors of guide.safetensors, with the names and in the order of the file.
func (g *Guide) Weights() []tensor.Named {
	var list []tensor.Named
	for _, p := range g.encoder.Params() {
		list = append(list, tensor.Named{Name: architecture.GuideEncoderPrefix + p.Name, Tensor: p.Tensor})
	}
	for _, p := range g.decoder.Params() {
		list = append(list, tensor.Named{Name: architecture.GuideDecoderPrefix + p.Name, Tensor: p.Tensor})
	}
	return append(list, g.own...)
}

// readOwn reads the guide's own weights.
func (g *Guide) readOwn(s *tensor.Scope, file *safetensors.File) (map[string]*tensor.Tensor, error) {
	own := map[string]*tensor.Tensor{}
	for _, w := range g.cfg.Own() {
		t, err := models.ReadTensor(s, file, w.Name, g.encoder.DType(), w.Shape...)
		if err != nil {
			return nil, err
		}
		own[w.Name] = t
	}
	return own, nil
}

// LoadWeights replaces all weights in place by those of a guide.safetensors of the same shapes. If the file does not fit, the
// guide is unchanged, except after models.ErrNotFinite (see models.Model.LoadWeights).
func (g *Guide) LoadWeights(ctx context.Context, path string) error {
	err := g.replace(ctx, path)
	if err != nil {
		return fmt.Errorf("guide: load weights from %s: %w", path, err)
	}
	return nil
}

func (g *Guide) replace(ctx context.Context, path string) error {
	file, err := safetensors.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	encoder, decoder := part{file, architecture.GuideEncoderPrefix}, part{file, architecture.GuideDecoderPrefix}
	if err := errors.Join(g.cfg.Encoder.Fits(encoder.Tensors()), g.cfg.Decoder.Fits(decoder.Tensors())); err != nil {
		return err
	}
	err = g.Engine().Do(ctx, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			own, err := g.readOwn(s, file)
			if err != nil {
				return err
			}
			for _, p := range g.own {
				p.Tensor.Copy_(own[p.Name])
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx) // the file fits, so do not stop halfway
	return errors.Join(g.encoder.Replace(ctx, encoder), g.decoder.Replace(ctx, decoder))
}

// part is the tensors of a file whose names have a prefix. Its names are without the prefix.
type part struct {
	file   *safetensors.File
	prefix string
}

func (p part) Tensors() []safetensors.Info {
	var list []safetensors.Info
	for _, info := range p.file.Tensors() {
		if name, ok := strings.CutPrefix(info.Name, p.prefix); ok {
			info.Name = name
			list = append(list, info)
		}
	}
	return list
}

func (p part) Tensor(name string) (safetensors.Tensor, error) { return p.file.Tensor(p.prefix + name) }

// Release calls File.Release. Without it the whole file would stay in memory beside the models that are read from it.
func (p part) Release(name string) { p.file.Release(p.prefix + name) }
