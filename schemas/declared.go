package schemas

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
)

// Declaration writes a resolved spec for the log, where programs of other versions read it. It leaves out each key whose value
// is that of the tag `absent`, so that a key that a run does not use keeps no older program from reading the spec.
func (s Spec) Declaration() ([]byte, error) {
	var b bytes.Buffer
	err := writeSection(&b, "", 0, reflect.ValueOf(s), func(v reflect.Value, tag reflect.StructTag) bool {
		absent, ok := tag.Lookup("absent")
		return ok && scalarText(v) == absent
	})
	return b.Bytes(), err
}

// ParseDeclared reads a spec that Declaration or YAML wrote, perhaps in a program of another version. A missing key takes the
// value of its tag `absent`, else its Default. Unknown keys of the sections that cannot change a result (retention, streams,
// servers) are ignored. Any other unknown key, and a value that this program does not have, is a *SpecError: a program that
// ignored it would compute something else.
func ParseDeclared(name string, data []byte) (Spec, error) {
	specs, err := parseSpecs(name, data, true)
	if err != nil {
		return Spec{}, err
	}
	if len(specs) != 1 {
		return Spec{}, fmt.Errorf("schemas: %s: found %d declared specs, expected one", name, len(specs))
	}
	return specs[0], nil
}

// declaredDefault is the Default of a declared spec's keys.
func declaredDefault() (Spec, error) {
	spec := Default()
	var absent []string
	walk(reflect.ValueOf(spec), func(key string, _ reflect.Value, tag reflect.StructTag, _ bool) {
		if value, ok := tag.Lookup("absent"); ok {
			absent = append(absent, key+"="+value)
		}
	})
	for _, assignment := range absent {
		if err := Set(&spec, assignment); err != nil {
			return spec, err
		}
	}
	return spec, nil
}

// harmless reports whether a section's keys cannot change a result.
func harmless(section string) bool {
	top, _, _ := strings.Cut(section, ".")
	t := reflect.TypeFor[Spec]()
	i, ok := fieldOf(t, top)
	return ok && t.Field(i).Type.Kind() == reflect.Struct && t.Field(i).Tag.Get("digest") == "-"
}
