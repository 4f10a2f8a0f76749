package architecture

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
)

// ropeKeys describe the rotary embeddings. Current files have rope_parameters, older ones the other keys. This package
// writes both, so that older programs can read its files.
type ropeKeys struct {
	Theta      *float64        `json:"rope_theta,omitempty"`
	LocalTheta *float64        `json:"rope_local_base_freq,omitempty"`
	Scaling    json.RawMessage `json:"rope_scaling"`
	// Parameters are ropeParameters, or layerParameters.
	Parameters json.RawMessage `json:"rope_parameters,omitempty"`
}

// ropeParameters describe one rotary embedding; older files name the type "type".
type ropeParameters struct {
	Type          *string  `json:"rope_type,omitempty"`
	OldType       *string  `json:"type,omitempty"`
	Theta         *float64 `json:"rope_theta,omitempty"`
	PartialRotary *float64 `json:"partial_rotary_factor,omitempty"`
	Factor        *float64 `json:"factor,omitempty"`
	LowFreq       *float64 `json:"low_freq_factor,omitempty"`
	HighFreq      *float64 `json:"high_freq_factor,omitempty"`
	Original      *int     `json:"original_max_position_embeddings,omitempty"`
}

// layerParameters are the rope_parameters of a family whose local layers have their own rotary embedding.
type layerParameters struct {
	Local  json.RawMessage `json:"sliding_attention"`
	Global json.RawMessage `json:"full_attention"`
}

// readRope reads the parameters under a key. It refuses unknown keys among them, which would change the embedding.
func readRope(key string, data json.RawMessage) (ropeParameters, error) {
	var kind struct {
		Type    *string `json:"rope_type"`
		OldType *string `json:"type"`
	}
	var p ropeParameters
	if !isSet(data) {
		return p, nil
	}
	if err := json.Unmarshal(data, &kind); err != nil {
		return p, fmt.Errorf("%w: %s: %w", ErrConfig, key, err)
	}
	for _, name := range []*string{kind.Type, kind.OldType} {
		if name != nil && *name != "default" && *name != LinearRope && *name != Llama3Rope {
			return p, fmt.Errorf("%w: %s is %q, supported rotary embeddings are default, linear and llama3", ErrConfig, key, *name)
		}
	}
	if err := strict(data, &p); err != nil {
		return p, fmt.Errorf("%w: %s: %w", ErrConfig, key, err)
	}
	if f := or(p.PartialRotary, 1); f != 1 {
		return p, fmt.Errorf("%w: %s: partial_rotary_factor %g is not supported", ErrConfig, key, f)
	}
	return p, nil
}

// strict is json.Unmarshal that refuses unknown keys.
func strict(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

// scaling is the scaling that the parameters describe. positions is max_position_embeddings.
func (p ropeParameters) scaling(key string, positions int) (RopeScaling, error) {
	kind := or(p.Type, or(p.OldType, "default"))
	given := []*float64{p.Factor, p.LowFreq, p.HighFreq}
	wanted := map[string]int{"default": 0, LinearRope: 1, Llama3Rope: 3}[kind]
	for i, value := range given {
		if (value != nil) != (i < wanted) {
			return RopeScaling{}, fmt.Errorf("%w: %s is %q, which has %s",
				ErrConfig, key, kind, []string{"no factors", "a factor", "", "factor, low_freq_factor and high_freq_factor"}[wanted])
		}
	}
	switch kind {
	case LinearRope:
		return RopeScaling{Kind: LinearRope, Factor: *p.Factor}, nil
	case Llama3Rope:
		return RopeScaling{
			Kind: Llama3Rope, Factor: *p.Factor, LowFreq: *p.LowFreq, HighFreq: *p.HighFreq, Original: or(p.Original, positions),
		}, nil
	}
	return RopeScaling{}, nil
}

// ropes sets the rotary embeddings of c; ownLocal says that local layers have their own. It refuses keys that contradict
// each other, because programs differ in which one they follow.
func (f ropeKeys) ropes(c *Config, ownLocal bool) error {
	named := map[string]json.RawMessage{"rope_parameters": f.Parameters, "rope_scaling": f.Scaling}
	c.RopeTheta = 10000
	if ownLocal {
		c.RopeTheta = 1e6
		local, err := f.takeLocal(named)
		if err != nil {
			return err
		}
		if local.Theta != nil && f.LocalTheta != nil && *local.Theta != *f.LocalTheta {
			return fmt.Errorf("%w: rope_local_base_freq is %g, but %g in rope_parameters: keep the right one",
				ErrConfig, *f.LocalTheta, *local.Theta)
		}
		c.LocalRopeTheta = or(local.Theta, or(f.LocalTheta, 10000))
	}
	theta, scaled := f.Theta, false
	for _, key := range []string{"rope_parameters", "rope_scaling"} {
		p, err := readRope(key, named[key])
		if err != nil {
			return err
		}
		if p.Theta != nil && theta != nil && *p.Theta != *theta {
			return fmt.Errorf("%w: rope_theta is %g, but %g in %s: keep the right one", ErrConfig, *theta, *p.Theta, key)
		}
		if p.Theta != nil {
			theta = p.Theta
		}
		scaling, err := p.scaling(key, c.MaxPositions)
		if err != nil {
			return err
		}
		if scaled && isSet(named[key]) && scaling != c.RopeScaling {
			return fmt.Errorf("%w: rope_parameters and %s differ: keep the right one", ErrConfig, key)
		}
		if isSet(named[key]) {
			c.RopeScaling, scaled = scaling, true
		}
	}
	c.RopeTheta = or(theta, c.RopeTheta)
	return nil
}

// takeLocal splits rope_parameters: it leaves those of global layers in named and returns those of local layers.
func (f ropeKeys) takeLocal(named map[string]json.RawMessage) (local ropeParameters, err error) {
	const key = "rope_parameters"
	var kinds layerParameters
	if isSet(f.Parameters) {
		if err := strict(f.Parameters, &kinds); err != nil {
			return local, fmt.Errorf("%w: %s: %w", ErrConfig, key, err)
		}
	}
	named[key] = kinds.Global
	local, err = readRope(key+"."+localLayer, kinds.Local)
	if err != nil {
		return local, err
	}
	scaling, err := local.scaling(key+"."+localLayer, 1)
	if err == nil && scaling != (RopeScaling{}) {
		err = fmt.Errorf("%w: %s.%s is %q: local layers are not scaled", ErrConfig, key, localLayer, scaling.Kind)
	}
	return local, err
}

// ropeKeys writes what ropes reads.
func (c Config) ropeKeys(ownLocal bool) (ropeKeys, error) {
	global, err := c.RopeScaling.parameters(c.RopeTheta)
	if err != nil {
		return ropeKeys{}, err
	}
	keys := ropeKeys{Theta: &c.RopeTheta, Scaling: null, Parameters: global}
	if c.RopeScaling.Kind != "" {
		keys.Scaling = global
	}
	if ownLocal {
		local, err := RopeScaling{}.parameters(c.LocalRopeTheta)
		if err != nil {
			return ropeKeys{}, err
		}
		keys.LocalTheta = &c.LocalRopeTheta
		if keys.Parameters, err = json.Marshal(layerParameters{Local: local, Global: global}); err != nil {
			return ropeKeys{}, err
		}
	}
	return keys, nil
}

// parameters are ropeParameters as they are written.
func (r RopeScaling) parameters(theta float64) (json.RawMessage, error) {
	kind := "default"
	p := ropeParameters{Type: &kind, Theta: &theta}
	if r.Kind != "" {
		p.Type, p.Factor = &r.Kind, &r.Factor
	}
	if r.Kind == Llama3Rope {
		p.LowFreq, p.HighFreq, p.Original = &r.LowFreq, &r.HighFreq, &r.Original
	}
	return json.Marshal(p)
}

// Frequencies are those of the rotary embedding, [D/2] radians a position: dimension i of a head turns with i+D/2 (the
// half-split form of Hugging Face's weights) by the angle position·RopeTheta^(-2i/D), stretched as RopeScaling says. They
// are computed in float32 as transformers does.
func (c Config) Frequencies() []float32 { return frequencies(c.RopeTheta, c.RopeScaling, c.HeadDim) }

// LocalFrequencies are the Frequencies of local layers that have their own rotary embedding, by LocalRopeTheta and never
// stretched.
func (c Config) LocalFrequencies() []float32 {
	return frequencies(c.LocalRopeTheta, RopeScaling{}, c.HeadDim)
}

func frequencies(theta float64, scaling RopeScaling, dim int) []float32 {
	out := make([]float32, dim/2)
	for i := range out {
		out[i] = scaling.stretch(float32(1 / math.Pow(theta, float64(2*i)/float64(dim))))
	}
	return out
}

// stretch scales a frequency.
func (r RopeScaling) stretch(frequency float32) float32 {
	f, wavelength := float64(frequency), 2*math.Pi/float64(frequency)
	switch {
	case r.Kind == LinearRope:
		return frequency / float32(r.Factor)
	case r.Kind != Llama3Rope || wavelength < float64(r.Original)/r.HighFreq:
		return frequency
	case wavelength > float64(r.Original)/r.LowFreq:
		return frequency / float32(r.Factor)
	}
	keep := (float64(r.Original)/wavelength - r.LowFreq) / (r.HighFreq - r.LowFreq)
	return float32((1-keep)*f/r.Factor + keep*f)
}
