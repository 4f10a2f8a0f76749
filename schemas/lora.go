package schemas

import (
	"regexp"
	"strings"
)

// AllLinear stands in training.lora.targets for every linear layer except the output head.
const AllLinear = "all-linear"

var moduleName = regexp.MustCompile(`^\w+(\.\w+)*$`)

// Modules are the layers that Targets names: a list of names, or, where it is no list, a pattern: AllLinear or a regular
// expression.
func (l LoRASpec) Modules() (names []string, pattern string) {
	for name := range strings.SplitSeq(l.Targets, ",") {
		name = strings.TrimSpace(name)
		if !moduleName.MatchString(name) {
			return nil, l.Targets
		}
		names = append(names, name)
	}
	return names, ""
}
