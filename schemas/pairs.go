package schemas

// GivenPairs reports whether y' comes from the data's rejected responses instead of the policy.
func (s Spec) GivenPairs() bool {
	given := s.Generation.From == "data" || s.Objective.Distance == "given"
	return s.Objective.Kind == "dpo" || given && s.Objective.Kind != "sft"
}

// Samples reports whether the run samples responses from its policies.
func (s Spec) Samples() bool { return s.Objective.Kind != "sft" && !s.GivenPairs() }

// NeedsGuide reports whether a guide, the run's own or another's, measures the distances.
func (s Spec) NeedsGuide() bool {
	return s.Objective.Kind == "ldalign" && s.Objective.Distance != "given"
}

// TrainsGuide reports whether the run trains its own guide.
func (s Spec) TrainsGuide() bool { return s.NeedsGuide() && s.Guide.From == "" }

// GuideRun returns the run whose guide a key of the spec names by run:NAME. It is this run if the key is empty.
func (s Spec) GuideRun(reference string) string {
	if ref, ok := FromRun(reference); ok {
		return ref.Run
	}
	return s.Run
}
