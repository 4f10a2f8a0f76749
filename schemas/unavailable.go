package schemas

// Unavailable is the error of a stage that cannot work now, for a reason outside of the message: the store does not answer, a
// blob is damaged, memory is short, a GPU has failed, or the weights do not compute what their manifest says. The message is
// given back and no try is counted, so even a long outage makes no dead letters.
type Unavailable struct {
	Err error
	// Permanent says that waiting does not help: the stage of this process ends with the error.
	Permanent bool
}

// Error returns the text of the cause.
func (u *Unavailable) Error() string { return u.Err.Error() }

// Unwrap returns the cause.
func (u *Unavailable) Unwrap() error { return u.Err }
