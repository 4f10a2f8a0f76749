package schemas

// Spec declares a run: everything that its result depends on, and where it runs. It is read from YAML (LoadSpecs),
// checked (Validate), resolved (Resolve); the resolved form and its Digest are stored with the run and named in every
// manifest.
//
// The doc comments of the fields are the reference for users: docs/spec.md is made from them. The tag `example` shows
// a value where there is no default. `digest:"-"` leaves a key out of the Digest because it cannot change a result.
// `absent` names the value that behaves as before the key existed. The Digest leaves a key with this value out, so that
// older specs keep their digests, and so does a Declaration, so that older programs can read it.
type Spec struct {
	// Run names the run: lower-case letters, digits, - and _, at most 63. Left out of the digest.
	Run string `yaml:"run" example:"demo" digest:"-"`
	// Seed is the seed of every random choice: prompt order, sampled text, shuffles, initial weights.
	Seed uint64 `yaml:"seed"`
	// Iterations is the number of rounds of generating, scoring and training. The paper runs 3.
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

// ModelSpec is what the policy starts from.
type ModelSpec struct {
	// From is a Hugging Face folder; run:NAME or run:NAME@ITERATION for a policy of another run in the same store; or
	// scratch for random weights as model.scratch describes. Required.
	From string `yaml:"from" example:"models/smollm2"`
	// Template is how a prompt is rendered: auto (the tokenizer's chat template, or raw if it has none), chat, raw, or a
	// text that contains {prompt} once.
	Template string `yaml:"template"`
	// System is the system message that precedes every prompt; empty for none. It needs a chat template.
	System string `yaml:"system" example:"Answer briefly."`
	// Scratch describes a model made from random weights. Only with from: scratch.
	Scratch *ScratchSpec `yaml:"scratch,omitempty"`
}

// ScratchSpec is the architecture of a model that starts from random weights.
type ScratchSpec struct {
	// Family is the model family: llama or gpt2.
	Family string `yaml:"family"`
	// Hidden is the width of the model.
	Hidden int `yaml:"hidden"`
	// Layers is the number of blocks.
	Layers int `yaml:"layers"`
	// Heads is the number of query heads; it must divide hidden.
	Heads int `yaml:"heads"`
	// KVHeads is the number of key and value heads; it must divide heads. 0 means as many as heads.
	KVHeads int `yaml:"kv_heads"`
	// Intermediate is the width of the feed-forward layer. 0 means 4 × hidden for gpt2, and for llama 8/3 × hidden
	// rounded up to a multiple of 16.
	Intermediate int `yaml:"intermediate"`
	// MaxPositions is the length of the longest sequence in tokens: at least data.max_prompt_tokens +
	// data.max_response_tokens.
	MaxPositions int `yaml:"max_positions"`
	// Tokenizer is a folder with tokenizer.json, or builtin:demo. Required.
	Tokenizer string `yaml:"tokenizer" example:"builtin:demo"`
}

// DataSpec is where the records to train on and to evaluate with come from.
type DataSpec struct {
	// Train is a Parquet or JSONL file (also .gz), a folder, a pattern of shards such as data/train_sft-*.parquet, or
	// several of these separated by commas; or builtin:demo/base or builtin:demo/align. docs/data.md describes the forms
	// that a record can have. Required.
	Train string `yaml:"train" example:"data/train.jsonl"`
	// Eval is the held-out data, in the same forms, or builtin:demo/heldout; empty for none.
	Eval string `yaml:"eval" example:"data/heldout.jsonl"`
	// Columns names the columns of train and eval where they differ from the usual names, which docs/data.md lists.
	Columns ColumnsSpec `yaml:"columns"`
	// Limit is how many records of train to use, from the first on; 0 uses all.
	Limit int `yaml:"limit"`
	// Subset is how many records of train to use, chosen at random by seed and record id, so that their order in the
	// files does not matter. 0 uses all. It excludes limit.
	Subset int `yaml:"subset"`
	// MaxPromptTokens is how many tokens a prompt may have. A longer one is cut to its last tokens, or rejected; see
	// overlong.
	MaxPromptTokens int `yaml:"max_prompt_tokens"`
	// MaxResponseTokens is how many tokens a response may have. A longer one is cut to its first tokens, or rejected; see
	// overlong.
	MaxResponseTokens int `yaml:"max_response_tokens"`
	// Overlong is what happens to a text that is too long: truncate (cut it, and count the tokens cut) or reject (the
	// record becomes a dead letter).
	Overlong string `yaml:"overlong"`
}

// ColumnsSpec names columns of the data. For an empty key the usual names, which docs/data.md lists, are tried.
type ColumnsSpec struct {
	// ID is the column of the record's id, which must be unique.
	ID string `yaml:"id" example:"uuid"`
	// Prompt is the column of the prompt.
	Prompt string `yaml:"prompt" example:"question"`
	// Response is the column of the human (chosen) response: a text, or a conversation that ends with it.
	Response string `yaml:"response" example:"answer"`
	// Rejected is the column of the rejected response: a text, or a conversation that ends with it.
	Rejected string `yaml:"rejected" example:"bad_answer"`
	// Messages is the column of a conversation that contains both prompt and response.
	Messages string `yaml:"messages" example:"dialogue"`
	// Distance is the column of a latent distance for objective.distance: given.
	Distance string `yaml:"distance" example:"s"`
	// RefChosen is the column of the chosen response's reference log-probability.
	RefChosen string `yaml:"ref_chosen_logp" example:"logp_y"`
	// RefRejected is the column of the rejected response's reference log-probability.
	RefRejected string `yaml:"ref_rejected_logp" example:"logp_rejected"`
}

// ObjectiveSpec is what the trainer minimises.
type ObjectiveSpec struct {
	// Kind is the training method: ldalign (equation LD of the paper), spin (LD with w = 1), dpo (pairs from the data) or sft.
	Kind string `yaml:"kind"`
	// Beta scales the implicit reward of ldalign, spin and dpo. With loss: ipo it is τ of the IPO paper.
	Beta float64 `yaml:"beta"`
	// Loss is the loss of a pair before it is weighted, for ldalign, spin and dpo: sigmoid (DPO's), hinge, ipo (log-ratios
	// per token) or robust (unbiased if the share label_smoothing of the pairs has chosen and rejected swapped).
	Loss string `yaml:"loss" absent:"sigmoid"`
	// LabelSmoothing is the share of pairs assumed to have chosen and rejected swapped: at least 0, less than 0.5. With
	// loss: sigmoid it gives conservative DPO. Only with loss: sigmoid or robust.
	LabelSmoothing float64 `yaml:"label_smoothing"`
	// Distance is how far apart two latents are: l2, l2_squared or cosine. Or it is given: the distance is read from the
	// data (data.columns.distance) and the run needs no guide; given implies generation.from: data.
	Distance string `yaml:"distance"`
	// Normaliser is what a distance is divided by: per_iteration (S_t, the mean of the iteration: the mean weight stays
	// 1), fixed_first (S_0, the mean of the first iteration: weights shrink as the model improves) or running (the mean of
	// all pairs so far; the first training.batch pairs share their own mean).
	Normaliser string `yaml:"normaliser"`
	// Reference is the policy whose log-probs the objective compares with: previous (the policy that the iteration starts
	// from) or initial (the run's first policy, in every iteration; the generator then holds both in memory). Not for sft.
	Reference string `yaml:"reference" absent:"previous"`
	// Mix is which pairs an iteration trains on: current (its own) or previous (its own and those of the iteration before,
	// as SPIN does). With previous the trainer computes the earlier pairs' reference log-probs again and weights both sets
	// together. previous needs sampled responses y', so neither sft, dpo nor generation.from: data.
	Mix string `yaml:"mix" absent:"current"`
	// Weight is what scales a pair's loss: distance (the paper), one (all weights 1, which makes it SPIN) or shuffled (the
	// same weights dealt to random pairs, as a control experiment). Only with kind: ldalign.
	Weight string `yaml:"weight"`
	// WeightPower is the exponent p in w = s^p / mean(s^p). 1 is the paper's; a smaller p evens weights out, a larger one
	// sharpens them. Only with kind: ldalign.
	WeightPower float64 `yaml:"weight_power" absent:"1"`
	// WeightClip is the upper bound of w: at least 1, or 0 for none, as in the paper. The clipped weights are scaled back to
	// the mean they had, except with normaliser: running. Only with kind: ldalign.
	WeightClip float64 `yaml:"weight_clip"`
}

// GuideSpec is the guide, a small auto-encoder: encoder phi and decoder psi. Only objective.kind: ldalign uses it.
type GuideSpec struct {
	// From is empty to train the guide in this run, or run:NAME to use another run's guide.
	From string `yaml:"from" example:"run:demo"`
	// Encoder is a Hugging Face folder, policy (the run's initial policy), or scratch:N (the policy's family and width
	// with N fresh layers).
	Encoder string `yaml:"encoder"`
	// Decoder takes the same forms as encoder. A fresh decoder must learn to use the latent; one that starts as a good
	// language model tends to ignore it.
	Decoder string `yaml:"decoder"`
	// LatentDim is K, the size of the latent h. A smaller K makes a narrower bottleneck.
	LatentDim int `yaml:"latent_dim"`
	// Pooling is how the encoder makes one vector of the response's positions: mean, last (the last response token) or
	// attention (a learned weighted mean).
	Pooling string `yaml:"pooling"`
	// Injection is how the decoder receives h: prefix (soft positions in front of its input), memory (one more key and
	// value in every layer) or embedding (added to every token's embedding).
	Injection string `yaml:"injection" absent:"prefix"`
	// PrefixTokens is how many soft positions in front of the decoder's input carry h. Only injection: prefix uses it.
	PrefixTokens int `yaml:"prefix_tokens"`
	// WordDropout is the rate at which response tokens are hidden from the decoder, so that it has to use h.
	WordDropout float64 `yaml:"word_dropout"`
	// Reduction is how the reconstruction loss of a sequence is computed: mean (per token) or sum (equation 2).
	Reduction string `yaml:"reduction"`
	// Epochs is the number of passes over the chosen and sampled responses of iteration 0.
	Epochs int `yaml:"epochs"`
	// Batch is the number of sequences per optimizer step.
	Batch int `yaml:"batch"`
	// Optimizer is the guide's optimizer. The default learning rate suits pre-trained parts; small fresh parts learn faster
	// with about 2e-3.
	Optimizer OptimizerSpec `yaml:"optimizer"`
}

// GenerationSpec is where the rejected response y' comes from and how it is sampled.
type GenerationSpec struct {
	// From is empty to sample y' from the policy, or data to use the rejected responses of data.train; the generator then
	// computes their log-probs only. With objective.kind: dpo they always come from the data. `ldalign train` sets data.
	From string `yaml:"from" example:"data"`
	// Temperature divides the logits; 0 decodes greedily.
	Temperature float64 `yaml:"temperature"`
	// TopP limits sampling to the smallest set of tokens whose probabilities add up to this value; 1 allows all tokens.
	TopP float64 `yaml:"top_p"`
	// MaxNewTokens is the most tokens that a sample may have. 0 means data.max_response_tokens.
	MaxNewTokens int `yaml:"max_new_tokens"`
	// SamplesPerPrompt is the number of pairs per prompt and iteration. More pairs lower the variance of the weighted
	// gradient.
	SamplesPerPrompt int `yaml:"samples_per_prompt"`
	// Slots is the fixed number of rows that are decoded together. It is part of the digest because the shape of a matrix
	// product can change the last bit of a result.
	Slots int `yaml:"slots"`
}

// OptimizerSpec is one optimizer with its learning-rate schedule.
type OptimizerSpec struct {
	// Kind is the algorithm: rmsprop or adamw.
	Kind string `yaml:"kind"`
	// LR is the peak learning rate.
	LR float64 `yaml:"lr"`
	// LRDecay multiplies lr once per iteration: lr × lr_decay^t.
	LRDecay float64 `yaml:"lr_decay"`
	// Schedule is how the learning rate develops within an iteration after the warmup: linear or cosine (both fall to 0),
	// or constant.
	Schedule string `yaml:"schedule"`
	// Warmup is the share of an iteration's steps in which the learning rate rises.
	Warmup float64 `yaml:"warmup"`
	// WarmupStart is the learning rate of the first of w warmup steps: step (1/(w+1) of the peak, so that its batch has an
	// effect) or zero (0, as in transformers' get_scheduler).
	WarmupStart string `yaml:"warmup_start" absent:"step"`
	// Clip is the upper bound of the global gradient norm; 0 for none.
	Clip float64 `yaml:"clip"`
	// Alpha is the decay rate of rmsprop's mean squared gradient.
	Alpha float64 `yaml:"alpha"`
	// Beta1 is the decay rate of adamw's mean gradient.
	Beta1 float64 `yaml:"beta1"`
	// Beta2 is the decay rate of adamw's mean squared gradient.
	Beta2 float64 `yaml:"beta2"`
	// Eps is the constant added to the root of the mean squared gradient.
	Eps float64 `yaml:"eps"`
	// WeightDecay is the decoupled weight decay of adamw.
	WeightDecay float64 `yaml:"weight_decay"`
}

// TrainingSpec is how the trainer turns pairs into optimizer steps.
type TrainingSpec struct {
	// Schedule is when the trainer takes the pairs of an iteration: exact (it waits until the iteration is complete, then
	// trains epochs over a seeded shuffle) or streaming (it trains while the pairs arrive, in the order of the log; later
	// epochs are shuffled). With kind: ldalign, streaming needs normaliser: running. With streaming, training again on the
	// same log gives the same bits; a new run whose pairs arrive in another order gives others.
	Schedule string `yaml:"schedule"`
	// Epochs is the number of passes over the pairs of an iteration.
	Epochs int `yaml:"epochs"`
	// Batch is the number of pairs per optimizer step.
	Batch int `yaml:"batch"`
	// MicroBatch is the most pairs that go through the model at once. 0 means 8, or batch if that is less.
	MicroBatch int `yaml:"micro_batch"`
	// MicroTokens is the most tokens that go through the model at once, which bounds the memory. The trainer cuts a batch, in
	// its order, into micro-batches within this bound and micro_batch; a pair that is longer goes alone. The prompt of a pair
	// counts once. Small models train faster with larger values of both keys.
	MicroTokens int `yaml:"micro_tokens" absent:"512"`
	// GradientCheckpointing keeps only the input of each layer and computes the layer again in the backward pass. It saves
	// memory and takes about a third more time. The results are the same to the last bit. Left out of the digest.
	GradientCheckpointing bool `yaml:"gradient_checkpointing" digest:"-"`
	// Precision is the number format of the policy's forward and backward pass: float32 or bfloat16. Weights, gradients and
	// the optimizer's state are always float32, because bfloat16 would round an update of 5e-7 away. With bfloat16 the margins
	// at the first step are not zero, because the reference log-probs are computed in float32.
	Precision string `yaml:"precision" absent:"float32"`
	// CheckpointEvery is the number of steps between state checkpoints, from which a killed run resumes; 0 for none.
	// Left out of the digest.
	CheckpointEvery int `yaml:"checkpoint_every" digest:"-"`
	// KeepStates is how many of an iteration's newest state checkpoints are kept. If one is damaged, the run resumes from
	// the one before it. Left out of the digest.
	KeepStates int       `yaml:"keep_states" digest:"-"`
	LoRA       *LoRASpec `yaml:"lora,omitempty"`
}

// LoRASpec is the low-rank adapter that each iteration trains afresh instead of all weights. The trainer merges the adapter
// into the next policy and also stores it beside the policy's weights in PEFT's format. Gradients and the optimizer's state then
// need memory for the adapter only. An adapter needs an optimizer.lr 10 to 100 times as high as all weights do. An empty
// section (`lora: {}`) takes the defaults; without the section all weights are trained.
type LoRASpec struct {
	// Rank is the rank of an update B·A.
	Rank int `yaml:"rank"`
	// Alpha scales the updates; see scaling.
	Alpha float64 `yaml:"alpha"`
	// Targets are the linear layers that get an adapter: all-linear (all but the output head), names separated by commas
	// such as q_proj,v_proj, or a regular expression that matches whole names such as model.layers.0.self_attn.q_proj.
	Targets string `yaml:"targets"`
	// Scaling is the factor of an update: lora (alpha/rank) or rslora (alpha/√rank).
	Scaling string `yaml:"scaling"`
}

// EvaluationSpec is how policies are evaluated on the held-out data (data.eval).
type EvaluationSpec struct {
	// Scorer is how an answer is scored: exact (equal to the human response), graded (half for the record's required
	// phrases, half for the token similarity to the human response) or none.
	Scorer string `yaml:"scorer"`
	// Samples is the number of samples per prompt at temperature 1. The two-sample agreement test needs two.
	Samples int `yaml:"samples"`
	// Limit is how many held-out records to use, from the first on; 0 uses all.
	Limit int `yaml:"limit"`
	// First is the number of the first policy that is evaluated. 0 includes the policy that the run starts from.
	First int `yaml:"first"`
	// Guide is the run, as run:NAME, whose guide measures the mean distance if this run has no guide; empty for none.
	Guide string `yaml:"guide" example:"run:demo"`
}

// ComputeSpec is what the run uses of the machine.
type ComputeSpec struct {
	// Threads is the number of threads of the tensor library, at most the number of free cores. 0 means 2, or the number of
	// cores if that is less. The number can change the last bit of a result, as another machine can. It is left out of the
	// digest, so that a run can resume elsewhere, with a warning.
	Threads int `yaml:"threads" digest:"-"`
	// Device is the device for tensors: cpu or cuda:N (the project has not run it on a GPU).
	Device string `yaml:"device"`
	// Weights is the number format in which the generator and the evaluator hold a policy: float32, or bfloat16, which takes half
	// the memory. Texts and reference log-probs are then those of the rounded weights, so the margins at the
	// first step are not zero. The trainer's weights, policies in the store and guides are always float32.
	Weights string `yaml:"weights" absent:"float32"`
}

// SourceSpec is the other run from whose work this run begins: a replay reads the other run's log, and a fork starts from one
// of its policies. `ldalign replay` and `ldalign fork` write this section. A run without it makes everything itself.
type SourceSpec struct {
	// Run is the run that is replayed or forked, in the same streams and store. Required.
	Run string `yaml:"run" json:"run" example:"demo"`
	// From is the source's log that this run reads instead of its own: prompts, pairs, encoded or scored. The stages in
	// front of that log do not run. policy reads no log: the run only starts from the source's policy.
	From string `yaml:"from" json:"from"`
	// Iteration is the first iteration that is replayed. Iterations keep their numbers, so the run makes the policies
	// iteration + 1 to iterations. With from: policy it is the number of the source's policy that becomes policy 0 here.
	Iteration int `yaml:"iteration" json:"iteration"`
	// OffPolicy is what happens if the pairs of an iteration were sampled by other weights than those that the iteration
	// starts from: refuse (the run stops with an error) or accept (it trains on them, with the source's reference log-probs).
	OffPolicy string `yaml:"off_policy" json:"off_policy"`
	// Policy is the digest of the source's policy that the run starts from; empty to start from model.from.
	Policy string `yaml:"policy" json:"policy,omitempty"`
	// Spec is the digest of the source's spec.
	Spec string `yaml:"spec" json:"spec"`
	// First is the sequence of the first replayed message in the source's stream.
	First uint64 `yaml:"first" json:"first,omitempty"`
	// Last is the sequence of the last replayed message. Messages stored later are not read.
	Last uint64 `yaml:"last" json:"last,omitempty"`
}

// RetentionSpec is what the run keeps of its past iterations. The trainer removes the rest after each iteration, except what
// is still needed by a stage or an evaluation of this run, or by a run that replays it or was forked from it. Removed
// messages and weights can no longer be replayed, forked or exported. None of these keys changes a result.
// docs/operations.md says more; `ldalign runs prune` removes the same by hand.
type RetentionSpec struct {
	// Messages is how many of the newest finished iterations keep their prompts, pairs, latents and distances on the logs. 0
	// keeps all. Control messages, checkpoints, results and dead letters always stay.
	Messages int `yaml:"messages"`
	// Policies is how many of the newest policies keep their weights in the store. 0 keeps all. The manifests,
	// configurations, tokenizers, records and batches of the other policies stay.
	Policies int `yaml:"policies"`
}

// StreamsSpec is the limits of the logs and of the work in flight. None of these keys changes a result.
type StreamsSpec struct {
	// MaxAge is how long a message stays on its log.
	MaxAge string `yaml:"max_age"`
	// MaxBytes is the size limit of each of the run's six logs; a full log refuses further messages. A whole number with B,
	// KB, MB, GB, KiB, MiB or GiB.
	MaxBytes string `yaml:"max_bytes"`
	// AckWait is how long the server waits for a sign of life from the worker that holds a message before it gives the
	// message to another.
	AckWait string `yaml:"ack_wait"`
	// MaxDeliver is how often a message is tried before it becomes a dead letter.
	MaxDeliver int `yaml:"max_deliver"`
	// Replicas is the number of servers that keep each log: 1, 3 or 5. More than 1 needs a cluster (servers.nats or --nats). The
	// next start with a higher number raises it.
	Replicas int `yaml:"replicas"`
	// Sync is when the embedded server writes messages through to the disk: always (fsync after every message) or the
	// interval between two fsyncs. Other servers ignore it.
	Sync string `yaml:"sync"`
	// StallAfter is how long a run may make no progress before it fails and says what it was waiting for. 0 lets it wait
	// forever.
	StallAfter string `yaml:"stall_after"`
	// StuckAfter is how long a worker may make no progress on the messages that it holds before the server gives them to
	// another worker. It must be longer than the longest single step of a stage.
	StuckAfter string `yaml:"stuck_after"`
	// MaxInFlight is how many prompts of an iteration the prompter may publish ahead of the trainer, with
	// training.schedule: streaming; 0 for no bound. Values below 2 × training.batch act as 2 × training.batch. There is no
	// bound where the trainer needs the whole iteration first: with schedule: exact, and in iteration 0 of a run that trains
	// its own guide.
	MaxInFlight int `yaml:"max_in_flight"`
}

// ServersSpec is the NATS server and the checkpoint store to use. With all keys empty the run uses the embedded NATS server
// and a folder as its store. Credentials come from the environment, files and roles only, as docs/operations.md says.
type ServersSpec struct {
	// NATS is the server's URL (nats://, tls://, ws:// or wss://), or several separated by commas. Empty runs the embedded
	// server.
	NATS string `yaml:"nats" example:"nats://127.0.0.1:4222"`
	// S3 is the URL of the checkpoint store, http(s)://host:port. Empty keeps checkpoints in a folder.
	S3 string `yaml:"s3" example:"http://127.0.0.1:9000"`
	// Bucket is the bucket of the checkpoint store. Required with s3, and only allowed there.
	Bucket string `yaml:"bucket" example:"ldalign"`
	// Region is the bucket's region; most stores need none.
	Region string `yaml:"region" example:"eu-central-1"`
}
