package schemas

import (
	"slices"
	"strings"
)

// FromPolicy is the value of source.from for a fork. For a replay it is Prompts, Pairs, Encoded or Scored.
const FromPolicy = "policy"

// Values of source.off_policy.
const (
	RefuseOffPolicy = "refuse"
	AcceptOffPolicy = "accept"
)

// Replays reports whether the run is a replay: it reads the log of another run instead of its own.
func (s Spec) Replays() bool { return s.Source != nil && s.Source.From != FromPolicy }

// FirstIteration is the number of the run's first iteration: a replay keeps the numbers of what it replays.
func (s Spec) FirstIteration() int {
	if s.Replays() {
		return s.Source.Iteration
	}
	return 0
}

// dataKinds are the kinds that carry an iteration's data, in the order in which it flows.
func dataKinds() []Kind { return []Kind{Prompts, Pairs, Encoded, Scored} }

// ReadsFrom returns the kind of the source's log in which a replay finds the messages of kind need: need itself, or a later
// kind, whose messages contain the earlier ones. ok is false if the run has such messages in its own log.
func (s Spec) ReadsFrom(need Kind) (kind Kind, ok bool) {
	if !s.Replays() || Kind(s.Source.From).Before(need) {
		return need, false
	}
	return Kind(s.Source.From), true
}

// reach maps sections and keys of the spec to the latest log from which a replay must start for a change of the key to have
// an effect. The stage that reads that log is the first one that uses the key. The empty kind marks keys that decide the
// prompts themselves. For a key the longest matching entry counts.
func reach() map[string]Kind {
	return map[string]Kind{
		"run": "", "iterations": "", "source": "",
		"seed":  Scored,
		"model": Prompts,
		"data":  "", "data.eval": Scored,
		"data.max_prompt_tokens": Prompts, "data.max_response_tokens": Prompts, "data.overlong": Prompts,
		"objective": Scored, "objective.distance": Encoded, "objective.reference": Prompts,
		"guide":      Pairs,
		"generation": Prompts, "generation.samples_per_prompt": "",
		"optimizer": Scored, "training": Scored, "evaluation": Scored, "compute": Scored,
		"retention": Scored, "streams": Scored, "servers": Scored,
	}
}

// LatestSource returns the latest log from which a replay must start to change a key. ok is false for keys that no replay can
// change, because they decide the prompts in the log or because a replay sets them itself.
func LatestSource(key string) (kind Kind, ok bool) {
	entries := reach()
	for at := key; ; at = at[:strings.LastIndexByte(at, '.')] {
		if k, known := entries[at]; known {
			return k, k != ""
		}
		if !strings.Contains(at, ".") {
			return "", false
		}
	}
}

// Before reports whether k comes before other in the flow of data. Both must be prompts, pairs, encoded or scored.
func (k Kind) Before(other Kind) bool {
	kinds := dataKinds()
	return slices.Index(kinds, k) < slices.Index(kinds, other)
}
