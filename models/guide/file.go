package guide

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
)

// The files of a guide's folder.
const (
	ConfigFile  = "guide.json"
	WeightsFile = "guide.safetensors"
)

// The names of the two models' weights begin with these.
const (
	encoderPrefix = "encoder."
	decoderPrefix = "decoder."
)

// configFile is guide.json: the guide's configuration, and config.json of each of its models.
type configFile struct {
	Guide   Config          `json:"guide"`
	Encoder json.RawMessage `json:"encoder"`
	Decoder json.RawMessage `json:"decoder"`
}

// ConfigJSON is the guide's guide.json.
func (g *Guide) ConfigJSON() ([]byte, error) {
	encoder, err := g.encoder.Config().JSON()
	if err != nil {
		return nil, err
	}
	decoder, err := g.decoder.Config().JSON()
	if err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(configFile{Guide: g.cfg, Encoder: encoder, Decoder: decoder}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("guide: write %s: %w", ConfigFile, err)
	}
	return append(data, '\n'), nil
}

// WriteWeights writes guide.safetensors: all weights of encoder and decoder, and the projections, one after the other.
func (g *Guide) WriteWeights(ctx context.Context, w io.Writer) error {
	if err := models.WriteTensors(ctx, g.Engine(), w, g.Weights()); err != nil {
		return fmt.Errorf("guide: write weights: %w", err)
	}
	return nil
}

// Weights are all tensors of guide.safetensors, under their names there and in its order.
func (g *Guide) Weights() []tensor.Named {
	var list []tensor.Named
	for _, p := range g.encoder.Params() {
		list = append(list, tensor.Named{Name: encoderPrefix + p.Name, Tensor: p.Tensor})
	}
	for _, p := range g.decoder.Params() {
		list = append(list, tensor.Named{Name: decoderPrefix + p.Name, Tensor: p.Tensor})
	}
	return append(list, g.own...)
}

// parsedConfig is what configFile says.
type parsedConfig struct {
	guide            Config
	encoder, decoder models.Config
}

// readConfig reads guide.json of a folder.
func readConfig(folder string) (parsedConfig, error) {
	data, err := os.ReadFile(filepath.Join(folder, ConfigFile))
	if err != nil {
		return parsedConfig{}, err
	}
	c, err := parseConfig(data)
	if err != nil {
		return parsedConfig{}, fmt.Errorf("%s: %w", ConfigFile, err)
	}
	return c, nil
}

func parseConfig(data []byte) (c parsedConfig, err error) {
	var file configFile
	parser := json.NewDecoder(bytes.NewReader(data))
	parser.DisallowUnknownFields()
	if err := parser.Decode(&file); err != nil {
		return c, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if c.encoder, err = models.ParseConfig(file.Encoder); err != nil {
		return c, fmt.Errorf("encoder: %w", err)
	}
	if c.decoder, err = models.ParseConfig(file.Decoder); err != nil {
		return c, fmt.Errorf("decoder: %w", err)
	}
	c.guide = file.Guide
	return c, c.guide.Fits(c.encoder, c.decoder)
}

// readOwn reads the guide's own weights.
func (g *Guide) readOwn(s *tensor.Scope, file *safetensors.File) (map[string]*tensor.Tensor, error) {
	own := map[string]*tensor.Tensor{}
	for _, w := range g.shapes() {
		t, err := models.ReadTensor(s, file, w.name, g.encoder.DType(), w.shape...)
		if err != nil {
			return nil, err
		}
		own[w.name] = t
	}
	return own, nil
}

// LoadWeights replaces all weights in place by those of a guide.safetensors of the same shapes. When the file does not
// fit, the guide is unchanged, except after models.ErrNotFinite, see models.Model.LoadWeights.
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
	encoder, decoder := part{file, encoderPrefix}, part{file, decoderPrefix}
	if err := errors.Join(g.encoder.Config().Fits(encoder), g.decoder.Config().Fits(decoder)); err != nil {
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
	ctx = context.WithoutCancel(ctx) // the rest fits: no half of it
	return errors.Join(g.encoder.Replace(ctx, encoder), g.decoder.Replace(ctx, decoder))
}

// part is the tensors of a file whose names begin with a prefix, without it.
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

// Release is File.Release, without which the whole file would be in memory beside the models that are read from it.
func (p part) Release(name string) { p.file.Release(p.prefix + name) }
