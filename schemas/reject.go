package schemas

import "fmt"

// Reasons for which a message becomes a dead letter. They are short and do not change, because the ledger counts by them.
const (
	// ReasonDecode: the bytes are not a message of their stream's kind.
	ReasonDecode = "decode"
	// ReasonTooLong: prompt or response is longer than the spec allows, with overlong: reject.
	ReasonTooLong = "too_long"
	// ReasonTooLarge: the stage's output is larger than a message may be.
	ReasonTooLarge = "too_large"
	// ReasonDuplicate: another message of the iteration has the same content.
	ReasonDuplicate = "duplicate"
	// ReasonEmpty: prompt or response is empty.
	ReasonEmpty = "empty"
	// ReasonInvalid: the message breaks another rule of its stage.
	ReasonInvalid = "invalid"
	// ReasonWeights: the message names weights that do not exist or do not fit.
	ReasonWeights = "weights"
	// ReasonIteration: the message belongs to an iteration that its run does not have.
	ReasonIteration = "iteration"
	// ReasonPoison: the message failed in its last allowed try, in which it was processed alone.
	ReasonPoison = "poison"
)

// Reject is the error of a stage for a message that can never succeed: the message becomes a dead letter at once. After other
// errors the message is tried again.
type Reject struct {
	// Reason is one of the Reason constants.
	Reason string
	Err    error
}

// Error returns "<reason>: <cause>".
func (r *Reject) Error() string { return fmt.Sprintf("%s: %v", r.Reason, r.Err) }

// Unwrap returns the cause.
func (r *Reject) Unwrap() error { return r.Err }
