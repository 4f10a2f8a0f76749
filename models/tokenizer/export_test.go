package tokenizer

// Stopped returns the stop string that was found, "" for none.
func (m *StopMatcher) Stopped() string { return m.stopped }
