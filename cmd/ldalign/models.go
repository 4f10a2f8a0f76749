package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ldalign/ldalign/dataset/jsonl"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/ops/modelname"
)

type modelsCommand struct {
	Inspect modelsInspectCommand `cmd:"" help:"Show what a model is, what memory it takes, and what would be refused."`
}

type modelsInspectCommand struct {
	Model  string `arg:"" help:"A model's or adapter's folder, RUN@ITERATION (RUN@ is the newest), or a Hugging Face id (ORG/NAME or ORG/NAME@REVISION)."`
	Length int    `help:"Tokens of prompt and response that the memory of a row is told for; 0 is 1024, or the context where that is shorter." default:"0" placeholder:"N"`
	Rank   int    `help:"Rank of the adapter whose training is told." default:"16" placeholder:"R"`
	serverFlags
}

func (modelsInspectCommand) Help() string {
	return `Example:

    ldalign models inspect ./smollm2
    ldalign models inspect --json my-run@3

It reads the configuration, the tokenizer and the headers of the weights, and no weight. Memory is that of what has a fixed
size: weights, keys and values, gradients and the optimizer's state in float32. Activations come on top in training; they
grow with the tokens of a micro-batch. The exit code is 1 when something would be refused.`
}

// inspection is what models inspect tells. What the folder does not say is left out.
type inspection struct {
	Model        string              `json:"model"`
	Folder       string              `json:"folder"` // of an adapter, its base's
	Adapter      *inspectedAdapter   `json:"adapter,omitempty"`
	Family       string              `json:"family,omitempty"`
	Parameters   int64               `json:"parameters,omitempty"`
	Tensors      int                 `json:"tensors,omitempty"`
	DTypes       map[string]int64    `json:"dtypes,omitempty"` // numbers of each
	WeightsBytes int64               `json:"weights_bytes,omitempty"`
	Shape        *inspectedShape     `json:"shape,omitempty"`
	Context      int                 `json:"context,omitempty"`
	Labels       int                 `json:"labels,omitempty"` // outputs of a reward model
	Tokenizer    *inspectedTokenizer `json:"tokenizer,omitempty"`
	Memory       *inspectedMemory    `json:"memory,omitempty"`
	Refused      []string            `json:"refused"`
}

// inspectedAdapter is an adapter that goes into the model's weights before it generates or scores.
type inspectedAdapter struct {
	Folder     string  `json:"folder"`
	Rank       int     `json:"rank"`
	Alpha      float64 `json:"alpha"`
	Parameters int64   `json:"parameters"`
}

type inspectedShape struct {
	Vocabulary   int  `json:"vocabulary"`
	Layers       int  `json:"layers"`
	Hidden       int  `json:"hidden"`
	Heads        int  `json:"heads"`
	KVHeads      int  `json:"kv_heads,omitempty"`
	HeadDim      int  `json:"head_dim"`
	Intermediate int  `json:"intermediate"`
	TiedHead     bool `json:"tied_head"`
}

type inspectedTokenizer struct {
	Vocabulary int              `json:"vocabulary"`
	Special    []inspectedToken `json:"special"`
	// Added are the tokens that stand before and behind a text that goes in as it is.
	AddedBefore []string `json:"added_before"`
	AddedBehind []string `json:"added_behind"`
	HasTemplate bool     `json:"has_template"`
	// Example is a conversation as the chat template writes it, up to where the answer begins.
	Example string `json:"example,omitempty"`
}

type inspectedToken struct {
	Role string `json:"role"` // bos, eos or pad
	ID   int64  `json:"id"`
	Text string `json:"text"`
}

// inspectedMemory is in bytes.
type inspectedMemory struct {
	Length     int              `json:"length"` // tokens of a row
	Generating []inspectedSlots `json:"generating"`
	Scoring    int64            `json:"scoring"`
	AdamW      int64            `json:"train_adamw"`
	RMSprop    int64            `json:"train_rmsprop"`
	LoRA       int64            `json:"train_lora"`
	LoRARank   int              `json:"lora_rank"`
	LoRASize   int64            `json:"lora_parameters"`
}

type inspectedSlots struct {
	Slots int   `json:"slots"`
	Bytes int64 `json:"bytes"`
}

func (c *modelsInspectCommand) Run(ctx context.Context, e *env) error {
	if c.Length < 0 || c.Rank < 1 {
		return fmt.Errorf("%w: --length is %d and --rank %d", errUsage, c.Length, c.Rank)
	}
	place, err := e.findModel(ctx, c.Model, c.serverFlags)
	if err != nil {
		return err
	}
	in := &inspection{Model: place.Name, Folder: place.Dir, Refused: []string{}}
	in.read(place, c.Length, c.Rank)
	if e.json {
		line, err := jsonl.Marshal(in)
		if err != nil {
			return err
		}
		fmt.Fprintln(e.stdout, line)
	} else {
		fmt.Fprint(e.stdout, in.text())
	}
	if n := len(in.Refused); n > 0 {
		return fmt.Errorf("%s: %d of what is there would be refused", place.Name, n)
	}
	return nil
}

// refuse notes what an error says, in one line.
func (in *inspection) refuse(what string, err error) {
	if err != nil {
		in.Refused = append(in.Refused, what+": "+strings.Join(strings.Fields(err.Error()), " "))
	}
}

func (in *inspection) read(place modelname.Folder, length, rank int) {
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
			in.languageModel(cfg, files, length, rank)
		}
	}
	in.tokenizer(place, vocabulary, head.ModelType != "deberta-v2")
}

// count adds up what the files hold.
func (in *inspection) count(files *safetensors.Model) {
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

func (in *inspection) rewardModel(dir string) (vocabulary int) {
	cfg, err := architecture.ReadReward(os.DirFS(dir))
	in.refuse("config.json", err)
	if err != nil {
		return 0
	}
	in.Labels, in.Context = cfg.Labels, cfg.MaxLength()
	in.Shape = &inspectedShape{
		Vocabulary: cfg.Vocab, Layers: cfg.Layers, Hidden: cfg.Hidden, Heads: cfg.Heads, HeadDim: cfg.Hidden / cfg.Heads,
		Intermediate: cfg.Intermediate,
	}
	return cfg.Vocab
}

// decodeBurst is the tokens of a prompt that a step of decoding takes.
const decodeBurst = 256

// adapter reads what adapter_config.json and the names in adapter_model.safetensors say.
func (in *inspection) adapter(dir string, cfg architecture.Config) {
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
	in.Adapter = &inspectedAdapter{Folder: dir, Rank: lora.Rank, Alpha: lora.Alpha, Parameters: parameters}
}

func (in *inspection) languageModel(cfg architecture.Config, files *safetensors.Model, length, rank int) {
	in.Context = cfg.MaxLength()
	in.Shape = &inspectedShape{
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
	m := &inspectedMemory{Length: min(length, in.Context), LoRARank: rank}
	cache := func(slots int) int64 {
		size := architecture.CacheSize{Slots: slots, Length: m.Length, Burst: min(decodeBurst, m.Length)}
		return packed + cfg.CacheBytes(safetensors.F32, size) + int64(slots)*int64(cfg.Vocab)*4
	}
	for _, slots := range []int{1, 8, 32} {
		m.Generating = append(m.Generating, inspectedSlots{slots, cache(slots)})
	}
	m.Scoring = cache(1)
	m.AdamW, m.RMSprop = 16*in.Parameters, 12*in.Parameters
	lora := architecture.LoRA{Rank: rank, Alpha: float64(rank), Targets: architecture.Modules{Pattern: architecture.AllLinear}}
	m.LoRASize, err = lora.Parameters(cfg)
	in.refuse("adapter", err)
	m.LoRA = 4*in.Parameters + 16*m.LoRASize
	in.Memory = m
}

func (in *inspection) tokenizer(place modelname.Folder, vocabulary int, chats bool) {
	files, _ := place.TokenizerFiles()
	t, err := tokenizer.FromFS(files)
	if err != nil {
		in.refuse("tokenizer", err)
		return
	}
	defer func() { in.refuse("tokenizer", t.Close()) }()
	if vocabulary > 0 {
		in.refuse("tokenizer", t.Fits(vocabulary))
	}
	text := func(id int64) string { return t.Decode([]int64{id}, false) }
	out := &inspectedTokenizer{
		Vocabulary: t.Vocab(), HasTemplate: t.HasTemplate(), Special: []inspectedToken{}, AddedBefore: []string{},
		AddedBehind: []string{},
	}
	if id, ok := t.BOS(); ok {
		out.Special = append(out.Special, inspectedToken{"bos", id, text(id)})
	}
	for _, id := range t.EOS() {
		out.Special = append(out.Special, inspectedToken{"eos", id, text(id)})
	}
	out.Special = append(out.Special, inspectedToken{"pad", t.PAD(), text(t.PAD())})
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
	out.Example, err = t.Render([]tokenizer.Message{{Role: "user", Content: "Hello"}}, true)
	if err != nil {
		in.refuse("chat template (--raw does without)", err)
		return
	}
	format, err := tokenizer.NewFormat(t, tokenizer.FormatOptions{Template: "chat"})
	if err == nil {
		_, _, err = format.Pair("Hello", "Hi")
	}
	in.refuse("chat template, for training and scoring", err)
}

// text is the inspection for people.
func (in *inspection) text() string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-16s", name)
		fmt.Fprintf(&b, format, args...)
		b.WriteByte('\n')
	}
	line("model", "%s", in.Model)
	if in.Folder != in.Model {
		line("folder", "%s", in.Folder)
	}
	if a := in.Adapter; a != nil {
		line("adapter", "%s: rank %d, alpha %g, %s parameters, merged when it is loaded", a.Folder, a.Rank, a.Alpha,
			numbers(a.Parameters))
	}
	if in.Family != "" {
		line("family", "%s", in.Family)
	}
	if in.Tensors > 0 {
		line("parameters", "%s in %d tensors", numbers(in.Parameters), in.Tensors)
		types := make([]string, 0, len(in.DTypes))
		for name := range in.DTypes {
			types = append(types, name)
		}
		slices.Sort(types)
		line("weights", "%s, %s", strings.Join(types, " and "), size(in.WeightsBytes))
	}
	if s := in.Shape; s != nil {
		heads := fmt.Sprintf("%d heads of %d", s.Heads, s.HeadDim)
		if s.KVHeads > 0 && s.KVHeads != s.Heads {
			heads += fmt.Sprintf(" (%d of keys and values)", s.KVHeads)
		}
		line("shape", "%d layers, hidden %d, %s, feed-forward %d", s.Layers, s.Hidden, heads, s.Intermediate)
		head := ""
		if s.TiedHead {
			head = ", tied to the output head"
		}
		line("vocabulary", "%d%s", s.Vocabulary, head)
		line("context", "%d tokens", in.Context)
	}
	if in.Labels > 0 {
		line("outputs", "%d (a reward model: `ldalign reward`)", in.Labels)
	}
	if t := in.Tokenizer; t != nil {
		line("tokenizer", "%d tokens", t.Vocabulary)
		for _, s := range t.Special {
			line("  "+s.Role, "%d %s", s.ID, s.Text)
		}
		line("  plain text", "%s", added(t))
		switch {
		case t.Example != "":
			line("chat template", "writes:")
			for part := range strings.SplitSeq(strings.TrimSuffix(t.Example, "\n"), "\n") {
				fmt.Fprintf(&b, "    %s\n", part)
			}
		case !t.HasTemplate:
			line("chat template", "none: prompts go in as they are")
		}
	}
	if m := in.Memory; m != nil {
		var slots []string
		for _, s := range m.Generating {
			slots = append(slots, fmt.Sprintf("%s at %d", size(s.Bytes), s.Slots))
		}
		line("memory", "besides about 0.2 GB of the program and libtorch")
		line("  generating", "%s slots, rows of %d tokens", strings.Join(slots, ", "), m.Length)
		line("  scoring", "%s", size(m.Scoring))
		line("  training", "%s by AdamW, %s by RMSprop, and activations", size(m.AdamW), size(m.RMSprop))
		line("  adapter", "%s by AdamW at rank %d (%s parameters), and activations", size(m.LoRA), m.LoRARank,
			numbers(m.LoRASize))
	}
	if len(in.Refused) == 0 {
		line("refused", "nothing")
	}
	for _, r := range in.Refused {
		line("refused", "%s", r)
	}
	return b.String()
}

// added says which tokens the tokenizer puts around a text.
func added(t *inspectedTokenizer) string {
	if len(t.AddedBefore)+len(t.AddedBehind) == 0 {
		return "nothing is added"
	}
	return strings.Join(slices.Concat(t.AddedBefore, []string{"text"}, t.AddedBehind), " ")
}

// numbers is how many numbers, for people.
func numbers(n int64) string {
	if n < 1e6 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%.1f M", float64(n)/1e6)
}

// size is a number of bytes for people.
func size(bytes int64) string {
	if bytes >= 1e9 {
		return fmt.Sprintf("%.2f GB", float64(bytes)/1e9)
	}
	return fmt.Sprintf("%.1f MB", float64(bytes)/1e6)
}
