// Package inspection reports what a model's folder contains, how much memory the model needs, and what ldalign would refuse. It
// reads the configuration, the headers of the weights and, through an interface, the tokenizer. It needs no tensors.
package inspection

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/ops/modelname"
)

// Model is what a model's folder says about the model. Fields that the folder does not determine are empty.
type Model struct {
	Model        string           `json:"model"`
	Folder       string           `json:"folder"` // of an adapter, its base's
	Adapter      *Adapter         `json:"adapter,omitempty"`
	Family       string           `json:"family,omitempty"`
	Parameters   int64            `json:"parameters,omitempty"`
	Tensors      int              `json:"tensors,omitempty"`
	DTypes       map[string]int64 `json:"dtypes,omitempty"` // numbers of each
	WeightsBytes int64            `json:"weights_bytes,omitempty"`
	Shape        *Shape           `json:"shape,omitempty"`
	Context      int              `json:"context,omitempty"`
	Labels       int              `json:"labels,omitempty"` // outputs of a reward model
	Tokenizer    *TokenizerInfo   `json:"tokenizer,omitempty"`
	Memory       *Memory          `json:"memory,omitempty"`
	Refused      []string         `json:"refused"`
}

// Adapter is an adapter, which is merged into the model's weights when the model is loaded.
type Adapter struct {
	Folder     string  `json:"folder"`
	Rank       int     `json:"rank"`
	Alpha      float64 `json:"alpha"`
	Parameters int64   `json:"parameters"`
}

// Shape are the sizes of a model.
type Shape struct {
	Vocabulary   int  `json:"vocabulary"`
	Layers       int  `json:"layers"`
	Hidden       int  `json:"hidden"`
	Heads        int  `json:"heads"`
	KVHeads      int  `json:"kv_heads,omitempty"`
	HeadDim      int  `json:"head_dim"`
	Intermediate int  `json:"intermediate"`
	TiedHead     bool `json:"tied_head"`
}

// TokenizerInfo is a tokenizer with its chat template.
type TokenizerInfo struct {
	Vocabulary int     `json:"vocabulary"`
	Special    []Token `json:"special"`
	// AddedBefore and AddedBehind are the tokens that the tokenizer adds around a plain text.
	AddedBefore []string `json:"added_before"`
	AddedBehind []string `json:"added_behind"`
	HasTemplate bool     `json:"has_template"`
	// Example is a conversation as the chat template writes it, up to where the answer begins.
	Example string `json:"example,omitempty"`
}

// Token is a special token.
type Token struct {
	Role string `json:"role"` // bos, eos or pad
	ID   int64  `json:"id"`
	Text string `json:"text"`
}

// Memory is the memory that the model needs, in bytes.
type Memory struct {
	Length     int     `json:"length"` // tokens of a row
	Generating []Slots `json:"generating"`
	Scoring    int64   `json:"scoring"`
	AdamW      int64   `json:"train_adamw"`
	RMSprop    int64   `json:"train_rmsprop"`
	LoRA       int64   `json:"train_lora"`
	LoRARank   int     `json:"lora_rank"`
	LoRASize   int64   `json:"lora_parameters"`
}

// Slots is the memory for a number of rows that decode together.
type Slots struct {
	Slots int   `json:"slots"`
	Bytes int64 `json:"bytes"`
}

// Tokenizer is the tokenizer of a model, as far as an inspection uses it.
type Tokenizer interface {
	Vocab() int
	// Fits returns an error if a model with a vocabulary of this size lacks tokens of the tokenizer.
	Fits(vocabulary int) error
	BOS() (int64, bool)
	EOS() []int64
	PAD() int64
	Decode(ids []int64, skipSpecial bool) string
	// Parts returns the ids of a text, and the ids that the tokenizer adds before and after it.
	Parts(text string) (before, own, behind []int64, err error)
	HasTemplate() bool
	// Example is a conversation as the chat template writes it, up to where the answer begins.
	Example() (string, error)
	// Trains returns an error if the chat template cannot be used for training and scoring.
	Trains() error
	Close() error
}

// Options of an inspection.
type Options struct {
	// Length is the number of tokens in a row for which memory is computed; 0 is 1024, or the context if that is shorter.
	Length int
	// Rank is the rank of the adapter for which the memory of training is computed.
	Rank int
	// Tokenizer opens a tokenizer from its files. Nil leaves the tokenizer out.
	Tokenizer func(files fs.FS) (Tokenizer, error)
}

// Of inspects a model.
func Of(f modelname.Folder, o Options) Model {
	in := Model{Model: f.Name, Folder: f.Dir, Refused: []string{}}
	in.read(f, o)
	return in
}

// refuse adds an error, as one line, to what would be refused; it ignores nil.
func (in *Model) refuse(what string, err error) {
	if err != nil {
		in.Refused = append(in.Refused, what+": "+strings.Join(strings.Fields(err.Error()), " "))
	}
}

func (in *Model) read(place modelname.Folder, o Options) {
	dir := place.Dir
	var head struct {
		ModelType string `json:"model_type"`
	}
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err == nil {
		err = json.Unmarshal(text, &head)
	}
	if err != nil {
		in.refuse("config.json", err)
		return
	}
	in.Family = head.ModelType
	files, err := safetensors.OpenModel(dir)
	in.refuse("weights", err)
	if err == nil {
		defer files.Close()
		in.count(files)
	}
	vocabulary := 0
	if head.ModelType == "deberta-v2" {
		vocabulary = in.rewardModel(dir)
	} else {
		cfg, err := architecture.ReadConfig(os.DirFS(dir))
		in.refuse("config.json", err)
		if err == nil {
			vocabulary = cfg.Vocab
			in.adapter(place.Adapter, cfg)
			in.languageModel(cfg, files, o.Length, o.Rank)
		}
	}
	if o.Tokenizer != nil {
		files, _ := place.TokenizerFiles()
		t, err := o.Tokenizer(files)
		if err != nil {
			in.refuse("tokenizer", err)
			return
		}
		in.tokenizer(t, vocabulary, head.ModelType != "deberta-v2")
	}
}

// count adds up the tensors, parameters and bytes of the files.
func (in *Model) count(files *safetensors.Model) {
	in.DTypes = map[string]int64{}
	for _, info := range files.Tensors() {
		bytes, err := info.Bytes()
		if err != nil {
			in.refuse("weights", err)
			continue
		}
		in.Tensors++
		in.WeightsBytes += bytes
		in.DTypes[string(info.DType)] += bytes / max(info.DType.Size(), 1)
	}
	for _, n := range in.DTypes {
		in.Parameters += n
	}
}

func (in *Model) rewardModel(dir string) (vocabulary int) {
	cfg, err := architecture.ReadReward(os.DirFS(dir))
	in.refuse("config.json", err)
	if err != nil {
		return 0
	}
	in.Labels, in.Context = cfg.Labels, cfg.MaxLength()
	in.Shape = &Shape{
		Vocabulary: cfg.Vocab, Layers: cfg.Layers, Hidden: cfg.Hidden, Heads: cfg.Heads, HeadDim: cfg.Hidden / cfg.Heads,
		Intermediate: cfg.Intermediate,
	}
	return cfg.Vocab
}

// adapter reads adapter_config.json and the header of adapter_model.safetensors.
func (in *Model) adapter(dir string, cfg architecture.Config) {
	if dir == "" {
		return
	}
	lora, err := architecture.CheckAdapter(dir, cfg)
	in.refuse("adapter", err)
	if err != nil {
		return
	}
	parameters, err := lora.Parameters(cfg)
	in.refuse("adapter", err)
	in.Adapter = &Adapter{Folder: dir, Rank: lora.Rank, Alpha: lora.Alpha, Parameters: parameters}
}

func (in *Model) languageModel(cfg architecture.Config, files *safetensors.Model, length, rank int) {
	in.Context = cfg.MaxLength()
	in.Shape = &Shape{
		Vocabulary: cfg.Vocab, Layers: cfg.Layers, Hidden: cfg.Hidden, Heads: cfg.Heads, KVHeads: cfg.KVHeads,
		HeadDim: cfg.HeadDim, Intermediate: cfg.Intermediate, TiedHead: cfg.TieEmbeddings,
	}
	if files == nil {
		return
	}
	packed, err := cfg.PackedBytes(files.Tensors())
	if err != nil {
		in.refuse("weights", err)
		return
	}
	in.Parameters = cfg.Parameters() // a tied head may lie in the file twice
	if in.Adapter != nil {
		packed = 4 * in.Parameters // an adapter is merged in float32
	}
	if length == 0 {
		length = 1024
	}
	m := &Memory{Length: min(length, in.Context), LoRARank: rank}
	cache := func(slots int) int64 {
		size := architecture.CacheSize{Slots: slots, Length: m.Length, Burst: min(architecture.Prefill, m.Length)}
		return packed + cfg.CacheBytes(safetensors.F32, size) + int64(slots)*int64(cfg.Vocab)*4
	}
	for _, slots := range []int{1, 8, 32} {
		m.Generating = append(m.Generating, Slots{slots, cache(slots)})
	}
	m.Scoring = cache(1)
	m.AdamW, m.RMSprop = 16*in.Parameters, 12*in.Parameters
	lora := architecture.LoRA{Rank: rank, Alpha: float64(rank), Targets: architecture.Modules{Pattern: architecture.AllLinear}}
	m.LoRASize, err = lora.Parameters(cfg)
	in.refuse("adapter", err)
	m.LoRA = 4*in.Parameters + 16*m.LoRASize
	in.Memory = m
}

func (in *Model) tokenizer(t Tokenizer, vocabulary int, chats bool) {
	defer func() { in.refuse("tokenizer", t.Close()) }()
	if vocabulary > 0 {
		in.refuse("tokenizer", t.Fits(vocabulary))
	}
	text := func(id int64) string { return t.Decode([]int64{id}, false) }
	out := &TokenizerInfo{
		Vocabulary: t.Vocab(), HasTemplate: t.HasTemplate(), Special: []Token{}, AddedBefore: []string{},
		AddedBehind: []string{},
	}
	if id, ok := t.BOS(); ok {
		out.Special = append(out.Special, Token{"bos", id, text(id)})
	}
	for _, id := range t.EOS() {
		out.Special = append(out.Special, Token{"eos", id, text(id)})
	}
	out.Special = append(out.Special, Token{"pad", t.PAD(), text(t.PAD())})
	before, _, behind, err := t.Parts("a")
	in.refuse("tokenizer", err)
	for _, id := range before {
		out.AddedBefore = append(out.AddedBefore, text(id))
	}
	for _, id := range behind {
		out.AddedBehind = append(out.AddedBehind, text(id))
	}
	in.Tokenizer = out
	if !chats || !t.HasTemplate() {
		return
	}
	if out.Example, err = t.Example(); err != nil {
		in.refuse("chat template (--raw does without)", err)
		return
	}
	in.refuse("chat template, for training and scoring", t.Trains())
}
