package schemas

// Spec declares a run: everything that its result depends on, and where it runs. It is read from YAML (LoadSpecs),
// checked (Validate), resolved (Resolve); the resolved form and its Digest are stored with the run and named in every
// manifest.
//
// The doc comments of the fields are the reference for users: docs/spec.md is made from them. The tag `example` shows
// a value where there is no default, and `digest:"-"` marks what can't change a result and so stays out of the
// Digest. `absent` is the value that means what a spec from before the key meant: it stays out of the Digest too.
type Spec struct {
	// Run names the run: lower-case letters, digits, - and _, at most 63. Left out of the digest.
	Run string `yaml:"run" example:"demo" digest:"-"`
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
	Source     *SourceSpec    `yaml:"source,omitempty"`
	Retention  RetentionSpec  `yaml:"retention" digest:"-"`
	Streams    StreamsSpec    `yaml:"streams" digest:"-"`
	Servers    ServersSpec    `yaml:"servers" digest:"-"`
}

// ModelSpec says where the policy starts.
type ModelSpec struct {
	// From is a Hugging Face folder, or run:NAME or run:NAME@ITERATION for a checkpoint of another run in the same
	// store, or scratch for random weights by model.scratch. Required.
	From string `yaml:"from" example:"models/smollm2"`
	// Template renders a prompt: auto (the tokenizer's chat template, or raw without one), chat, raw, or a text with
	// {prompt} once.
	Template string `yaml:"template"`
	// System is the system message put before every prompt; empty for none. Only with a chat template.
	System string `yaml:"system" example:"Answer briefly."`
	// Scratch describes a model made from random weights. Only with from: scratch.
	Scratch *ScratchSpec `yaml:"scratch,omitempty"`
}

// ScratchSpec is a small architecture to start from random weights.
type ScratchSpec struct {
	// Family is llama or gpt2.
	Family string `yaml:"family"`
	// Hidden is the width of the model.
	Hidden int `yaml:"hidden"`
	// Layers is the number of blocks.
	Layers int `yaml:"layers"`
	// Heads is the number of query heads; it divides hidden.
	Heads int `yaml:"heads"`
	// KVHeads is the number of key and value heads; it divides heads. 0 takes heads.
	KVHeads int `yaml:"kv_heads"`
	// Intermediate is the width of the feed-forward layer. 0 takes 4 × hidden for gpt2, and for llama 8/3 × hidden
	// rounded up to a multiple of 16.
	Intermediate int `yaml:"intermediate"`
	// MaxPositions is the longest sequence; no less than max_prompt_tokens + max_response_tokens.
	MaxPositions int `yaml:"max_positions"`
	// Tokenizer is a folder with tokenizer.json, or builtin:demo. Required.
	Tokenizer string `yaml:"tokenizer" example:"builtin:demo"`
}

// DataSpec names the prompts.
type DataSpec struct {
	// Train is a Parquet or JSONL file (.gz too), a folder or a pattern of shards such as data/train_sft-*.parquet, or
	// several of these with commas; or builtin:demo/base, builtin:demo/align. docs/data.md has the forms of records.
	// Required.
	Train string `yaml:"train" example:"data/train.jsonl"`
	// Eval is the same for the held-out table, or builtin:demo/heldout; empty for none.
	Eval string `yaml:"eval" example:"data/heldout.jsonl"`
	// Columns names the columns of train and eval where they have names of their own.
	Columns ColumnsSpec `yaml:"columns"`
	// Limit takes only the first n records of train; 0 takes all.
	Limit int `yaml:"limit"`
	// Subset takes n records of train by chance, whatever their order in the files: the choice is made by seed and record
	// id. 0 takes all. Not with limit.
	Subset int `yaml:"subset"`
	// MaxPromptTokens is the length rule of prompts: a longer one keeps its last tokens, or is rejected; see overlong.
	MaxPromptTokens int `yaml:"max_prompt_tokens"`
	// MaxResponseTokens is the length rule of responses: a longer one keeps its first tokens, or is rejected; see
	// overlong.
	MaxResponseTokens int `yaml:"max_response_tokens"`
	// Overlong is truncate (cut by the length rules, and count the tokens) or reject (dead-letter the record).
	Overlong string `yaml:"overlong"`
}

// ColumnsSpec names columns of the data. An empty one is looked for under the usual names, which docs/data.md lists.
type ColumnsSpec struct {
	// ID is the column of the record's id, which has to be unique.
	ID string `yaml:"id" example:"uuid"`
	// Prompt is the column of the prompt.
	Prompt string `yaml:"prompt" example:"question"`
	// Response is the column of the human (chosen) response: a text, or a conversation that ends with it.
	Response string `yaml:"response" example:"answer"`
	// Rejected is the column of the worse response: a text, or a conversation that ends with it.
	Rejected string `yaml:"rejected" example:"bad_answer"`
	// Messages is the column of a conversation that holds prompt and response.
	Messages string `yaml:"messages" example:"dialogue"`
	// Distance is the column of a latent distance for objective.distance: given.
	Distance string `yaml:"distance" example:"s"`
	// RefChosen is the column of the response's reference log-probability.
	RefChosen string `yaml:"ref_chosen_logp" example:"logp_y"`
	// RefRejected is the column of the rejected response's reference log-probability.
	RefRejected string `yaml:"ref_rejected_logp" example:"logp_rejected"`
}

// ObjectiveSpec is what the trainer minimises.
type ObjectiveSpec struct {
	// Kind is ldalign (equation LD), spin (LD with w = 1), dpo (annotated pairs) or sft.
	Kind string `yaml:"kind"`
	// Beta scales the implicit reward of ldalign, spin and dpo; for loss: ipo it is that paper's τ.
	Beta float64 `yaml:"beta"`
	// Loss is what a pair of ldalign, spin or dpo costs, before its weight: sigmoid (DPO's), hinge, ipo (log-ratios per
	// token) or robust (unbiased when a share label_smoothing of the pairs is the wrong way round).
	Loss string `yaml:"loss" absent:"sigmoid"`
	// LabelSmoothing is the share of pairs taken to be the wrong way round: of 0 or more, less than 0.5. With loss:
	// sigmoid it makes conservative DPO. Only with loss: sigmoid or robust.
	LabelSmoothing float64 `yaml:"label_smoothing"`
	// Distance is l2, l2_squared or cosine of two latents, or given: the data's column distance, without a guide. given
	// implies generation.from: data.
	Distance string `yaml:"distance"`
	// Normaliser is per_iteration (S_t: the mean weight stays 1), fixed_first (S_0: weights shrink as the model
	// improves) or running (the mean over the pairs so far; over the first training.batch pairs for those).
	Normaliser string `yaml:"normaliser"`
	// Reference is the policy whose log-probs the objective compares with: previous (the one that the iteration starts
	// from) or initial (the run's first, in every iteration; the generator then holds both). Not for sft.
	Reference string `yaml:"reference" absent:"previous"`
	// Mix is which pairs an iteration trains on: current, or previous for its own and those of the iteration before, as
	// SPIN does, with the reference's log-probs computed anew and weights over both. Where y' is sampled only.
	Mix string `yaml:"mix" absent:"current"`
	// Weight is distance (the paper), one (SPIN on the scored stream) or shuffled (the same weights at random pairs: a
	// control). Only with kind: ldalign.
	Weight string `yaml:"weight"`
	// WeightPower is the exponent p in w = s^p / mean(s^p): 1 is the paper's, less evens weights out, more sharpens them.
	// Only with kind: ldalign.
	WeightPower float64 `yaml:"weight_power" absent:"1"`
	// WeightClip bounds w, which is then scaled back to the mean it had (not with normaliser: running, where w is only
	// bounded); at least 1, or 0 to leave w as the paper has it. Only with kind: ldalign.
	WeightClip float64 `yaml:"weight_clip"`
}

// GuideSpec is the guiding model: encoder phi and decoder psi. Only ldalign uses it.
type GuideSpec struct {
	// From is empty to train the guide in this run, or run:NAME to take another run's.
	From string `yaml:"from" example:"run:demo"`
	// Encoder is a Hugging Face folder, policy (the run's initial policy), or scratch:N (the policy's family and width
	// with N fresh layers).
	Encoder string `yaml:"encoder"`
	// Decoder takes the same forms as encoder. A fresh one has to use the latent; one that starts as a good language
	// model tends to ignore it.
	Decoder string `yaml:"decoder"`
	// LatentDim is K, the size of h. A small one sharpens the bottleneck.
	LatentDim int `yaml:"latent_dim"`
	// Pooling is mean (over response positions), last (last response token) or attention (a learned weighted mean over
	// response positions).
	Pooling string `yaml:"pooling"`
	// Injection is how the decoder gets h: prefix (soft positions in front of its input), memory (one more key and value
	// in every layer) or embedding (added to every token's embedding).
	Injection string `yaml:"injection" absent:"prefix"`
	// PrefixTokens is how many soft-prefix positions h becomes in front of the decoder's input. Only injection: prefix
	// uses it.
	PrefixTokens int `yaml:"prefix_tokens"`
	// WordDropout is the rate at which response tokens are hidden from the decoder's input, so that it needs h.
	WordDropout float64 `yaml:"word_dropout"`
	// Reduction of the reconstruction loss: mean (per token) or sum (per sequence, equation 2).
	Reduction string `yaml:"reduction"`
	// Epochs over the responses and samples of iteration 0.
	Epochs int `yaml:"epochs"`
	// Batch is sequences per optimizer step.
	Batch int `yaml:"batch"`
	// Optimizer of the guide. Its rate suits pre-trained parts; fresh small ones learn faster with about 2e-3.
	Optimizer OptimizerSpec `yaml:"optimizer"`
}

// GenerationSpec is where y' comes from and how it is sampled.
type GenerationSpec struct {
	// From is empty to sample y' from the policy, or data to take the rejected responses of data.train, which are then
	// only scored. dpo always takes those, and `ldalign train` sets it.
	From string `yaml:"from" example:"data"`
	// Temperature divides the logits; 0 is greedy.
	Temperature float64 `yaml:"temperature"`
	// TopP samples from the smallest set of tokens with this probability; 1 takes all.
	TopP float64 `yaml:"top_p"`
	// MaxNewTokens ends a sample. 0 takes data.max_response_tokens.
	MaxNewTokens int `yaml:"max_new_tokens"`
	// SamplesPerPrompt is pairs per prompt and iteration; more lower the variance of the weighted gradient.
	SamplesPerPrompt int `yaml:"samples_per_prompt"`
	// Slots is the fixed number of rows that decode together; part of the digest, for the shapes decide the last bit.
	Slots int `yaml:"slots"`
}

// OptimizerSpec is one optimizer with its learning-rate schedule.
type OptimizerSpec struct {
	// Kind is rmsprop or adamw.
	Kind string `yaml:"kind"`
	// LR is the peak learning rate.
	LR float64 `yaml:"lr"`
	// LRDecay multiplies lr once per iteration: lr × lr_decay^t.
	LRDecay float64 `yaml:"lr_decay"`
	// Schedule within an iteration: linear or cosine (both to 0), or constant.
	Schedule string `yaml:"schedule"`
	// Warmup is the share of steps with rising rate.
	Warmup float64 `yaml:"warmup"`
	// WarmupStart is step (the first of w steps has 1/(w+1) of the peak rate, so that its batch counts) or zero (rate 0, as
	// in transformers' get_scheduler).
	WarmupStart string `yaml:"warmup_start" absent:"step"`
	// Clip bounds the global gradient norm; 0 for none.
	Clip float64 `yaml:"clip"`
	// Alpha is rmsprop's decay of the squared gradient.
	Alpha float64 `yaml:"alpha"`
	// Beta1 is adamw's decay of the gradient.
	Beta1 float64 `yaml:"beta1"`
	// Beta2 is adamw's decay of the squared gradient.
	Beta2 float64 `yaml:"beta2"`
	// Eps is added to the root of the squared gradient.
	Eps float64 `yaml:"eps"`
	// WeightDecay is adamw's decoupled decay.
	WeightDecay float64 `yaml:"weight_decay"`
}

// TrainingSpec is how pairs become steps.
type TrainingSpec struct {
	// Schedule is exact (wait until the iteration is complete, then epochs over a seeded shuffle) or streaming (train
	// while the pairs arrive, in the order of their log; later epochs are shuffled). With kind: ldalign, streaming needs
	// normaliser: running. The order of arrival is the run's own: a repetition on the same log gives the same bits, on a
	// log of its own it need not.
	Schedule string `yaml:"schedule"`
	// Epochs over the pairs of an iteration.
	Epochs int `yaml:"epochs"`
	// Batch is pairs per optimizer step.
	Batch int `yaml:"batch"`
	// MicroBatch is how many of a batch's pairs go through the model at once, at most. 0 takes 8, or batch where that is less.
	MicroBatch int `yaml:"micro_batch"`
	// MicroTokens bounds what goes through the model at once, and so the memory: a batch is cut, in its order, into parts of
	// as many pairs as have no more tokens together, at least one. The prompt of a pair counts once. Small models are faster
	// with more of both.
	MicroTokens int `yaml:"micro_tokens" absent:"512"`
	// GradientCheckpointing keeps nothing of a layer but its input and computes the layer again on the way back: less memory
	// for about a third more time. The results are the same to the last bit. Left out of the digest.
	GradientCheckpointing bool `yaml:"gradient_checkpointing" digest:"-"`
	// Precision is what forward and backward of the policy compute in: float32 or bfloat16. Weights, gradients and the
	// optimizer's state are float32 in both: in bfloat16 an update of 5e-7 would be rounded away. With bfloat16 the margins
	// at the first step are not zero, because the reference's log-probs are computed in float32.
	Precision string `yaml:"precision" absent:"float32"`
	// CheckpointEvery is the number of steps between state checkpoints, from which a killed run goes on; 0 for none.
	// Left out of the digest.
	CheckpointEvery int `yaml:"checkpoint_every" digest:"-"`
	// KeepStates is how many of an iteration's newest state checkpoints are kept. Should one be damaged, the run goes on
	// from the one before it. Left out of the digest.
	KeepStates int `yaml:"keep_states" digest:"-"`
	// Ranks is the number of processes that compute each step of the policy together on the trainer's machine, each with a
	// part of the batch, compute.threads threads, and a copy of the weights and gradients; the optimizer's state is divided
	// among them. On GPUs each takes one of its own, compute.device and those that follow it. Like threads, it decides the
	// last bit of a result; left out of the digest.
	Ranks int       `yaml:"ranks" digest:"-"`
	LoRA  *LoRASpec `yaml:"lora,omitempty"`
}

// LoRASpec makes each iteration train a fresh low-rank adapter on its policy, instead of all weights, and merge it into
// the next policy, which keeps it beside its weights in PEFT's format. Gradients and optimizer then take the memory of the
// adapter alone. An adapter wants a higher optimizer.lr than all weights do, 10 to 100 times as high. An empty section
// (`lora: {}`) takes the defaults; without the section all weights are trained.
type LoRASpec struct {
	// Rank is the rank of an update B·A.
	Rank int `yaml:"rank"`
	// Alpha scales the updates, see scaling.
	Alpha float64 `yaml:"alpha"`
	// Targets are the linear layers that are adapted: all-linear (all but the output head), names separated by commas as
	// q_proj,v_proj, or a regular expression for whole names as model.layers.0.self_attn.q_proj.
	Targets string `yaml:"targets"`
	// Scaling of an update is lora (alpha/rank) or rslora (alpha/√rank).
	Scaling string `yaml:"scaling"`
}

// EvaluationSpec is the held-out table.
type EvaluationSpec struct {
	// Scorer is exact, graded (half contents, half token similarity) or none.
	Scorer string `yaml:"scorer"`
	// Samples per prompt at temperature 1; two give the two-sample agreement test.
	Samples int `yaml:"samples"`
	// Limit takes only the first n held-out records; 0 takes all.
	Limit int `yaml:"limit"`
	// First is the first policy that is measured: 0 measures the one that the run starts from too.
	First int `yaml:"first"`
	// Guide is run:NAME for the guide that measures mean distance when this run has none of its own; empty for none.
	Guide string `yaml:"guide" example:"run:demo"`
}

// ComputeSpec is the machine's share.
type ComputeSpec struct {
	// Threads of the tensor library, no more than free cores. 0 takes 2, or the machine's cores where it has fewer. They
	// decide the last bit of a result, as the machine does; left out of the digest, so that a run can go on elsewhere, with
	// a warning.
	Threads int `yaml:"threads" digest:"-"`
	// Device is cpu or cuda:N (not run on a GPU by the project).
	Device string `yaml:"device"`
}

// SourceSpec makes the run begin with what another run has left: its log, as a replay does, or one of its policies, as a
// fork does. The verbs `ldalign replay` and `ldalign fork` write this section; without it a run makes everything itself.
type SourceSpec struct {
	// Run is the run that is replayed or forked, in the same streams and store. Required.
	Run string `yaml:"run" json:"run" example:"demo"`
	// From is the log that is read in place of an own one (prompts, pairs, encoded or scored; the stages in front of it do
	// not run), or policy to read none and start from a policy alone.
	From string `yaml:"from" json:"from"`
	// Iteration is the first one that is replayed. Iterations keep their numbers, so that the run makes the policies
	// iteration + 1 to iterations. With from: policy it names the policy that is this run's policy 0.
	Iteration int `yaml:"iteration" json:"iteration"`
	// OffPolicy is refuse (the pairs of an iteration must be sampled by the weights that the iteration starts from), or
	// accept (pairs and reference log-probs may be of the source's policy while this run's has gone another way).
	OffPolicy string `yaml:"off_policy" json:"off_policy"`
	// Policy is the digest of the source's policy that the run starts from; empty to start from model.from.
	Policy string `yaml:"policy" json:"policy,omitempty"`
	// Spec is the digest of the source's spec.
	Spec string `yaml:"spec" json:"spec"`
	// First is the sequence in the source's stream at which the replayed messages begin.
	First uint64 `yaml:"first" json:"first,omitempty"`
	// Last is the sequence at which they end: what was stored later is not read.
	Last uint64 `yaml:"last" json:"last,omitempty"`
}

// RetentionSpec is what the run keeps of its past iterations. It is carried out when an iteration has made its policy, by the
// trainer; what is still read stays until it is not: by a stage or an evaluation of this run, or by a run that replays it or
// was forked from it. What was removed cannot be replayed, forked or exported any more. None of it changes a result.
// docs/operations.md says more; `ldalign runs prune` does the same by hand.
type RetentionSpec struct {
	// Messages is how many of the newest finished iterations keep their prompts, pairs, latents and distances on the logs. 0
	// keeps all. Control messages, checkpoints, results and dead letters stay.
	Messages int `yaml:"messages"`
	// Policies is how many of the newest policies keep their weights in the store. 0 keeps all. Of the others, manifest,
	// configuration, tokenizer, records and batches stay.
	Policies int `yaml:"policies"`
}

// StreamsSpec bounds the logs and the work in flight. None of it changes a result.
type StreamsSpec struct {
	// MaxAge is how long a message stays on its log.
	MaxAge string `yaml:"max_age"`
	// MaxBytes bounds each of the run's six logs; a full one refuses what is more. A number with B, KB, MB, GB, KiB, MiB or
	// GiB.
	MaxBytes string `yaml:"max_bytes"`
	// AckWait is how long a silent stage keeps a message before another gets it.
	AckWait string `yaml:"ack_wait"`
	// MaxDeliver is how often a message is tried before it is dead-lettered.
	MaxDeliver int `yaml:"max_deliver"`
	// Replicas of each log: 1, 3 or 5. More than 1 needs servers.nats.
	Replicas int `yaml:"replicas"`
	// Sync is always (fsync every message) or the interval between two. Only the embedded server obeys it.
	Sync string `yaml:"sync"`
	// StallAfter is how long a run may go without any progress before it fails and says what it was waiting for. 0 lets it
	// wait for ever.
	StallAfter string `yaml:"stall_after"`
	// MaxInFlight is how many prompts of an iteration may be published beyond those whose pairs the trainer has taken, with
	// training.schedule: streaming; 0 for no bound. Less than two of training.batch counts as these. By the exact schedule,
	// and in iteration 0 of a run that trains a guide from it, the trainer needs the whole iteration first: there is no bound.
	MaxInFlight int `yaml:"max_in_flight"`
}

// ServersSpec names real servers; all empty runs the embedded NATS server and a directory store. Credentials never
// stand here: they come from the environment (LDALIGN_NATS_CREDS, LDALIGN_S3_ACCESS_KEY, LDALIGN_S3_SECRET_KEY).
type ServersSpec struct {
	// NATS is the server's URL (nats://, tls://, ws:// or wss://); several with commas. Empty runs the embedded server.
	NATS string `yaml:"nats" example:"nats://127.0.0.1:4222"`
	// S3 is http(s)://host:port of the checkpoint store. Empty keeps checkpoints in a folder.
	S3 string `yaml:"s3" example:"http://127.0.0.1:9000"`
	// Bucket of the checkpoint store. Only with s3, and required there.
	Bucket string `yaml:"bucket" example:"ldalign"`
	// Region of the bucket; most stores need none.
	Region string `yaml:"region" example:"eu-central-1"`
}
