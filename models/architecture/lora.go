package architecture

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ldalign/ldalign/models/safetensors"
)

// ErrAdapter means an adapter that cannot be read, needs a computation that is not supported, or was made for another model.
var ErrAdapter = errors.New("models: adapter")

// The files of an adapter, as PEFT names them.
const (
	AdapterConfigFile  = "adapter_config.json"
	AdapterWeightsFile = "adapter_model.safetensors"
)

// adapterPrefix precedes a layer's name in PEFT's files.
const adapterPrefix = "base_model.model."

// AllLinear as a pattern of LoRA.Targets is every linear layer except the output head.
const AllLinear = "all-linear"

// maxRank bounds what a configuration can make AddAdapter allocate.
const maxRank = 1 << 16

// LoRA describes a low-rank adapter (Hu et al. 2021): to the output W·x of a chosen linear layer it adds s·B·A·x, with A [r,
// In], B [Out, r] and s = α/r, or s = α/√r (Kalajdzievski 2023). Its fields mean what those of PEFT's LoraConfig mean.
type LoRA struct {
	Rank  int     // r
	Alpha float64 // α
	// RSLoRA says that s = α/√r.
	RSLoRA bool
	// Targets are the layers that get matrices.
	Targets Modules
	// Exclude are layers that get none, although they are targets.
	Exclude Modules
	// Layers, unless empty, confines Targets to the blocks of these numbers. It needs Targets.Names.
	Layers []int
	// Ranks and Alphas are other values of r and α for some layers. The first pattern that matches counts.
	Ranks  []RankPattern
	Alphas []AlphaPattern
	// Dropout is kept for PEFT, and never applied: the policy and the reference must be the same function.
	Dropout float64
}

// Modules names linear layers as they are called in the Hugging Face model: model.layers.0.self_attn.q_proj.
type Modules struct {
	// Names are whole names or their ends after a dot: q_proj, self_attn.q_proj.
	Names []string
	// Pattern, used without Names, is AllLinear or a regular expression that a whole name must match. It has Go's syntax, which
	// lacks look-around.
	Pattern string
}

// RankPattern is the rank of layers whose name, or its end after a dot, matches a regular expression.
type RankPattern struct {
	Pattern string
	Rank    int
}

// AlphaPattern is the α of layers whose name, or its end after a dot, matches a regular expression.
type AlphaPattern struct {
	Pattern string
	Alpha   float64
}

// Validate tells what is wrong with a configuration. The error wraps ErrAdapter.
func (l LoRA) Validate() error {
	_, err := l.compile()
	return err
}

// chooser is a LoRA whose patterns are compiled.
type chooser struct {
	LoRA
	targets, exclude *regexp.Regexp // nil for Modules with Names
	ranks, alphas    []*regexp.Regexp
}

func (l LoRA) compile() (chooser, error) {
	c := chooser{LoRA: l}
	switch {
	case l.Rank < 1 || l.Rank > maxRank:
		return c, fmt.Errorf("%w: r is %d, want 1 to %d", ErrAdapter, l.Rank, maxRank)
	case !finite(l.Alpha):
		return c, fmt.Errorf("%w: lora_alpha is %g", ErrAdapter, l.Alpha)
	case !(l.Dropout >= 0 && l.Dropout < 1):
		return c, fmt.Errorf("%w: lora_dropout is %g, want 0 or more, and less than 1", ErrAdapter, l.Dropout)
	case len(l.Targets.Names) == 0 && l.Targets.Pattern == "":
		return c, fmt.Errorf("%w: target_modules is empty: name the layers, or write %q", ErrAdapter, AllLinear)
	case len(l.Layers) > 0 && len(l.Targets.Names) == 0:
		return c, fmt.Errorf("%w: layers_to_transform needs target_modules to be a list", ErrAdapter)
	}
	var err error
	if c.targets, err = l.Targets.compile("target_modules"); err != nil {
		return c, err
	}
	if c.exclude, err = l.Exclude.compile("exclude_modules"); err != nil {
		return c, err
	}
	for _, p := range l.Ranks {
		if p.Rank < 1 || p.Rank > maxRank {
			return c, fmt.Errorf("%w: rank_pattern: %q is %d, want 1 to %d", ErrAdapter, p.Pattern, p.Rank, maxRank)
		}
		re, err := compile("rank_pattern", `\A(?:.*\.)?(?:`, p.Pattern, `)\z`)
		if err != nil {
			return c, err
		}
		c.ranks = append(c.ranks, re)
	}
	for _, p := range l.Alphas {
		if !finite(p.Alpha) {
			return c, fmt.Errorf("%w: alpha_pattern: %q is %g", ErrAdapter, p.Pattern, p.Alpha)
		}
		re, err := compile("alpha_pattern", `\A(?:.*\.)?(?:`, p.Pattern, `)\z`)
		if err != nil {
			return c, err
		}
		c.alphas = append(c.alphas, re)
	}
	return c, nil
}

// compile compiles the regular expression of modules that have one.
func (m Modules) compile(key string) (*regexp.Regexp, error) {
	if len(m.Names) > 0 || m.Pattern == "" || m.allLinear() {
		return nil, nil
	}
	return compile(key, `\A(?:`, m.Pattern, `)\z`)
}

func (m Modules) allLinear() bool {
	return len(m.Names) == 0 && strings.EqualFold(m.Pattern, AllLinear)
}

// compile first compiles the pattern alone, so that it cannot close the brackets around it.
func compile(key, before, pattern, after string) (*regexp.Regexp, error) {
	re, err := regexp.Compile(pattern)
	if err == nil {
		re, err = regexp.Compile(before + pattern + after)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w: list the layers' names instead", ErrAdapter, key, err)
	}
	return re, nil
}

// blockNumber finds the number of the block that a layer is in.
var blockNumber = regexp.MustCompile(`\A.*?\.[^.]*\.([0-9]+)\.`)

// chooses tells whether the layer of a name gets matrices. head says that it is the output head.
func (c chooser) chooses(name string, head bool) bool {
	if c.Exclude.hold(name, c.exclude) {
		return false
	}
	if c.Targets.allLinear() {
		return !head
	}
	if !c.Targets.hold(name, c.targets) {
		return false
	}
	if len(c.Layers) == 0 {
		return true
	}
	found := blockNumber.FindStringSubmatch(name)
	if found == nil {
		return false
	}
	n, err := strconv.Atoi(found[1])
	return err == nil && slices.Contains(c.Layers, n)
}

// hold tells whether the modules include a name; re is their compiled pattern.
func (m Modules) hold(name string, re *regexp.Regexp) bool {
	if re != nil {
		return re.MatchString(name)
	}
	return slices.ContainsFunc(m.Names, func(end string) bool {
		return name == end || strings.HasSuffix(name, "."+end)
	})
}

// rank is r of the layer of a name.
func (c chooser) rank(name string) int {
	if i := slices.IndexFunc(c.ranks, func(re *regexp.Regexp) bool { return re.MatchString(name) }); i >= 0 {
		return c.Ranks[i].Rank
	}
	return c.Rank
}

// scale is s of the layer of a name.
func (c chooser) scale(name string) float64 {
	alpha, r := c.Alpha, float64(c.rank(name))
	if i := slices.IndexFunc(c.alphas, func(re *regexp.Regexp) bool { return re.MatchString(name) }); i >= 0 {
		alpha = c.Alphas[i].Alpha
	}
	if c.RSLoRA {
		r = math.Sqrt(r)
	}
	return alpha / r
}

// adapterFile is adapter_config.json as it is written: the keys that differ from PEFT's defaults, or that readers expect.
type adapterFile struct {
	Alphas    alphaPatterns `json:"alpha_pattern"`
	Base      *string       `json:"base_model_name_or_path"`
	Bias      string        `json:"bias"`
	Exclude   Modules       `json:"exclude_modules"`
	FanInOut  bool          `json:"fan_in_fan_out"`
	Inference bool          `json:"inference_mode"`
	Init      bool          `json:"init_lora_weights"`
	Layers    layerNumbers  `json:"layers_to_transform"`
	Alpha     float64       `json:"lora_alpha"`
	Dropout   float64       `json:"lora_dropout"`
	Type      string        `json:"peft_type"`
	Rank      int           `json:"r"`
	Ranks     rankPatterns  `json:"rank_pattern"`
	Targets   Modules       `json:"target_modules"`
	Task      string        `json:"task_type"`
	RSLoRA    bool          `json:"use_rslora"`
}

// adapterKeys are the keys of adapter_config.json that are read.
var adapterKeys = []string{
	"alpha_pattern", "exclude_modules", "layers_to_transform", "lora_alpha", "lora_dropout", "r", "rank_pattern",
	"target_modules", "use_rslora",
}

// ignoredAdapterKeys do not change what an adapter computes: they say how its matrices were initialised, which base it was
// made for (names and shapes are checked instead), how a weight is stored (the family decides), or set details of what
// another key turns on.
var ignoredAdapterKeys = []string{
	"auto_mapping", "base_model_name_or_path", "eva_config", "fan_in_fan_out", "inference_mode", "megatron_core",
	"peft_version", "qalora_group_size", "revision", "task_type",
}

// ParseLoRA reads the content of PEFT's adapter_config.json. A setting that needs an unsupported computation, such as
// use_dora or modules_to_save, is an error that names key and value, and so is an unknown key that is not empty, null or
// false. The error wraps ErrAdapter.
func ParseLoRA(data []byte) (LoRA, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(data, &keys); err != nil {
		return LoRA{}, fmt.Errorf("%w: %w", ErrAdapter, err)
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if !supported(key, keys[key]) {
			return LoRA{}, fmt.Errorf("%w: %s is %s, which is not supported", ErrAdapter, key, short(keys[key]))
		}
	}
	if _, ok := keys["peft_type"]; !ok {
		return LoRA{}, fmt.Errorf("%w: peft_type is missing: not a configuration of PEFT", ErrAdapter)
	}
	// The defaults of PEFT.
	f := adapterFile{Rank: 8, Alpha: 8}
	for _, read := range []struct {
		key  string
		into any
	}{
		{"r", &f.Rank},
		{"lora_alpha", &f.Alpha},
		{"use_rslora", &f.RSLoRA},
		{"lora_dropout", &f.Dropout},
		{"target_modules", &f.Targets},
		{"exclude_modules", &f.Exclude},
		{"layers_to_transform", &f.Layers},
		{"rank_pattern", &f.Ranks},
		{"alpha_pattern", &f.Alphas},
	} {
		if value, ok := keys[read.key]; ok {
			if err := json.Unmarshal(value, read.into); err != nil {
				return LoRA{}, fmt.Errorf("%w: %s is %s: %w", ErrAdapter, read.key, short(value), err)
			}
		}
	}
	l := LoRA{
		Rank: f.Rank, Alpha: f.Alpha, RSLoRA: f.RSLoRA, Dropout: f.Dropout, Targets: f.Targets, Exclude: f.Exclude,
		Layers: f.Layers, Ranks: f.Ranks, Alphas: f.Alphas,
	}
	return l, l.Validate()
}

// supported tells whether a key may have this value.
func supported(key string, value json.RawMessage) bool {
	switch key {
	case "peft_type":
		return string(value) == `"LORA"`
	case "bias":
		return slices.Contains([]string{`"none"`, "null"}, string(value))
	case "init_lora_weights": // others change the base
		return slices.Contains([]string{"true", "false", "null", `"gaussian"`, `"orthogonal"`, `"eva"`}, string(value))
	}
	off := []string{"null", "false", "{}", "[]", `""`}
	return slices.Contains(adapterKeys, key) || slices.Contains(ignoredAdapterKeys, key) ||
		slices.Contains(off, string(value))
}

// short is a value of the file, shortened for a message.
func short(value json.RawMessage) string {
	const most = 60
	var b bytes.Buffer
	if err := json.Compact(&b, value); err != nil {
		return "unreadable"
	}
	if r := []rune(b.String()); len(r) > most {
		return string(r[:most]) + "…"
	}
	return b.String()
}

// JSON is the content of adapter_config.json. fanInOut says that weights are stored [In, Out].
func (l LoRA) JSON(fanInOut bool) ([]byte, error) {
	f := adapterFile{
		Alphas: l.Alphas, Bias: "none", Exclude: l.Exclude, FanInOut: fanInOut, Inference: true, Init: true, Layers: l.Layers,
		Alpha: l.Alpha, Dropout: l.Dropout, Type: "LORA", Rank: l.Rank, Ranks: l.Ranks, Targets: l.Targets, Task: "CAUSAL_LM",
		RSLoRA: l.RSLoRA,
	}
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("%w: write adapter_config.json: %w", ErrAdapter, err)
	}
	return append(data, '\n'), nil
}

// MarshalJSON writes a list of names, a text, or null for no modules.
func (m Modules) MarshalJSON() ([]byte, error) {
	switch {
	case len(m.Names) > 0:
		return json.Marshal(m.Names)
	case m.Pattern != "":
		return json.Marshal(m.Pattern)
	}
	return []byte("null"), nil
}

// UnmarshalJSON reads what MarshalJSON writes.
func (m *Modules) UnmarshalJSON(data []byte) error {
	*m = Modules{}
	if len(data) > 0 && data[0] == '[' {
		return json.Unmarshal(data, &m.Names)
	}
	return json.Unmarshal(data, &m.Pattern)
}

// layerNumbers are written as a list, or null for none; a single number can be read as well.
type layerNumbers []int

func (n *layerNumbers) UnmarshalJSON(data []byte) error {
	*n = nil
	if len(data) > 0 && data[0] == '[' {
		return json.Unmarshal(data, (*[]int)(n))
	}
	var one *int
	if err := json.Unmarshal(data, &one); err != nil || one == nil {
		return err
	}
	*n = layerNumbers{*one}
	return nil
}

// rankPatterns and alphaPatterns are JSON objects whose order matters.
type (
	rankPatterns  []RankPattern
	alphaPatterns []AlphaPattern
)

func (p rankPatterns) MarshalJSON() ([]byte, error) {
	return marshalOrdered(p, func(q RankPattern) (string, any) { return q.Pattern, q.Rank })
}

func (p alphaPatterns) MarshalJSON() ([]byte, error) {
	return marshalOrdered(p, func(q AlphaPattern) (string, any) { return q.Pattern, q.Alpha })
}

func (p *rankPatterns) UnmarshalJSON(data []byte) error {
	*p = nil
	return unmarshalOrdered(data, func(key string, rank int) { *p = append(*p, RankPattern{key, rank}) })
}

func (p *alphaPatterns) UnmarshalJSON(data []byte) error {
	*p = nil
	return unmarshalOrdered(data, func(key string, alpha float64) { *p = append(*p, AlphaPattern{key, alpha}) })
}

func marshalOrdered[T any](list []T, entry func(T) (string, any)) ([]byte, error) {
	b := []byte{'{'}
	for i, e := range list {
		name, v := entry(e)
		key, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, key...), ':'), value...)
	}
	return append(b, '}'), nil
}

// unmarshalOrdered calls add for each entry of an object, in its order. A key that occurs twice is an error.
func unmarshalOrdered[T any](data []byte, add func(key string, value T)) error {
	d := json.NewDecoder(bytes.NewReader(data))
	open, err := d.Token()
	if err != nil || open == nil {
		return err
	}
	if open != json.Delim('{') {
		return errors.New("want an object")
	}
	seen := make(map[string]bool)
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return err
		}
		key, _ := token.(string)
		if seen[key] {
			return fmt.Errorf("%q occurs twice", key)
		}
		seen[key] = true
		var value T
		if err := d.Decode(&value); err != nil {
			return err
		}
		add(key, value)
	}
	return nil
}

// ReadLoRA is ParseLoRA for the adapter_config.json of a folder.
func ReadLoRA(dir string) (LoRA, error) {
	data, err := readAdapterConfig(dir)
	if err != nil {
		return LoRA{}, err
	}
	cfg, err := ParseLoRA(data)
	if err != nil {
		return LoRA{}, fmt.Errorf("%s: %w", filepath.Join(dir, AdapterConfigFile), err)
	}
	return cfg, nil
}

// AdapterBase is the model that the adapter_config.json in a folder names as the adapter's base: a folder (relative to the
// working directory, as in PEFT), ORG/NAME, or ORG/NAME@REVISION. It is empty if the file names none.
func AdapterBase(dir string) (string, error) {
	data, err := readAdapterConfig(dir)
	if err != nil {
		return "", err
	}
	var base struct {
		Name     string `json:"base_model_name_or_path"`
		Revision string `json:"revision"`
	}
	if err := json.Unmarshal(data, &base); err != nil {
		return "", fmt.Errorf("%s: %w: %w", filepath.Join(dir, AdapterConfigFile), ErrAdapter, err)
	}
	if base.Name == "" || base.Revision == "" {
		return base.Name, nil
	}
	if info, err := os.Stat(base.Name); err == nil && info.IsDir() { // a folder has no revisions
		return base.Name, nil
	}
	return base.Name + "@" + base.Revision, nil
}

// CheckAdapter tells why models.Model.LoadAdapter would refuse the adapter in a folder for a model of this configuration. It
// reads adapter_config.json and the names and shapes in adapter_model.safetensors.
func CheckAdapter(dir string, cfg Config) (LoRA, error) {
	lora, err := ReadLoRA(dir)
	if err != nil {
		return lora, err
	}
	if err := lora.Fits(cfg); err != nil {
		return lora, fmt.Errorf("models: load adapter %s: %w", dir, err)
	}
	file, err := safetensors.Open(filepath.Join(dir, AdapterWeightsFile))
	if err != nil {
		return lora, fmt.Errorf("models: load adapter: %w", err)
	}
	defer file.Close()
	if err := lora.Match(cfg, file.Tensors()); err != nil {
		return lora, fmt.Errorf("models: load adapter %s: %w", dir, err)
	}
	return lora, nil
}

func readAdapterConfig(dir string) ([]byte, error) {
	const most = 1 << 20
	file, err := os.Open(filepath.Join(dir, AdapterConfigFile))
	if err != nil {
		return nil, fmt.Errorf("models: load adapter: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, most))
	if err != nil {
		return nil, fmt.Errorf("models: load adapter: %w", err)
	}
	return data, nil
}

// AdaptedLayer is a linear layer that an adapter chooses.
type AdaptedLayer struct {
	Module  string // the layer's name in the Hugging Face model
	Index   int    // of its weight in Config.Weights
	Out, In int64
	InFirst bool // its weight is [In, Out]
	Rank    int64
	Scale   float64 // s
}

// Fits tells why the configuration chooses no layer of models of c. The error wraps ErrAdapter.
func (l LoRA) Fits(c Config) error {
	_, err := l.Plan(c)
	return err
}

// Plan chooses the layers of an adapter, in the order of the architecture. The error is that of Fits.
func (l LoRA) Plan(c Config) ([]AdaptedLayer, error) {
	choose, err := l.compile()
	if err != nil {
		return nil, err
	}
	var layers []AdaptedLayer
	for i, w := range c.Weights() {
		if !w.Linear {
			continue
		}
		module := strings.TrimSuffix(w.Name, ".weight")
		if !choose.chooses(module, w.Head) {
			continue
		}
		layer := AdaptedLayer{
			Module: module, Index: i, Out: w.Shape[0], In: w.Shape[1], InFirst: w.InFirst, Rank: int64(choose.rank(module)),
			Scale: choose.scale(module),
		}
		if w.InFirst {
			layer.Out, layer.In = layer.In, layer.Out
		}
		layers = append(layers, layer)
	}
	if len(layers) == 0 {
		targets, err := l.Targets.MarshalJSON()
		return nil, errors.Join(err, fmt.Errorf("%w: target_modules %s chooses no linear layer of this %s model",
			ErrAdapter, short(targets), c.Family))
	}
	return layers, nil
}

// A and B are the names of the layer's two matrices in PEFT's files.
func (l AdaptedLayer) A() string { return adapterPrefix + l.Module + ".lora_A.weight" }

// B is the name of the second matrix, see A.
func (l AdaptedLayer) B() string { return adapterPrefix + l.Module + ".lora_B.weight" }

// Matrices lists A [R, In] and B [Out, R] of each layer. A starts with uniform values between -Std and Std.
func Matrices(layers []AdaptedLayer) []Weight {
	var matrices []Weight
	for _, l := range layers {
		matrices = append(matrices, Weight{Name: l.A(), Shape: []int64{l.Rank, l.In}, Std: 1 / math.Sqrt(float64(l.In))},
			Weight{Name: l.B(), Shape: []int64{l.Out, l.Rank}})
	}
	return matrices
}

// Parameters is how many numbers the adapter has on a model of this configuration. The error is that of Fits.
func (l LoRA) Parameters(c Config) (int64, error) {
	layers, err := l.Plan(c)
	return elements(Matrices(layers)), err
}

// Match tells which tensors of a file are not the matrices of such an adapter on a model of c. The error wraps ErrAdapter.
func (l LoRA) Match(c Config, tensors []safetensors.Info) error {
	layers, err := l.Plan(c)
	if err != nil {
		return err
	}
	matrices := Matrices(layers)
	known, found := make(map[string]bool), make(map[string]safetensors.Info)
	for _, w := range matrices {
		known[w.Name] = true
	}
	var extra []string
	for _, info := range tensors {
		found[info.Name] = info
		if !known[info.Name] {
			extra = append(extra, info.Name)
		}
	}
	if text := misfits(matrices, found, extra); text != "" {
		return fmt.Errorf("%w: its matrices are not those that its configuration chooses of this model: %s (a %s model)",
			ErrAdapter, text, c.Family)
	}
	return nil
}
