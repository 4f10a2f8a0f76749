package architecture

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"

	"github.com/ldalign/ldalign/models/safetensors"
)

const (
	deberta      = "deberta-v2" // also of DeBERTa-v3
	debertaClass = "DebertaV2ForSequenceClassification"
)

// Reward describes a DeBERTa-v2 or -v3 model for sequence classification.
type Reward struct {
	Vocab        int // V
	Hidden       int // H
	Layers       int
	Heads        int
	Intermediate int
	MaxPositions int
	Segments     int  // rows of the segment embeddings; 0 for none
	Absolute     bool // absolute positions are added to the embeddings
	NormEps      float64
	// Labels is how many outputs the model has for a sequence.
	Labels int
	// Relative says that relative positions take part in the attention.
	Relative bool
	// C2P and P2C say that attention has the terms of content to position and of position to content.
	C2P, P2C bool
	// ShareKey says that the projections of tokens also project positions.
	ShareKey bool
	// Buckets is the number of buckets for distances on each side; from Buckets/2 on, distances fall into them by their
	// logarithm. 0 takes distances as they are.
	Buckets int
	// MaxRelative is the greatest distance that differs from all smaller ones.
	MaxRelative int
	// NormRelative says that the table of relative positions is normalised.
	NormRelative bool
}

// MaxLength is the greatest number of tokens in a sequence.
func (c Reward) MaxLength() int { return c.MaxPositions }

// RelativeSpan is the number of relative positions on each side.
func (c Reward) RelativeSpan() int {
	if c.Buckets > 0 {
		return c.Buckets
	}
	return c.MaxRelative
}

// ReadReward reads config.json of a reward model from a Hugging Face folder. Keys that do not change the numbers are
// ignored; a value that would change them and is not supported is refused. Errors wrap ErrConfig or fs.ErrNotExist.
func ReadReward(folder fs.FS) (Reward, error) {
	data, err := fs.ReadFile(folder, "config.json")
	if err != nil {
		return Reward{}, fmt.Errorf("reward: read the model's configuration: %w", err)
	}
	return ParseReward(data)
}

// rewardFile is config.json of a reward model. A pointer stands for a key whose absence means something else than its zero
// value.
type rewardFile struct {
	ModelType     string            `json:"model_type"`
	Architectures []string          `json:"architectures"`
	Quantization  json.RawMessage   `json:"quantization_config"`
	Vocab         int               `json:"vocab_size"`
	Hidden        int               `json:"hidden_size"`
	Layers        int               `json:"num_hidden_layers"`
	Heads         int               `json:"num_attention_heads"`
	Intermediate  int               `json:"intermediate_size"`
	MaxPositions  *int              `json:"max_position_embeddings"`
	Segments      int               `json:"type_vocab_size"`
	Absolute      *bool             `json:"position_biased_input"`
	NormEps       *float64          `json:"layer_norm_eps"`
	Labels        *int              `json:"num_labels"`
	LabelNames    map[string]string `json:"id2label"`
	Relative      bool              `json:"relative_attention"`
	PosAtt        words             `json:"pos_att_type"`
	ShareKey      bool              `json:"share_att_key"`
	Buckets       *int              `json:"position_buckets"`
	MaxRelative   *int              `json:"max_relative_positions"`
	NormRelative  *words            `json:"norm_rel_ebd"`
	// Only one value of each of these is supported.
	Act           *string `json:"hidden_act"`
	PoolerAct     *string `json:"pooler_hidden_act"`
	Conv          *int    `json:"conv_kernel_size"`
	EmbeddingSize *int    `json:"embedding_size"`
	PoolerSize    *int    `json:"pooler_hidden_size"`
	HeadSize      *int    `json:"attention_head_size"`
}

// words are a list, written as a JSON list or as "a|b".
type words []string

func (w *words) UnmarshalJSON(data []byte) error {
	*w = nil
	var list []string
	if err := json.Unmarshal(data, &list); err != nil {
		var text string
		if err := json.Unmarshal(data, &text); err != nil {
			return err
		}
		list = strings.Split(strings.ToLower(text), "|")
	}
	for _, word := range list {
		if word = strings.TrimSpace(word); word != "" {
			*w = append(*w, word)
		}
	}
	return nil
}

// ParseReward is ReadReward for the bytes of a config.json.
func ParseReward(data []byte) (Reward, error) {
	var f rewardFile
	if err := json.Unmarshal(data, &f); err != nil {
		return Reward{}, fmt.Errorf("%w: config.json: %w", ErrConfig, err)
	}
	c, err := f.config()
	if err == nil {
		err = c.validate()
	}
	if err != nil {
		return Reward{}, fmt.Errorf("%w: config.json: %w", ErrConfig, err)
	}
	return c, nil
}

func (f rewardFile) config() (Reward, error) {
	if f.ModelType != deberta {
		return Reward{}, fmt.Errorf("model_type is %q, a reward model here is %s", f.ModelType, deberta)
	}
	if len(f.Architectures) > 0 && !slices.Contains(f.Architectures, debertaClass) {
		return Reward{}, fmt.Errorf("architectures is %q, a reward model here is %s", f.Architectures, debertaClass)
	}
	if len(f.Quantization) > 0 && !bytes.Equal(f.Quantization, []byte("null")) {
		return Reward{}, errors.New("quantization_config: quantised weights are not supported")
	}
	c := Reward{
		Vocab: f.Vocab, Hidden: f.Hidden, Layers: f.Layers, Heads: f.Heads, Intermediate: f.Intermediate,
		MaxPositions: or(f.MaxPositions, 512), Segments: f.Segments, Absolute: or(f.Absolute, true),
		NormEps: or(f.NormEps, 1e-7), Relative: f.Relative, C2P: slices.Contains(f.PosAtt, "c2p"),
		P2C: slices.Contains(f.PosAtt, "p2c"), ShareKey: f.ShareKey, Buckets: max(or(f.Buckets, -1), 0),
	}
	if c.MaxRelative = or(f.MaxRelative, -1); c.MaxRelative < 1 {
		c.MaxRelative = c.MaxPositions
	}
	if c.Labels = len(f.LabelNames); c.Labels == 0 {
		c.Labels = or(f.Labels, 2) // transformers does not write the default
	} else if f.Labels != nil && *f.Labels != c.Labels {
		return Reward{}, fmt.Errorf("num_labels is %d, id2label has %d", *f.Labels, c.Labels)
	}
	for _, word := range f.PosAtt {
		if word != "c2p" && word != "p2c" {
			return Reward{}, fmt.Errorf("pos_att_type has %q, supported are c2p and p2c", word)
		}
	}
	for _, word := range or(f.NormRelative, nil) {
		switch word {
		case "layer_norm":
			c.NormRelative = true
		case "none":
		default:
			return Reward{}, fmt.Errorf("norm_rel_ebd has %q, supported are none and layer_norm", word)
		}
	}
	for _, only := range []struct {
		key         string
		value, want any
	}{
		{"hidden_act", or(f.Act, "gelu"), "gelu"},
		{"pooler_hidden_act", or(f.PoolerAct, "gelu"), "gelu"},
		{"conv_kernel_size", max(or(f.Conv, 0), 0), 0},
		{"embedding_size", or(f.EmbeddingSize, f.Hidden), f.Hidden},
		{"pooler_hidden_size", or(f.PoolerSize, f.Hidden), f.Hidden},
	} {
		if only.value != only.want {
			return Reward{}, fmt.Errorf("%s is %v, supported is %v", only.key, only.value, only.want)
		}
	}
	if f.Heads > 0 && or(f.HeadSize, f.Hidden/f.Heads) != f.Hidden/f.Heads {
		return Reward{}, fmt.Errorf("attention_head_size is %d, supported is hidden_size/num_attention_heads", *f.HeadSize)
	}
	return c, nil
}

func (c Reward) validate() error {
	for _, size := range []struct {
		key                string
		value, least, most int
	}{
		{"vocab_size", c.Vocab, 1, maxSize},
		{"hidden_size", c.Hidden, 1, maxSize},
		{"num_hidden_layers", c.Layers, 1, maxLayers},
		{"num_attention_heads", c.Heads, 1, maxSize},
		{"intermediate_size", c.Intermediate, 1, maxSize},
		{"max_position_embeddings", c.MaxPositions, 1, maxSize},
		{"type_vocab_size", c.Segments, 0, maxSize},
		{"num_labels", c.Labels, 1, maxSize},
		{"position_buckets", c.Buckets, 0, maxSize},
		{"max_relative_positions", c.MaxRelative, 1, maxSize},
	} {
		if size.value < size.least || size.value > size.most {
			return fmt.Errorf("%s is %d, want %d to %d", size.key, size.value, size.least, size.most)
		}
	}
	switch {
	case c.Hidden%c.Heads != 0:
		return fmt.Errorf("hidden_size %d is no multiple of num_attention_heads %d", c.Hidden, c.Heads)
	case !(c.NormEps > 0) || math.IsInf(c.NormEps, 0):
		return fmt.Errorf("layer_norm_eps is %g, want more than 0", c.NormEps)
	case c.Relative && c.Buckets > 0 && (c.Buckets < 2 || c.MaxRelative-1 <= c.Buckets/2):
		return fmt.Errorf("position_buckets is %d: want at least 2, and below twice max_relative_positions (%d) less 2",
			c.Buckets, c.MaxRelative)
	}
	return nil
}

// Weights are the parameters under transformers' names, in their order.
func (c Reward) Weights() []Weight {
	h, inner := int64(c.Hidden), int64(c.Intermediate)
	var list []Weight
	add := func(name string, shape ...int64) { list = append(list, Weight{Name: name, Shape: shape}) }
	linear := func(name string, in, out int64) {
		add(name+".weight", out, in)
		add(name+".bias", out)
	}
	norm := func(name string) {
		add(name+".weight", h)
		add(name+".bias", h)
	}
	add("deberta.embeddings.word_embeddings.weight", int64(c.Vocab), h)
	if c.Absolute {
		add("deberta.embeddings.position_embeddings.weight", int64(c.MaxPositions), h)
	}
	if c.Segments > 0 {
		add("deberta.embeddings.token_type_embeddings.weight", int64(c.Segments), h)
	}
	norm("deberta.embeddings.LayerNorm")
	if c.Relative {
		add("deberta.encoder.rel_embeddings.weight", 2*int64(c.RelativeSpan()), h)
	}
	if c.NormRelative {
		norm("deberta.encoder.LayerNorm")
	}
	for i := range c.Layers {
		at := fmt.Sprintf("deberta.encoder.layer.%d.", i)
		linear(at+"attention.self.query_proj", h, h)
		linear(at+"attention.self.key_proj", h, h)
		linear(at+"attention.self.value_proj", h, h)
		if c.Relative && !c.ShareKey && c.C2P {
			linear(at+"attention.self.pos_key_proj", h, h)
		}
		if c.Relative && !c.ShareKey && c.P2C {
			linear(at+"attention.self.pos_query_proj", h, h)
		}
		linear(at+"attention.output.dense", h, h)
		norm(at + "attention.output.LayerNorm")
		linear(at+"intermediate.dense", h, inner)
		linear(at+"output.dense", inner, h)
		norm(at + "output.LayerNorm")
	}
	linear("pooler.dense", h, h)
	linear("classifier", h, int64(c.Labels))
	return list
}

// Parameters is how many numbers the weights are.
func (c Reward) Parameters() int64 { return elements(c.Weights()) }

// Fits tells whether the tensors of a file are the weights of the configuration. What pre-training has left in the file is
// ignored. The error wraps ErrWeights and names what is missing, unknown or of another shape.
func (c Reward) Fits(tensors []safetensors.Info) error {
	found, known := map[string]safetensors.Info{}, map[string]bool{}
	want := c.Weights()
	for _, w := range want {
		known[w.Name] = true
	}
	var extra []string
	for _, info := range tensors {
		found[info.Name] = info
		if !known[info.Name] && !c.unused(info.Name) {
			extra = append(extra, info.Name)
		}
	}
	if text := misfits(want, found, extra); text != "" {
		return fmt.Errorf("%w (%s): %s", ErrWeights, deberta, text)
	}
	return nil
}

// unused tells whether a tensor takes no part in the computation: a buffer, and what pre-training has left.
func (c Reward) unused(name string) bool {
	return name == "deberta.embeddings.position_ids" || strings.HasPrefix(name, "lm_predictions.") ||
		strings.HasPrefix(name, "mask_predictions.") ||
		(!c.Absolute && name == "deberta.embeddings.position_embeddings.weight")
}
