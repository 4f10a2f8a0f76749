package plan

import (
	"cmp"
	"slices"

	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/schemas"
)

// Memory is the estimate of the peak memory of a run's roles.
type Memory struct {
	Roles []Role `json:"roles"`
	// Need is the peak memory of Of. That is all roles in one process or, with servers, the largest role, which may have a machine
	// of its own.
	Need int64  `json:"need_bytes"`
	Of   string `json:"of"`
	// Machine is the machine's memory; 0 if it is unknown.
	Machine int64 `json:"machine_bytes"`
	// Device is the memory of the device that the tensors are on; nil if that is the CPU.
	Device *DeviceMemory `json:"device,omitempty"`
}

// DeviceMemory is the estimate of the peak memory on a device.
type DeviceMemory struct {
	Name string `json:"device"`
	// Need is the peak memory of Memory.Of, or of the role that needs most of the device.
	Need int64  `json:"need_bytes"`
	Of   string `json:"of"`
	// Free is the memory that is free now; 0 if it is unknown, as on a machine without the device.
	Free int64 `json:"free_bytes"`
	// short says that Free is less than Need, and what to change.
	short string
}

// Role is the peak memory of one role.
type Role struct {
	Name string `json:"role"`
	// Bytes are in the machine's memory, Device on the device.
	Bytes  int64  `json:"bytes"`
	Device int64  `json:"device_bytes,omitempty"`
	Parts  []Part `json:"parts"`
}

// Part is a named part of a role's peak memory.
type Part struct {
	Name  string `json:"part"`
	Bytes int64  `json:"bytes"`
	// Device says that the part is on the device.
	Device bool `json:"on_device,omitempty"`
}

func (r Role) host() int64   { return r.Bytes }
func (r Role) device() int64 { return r.Device }

// The memory of a process with libtorch and no model, and of the embedded server with its cached logs.
const (
	program = 200_000_000
	server  = 100_000_000
)

// onDevice is what a process takes of a GPU besides tensors: the driver's context, kernels and workspaces. It is assumed, not
// measured.
const onDevice = 600_000_000

// headRows is about the number of positions that go through the output head at one time.
const headRows = 64

func (r *Role) add(name string, bytes int64) {
	if bytes > 0 {
		r.Parts, r.Bytes = append(r.Parts, Part{Name: name, Bytes: bytes}), r.Bytes+bytes
	}
}

// place moves the parts that are tensors to the device.
func (r *Role) place() {
	for i, p := range r.Parts {
		switch p.Name {
		case partWeights, partGradients, partOptimizer, partActivations, partCache, partLogits, partGuide, partReference, partDevice:
			r.Parts[i].Device = true
			r.Bytes, r.Device = r.Bytes-p.Bytes, r.Device+p.Bytes
		}
	}
}

// part returns the bytes of a named part.
func (r *Role) part(name string) int64 {
	for _, p := range r.Parts {
		if p.Name == name {
			return p.Bytes
		}
	}
	return 0
}

// The names of parts.
const (
	partWeights     = "weights"
	partGradients   = "gradients"
	partOptimizer   = "optimizer"
	partState       = "state being written"
	partActivations = "activations"
	partPairs       = "pairs"
	partCache       = "keys and values"
	partLogits      = "logits"
	partGuide       = "guide"
	partLatents     = "latents"
	partReference   = "reference"
	partTexts       = "texts"
	partProgram     = "program and libtorch"
	partServer      = "embedded server"
	partDevice      = "driver and kernels"
)

// memory estimates the memory of all roles of the run.
func (in Input) memory(r Run, machine Machine) Memory {
	m := Memory{Machine: machine.Memory, Roles: []Role{in.trainer(r)}}
	device := in.Spec.Compute.Device
	prompter := Role{Name: "prompter"}
	prompter.add(partTexts, in.Train.Bytes)
	m.Roles = append(m.Roles, prompter)
	if in.reads() != schemas.Prompts {
		m.Roles = append(m.Roles, in.generator(r))
	}
	if in.Spec.NeedsGuide() {
		encoder := Role{Name: "encoder"}
		encoder.add(partGuide, 4*in.Guide.encodes())
		encoder.add(partLatents, 4*int64(in.Spec.Guide.LatentDim)*int64(in.Train.Records))
		m.Roles = append(m.Roles, encoder)
	}
	if in.Spec.Data.Eval != "" {
		evaluator := Role{Name: "evaluator"}
		in.decoding(&evaluator)
		evaluator.add(partGuide, 4*in.Guide.encodes())
		evaluator.add(partTexts, in.Held.Bytes)
		m.Roles = append(m.Roles, evaluator)
	}
	process := Role{Name: "process"}
	process.add(partProgram, program)
	if in.Spec.Servers.NATS == "" {
		process.add(partServer, server)
	}
	if device != "cpu" {
		process.add(partDevice, onDevice)
		process.place()
		for i := range m.Roles {
			m.Roles[i].place()
		}
	}
	apart := in.Spec.Servers.NATS != "" && in.Spec.Servers.S3 != ""
	need := func(bytes func(Role) int64) (sum int64, of string) {
		if apart {
			r := greatest(m.Roles, bytes)
			return bytes(r) + bytes(process), "the " + r.Name + " alone"
		}
		for _, r := range m.Roles {
			sum += bytes(r)
		}
		return sum + bytes(process), "all roles in one process"
	}
	m.Need, m.Of = need(Role.host)
	if device != "cpu" {
		m.Device = &DeviceMemory{Name: device, Free: machine.Devices[device]}
		m.Device.Need, m.Device.Of = need(Role.device)
	}
	m.Roles = append(m.Roles, process)
	return m
}

// greatest returns the role that takes the most bytes.
func greatest(roles []Role, bytes func(Role) int64) Role {
	return slices.MaxFunc(roles, func(a, b Role) int { return cmp.Compare(bytes(a), bytes(b)) })
}

// held returns the bytes of a policy's weights in the generator and the evaluator.
func (in Input) held() int64 {
	if in.Spec.Compute.Weights == "bfloat16" {
		return 2 * in.Policy.Parameters()
	}
	return 4 * in.Policy.Parameters()
}

// decoding returns the parts of memory for a model that answers prompts.
func (in Input) decoding(r *Role) {
	r.add(partWeights, in.held())
	r.add(partCache, in.Policy.Cache)
	r.add(partLogits, 4*int64(in.Policy.Vocab)*max(int64(in.Spec.Generation.Slots), headRows))
}

func (in Input) generator(run Run) Role {
	r := Role{Name: "generator"}
	if in.Spec.Samples() {
		in.decoding(&r)
	} else {
		r.add(partWeights, in.held())
		r.add(partLogits, 4*int64(in.Policy.Vocab)*headRows)
	}
	if in.Spec.Objective.Reference == "initial" && run.Iterations > 1 {
		r.add(partReference, in.held())
	}
	return r
}

// trainer returns the memory of the larger of the trainer's two phases, policy and guide. Weights, gradients and optimizer state
// are float32 at any precision.
func (in Input) trainer(run Run) Role {
	policy := Role{Name: "trainer"}
	t, n := in.Spec.Training, in.trained()
	weights := 4 * in.Policy.Parameters()
	if t.LoRA != nil {
		weights += 4 * n
	}
	state, guideState := in.stateBytes()
	prompt, chosen, rejected := in.tokens()
	// the messages with their texts, and the rows made from their ids: eight bytes per token in both
	pairs := int64(run.Pairs) * int64(8*(3*prompt+2*chosen+2*rejected)+in.Train.PromptBytes+2*in.Train.ChosenBytes+1000)
	if run.LaterSteps > run.Steps {
		pairs *= 2
	}
	policy.add(partWeights, weights)
	policy.add(partGradients, 4*n)
	policy.add(partOptimizer, optimizerBytes(in.Spec.Optimizer.Kind, n))
	policy.add(partState, state)
	policy.add(partActivations, in.activations(in.longest(), in.Policy.Config))
	policy.add(partPairs, pairs)
	if !in.Spec.TrainsGuide() {
		return policy
	}
	guide, g := Role{Name: "trainer"}, in.Guide.Parameters
	guide.add(partWeights, weights+4*g)
	guide.add(partGradients, 4*g)
	guide.add(partOptimizer, optimizerBytes(in.Spec.Guide.Optimizer.Kind, g))
	guide.add(partState, guideState)
	longest := 2 * (in.Spec.Data.MaxPromptTokens + max(in.Spec.Data.MaxResponseTokens, in.Spec.Generation.MaxNewTokens))
	guide.add(partActivations, in.activations(longest, in.Guide.Trained.Encoder, in.Guide.Trained.Decoder))
	guide.add(partPairs, pairs)
	if guide.Bytes > policy.Bytes {
		return guide
	}
	return policy
}

// longest returns the number of tokens of the longest pair, whose prompt counts once.
func (in Input) longest() int {
	d, tokens := in.Spec.Data, in.Spec.Data.MaxPromptTokens+in.Spec.Data.MaxResponseTokens
	switch {
	case in.Spec.Samples():
		tokens += max(in.Spec.Generation.MaxNewTokens, 0)
	case in.Spec.GivenPairs():
		tokens += d.MaxResponseTokens
	}
	return tokens
}

// activations returns the bytes that the forward pass keeps for the backward pass, for the tokens of one micro-batch. They are,
// for each layer: its input, two norms, query, keys and values, the result and output of attention, and four times the inner
// width of the feed-forward layer. The attention kernels keep no [T, T]. The output head processes headRows positions at a time,
// and keeps three values for each: logits, log-probs and their gradient.
func (in Input) activations(longest int, models ...architecture.Config) int64 {
	t := in.Spec.Training
	tokens := int64(min(max(t.MicroTokens, longest), max(t.MicroBatch, 1)*longest))
	var sum int64
	for _, m := range models {
		layer := int64(6*m.Hidden + 2*m.Heads*m.HeadDim + 2*m.KVHeads*m.HeadDim + 4*m.Intermediate)
		bytes := 4 * tokens * layer * int64(m.Layers)
		if t.GradientCheckpointing {
			bytes = 4 * tokens * (int64(m.Hidden*m.Layers) + layer)
		}
		if t.Precision == "bfloat16" {
			bytes /= 2
		}
		sum += bytes + 3*4*headRows*int64(m.Vocab)
	}
	return sum
}

// smallerMemory returns the key whose change saves the most of the machine's or the device's memory, and what to do with it.
func (in Input) smallerMemory(m Memory, bytes func(Role) int64) (key, why string) {
	greatest := greatest(m.Roles[:len(m.Roles)-1], bytes) // without the process
	weights := greatest.part(partWeights)
	moved := greatest.part(partGradients) + greatest.part(partOptimizer) + greatest.part(partState)
	switch {
	case greatest.Name == "encoder":
		return "guide.encoder", "take a smaller guide (guide.encoder and guide.decoder)"
	case greatest.part(partCache) > weights:
		return "generation.slots", "lower generation.slots"
	case greatest.Device == 0 && greatest.part(partTexts)+greatest.part(partPairs) > weights+moved:
		return "data.limit", "take fewer records at a time (data.limit or data.subset)"
	case greatest.Name != "trainer" && in.Spec.Compute.Weights == "float32":
		return "compute.weights", "hold the policy in bfloat16 (compute.weights), or take a smaller model (model.from)"
	case greatest.Name != "trainer":
		return "model.from", "take a smaller model (model.from)"
	case greatest.part(partActivations) > weights+moved && !in.Spec.Training.GradientCheckpointing:
		return "training.micro_tokens", "lower training.micro_tokens, or set training.gradient_checkpointing"
	case in.Spec.Training.LoRA == nil:
		return "training.lora", "train an adapter (training.lora: {}), or take a smaller model (model.from)"
	}
	return "model.from", "take a smaller model (model.from)"
}
