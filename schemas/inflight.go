package schemas

// MaxInFlight is how many prompts of an iteration may be published ahead of the trainer; 0 for no bound. There is no bound if
// the trainer needs the whole iteration first. A bound is at least two batches: with less than one the trainer would wait for
// the prompter, and the prompter for the trainer.
func (s Spec) MaxInFlight(iteration uint32) int {
	guided := s.TrainsGuide() && iteration == 0 // the guide is trained on the whole iteration
	if s.Streams.MaxInFlight == 0 || s.Training.Schedule != "streaming" || guided || s.Replays() {
		return 0
	}
	return max(s.Streams.MaxInFlight, 2*s.Training.Batch)
}
