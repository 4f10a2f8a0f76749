package schemas

import "reflect"

// Difference is a key whose values are not the same in several specs.
type Difference struct {
	Key string
	// Values has one value for each spec, as in YAML; empty for a spec that does not have the key's section.
	Values []string
}

// Differences returns the keys whose values differ among specs, in the order of the file. It leaves out keys that are not part
// of the digest, and the source section.
func Differences(specs ...Spec) []Difference {
	var keys []string
	values := map[string][]string{}
	for i, spec := range specs {
		spec.Source = nil
		walk(reflect.ValueOf(spec), func(key string, v reflect.Value, _ reflect.StructTag, digested bool) {
			if !digested {
				return
			}
			if values[key] == nil {
				keys = append(keys, key)
				values[key] = make([]string, len(specs))
			}
			values[key][i] = scalarText(v)
		})
	}
	var out []Difference
	for _, key := range inOrder(keys) {
		for _, v := range values[key] {
			if v != values[key][0] {
				out = append(out, Difference{key, values[key]})
				break
			}
		}
	}
	return out
}

// inOrder sorts keys into the order of the file.
func inOrder(keys []string) []string {
	have := map[string]bool{}
	for _, k := range keys {
		have[k] = true
	}
	out := make([]string, 0, len(keys))
	for _, f := range Fields() {
		if have[f.Key] {
			out = append(out, f.Key)
		}
	}
	return out
}
