package trainer

import "time"

// SetSegmentLines makes a segment of a state's files as short as a test needs it.
func (t *Trainer) SetSegmentLines(n int) { t.segmentLines = n }

// SetLeaseTTL makes the trainer's lease as short as a test needs it.
func (t *Trainer) SetLeaseTTL(ttl time.Duration) { t.leaseTTL = ttl }

// LeaseTTL is how long a dead trainer's lease keeps others out.
const LeaseTTL = leaseTTL
