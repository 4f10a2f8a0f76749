package architecture

import (
	"fmt"
	"strings"

	"github.com/ldalign/ldalign/models/safetensors"
)

// Weights are the parameters of the configuration under Hugging Face's names, in their fixed order. A tied head is not among
// them.
func (c Config) Weights() []Weight {
	f := c.family()
	if f.weights == nil { // no family, as Validate tells
		return nil
	}
	return f.weights(c.WithDefaults(), f.Traits)
}

// Tensors declares the weights of the configuration for a file whose elements are of one type.
func (c Config) Tensors(dtype safetensors.DType) []safetensors.Info {
	var infos []safetensors.Info
	for _, w := range c.Weights() {
		infos = append(infos, safetensors.Info{Name: w.Name, DType: dtype, Shape: w.Shape})
	}
	return infos
}

// Fits tells whether the tensors of a file are exactly the weights of the configuration. The error wraps ErrWeights and
// names what is missing, unknown or of another shape.
func (c Config) Fits(tensors []safetensors.Info) error {
	_, err := c.Match(tensors)
	return err
}

// Match finds the name in a file of every weight of the configuration, by the weight's Name: older files have other names.
// The error is that of Fits.
func (c Config) Match(tensors []safetensors.Info) (map[string]string, error) {
	found, known := make(map[string]safetensors.Info), make(map[string]bool)
	want := c.Weights()
	for _, w := range want {
		known[w.Name] = true
	}
	var extra []string
	for _, info := range tensors {
		switch name := c.canonical(info.Name); {
		case name == "":
		case known[name]:
			found[name] = info
		default:
			extra = append(extra, info.Name)
		}
	}
	if text := misfits(want, found, extra); text != "" {
		return nil, fmt.Errorf("%w (%s): %s", ErrWeights, c.Family, text)
	}
	names := make(map[string]string)
	for _, w := range want {
		names[w.Name] = found[w.Name].Name
	}
	return names, nil
}

// canonical is a tensor's name as transformers writes it today, or "" for one that is no weight: buffers of old files, the
// copy of a tied head, and what the family says.
func (c Config) canonical(name string) string {
	if rename := c.family().rename; rename != nil {
		name = rename(name)
	}
	if strings.HasSuffix(name, ".rotary_emb.inv_freq") || name == headName && c.TieEmbeddings {
		return ""
	}
	return name
}

// Parameters is how many numbers the weights are. A tied head is not counted twice.
func (c Config) Parameters() int64 { return elements(c.Weights()) }

// PackedBytes is the memory of a packed model with the weights of a file: bfloat16 matrices stay as they are, all else is
// Float32. The error is that of Fits.
func (c Config) PackedBytes(tensors []safetensors.Info) (int64, error) {
	names, err := c.Match(tensors)
	if err != nil {
		return 0, err
	}
	types := map[string]safetensors.DType{}
	for _, info := range tensors {
		types[info.Name] = info.DType
	}
	var n int64
	for _, w := range c.Weights() {
		size := safetensors.F32.Size()
		if w.Multiplied() && types[names[w.Name]] == safetensors.BF16 {
			size = safetensors.BF16.Size()
		}
		n += size * w.Elements()
	}
	return n, nil
}
