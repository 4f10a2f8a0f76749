package schemas

import (
	"slices"
	"strings"
)

// FromPolicy is what source.from says of a fork; that of a replay is one of the kinds Prompts, Pairs, Encoded and Scored.
const FromPolicy = "policy"

// Values of source.off_policy.
const (
	RefuseOffPolicy = "refuse"
	AcceptOffPolicy = "accept"
)

// Replays tells whether the run reads the log of another run in place of some of its own.
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

// ReadsFrom is the log of its source in which a run finds what messages of a kind hold: that of this kind, or of a later
// one, whose messages hold the earlier ones. ok is false when the run has such messages in its own log.
func (s Spec) ReadsFrom(need Kind) (kind Kind, ok bool) {
	if !s.Replays() || Kind(s.Source.From).Before(need) {
		return need, false
	}
	return Kind(s.Source.From), true
}

// reach is, for sections and keys of the spec, the log that a replay has to start from, at the latest, for a change to
// have its effect: the stage behind that log is the first one that looks at the key. The empty kind is for what decides
// the prompts themselves. The longest entry that a key begins with counts.
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

// LatestSource is the log that a replay has to start from, at the latest, to change a key; ok is false for the keys that
// no replay can change, because the prompts in the log come from them, or because a replay has them of its own.
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

// Before tells whether a kind comes before another in the flow of data. Neither may be another kind than prompts, pairs,
// encoded and scored.
func (k Kind) Before(other Kind) bool {
	kinds := dataKinds()
	return slices.Index(kinds, k) < slices.Index(kinds, other)
}
