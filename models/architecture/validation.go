package architecture

import (
	"fmt"
	"slices"
)

// WithDefaults replaces zero values that stand for a default by the default.
func (c Config) WithDefaults() Config {
	if c.KVHeads == 0 {
		c.KVHeads = c.Heads
	}
	if c.HeadDim == 0 && c.Heads > 0 {
		c.HeadDim = c.Hidden / c.Heads
	}
	traits := c.Traits()
	rotary := traits.Network == RotaryNetwork
	if c.Intermediate == 0 && !rotary {
		c.Intermediate = 4 * c.Hidden
	}
	if c.NormEps == 0 {
		c.NormEps = 1e-5
	}
	if c.QueryScalar == 0 && c.family().options.queryScalar {
		c.QueryScalar = float64(c.HeadDim)
	}
	if c.RopeTheta == 0 && rotary {
		c.RopeTheta = 10000
	}
	if c.LocalRopeTheta == 0 && traits.LocalRope {
		c.LocalRopeTheta = 10000
	}
	if !slices.Contains(c.LocalLayers, false) {
		c.LocalLayers = nil
	}
	if c.LocalLayers != nil && !slices.Contains(c.LocalLayers, true) {
		c.SlidingWindow, c.LocalLayers = 0, nil
	}
	if c.InitializerRange == 0 {
		c.InitializerRange = 0.02
	}
	return c
}

// Validate tells what is wrong with a configuration whose defaults are filled in. The error wraps ErrConfig.
func (c Config) Validate() error {
	family := c.family()
	if family.name == "" {
		return errFamily(c.Family)
	}
	for _, bound := range []struct {
		name        string
		value, most int
	}{
		{"vocabulary size", c.Vocab, maxSize},
		{"hidden size", c.Hidden, maxSize},
		{"number of layers", c.Layers, maxLayers},
		{"number of attention heads", c.Heads, maxSize},
		{"number of key-value heads", c.KVHeads, maxSize},
		{"head size", c.HeadDim, maxSize},
		{"intermediate size", c.Intermediate, maxSize},
		{"number of positions", c.MaxPositions, maxPositions},
	} {
		if bound.value < 1 || bound.value > bound.most {
			return fmt.Errorf("%w: the %s is %d, want 1 to %d", ErrConfig, bound.name, bound.value, bound.most)
		}
	}
	for _, x := range []float64{
		c.NormEps, c.InitializerRange, c.RopeTheta, c.LocalRopeTheta, c.QueryScalar, c.RopeScaling.Factor, c.RopeScaling.LowFreq,
		c.RopeScaling.HighFreq,
	} {
		if !finite(x) {
			return fmt.Errorf("%w: a number in it is %g", ErrConfig, x)
		}
	}
	rotary, options := family.Network == RotaryNetwork, family.options
	switch {
	case c.Heads%c.KVHeads != 0:
		return fmt.Errorf("%w: %d attention heads are no multiple of %d key-value heads", ErrConfig, c.Heads, c.KVHeads)
	case rotary && c.HeadDim%2 != 0:
		return fmt.Errorf("%w: the head size %d is odd, rotary embeddings need pairs", ErrConfig, c.HeadDim)
	case !rotary && (c.HeadDim*c.Heads != c.Hidden || c.KVHeads != c.Heads):
		return fmt.Errorf("%w: %s splits its width %d evenly among %d heads", ErrConfig, c.Family, c.Hidden, c.Heads)
	case c.SlidingWindow < 0 || c.SlidingWindow > maxPositions || (c.SlidingWindow > 0 && !options.windows):
		return fmt.Errorf("%w: sliding window %d in a %s model", ErrConfig, c.SlidingWindow, c.Family)
	case c.LocalLayers != nil && (len(c.LocalLayers) != c.Layers || c.SlidingWindow == 0 || !options.localLayers):
		return fmt.Errorf("%w: %d layers are marked as local or not in a %s model of %d layers with a sliding window of %d",
			ErrConfig, len(c.LocalLayers), c.Family, c.Layers, c.SlidingWindow)
	case !(c.NormEps > 0) || !(c.InitializerRange > 0) || (rotary && !(c.RopeTheta > 0)):
		return fmt.Errorf("%w: norm epsilon %g, initializer range %g and rope theta %g must be above 0",
			ErrConfig, c.NormEps, c.InitializerRange, c.RopeTheta)
	case family.LocalRope && !(c.LocalRopeTheta > 0), !family.LocalRope && c.LocalRopeTheta != 0:
		return fmt.Errorf("%w: rope theta %g of local layers in a %s model", ErrConfig, c.LocalRopeTheta, c.Family)
	case !(c.QueryScalar >= 0) || (c.QueryScalar > 0 && !options.queryScalar):
		return fmt.Errorf("%w: query_pre_attn_scalar %g in a %s model", ErrConfig, c.QueryScalar, c.Family)
	case c.AttentionBias && !options.attentionBias:
		return fmt.Errorf("%w: attention_bias in a %s model", ErrConfig, c.Family)
	case c.ForwardBias && !options.forwardBias:
		return fmt.Errorf("%w: mlp_bias in a %s model", ErrConfig, c.Family)
	case c.RopeScaling != RopeScaling{} && !rotary:
		return fmt.Errorf("%w: rotary embeddings in a %s model", ErrConfig, c.Family)
	}
	if err := c.RopeScaling.validate(); err != nil {
		return err
	}
	if n := size(family.weights(c, family.Traits)); n > maxParameters {
		return fmt.Errorf("%w: these sizes make %.3g parameters", ErrConfig, n)
	}
	return nil
}

// size is the number of parameters, which may exceed an int64.
func size(weights []Weight) float64 {
	total := 0.0
	for _, w := range weights {
		n := 1.0
		for _, d := range w.Shape {
			n *= float64(d)
		}
		total += n
	}
	return total
}
