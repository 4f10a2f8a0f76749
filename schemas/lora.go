package schemas

import (
	"regexp"
	"strings"
)

// AllLinear is the value of training.lora.targets for every linear layer except the output head.
const AllLinear = "all-linear"

var moduleName = regexp.MustCompile(`^\w+(\.\w+)*$`)

// Modules returns the layers that Targets names: a list of names or, if Targets is not such a list, a pattern, which is
// AllLinear or a regular expression.
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
