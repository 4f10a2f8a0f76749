package schemas

import "fmt"

// Reasons for which a message becomes a dead letter. They are short and stable: the ledger counts by them.
const (
	// ReasonDecode: the bytes are not a message of their stream's kind.
	ReasonDecode = "decode"
	// ReasonSchema: the message was written by a newer version of the program.
	ReasonSchema = "schema"
	// ReasonTooLong: prompt or response is over the length rule, with overlong: reject.
	ReasonTooLong = "too_long"
	// ReasonTooLarge: the stage's output is over the size of a message.
	ReasonTooLarge = "too_large"
	// ReasonDuplicate: another message of the iteration says the same.
	ReasonDuplicate = "duplicate"
	// ReasonEmpty: prompt or response is empty.
	ReasonEmpty = "empty"
	// ReasonInvalid: the message breaks another rule of its stage.
	ReasonInvalid = "invalid"
	// ReasonWeights: the message names weights that do not exist or do not fit.
	ReasonWeights = "weights"
	// ReasonIteration: the message is of an iteration that its run does not have.
	ReasonIteration = "iteration"
	// ReasonPoison: the message failed, processed alone, in its last allowed try.
	ReasonPoison = "poison"
)

// Reject is the error of a stage that knows that trying again is useless: the message becomes a dead letter at once.
// Any other error is taken as passing and tried again.
type Reject struct {
	// Reason is one of the Reason constants.
	Reason string
	Err    error
}

// Error is "<reason>: <cause>".
func (r *Reject) Error() string { return fmt.Sprintf("%s: %v", r.Reason, r.Err) }

// Unwrap gives the cause.
func (r *Reject) Unwrap() error { return r.Err }
