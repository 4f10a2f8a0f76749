// Package events defines the messages of the streams: events.proto, its generated code, and the methods that all messages
// have.
package events

import (
	"strconv"

	"google.golang.org/protobuf/proto"
)

// Version is the schema version that this build writes and the newest that it reads.
const Version = 1

// Message is a message that can be published. Its id is the same whenever the same work is done again, so that the log stores
// it once.
type Message interface {
	proto.Message
	GetRun() string
	GetIteration() uint32
	GetSchema() uint32
	// ID is unique within the message's stream.
	ID() string
}

// ID of a prompt is its pair id.
func (x *Prompt) ID() string { return x.GetPairId() }

// ID of a pair is its pair id.
func (x *Pair) ID() string { return x.GetPrompt().GetPairId() }

// GetRun is the run of the pair's prompt.
func (x *Pair) GetRun() string { return x.GetPrompt().GetRun() }

// GetIteration is the iteration of the pair's prompt.
func (x *Pair) GetIteration() uint32 { return x.GetPrompt().GetIteration() }

// ReferenceDigest is the manifest digest of the weights that computed the pair's reference log-probs.
func (x *Pair) ReferenceDigest() string {
	if r := x.GetReference(); r != "" {
		return r
	}
	return x.GetPolicyDigest()
}

// ID of an encoded pair is its pair id.
func (x *Encoded) ID() string { return x.GetPair().ID() }

// GetRun is the run of the pair's prompt.
func (x *Encoded) GetRun() string { return x.GetPair().GetRun() }

// GetIteration is the iteration of the pair's prompt.
func (x *Encoded) GetIteration() uint32 { return x.GetPair().GetIteration() }

// ID of a scored pair is its pair id.
func (x *Scored) ID() string { return x.GetPair().ID() }

// GetRun is the run of the pair's prompt.
func (x *Scored) GetRun() string { return x.GetPair().GetRun() }

// GetIteration is the iteration of the pair's prompt.
func (x *Scored) GetIteration() uint32 { return x.GetPair().GetIteration() }

// ID of a checkpoint is the digest of its manifest.
func (x *Checkpoint) ID() string { return x.GetDigest() }

// ID of a result is the digest of the checkpoint that was evaluated, or the phase, iteration and number of a step.
func (x *Result) ID() string {
	if x.GetStep() > 0 {
		return x.GetPhase() + "-" + strconv.FormatUint(uint64(x.GetIteration()), 10) + "-" + strconv.FormatUint(x.GetStep(), 10)
	}
	return x.GetCheckpoint()
}

// ID of a dead letter names the message that it holds: <stream>-<sequence>.
func (x *DeadLetter) ID() string {
	return x.GetStream() + "-" + strconv.FormatUint(x.GetSequence(), 10)
}

// PromptOf returns the prompt that a message carries; nil if it carries none.
func PromptOf(m Message) *Prompt {
	switch m := m.(type) {
	case *Prompt:
		return m
	case *Pair:
		return m.GetPrompt()
	case *Encoded:
		return m.GetPair().GetPrompt()
	case *Scored:
		return m.GetPair().GetPrompt()
	}
	return nil
}

// The kinds of control messages.
const (
	// ControlSpec declares the run. It contains the spec and its digest; its message is the version of the program that declared it.
	ControlSpec = "spec"
	// ControlData contains the digest of the records from which the run's prompts are made.
	ControlData = "data"
	// ControlRecords says how many usable records the run's data has, and how many rows were dropped.
	ControlRecords = "records"
	// ControlClosed says how many pairs an iteration has, after its last prompt.
	ControlClosed = "closed"
	// ControlTrainerProgress says how many of an iteration's pairs the trainer has taken.
	ControlTrainerProgress = "trainer-progress"
	// ControlFinished says that the run has made its last policy.
	ControlFinished = "finished"
	// ControlExpired says that retention removes messages of an iteration, and by which rule.
	ControlExpired = "expired"
)

// ID of a control message is its kind and iteration, because a run has one of each. The id of a ControlTrainerProgress also has
// the total, because an iteration has several.
func (x *Control) ID() string {
	id := x.GetKind() + "-" + strconv.FormatUint(uint64(x.GetIteration()), 10)
	if x.GetKind() == ControlTrainerProgress {
		id += "-" + strconv.FormatUint(x.GetTotal(), 10)
	}
	return id
}
