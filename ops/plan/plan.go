// Package plan estimates what runs will need before they begin: messages, checkpoints, memory, steps. It computes the estimate
// from the spec, the sizes of the models and the counts of the data, which a Planner reads. No weights are loaded, and no server
// is started. For values that are unknown beforehand, such as the length of y', it assumes the greatest possible.
package plan

import (
	"fmt"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/fit"
	"github.com/ldalign/ldalign/trainer/schedule"
)

// Run is the estimate of one run. All sizes are bytes.
type Run struct {
	Run string `json:"run"`
	// Data says what was read and dropped.
	Data       string `json:"data"`
	Records    int    `json:"records"`
	Iterations int    `json:"iterations"`
	// Pairs is the number of pairs of an iteration, AllPairs that of all iterations.
	Pairs    int `json:"pairs_per_iteration"`
	AllPairs int `json:"pairs"`
	// Steps is the number of optimizer steps in the first iteration, LaterSteps that in each later one. LaterSteps is greater if the
	// objective mixes in pairs of the previous iteration.
	Steps       int         `json:"steps_first_iteration"`
	LaterSteps  int         `json:"steps_later_iterations"`
	GuideSteps  int         `json:"guide_steps"`
	Logs        []Log       `json:"logs"`
	Checkpoints Checkpoints `json:"checkpoints"`
	Disk        Disk        `json:"disk"`
	Memory      Memory      `json:"memory"`
	Time        Time        `json:"time"`
	// Problems are requirements that are not met. Warnings are less severe: the run can begin.
	Warnings []string  `json:"warnings"`
	Problems []Problem `json:"problems"`
}

// Log is the estimate of a run's messages of one kind.
type Log struct {
	Kind     schemas.Kind `json:"kind"`
	Messages int          `json:"messages"`
	Bytes    int64        `json:"bytes"`
	// Filled is Bytes plus those of the run's other kinds in the same log. Limit is the limit of that log.
	Filled int64 `json:"filled_bytes"`
	Limit  int64 `json:"limit_bytes"`
}

// Checkpoints is the size of a run's checkpoints in the store. Of its states, the greatest number that exist at one time counts.
type Checkpoints struct {
	Policies   int64 `json:"policies_bytes"`
	NPolicies  int   `json:"policies"`
	Adapters   int64 `json:"adapters_bytes"`
	Guide      int64 `json:"guide_bytes"`
	States     int64 `json:"states_bytes"`
	NStates    int   `json:"states"`
	TotalBytes int64 `json:"bytes"`
}

// Disk is the space needed in the data folder, including that of the plan's earlier runs.
type Disk struct {
	Folder      string `json:"folder"`
	Logs        int64  `json:"logs_bytes"`
	Checkpoints int64  `json:"checkpoints_bytes"`
	Need        int64  `json:"need_bytes"`
	Free        int64  `json:"free_bytes"`
}

// Time is the estimate of the run's duration.
type Time struct {
	// TrainSeconds is the time of an iteration's optimizer steps at the speed of the run From; nil if no run can be compared.
	TrainSeconds *float64 `json:"train_seconds_per_iteration"`
	From         string   `json:"from,omitempty"`
}

// Problem is a requirement that is not met, with the key to change.
type Problem struct {
	Key  string `json:"key"`
	Text string `json:"text"`
}

// nearlyFull is the share of a limit from which the plan warns.
const nearlyFull = 0.8

// farOver is how many times the free memory of a device a run may need by the estimate, which is for the greatest lengths, before
// it is refused.
const farOver = 1.5

// Refuse returns an error if the device that a run computes on has far too little free memory.
func (r Run) Refuse() error {
	d := r.Memory.Device
	if d == nil || d.Free == 0 || float64(d.Need) <= farOver*float64(d.Free) {
		return nil
	}
	return fmt.Errorf("run %s: %s (ldalign plan shows the parts)", r.Run, d.short)
}

// Estimate estimates runs that are made one after the other in one folder.
func Estimate(runs []Input, m Machine) []Run {
	out := make([]Run, 0, len(runs))
	var logs int64 // bytes of the logs of this run and earlier ones
	var kept int64 // bytes of earlier runs' checkpoints, without states, which are removed at the end of a run
	for _, in := range runs {
		r := in.work()
		r.Logs = in.logs(r)
		filled := map[schemas.Kind]int64{}
		for _, l := range r.Logs {
			filled[streams.LogOf(l.Kind)] += l.Bytes
			logs += l.Bytes
		}
		for i := range r.Logs {
			r.Logs[i].Filled = filled[streams.LogOf(r.Logs[i].Kind)]
		}
		r.Checkpoints = in.checkpoints(r)
		r.Disk = in.disk(logs, kept+r.Checkpoints.TotalBytes, m)
		kept += r.Checkpoints.TotalBytes - r.Checkpoints.States
		r.Memory = in.memory(r, m)
		r.Time = in.time(r)
		r.judge(in)
		out = append(out, r)
	}
	return out
}

// work fills in the numbers of pairs and steps.
func (in Input) work() Run {
	samples := 1
	if in.Spec.Samples() {
		samples = in.Spec.Generation.SamplesPerPrompt
	}
	iterations := in.Spec.Iterations - in.Spec.FirstIteration()
	r := Run{
		Run: in.Spec.Run, Data: in.Train.Report, Records: in.Train.Records, Iterations: iterations,
		Pairs: samples * in.Train.Records, Warnings: []string{}, Problems: []Problem{},
	}
	t := in.Spec.Training
	r.AllPairs = r.Pairs * iterations
	r.Steps = schedule.Steps(r.Pairs, t.Batch, t.Epochs)
	r.LaterSteps = r.Steps
	if in.Spec.Objective.Mix == "previous" && in.Spec.Samples() {
		r.LaterSteps = schedule.Steps(2*r.Pairs, t.Batch, t.Epochs)
	}
	if in.Spec.TrainsGuide() {
		r.GuideSteps = schedule.Steps(r.Pairs, in.Spec.Guide.Batch, in.Spec.Guide.Epochs)
	}
	return r
}

// trained returns the number of parameters that the policy's optimizer trains.
func (in Input) trained() int64 {
	if in.Spec.Training.LoRA != nil {
		return in.Policy.Adapter
	}
	return in.Policy.Parameters()
}

// optimizerBytes returns the size of an optimizer's state: adamw keeps two float32 numbers per parameter, rmsprop one.
func optimizerBytes(kind string, parameters int64) int64 {
	if kind == "adamw" {
		return 8 * parameters
	}
	return 4 * parameters
}

// stateBytes returns the sizes of a state checkpoint of the policy, and of one of the guide.
func (in Input) stateBytes() (policy, guide int64) {
	n := in.trained()
	policy = 4*n + optimizerBytes(in.Spec.Optimizer.Kind, n)
	if in.Spec.TrainsGuide() {
		n = in.Guide.Parameters
		guide = 4*n + optimizerBytes(in.Spec.Guide.Optimizer.Kind, n)
	}
	return policy, guide
}

// checkpoints estimates the checkpoints, whose weights are float32. Old states are removed only after a new one is complete.
func (in Input) checkpoints(r Run) Checkpoints {
	t := in.Spec.Training
	keep := in.Spec.Retention.Policies
	c := Checkpoints{NPolicies: kept(r.Iterations+1, keep)}
	if keep > 0 && in.Spec.Objective.Reference == "initial" {
		c.NPolicies = min(c.NPolicies+1, r.Iterations+1) // the first stays
	}
	c.Policies = int64(c.NPolicies) * 4 * in.Policy.Parameters()
	if t.LoRA != nil {
		c.Adapters = int64(min(c.NPolicies, r.Iterations)) * 4 * in.Policy.Adapter
	}
	if in.Spec.TrainsGuide() {
		c.Guide = 4 * in.Guide.Parameters
	}
	c.NStates = 1 // a run that is interrupted saves one
	if t.CheckpointEvery > 0 {
		most := max(r.Steps, r.LaterSteps, r.GuideSteps) / t.CheckpointEvery
		c.NStates = max(1, min(most, max(t.KeepStates, 1)+1))
	}
	policy, guide := in.stateBytes()
	c.States = int64(c.NStates) * max(policy, guide)
	c.TotalBytes = c.Policies + c.Adapters + c.Guide + c.States
	return c
}

// disk returns the space needed in the data folder. Data on servers is not in it, except for the cache of downloaded checkpoints.
func (in Input) disk(logs, checkpoints int64, m Machine) Disk {
	d := Disk{Folder: m.Folder, Free: m.Free, Logs: logs, Checkpoints: checkpoints}
	if in.Spec.Servers.NATS != "" {
		d.Logs = 0
	}
	if in.Spec.Servers.S3 != "" {
		d.Checkpoints = min(checkpoints, m.Cache)
	}
	d.Need = d.Logs + d.Checkpoints
	return d
}

// time estimates the time of an iteration's steps from the speed of an earlier run, if there is one.
func (in Input) time(r Run) Time {
	if in.Earlier == nil || in.Earlier.TokensPerSecond <= 0 {
		return Time{}
	}
	prompt, chosen, rejected := in.tokens()
	seconds := float64(r.Pairs) * float64(in.Spec.Training.Epochs) * (prompt + chosen + rejected) / in.Earlier.TokensPerSecond
	return Time{&seconds, in.Earlier.Run}
}

// tokens returns the number of tokens of a mean pair: prompt, y and y'. A sampled y' counts with the greatest possible length.
func (in Input) tokens() (prompt, chosen, rejected float64) {
	d := in.Train
	switch {
	case in.Spec.Samples():
		return d.PromptTokens, d.ChosenTokens, float64(in.Spec.Generation.MaxNewTokens)
	case in.Spec.GivenPairs():
		return d.PromptTokens, d.ChosenTokens, d.RejectedTokens
	}
	return d.PromptTokens, d.ChosenTokens, 0
}

// judge fills in Problems for requirements that are not met, and Warnings for those that are barely met.
func (r *Run) judge(in Input) {
	for _, l := range r.Logs {
		switch use := float64(l.Filled) / float64(l.Limit); {
		case use > 1:
			r.problem("streams.max_bytes", "the log %s would take about %s, and its limit is %s: set streams.max_bytes to %s or more",
				l.Kind, Size(l.Filled), Size(l.Limit), roundUp(l.Filled+l.Filled/4))
		case use >= nearlyFull:
			r.warn("the log %s would be %.0f %% full (streams.max_bytes)", l.Kind, 100*use)
		}
	}
	if d := r.Disk; d.Free > 0 {
		switch use := float64(d.Need) / float64(d.Free); {
		case use > 1:
			key, why := r.smallerDisk(in)
			r.problem(key, "the disk of %s has %s free, and the run would take about %s: %s", d.Folder, Size(d.Free), Size(d.Need), why)
		case use >= nearlyFull:
			r.warn("%.0f %% of what the disk has free would be used", 100*use)
		}
	}
	if m := r.Memory; m.Machine > 0 {
		switch use := float64(m.Need) / float64(m.Machine); {
		case use > 1:
			key, why := in.smallerMemory(m, Role.host)
			r.problem(key, "the machine has %s of memory, and %s would take about %s at its peak: %s",
				Size(m.Machine), m.Of, Size(m.Need), why)
		case use >= nearlyFull:
			r.warn("%.0f %% of the machine's memory would be used by %s", 100*use, m.Of)
		}
	}
	if d := r.Memory.Device; d != nil && d.Free > 0 {
		switch use := float64(d.Need) / float64(d.Free); {
		case use > 1:
			key, why := in.smallerMemory(r.Memory, Role.device)
			d.short = fmt.Sprintf("%s has %s of free memory, and %s would take about %s at its peak: %s",
				d.Name, Size(d.Free), d.Of, Size(d.Need), why)
			r.problem(key, "%s", d.short)
		case use >= nearlyFull:
			r.warn("%.0f %% of the free memory of %s would be used by %s", 100*use, d.Name, d.Of)
		}
	}
	if text := fit.Rounded(in.Spec); text != "" {
		r.warn("%s", text)
	}
	if in.Train.Estimated {
		r.warn("lengths in tokens are estimated from bytes, since there is no tokenizer to measure them by")
	}
	if share := in.Train.Refused; share > 0 {
		r.warn("about %.0f %% of the records are refused by the length rule or the template and become dead letters", 100*share)
	}
}

func (r *Run) problem(key, format string, args ...any) {
	r.Problems = append(r.Problems, Problem{key, fmt.Sprintf(format, args...)})
}

func (r *Run) warn(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}

// smallerDisk returns the key whose change saves the most disk space, and what to do with it.
func (r *Run) smallerDisk(in Input) (key, why string) {
	c := r.Checkpoints
	const elsewhere = ", or name a folder on another disk (--dir)"
	switch {
	case r.Disk.Logs > r.Disk.Checkpoints:
		return "servers.nats", "keep the logs on a server (servers.nats)" + elsewhere
	case in.Spec.Servers.S3 != "":
		return "--cache", "lower --cache" + elsewhere
	case c.States > c.Policies && in.Spec.Training.LoRA == nil:
		return "training.keep_states", "lower training.keep_states, or train an adapter (training.lora)" + elsewhere
	}
	return "iterations", "lower iterations, keep the weights of fewer policies (retention.policies), or keep checkpoints on " +
		"a server (servers.s3)" + elsewhere
}

// Size formats a number of bytes for people.
func Size(bytes int64) string {
	switch {
	case bytes >= 1e12:
		return fmt.Sprintf("%.2f TB", float64(bytes)/1e12)
	case bytes >= 1e9:
		return fmt.Sprintf("%.2f GB", float64(bytes)/1e9)
	case bytes >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(bytes)/1e6)
	}
	return fmt.Sprintf("%.1f KB", float64(bytes)/1e3)
}

// roundUp rounds a number of bytes up to a size as the spec writes it.
func roundUp(bytes int64) string {
	if bytes > 1e9 {
		return fmt.Sprintf("%dGB", (bytes+1e9-1)/1e9)
	}
	return fmt.Sprintf("%dMB", (bytes+1e6-1)/1e6)
}
