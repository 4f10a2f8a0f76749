package guide

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
)

// Encoder is phi of a trained guide, the only part that the encoder stage needs. Its model is packed where that is possible.
type Encoder struct {
	cfg       architecture.GuideConfig
	model     *models.Model
	maxLength int
	// latent is [K, H], bias is [K], and pooling is [H] with PoolAttention.
	latent, bias, pooling []float32
}

// LoadEncoder reads the encoder from a guide's folder. Errors are those of LoadWeights, and name the file.
func LoadEncoder(ctx context.Context, eng *tensor.Engine, folder string) (*Encoder, error) {
	e, err := loadEncoder(ctx, eng, folder)
	if err != nil {
		return nil, fmt.Errorf("guide: load %s: %w", folder, err)
	}
	return e, nil
}

func loadEncoder(ctx context.Context, eng *tensor.Engine, folder string) (*Encoder, error) {
	config, err := architecture.ReadGuide(os.DirFS(folder))
	if err != nil {
		return nil, err
	}
	file, err := safetensors.Open(filepath.Join(folder, architecture.GuideWeightsFile))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	e := &Encoder{cfg: config.Config, maxLength: config.MaxLength()}
	err = eng.Do(ctx, func(s *tensor.Scope) error {
		reads := map[string]*[]float32{
			architecture.GuideLatent + ".weight": &e.latent, architecture.GuideLatent + ".bias": &e.bias,
			architecture.GuidePooling: &e.pooling,
		}
		for _, w := range config.Own() {
			into := reads[w.Name]
			if into == nil {
				continue
			}
			t, err := models.ReadTensor(s, file, w.Name, tensor.Float32, w.Shape...)
			if err != nil {
				return err
			}
			*into = t.Float32s()
		}
		return nil
	})
	if err == nil {
		e.model, err = models.Read(ctx, eng, config.Encoder, part{file, architecture.GuideEncoderPrefix}, models.Options{Packed: true})
		if err != nil {
			err = fmt.Errorf("encoder: %w", err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", architecture.GuideWeightsFile, err)
	}
	return e, nil
}

// MaxLength returns the greatest number of tokens of prompt and response together.
func (e *Encoder) MaxLength() int { return e.maxLength }

// Close frees the encoder. It may be called after the engine was closed.
func (e *Encoder) Close(ctx context.Context) error { return e.model.Close(ctx) }

// Latents returns h = phi(x, y) of each row, [K], in the order of rows. Every row must have a response. A row's latent depends on
// that row alone, to the last bit.
func (e *Encoder) Latents(ctx context.Context, rows []models.Sequence) ([][]float32, error) {
	ids := make([][]int64, len(rows))
	for i, row := range rows {
		if ids[i] = row.IDs; len(row.Response()) == 0 {
			return nil, fmt.Errorf("guide: encode: %w", noResponse(i))
		}
	}
	latents, states := make([][]float32, len(rows)), make([][]float32, len(rows))
	err := models.Walk(ctx, e.model, ids, 0, func(s *tensor.Scope, _ *models.Cache, h *tensor.Tensor, at []models.Position) error {
		values, width := h.Float32s(), int(h.Size(1))
		if err := s.Err(); err != nil {
			return err
		}
		for k, p := range at {
			row := rows[p.Row]
			if p.At >= row.PromptLen {
				states[p.Row] = append(states[p.Row], values[k*width:(k+1)*width]...)
			}
			if p.At == len(row.IDs)-1 {
				latents[p.Row] = e.project(e.pool(states[p.Row], width))
				states[p.Row] = nil
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("guide: encode: %w", err)
	}
	return latents, nil
}

// pool combines the hidden states of a response into one vector, [n·width] -> [width].
func (e *Encoder) pool(states []float32, width int) []float64 {
	n := len(states) / width
	shares := make([]float64, n)
	switch e.cfg.Pooling {
	case architecture.PoolLast:
		shares[n-1] = 1
	case architecture.PoolAttention:
		most, sum := math.Inf(-1), 0.0
		for t := range n {
			x := dot(e.pooling, states[t*width:(t+1)*width])
			shares[t] = x * (1 + math.Erf(x/math.Sqrt2)) / 2 // gelu
			most = max(most, shares[t])
		}
		for t, x := range shares {
			shares[t] = math.Exp(x - most)
			sum += shares[t]
		}
		for t := range shares {
			shares[t] /= sum
		}
	default:
		for t := range shares {
			shares[t] = 1 / float64(n)
		}
	}
	pooled := make([]float64, width)
	for t, share := range shares {
		for k, x := range states[t*width : (t+1)*width] {
			pooled[k] += share * float64(x)
		}
	}
	return pooled
}

// project applies the latent layer.
func (e *Encoder) project(pooled []float64) []float32 {
	latent, width := make([]float32, e.cfg.LatentDim), len(pooled)
	for k := range latent {
		latent[k] = float32(float64(e.bias[k]) + dot(e.latent[k*width:(k+1)*width], pooled))
	}
	return latent
}

func dot[T, U float32 | float64](a []T, b []U) float64 {
	sum := 0.0
	for i, x := range a {
		sum += float64(x) * float64(b[i])
	}
	return sum
}
