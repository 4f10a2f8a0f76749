package schemas

// Unavailable is the error of a stage that cannot work now, for a reason that is none of the message's: the store does not
// answer, a blob is damaged, the weights compute something else than their manifest says. The message is given back and
// no try is counted, so an outage makes no dead letters however long it lasts.
type Unavailable struct {
	Err error
	// Permanent says that this process will not get well by waiting: its stage ends with the error.
	Permanent bool
}

// Error is the cause.
func (u *Unavailable) Error() string { return u.Err.Error() }

// Unwrap gives the cause.
func (u *Unavailable) Unwrap() error { return u.Err }
