package schemas

import (
	"fmt"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Validate checks ranges, names and combinations. The error is a *SpecError with all problems. They have no lines and
// columns; ParseSpecs, which makes the same checks, reports these too.
func (s Spec) Validate() error {
	if problems := check(&s); len(problems) > 0 {
		return &SpecError{Problems: problems}
	}
	return nil
}

// checker collects problems by key.
type checker struct{ problems []Problem }

func (c *checker) problem(key, format string, args ...any) {
	c.problems = append(c.problems, Problem{Key: key, Message: fmt.Sprintf(format, args...)})
}

func (c *checker) must(ok bool, key, format string, args ...any) {
	if !ok {
		c.problem(key, format, args...)
	}
}

func (c *checker) oneOf(key, value string, allowed ...string) {
	if slices.Contains(allowed, value) {
		return
	}
	list := strings.Join(allowed, ", ")
	if near := nearest(value, allowed); near != "" {
		c.problem(key, "%s is unknown; did you mean %s? Expected one of %s", quoteShort(value), near, list)
		return
	}
	c.problem(key, "%s is unknown; expected one of %s", quoteShort(value), list)
}

func (c *checker) atLeast(key string, value, least int) {
	c.must(value >= least, key, "%d is too small; expected at least %d", value, least)
}

// share checks a rate of [0, 1).
func (c *checker) share(key string, value float64) {
	c.must(value >= 0 && value < 1, key, "%v is out of range; expected 0 or more, and less than 1", value)
}

func (c *checker) positive(key string, value float64) {
	c.must(value > 0 && !math.IsInf(value, 0), key, "%v is out of range; expected a number greater than 0", value)
}

func (c *checker) notNegative(key string, value float64) {
	c.must(value >= 0 && !math.IsInf(value, 0), key, "%v is out of range; expected 0 or more", value)
}

// check returns what is wrong with a spec, in the order of its keys.
func check(s *Spec) []Problem {
	c := &checker{}
	switch {
	case s.Run == "":
		c.problem("run", "is required: a name such as run: demo")
	case !ValidRun(s.Run):
		c.problem("run", "%s is not a valid name; use at most 63 lower-case letters, digits, - and _, beginning with a letter or digit",
			quoteShort(s.Run))
	}
	c.atLeast("iterations", s.Iterations, 1)
	c.model(s)
	c.data(s)
	c.objective(s)
	c.guide(&s.Guide)
	c.generation(s)
	c.optimizer("optimizer", &s.Optimizer)
	c.training(&s.Training)
	c.evaluation(&s.Evaluation)
	c.atLeast("compute.threads", s.Compute.Threads, 0)
	c.must(validDevice.MatchString(s.Compute.Device), "compute.device",
		"%s is unknown; expected cpu, or cuda:N such as cuda:0", quoteShort(s.Compute.Device))
	c.oneOf("compute.weights", s.Compute.Weights, "float32", "bfloat16")
	c.source(s)
	c.atLeast("retention.messages", s.Retention.Messages, 0)
	c.atLeast("retention.policies", s.Retention.Policies, 0)
	c.streams(s)
	c.servers(&s.Servers)
	return c.problems
}

var validDevice = regexp.MustCompile(`^(cpu|cuda:[0-9]{1,3})$`)

func (c *checker) model(s *Spec) {
	m := &s.Model
	switch {
	case m.From == "":
		c.problem("model.from", "is required: a Hugging Face folder, run:NAME, run:NAME@ITERATION or scratch")
	case strings.HasPrefix(m.From, runPrefix):
		if _, err := ParseRunReference(m.From); err != nil {
			c.problem("model.from", "%v", err)
		}
	case m.From == "scratch" && m.Scratch == nil:
		c.problem("model.from", "scratch needs a model.scratch section that describes the model")
	}
	if m.Scratch != nil {
		c.must(m.From == "scratch", "model.scratch", "is only allowed with model.from: scratch")
		c.scratch(m.Scratch, &s.Data)
	}
	if !slices.Contains([]string{"auto", "chat", "raw"}, m.Template) {
		c.must(strings.Count(m.Template, "{prompt}") == 1, "model.template",
			"%s is unknown; expected auto, chat, raw, or a text that contains {prompt} once", quoteShort(m.Template))
	}
	c.must(m.System == "" || m.Template == "auto" || m.Template == "chat", "model.system",
		"needs a chat template, but model.template is %s", quoteShort(m.Template))
}

func (c *checker) scratch(m *ScratchSpec, data *DataSpec) {
	const at = "model.scratch."
	c.oneOf(at+"family", m.Family, "llama", "gpt2")
	c.atLeast(at+"hidden", m.Hidden, 1)
	c.atLeast(at+"layers", m.Layers, 1)
	c.atLeast(at+"heads", m.Heads, 1)
	c.atLeast(at+"kv_heads", m.KVHeads, 0)
	c.atLeast(at+"intermediate", m.Intermediate, 0)
	if m.Hidden > 0 && m.Heads > 0 {
		switch size := m.Hidden / m.Heads; {
		case m.Hidden%m.Heads != 0:
			c.problem(at+"heads", "%d does not divide hidden %d", m.Heads, m.Hidden)
		case m.Family == "llama" && size%2 != 0:
			c.problem(at+"heads", "hidden %d divided by %d heads is %d per head; llama needs an even number per head",
				m.Hidden, m.Heads, size)
		}
	}
	if m.Heads > 0 && m.KVHeads > 0 {
		c.must(m.Heads%m.KVHeads == 0, at+"kv_heads", "%d does not divide heads %d", m.KVHeads, m.Heads)
		c.must(m.Family != "gpt2" || m.KVHeads == m.Heads, at+"kv_heads",
			"gpt2 needs as many key and value heads as query heads: leave the key out")
	}
	longest := data.MaxPromptTokens + data.MaxResponseTokens
	c.must(m.MaxPositions >= longest, at+"max_positions",
		"%d is less than data.max_prompt_tokens + data.max_response_tokens = %d", m.MaxPositions, longest)
	c.must(m.Tokenizer != "", at+"tokenizer", "is required: a folder with tokenizer.json, or builtin:demo")
}

func (c *checker) data(s *Spec) {
	d := &s.Data
	c.must(d.Train != "", "data.train", "is required: a Parquet or JSONL file or a folder, builtin:demo/base or builtin:demo/align")
	c.atLeast("data.limit", d.Limit, 0)
	c.atLeast("data.subset", d.Subset, 0)
	c.must(d.Limit == 0 || d.Subset == 0, "data.subset", "cannot be combined with data.limit: set one of them to 0")
	c.atLeast("data.max_prompt_tokens", d.MaxPromptTokens, 1)
	c.atLeast("data.max_response_tokens", d.MaxResponseTokens, 1)
	c.oneOf("data.overlong", d.Overlong, "truncate", "reject")
	c.must(!s.GivenPairs() || !strings.HasPrefix(d.Train, "builtin:"), "data.train",
		"%s has no rejected responses, which objective.kind: dpo and generation.from: data need", d.Train)
}

func (c *checker) objective(s *Spec) {
	o := &s.Objective
	c.oneOf("objective.kind", o.Kind, "ldalign", "spin", "dpo", "sft")
	c.positive("objective.beta", o.Beta)
	c.oneOf("objective.loss", o.Loss, "sigmoid", "hinge", "ipo", "robust")
	c.must(o.LabelSmoothing >= 0 && o.LabelSmoothing < 0.5, "objective.label_smoothing",
		"%v is out of range; expected 0 or more, and less than 0.5", o.LabelSmoothing)
	c.must(o.LabelSmoothing == 0 || o.Loss == "sigmoid" || o.Loss == "robust", "objective.label_smoothing",
		"is only allowed with objective.loss: sigmoid or robust, not %s", o.Loss)
	c.oneOf("objective.distance", o.Distance, "l2", "l2_squared", "cosine", "given")
	c.must(o.Distance != "given" || o.Kind == "ldalign", "objective.distance", "given is only allowed with objective.kind: ldalign")
	c.oneOf("objective.normaliser", o.Normaliser, "per_iteration", "fixed_first", "running")
	c.oneOf("objective.reference", o.Reference, "previous", "initial")
	c.oneOf("objective.mix", o.Mix, "current", "previous")
	c.must(o.Mix == "current" || s.Samples(), "objective.mix",
		"previous needs sampled responses: this run takes the same ones from the data in every iteration")
	c.must(o.Mix == "current" || s.Training.Schedule == "exact", "objective.mix",
		"previous needs training.schedule: exact, because the pairs of both iterations are weighted together")
	c.oneOf("objective.weight", o.Weight, "distance", "one", "shuffled")
	c.must(o.Weight != "shuffled" || o.Normaliser != "running", "objective.weight",
		"shuffled needs the weights of a whole iteration: choose another objective.normaliser than running")
	c.positive("objective.weight_power", o.WeightPower)
	c.must(o.WeightClip == 0 || o.WeightClip >= 1 && !math.IsInf(o.WeightClip, 0), "objective.weight_clip",
		"%v is out of range; expected at least 1, or 0 for no bound", o.WeightClip)
	if o.Kind != "ldalign" {
		const only = "is only allowed with objective.kind: ldalign, not %s"
		c.must(o.Weight == "distance", "objective.weight", only, o.Kind)
		c.must(o.WeightPower == 1, "objective.weight_power", only, o.Kind)
		c.must(o.WeightClip == 0, "objective.weight_clip", only, o.Kind)
	}
	c.must(s.Training.Schedule != "streaming" || o.Kind != "ldalign" || o.Weight == "one" || o.Normaliser == "running",
		"objective.normaliser", "%s needs the whole iteration, but training.schedule is streaming: use running", o.Normaliser)
	if o.Kind == "sft" {
		const pairs = "is not allowed with objective.kind: sft, which trains on single responses"
		c.must(o.Loss == "sigmoid", "objective.loss", pairs)
		c.must(o.Reference == "previous", "objective.reference", pairs)
		c.must(o.LabelSmoothing == 0, "objective.label_smoothing", pairs)
	}
}

func (c *checker) guide(g *GuideSpec) {
	c.guideReference("guide.from", g.From)
	for _, part := range []struct{ key, from string }{{"guide.encoder", g.Encoder}, {"guide.decoder", g.Decoder}} {
		layers, fresh := strings.CutPrefix(part.from, "scratch:")
		n, err := strconv.Atoi(layers)
		switch {
		case part.from == "":
			c.problem(part.key, "is empty; expected a Hugging Face folder, policy, or scratch:N")
		case part.from == "scratch", fresh && (err != nil || n < 1):
			c.problem(part.key, "%s has no number of layers; expected scratch:N with N at least 1", quoteShort(part.from))
		}
	}
	c.atLeast("guide.latent_dim", g.LatentDim, 1)
	c.oneOf("guide.pooling", g.Pooling, "mean", "last", "attention")
	c.oneOf("guide.injection", g.Injection, "prefix", "memory", "embedding")
	c.atLeast("guide.prefix_tokens", g.PrefixTokens, 1)
	c.share("guide.word_dropout", g.WordDropout)
	c.oneOf("guide.reduction", g.Reduction, "mean", "sum")
	c.atLeast("guide.epochs", g.Epochs, 1)
	c.atLeast("guide.batch", g.Batch, 1)
	c.optimizer("guide.optimizer", &g.Optimizer)
}

// guideReference checks a key that is empty or run:NAME.
func (c *checker) guideReference(key, from string) {
	if from == "" {
		return
	}
	if ref, err := ParseRunReference(from); err != nil {
		c.problem(key, "%v", err)
	} else if !ref.Newest() {
		c.problem(key, "%s names an iteration, but a run has one guide: write run:NAME", quoteShort(from))
	}
}

func (c *checker) generation(s *Spec) {
	g := &s.Generation
	if g.From != "" {
		c.oneOf("generation.from", g.From, "data")
	}
	c.notNegative("generation.temperature", g.Temperature)
	c.must(g.TopP > 0 && g.TopP <= 1, "generation.top_p", "%v is out of range; expected more than 0, at most 1", g.TopP)
	c.atLeast("generation.max_new_tokens", g.MaxNewTokens, 0)
	c.must(g.MaxNewTokens <= s.Data.MaxResponseTokens, "generation.max_new_tokens",
		"%d is more than data.max_response_tokens, which is %d", g.MaxNewTokens, s.Data.MaxResponseTokens)
	c.atLeast("generation.samples_per_prompt", g.SamplesPerPrompt, 1)
	if g.SamplesPerPrompt > 1 {
		c.must(s.Samples(), "generation.samples_per_prompt", "this run samples no responses: leave it at 1")
		c.must(g.Temperature > 0, "generation.samples_per_prompt",
			"all samples would be equal at generation.temperature 0: leave it at 1")
	}
	c.atLeast("generation.slots", g.Slots, 1)
	c.must(g.Slots <= 1 || g.Slots%4 == 0, "generation.slots",
		"%d would make a row's numbers depend on its slot; expected 1 or a multiple of 4", g.Slots)
}

func (c *checker) optimizer(at string, o *OptimizerSpec) {
	c.oneOf(at+".kind", o.Kind, "rmsprop", "adamw")
	c.positive(at+".lr", o.LR)
	c.positive(at+".lr_decay", o.LRDecay)
	c.oneOf(at+".schedule", o.Schedule, "linear", "cosine", "constant")
	c.share(at+".warmup", o.Warmup)
	c.oneOf(at+".warmup_start", o.WarmupStart, "step", "zero")
	c.notNegative(at+".clip", o.Clip)
	c.share(at+".alpha", o.Alpha)
	c.share(at+".beta1", o.Beta1)
	c.share(at+".beta2", o.Beta2)
	c.positive(at+".eps", o.Eps)
	c.notNegative(at+".weight_decay", o.WeightDecay)
	c.must(o.WeightDecay == 0 || o.Kind != "rmsprop", at+".weight_decay", "is only allowed with kind: adamw")
}

func (c *checker) training(t *TrainingSpec) {
	c.oneOf("training.schedule", t.Schedule, "exact", "streaming")
	c.atLeast("training.epochs", t.Epochs, 1)
	c.atLeast("training.batch", t.Batch, 1)
	c.atLeast("training.micro_batch", t.MicroBatch, 0)
	c.atLeast("training.micro_tokens", t.MicroTokens, 1)
	c.oneOf("training.precision", t.Precision, "float32", "bfloat16")
	c.must(t.Batch < 1 || t.MicroBatch <= t.Batch, "training.micro_batch",
		"%d is more than training.batch, which is %d", t.MicroBatch, t.Batch)
	c.atLeast("training.checkpoint_every", t.CheckpointEvery, 0)
	c.atLeast("training.keep_states", t.KeepStates, 1)
	if t.LoRA != nil {
		c.lora(t.LoRA)
	}
}

func (c *checker) lora(l *LoRASpec) {
	const at = "training.lora."
	c.must(l.Rank >= 1 && l.Rank <= 1<<16, at+"rank", "%d is out of range; expected 1 to %d", l.Rank, 1<<16)
	c.positive(at+"alpha", l.Alpha)
	if _, pattern := l.Modules(); pattern != AllLinear {
		_, err := regexp.Compile(pattern)
		c.must(err == nil && l.Targets != "", at+"targets",
			"%s is not valid; expected %s, names such as q_proj,v_proj, or a regular expression", quoteShort(l.Targets), AllLinear)
	}
	c.oneOf(at+"scaling", l.Scaling, "lora", "rslora")
}

// source checks the section of a run that is a replay or a fork.
func (c *checker) source(s *Spec) {
	from := s.Source
	if from == nil {
		return
	}
	switch {
	case from.Run == "":
		c.problem("source.run", "is required: the run that is replayed or forked")
	case !ValidRun(from.Run) || from.Run == s.Run:
		c.problem("source.run", "%s is not the name of another run", quoteShort(from.Run))
	}
	c.oneOf("source.from", from.From, FromPolicy, string(Prompts), string(Pairs), string(Encoded), string(Scored))
	c.atLeast("source.iteration", from.Iteration, 0)
	c.oneOf("source.off_policy", from.OffPolicy, RefuseOffPolicy, AcceptOffPolicy)
	if !s.Replays() {
		c.must(from.Policy != "" || from.From != FromPolicy, "source.policy", "is required with source.from: policy")
		return
	}
	c.must(from.Iteration < s.Iterations, "source.iteration",
		"%d is too large; the run has %d iterations, numbered from 0", from.Iteration, s.Iterations)
	c.must(from.First > 0 && from.First <= from.Last, "source.first",
		"%d to source.last %d is not a range of sequences; expected 1 or more, and source.last not less", from.First, from.Last)
	c.must(s.Objective.Kind != "sft" || from.From == string(Prompts), "source.from",
		"objective.kind: sft trains from prompts: use source.from: prompts")
	c.must(from.Policy != "" || from.From == string(Prompts), "source.policy", "is required with source.from: %s", from.From)
	c.must(from.Policy != "" || from.Iteration == 0, "source.policy",
		"is required with source.iteration %d, because only iteration 0 starts from model.from", from.Iteration)
	_, measured := s.ReadsFrom(Encoded)
	if s.TrainsGuide() {
		c.must(!measured, "guide.from", "is required with source.from: %s, whose latents come from a trained guide", from.From)
		c.must(measured || from.Iteration == 0, "guide.from",
			"is required with source.iteration %d, because a guide is trained in iteration 0", from.Iteration)
	}
}

func (c *checker) evaluation(e *EvaluationSpec) {
	c.oneOf("evaluation.scorer", e.Scorer, "exact", "graded", "none")
	c.atLeast("evaluation.samples", e.Samples, 1)
	c.atLeast("evaluation.limit", e.Limit, 0)
	c.atLeast("evaluation.first", e.First, 0)
	c.guideReference("evaluation.guide", e.Guide)
}

func (c *checker) streams(s *Spec) {
	st := &s.Streams
	c.duration("streams.max_age", st.MaxAge)
	if n, err := ParseSize(st.MaxBytes); err != nil {
		c.problem("streams.max_bytes", "%v", err)
	} else {
		c.must(n >= 1<<20, "streams.max_bytes", "%s is too small; expected at least 1MiB", st.MaxBytes)
	}
	c.duration("streams.ack_wait", st.AckWait)
	c.atLeast("streams.max_deliver", st.MaxDeliver, 1)
	c.must(slices.Contains([]int{1, 3, 5}, st.Replicas), "streams.replicas", "%d is not 1, 3 or 5", st.Replicas)
	if st.Sync != "always" {
		c.duration("streams.sync", st.Sync)
	}
	if st.StallAfter != "0" {
		c.duration("streams.stall_after", st.StallAfter)
	}
	c.duration("streams.stuck_after", st.StuckAfter)
	c.atLeast("streams.max_in_flight", st.MaxInFlight, 0)
}

func (c *checker) duration(key, text string) {
	d, err := time.ParseDuration(text)
	c.must(err == nil && d > 0, key, "%s is not a duration; expected a number with a unit (ms, s, m or h) such as %s",
		quoteShort(text), durationExample(key))
}

// durationExample is the default of a key; streams.sync, whose default is no duration, has an example of its own.
func durationExample(key string) string {
	if e := example(key); e != "always" {
		return e
	}
	return "2s, or always"
}

func (c *checker) servers(s *ServersSpec) {
	if s.NATS != "" {
		for one := range strings.SplitSeq(s.NATS, ",") {
			c.server("servers.nats", strings.TrimSpace(one), "LDALIGN_NATS_CREDS", "nats", "tls", "ws", "wss")
		}
	}
	if s.S3 == "" {
		c.must(s.Bucket == "", "servers.bucket", "is only allowed with servers.s3")
		c.must(s.Region == "", "servers.region", "is only allowed with servers.s3")
		return
	}
	c.server("servers.s3", s.S3, "LDALIGN_S3_ACCESS_KEY and LDALIGN_S3_SECRET_KEY", "http", "https")
	c.must(validBucket.MatchString(s.Bucket), "servers.bucket",
		"%s is not a bucket name; expected 3 to 63 lower-case letters, digits, - and .", quoteShort(s.Bucket))
}

var validBucket = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

// server checks scheme://host:port. The message never repeats credentials.
func (c *checker) server(key, text, environment string, schemes ...string) {
	u, err := url.Parse(text)
	switch {
	case err == nil && u.User != nil:
		c.problem(key, "contains credentials, which would be stored with the run: remove them and set %s", environment)
	case err != nil || !slices.Contains(schemes, u.Scheme) || u.Hostname() == "" || strings.Trim(u.Path, "/") != "":
		c.problem(key, "is not a server's URL; expected %s://HOST:PORT (or %s) such as %s",
			schemes[0], strings.Join(schemes[1:], ", "), example(key))
	}
}

// sizeUnits are decimal (GB) and binary (GiB).
var sizeUnits = map[string]int64{
	"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}

// ParseSize reads a number of bytes such as 2GB or 512MiB.
func ParseSize(text string) (int64, error) {
	digits := strings.TrimRight(text, "BKMGTi ")
	unit, known := sizeUnits[strings.TrimSpace(text[len(digits):])]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || !known || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("%s is not a size; expected a whole number with a unit such as 2GB or 512MiB", quoteShort(text))
	}
	return n * unit, nil
}
