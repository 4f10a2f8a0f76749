package schemas

import "reflect"

// Default returns the spec of an empty file. A default applies only if its key is absent: an explicit 0 stays 0.
func Default() Spec {
	return Spec{
		Seed:       1,
		Iterations: 3,
		Model:      ModelSpec{Template: "auto"},
		Data:       DataSpec{MaxPromptTokens: 512, MaxResponseTokens: 256, Overlong: "truncate"},
		Objective: ObjectiveSpec{
			Kind: "ldalign", Beta: 0.1, Loss: "sigmoid", Distance: "l2", Normaliser: "per_iteration", Weight: "distance",
			Reference: "previous", Mix: "current", WeightPower: 1,
		},
		Guide: GuideSpec{
			Encoder: "policy", Decoder: "scratch:2", LatentDim: 32, Pooling: "mean", Injection: "prefix", PrefixTokens: 2,
			WordDropout: 0.5, Reduction: "mean", Epochs: 2, Batch: 64,
			Optimizer: defaultOptimizer("adamw", 5e-5),
		},
		Generation: GenerationSpec{Temperature: 1, TopP: 1, SamplesPerPrompt: 1, Slots: 32},
		Optimizer:  defaultOptimizer("rmsprop", 5e-7),
		Training: TrainingSpec{
			Schedule: "exact", Epochs: 1, Batch: 64, MicroTokens: 512, Precision: "float32", CheckpointEvery: 50, KeepStates: 2,
		},
		Evaluation: EvaluationSpec{Scorer: "graded", Samples: 2},
		Compute:    ComputeSpec{Device: "cpu", Weights: "float32"},
		Streams: StreamsSpec{
			MaxAge: "720h", MaxBytes: "2GB", AckWait: "10s", MaxDeliver: 5, Replicas: 1, Sync: "always",
			StallAfter: "30m", StuckAfter: "15m", MaxInFlight: 4096,
		},
	}
}

// defaultOptimizer has the usual constants of both kinds, so that a change of kind needs no other change.
func defaultOptimizer(kind string, lr float64) OptimizerSpec {
	return OptimizerSpec{
		Kind: kind, LR: lr, LRDecay: 1, Schedule: "linear", Warmup: 0.1, WarmupStart: "step", Clip: 1,
		Alpha: 0.99, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8,
	}
}

// defaultScratch has the defaults of a model.scratch section.
func defaultScratch() *ScratchSpec {
	return &ScratchSpec{Family: "llama", Hidden: 128, Layers: 4, Heads: 4, MaxPositions: 1024}
}

// defaultLoRA has the defaults of a training.lora section.
func defaultLoRA() *LoRASpec {
	return &LoRASpec{Rank: 16, Alpha: 32, Targets: AllLinear, Scaling: "lora"}
}

// defaultSource has the defaults of a source section.
func defaultSource() *SourceSpec {
	return &SourceSpec{From: string(Scored), OffPolicy: RefuseOffPolicy}
}

// defaultSection has the defaults of an optional section, given the type of its pointer.
func defaultSection(section reflect.Type) reflect.Value {
	switch section {
	case reflect.TypeFor[*LoRASpec]():
		return reflect.ValueOf(defaultLoRA())
	case reflect.TypeFor[*SourceSpec]():
		return reflect.ValueOf(defaultSource())
	}
	return reflect.ValueOf(defaultScratch())
}
