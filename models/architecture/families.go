package architecture

import (
	"fmt"
	"slices"
	"strings"
)

// families is the table of supported families: one row, and one file, for each.
func families() []family {
	return []family{llama(), mistral(), qwen2(), qwen3(), gemma3(), gpt2()}
}

// Traits are those of the configuration's family.
func (c Config) Traits() Traits { return c.family().Traits }

// family is the row of the configuration's family, or an empty one if there is no such family; Validate reports that.
func (c Config) family() family {
	for _, f := range families() {
		if f.name == c.Family {
			return f
		}
	}
	return family{}
}

// lookup finds the family of a model_type, and tells whether the model_type is that of the family's wrapper.
func lookup(modelType string) (f family, wrapped bool, err error) {
	for _, f := range families() {
		if f.name == modelType {
			return f, false, nil
		}
		if f.wrapper != nil && f.wrapper.name == modelType {
			return f, true, nil
		}
	}
	return family{}, false, errFamily(modelType)
}

// errFamily is the error for a model_type that is not supported.
func errFamily(modelType string) error {
	var names, wrappers []string
	for _, f := range families() {
		names = append(names, f.name)
		if f.wrapper != nil {
			wrappers = append(wrappers, f.wrapper.name)
		}
	}
	supported := strings.Join(slices.Concat(names, wrappers), ", ")
	return fmt.Errorf("%w: model_type is %q, supported are %s", ErrConfig, modelType, supported)
}
