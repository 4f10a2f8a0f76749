package schemas

// Spec declares a run: everything that its result depends on, and where it runs. It is read from YAML (LoadSpecs), checked
// (Validate) and resolved (defaults filled in); the resolved form and its Digest are stored with the run and named in
// every manifest.
type Spec struct {
	// Run names the run: lower-case letters, digits, - and _.
	Run string `yaml:"run"`
	// Seed of every random choice: prompt order, sampled text, shuffles, initial weights.
	Seed uint64 `yaml:"seed"`
	// Iterations of generate, score and train. The paper runs 3.
	Iterations int            `yaml:"iterations"`
	Model      ModelSpec      `yaml:"model"`
	Data       DataSpec       `yaml:"data"`
	Objective  ObjectiveSpec  `yaml:"objective"`
	Guide      GuideSpec      `yaml:"guide"`
	Generation GenerationSpec `yaml:"generation"`
	Optimizer  OptimizerSpec  `yaml:"optimizer"`
	Training   TrainingSpec   `yaml:"training"`
	Evaluation EvaluationSpec `yaml:"evaluation"`
	Compute    ComputeSpec    `yaml:"compute"`
	Streams    StreamsSpec    `yaml:"streams"`
	Servers    ServersSpec    `yaml:"servers"`
}

// ModelSpec says where the policy starts.
type ModelSpec struct {
	// From is a Hugging Face folder, or run:NAME or run:NAME@ITERATION for a checkpoint of another run in the same store,
	// or scratch for random weights by Scratch.
	From string `yaml:"from"`
	// Scratch describes a model made from random weights. Only with from: scratch.
	Scratch *ScratchSpec `yaml:"scratch,omitempty"`
	// Template renders a prompt: auto (the tokenizer's chat template, or raw without one), chat, raw, or a text with {prompt}.
	Template string `yaml:"template"`
	// System is the system message put before every prompt; empty for none. Only with a chat template.
	System string `yaml:"system"`
}

// ScratchSpec is a small architecture to start from random weights.
type ScratchSpec struct {
	// Family is llama or gpt2.
	Family       string `yaml:"family"`
	Hidden       int    `yaml:"hidden"`
	Layers       int    `yaml:"layers"`
	Heads        int    `yaml:"heads"`
	KVHeads      int    `yaml:"kv_heads"`
	Intermediate int    `yaml:"intermediate"`
	MaxPositions int    `yaml:"max_positions"`
	// Tokenizer is a folder with tokenizer.json, or builtin:demo. Empty takes the policy's.
	Tokenizer string `yaml:"tokenizer"`
}

// DataSpec names the prompts.
type DataSpec struct {
	// Train is a JSONL file of {"id"?, "prompt", "response", "rejected"?, "contains"?}, or builtin:demo/base, builtin:demo/align.
	Train string `yaml:"train"`
	// Eval is a JSONL file of the same form for the held-out table, or builtin:demo/heldout; empty for none.
	Eval string `yaml:"eval"`
	// Limit takes only the first n records of Train; 0 takes all.
	Limit int `yaml:"limit"`
	// MaxPromptTokens and MaxResponseTokens are the length rule: a longer prompt keeps its last, a longer response its first
	// tokens (overlong: truncate), or the record is dead-lettered (overlong: reject).
	MaxPromptTokens   int    `yaml:"max_prompt_tokens"`
	MaxResponseTokens int    `yaml:"max_response_tokens"`
	Overlong          string `yaml:"overlong"`
}

// ObjectiveSpec is what the trainer minimises.
type ObjectiveSpec struct {
	// Kind is ldalign (equation LD), spin (LD with w = 1), dpo (annotated pairs) or sft.
	Kind string `yaml:"kind"`
	// Beta scales the implicit reward of ldalign, spin and dpo.
	Beta float64 `yaml:"beta"`
	// Distance is l2, l2_squared or cosine.
	Distance string `yaml:"distance"`
	// Normaliser is per_iteration (S_t) or fixed_first (S_0).
	Normaliser string `yaml:"normaliser"`
	// Weight is distance (the paper), one (SPIN on the scored stream) or shuffled (the same weights at random pairs: a control).
	Weight string `yaml:"weight"`
	// WeightClip bounds w, which is then renormalised to mean 1; 0 leaves w as the paper has it.
	WeightClip float64 `yaml:"weight_clip"`
}

// GuideSpec is the guiding model: encoder phi and decoder psi.
type GuideSpec struct {
	// From is empty to train the guide in this run, or run:NAME to take another run's.
	From string `yaml:"from"`
	// Encoder and Decoder are a Hugging Face folder, policy (the run's initial policy), or scratch:N (the policy's family and
	// width with N fresh layers).
	Encoder string `yaml:"encoder"`
	Decoder string `yaml:"decoder"`
	// LatentDim is K, the size of h.
	LatentDim int `yaml:"latent_dim"`
	// Pooling is mean (over response positions) or last (last response token).
	Pooling string `yaml:"pooling"`
	// PrefixTokens is how many soft-prefix positions h becomes in front of the decoder's input.
	PrefixTokens int `yaml:"prefix_tokens"`
	// WordDropout is the rate at which response tokens are hidden from the decoder's input.
	WordDropout float64 `yaml:"word_dropout"`
	// Reduction of the reconstruction loss: mean (per token) or sum (per sequence, equation 2).
	Reduction string        `yaml:"reduction"`
	Epochs    int           `yaml:"epochs"`
	Batch     int           `yaml:"batch"`
	Optimizer OptimizerSpec `yaml:"optimizer"`
}

// GenerationSpec is how y' is sampled.
type GenerationSpec struct {
	// Temperature 0 is greedy.
	Temperature float64 `yaml:"temperature"`
	TopP        float64 `yaml:"top_p"`
	// MaxNewTokens defaults to data.max_response_tokens.
	MaxNewTokens     int `yaml:"max_new_tokens"`
	SamplesPerPrompt int `yaml:"samples_per_prompt"`
	// Slots is the fixed number of rows that decode together; part of the digest, for the shapes decide the last bit.
	Slots int `yaml:"slots"`
	// Bucket is the step to which prompt and response lengths are padded.
	Bucket int `yaml:"bucket"`
}

// OptimizerSpec is one optimizer with its learning-rate schedule.
type OptimizerSpec struct {
	// Kind is rmsprop or adamw.
	Kind string  `yaml:"kind"`
	LR   float64 `yaml:"lr"`
	// LRDecay multiplies LR once per iteration: LR * LRDecay^t.
	LRDecay float64 `yaml:"lr_decay"`
	// Schedule within an iteration: linear or cosine (both to 0), or constant.
	Schedule string `yaml:"schedule"`
	// Warmup is the share of steps with rising rate.
	Warmup float64 `yaml:"warmup"`
	// Clip bounds the global gradient norm; 0 for none.
	Clip        float64 `yaml:"clip"`
	Alpha       float64 `yaml:"alpha"`
	Beta1       float64 `yaml:"beta1"`
	Beta2       float64 `yaml:"beta2"`
	Eps         float64 `yaml:"eps"`
	WeightDecay float64 `yaml:"weight_decay"`
}

// TrainingSpec is how pairs become steps.
type TrainingSpec struct {
	// Schedule is exact: wait until the iteration is complete, then epochs over a seeded shuffle.
	Schedule string `yaml:"schedule"`
	Epochs   int    `yaml:"epochs"`
	// Batch is pairs per optimizer step; MicroBatch is how many of them go through the model at once.
	Batch      int `yaml:"batch"`
	MicroBatch int `yaml:"micro_batch"`
	// CheckpointEvery is the number of steps between state checkpoints, from which a killed run goes on; 0 for none.
	CheckpointEvery int `yaml:"checkpoint_every"`
}

// EvaluationSpec is the held-out table.
type EvaluationSpec struct {
	// Scorer is exact, graded (half contents, half token similarity) or none.
	Scorer string `yaml:"scorer"`
	// Samples per prompt at temperature 1; two give the two-sample agreement test.
	Samples int `yaml:"samples"`
	// Limit takes only the first n held-out records; 0 takes all.
	Limit int `yaml:"limit"`
	// Guide is run:NAME for the guide that measures mean distance when this run has none of its own; empty for none.
	Guide string `yaml:"guide"`
}

// ComputeSpec is the machine's share. Threads is part of the digest: it decides the last bit.
type ComputeSpec struct {
	Threads int `yaml:"threads"`
	// Device is cpu or cuda:N (not run on a GPU by the project).
	Device string `yaml:"device"`
}

// StreamsSpec bounds the logs and the work in flight. None of it changes a result.
type StreamsSpec struct {
	MaxAge     string `yaml:"max_age"`
	MaxBytes   string `yaml:"max_bytes"`
	AckWait    string `yaml:"ack_wait"`
	MaxDeliver int    `yaml:"max_deliver"`
	Replicas   int    `yaml:"replicas"`
	// Sync is always (fsync every message) or the interval between two.
	Sync string `yaml:"sync"`
}

// ServersSpec names real servers; all empty runs the embedded NATS server and a directory store. Credentials never stand
// here: they come from the environment (LDALIGN_NATS_CREDS, LDALIGN_S3_ACCESS_KEY, LDALIGN_S3_SECRET_KEY).
type ServersSpec struct {
	NATS string `yaml:"nats"`
	// S3 is http(s)://host:port, Bucket its bucket.
	S3     string `yaml:"s3"`
	Bucket string `yaml:"bucket"`
	Region string `yaml:"region"`
}
