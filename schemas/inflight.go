package schemas

// MaxInFlight is how many prompts of an iteration may be published beyond those whose pairs the trainer has taken; 0 for no
// bound, which is so where the trainer takes none before it has the whole iteration. It is never less than two batches:
// with less than one the trainer would wait for the prompter, and the prompter for the trainer.
func (s Spec) MaxInFlight(iteration uint32) int {
	guided := s.TrainsGuide() && iteration == 0 // the guide is made of the whole iteration
	if s.Streams.MaxInFlight == 0 || s.Training.Schedule != "streaming" || guided || s.Replays() {
		return 0
	}
	return max(s.Streams.MaxInFlight, 2*s.Training.Batch)
}
