package schemas

import (
	"fmt"
	"reflect"
	"strings"
)

// Set changes one key by an assignment such as training.batch=32, the form of the command line's --set. The value is read
// as in a file, but a text needs no quotes. On error (a *SpecError) the spec is unchanged. Set does not check ranges and
// combinations: call Validate after the last change.
func Set(spec *Spec, assignment string) error {
	key, text, ok := strings.Cut(assignment, "=")
	if !ok {
		return setError("", fmt.Sprintf("%q is not key=value, such as training.batch=32", assignment))
	}
	key = strings.TrimSpace(key)
	changed := spec.Clone()
	into, path := reflect.ValueOf(&changed).Elem(), ""
	for name := range strings.SplitSeq(key, ".") {
		if into.Kind() != reflect.Struct {
			return setError(key, fmt.Sprintf("%s has a value and no keys below it", path))
		}
		index, known := fieldOf(into.Type(), name)
		if !known {
			message, meant := unknownKey(into.Type(), path, name)
			if like := sameName(key); meant == "" && like != "" {
				return setError(key, fmt.Sprintf("unknown key; did you mean %s?", like))
			}
			return setError(join(path, name), message)
		}
		into, path = into.Field(index), join(path, name)
		if into.Kind() == reflect.Pointer {
			if into.IsNil() {
				into.Set(defaultSection(into.Type()))
			}
			into = into.Elem()
		}
	}
	if into.Kind() == reflect.String {
		into.SetString(text)
		*spec = changed
		return nil
	}
	d := newDecoder(setFile, 0)
	body, err := parseYAML(text)
	switch {
	case err != nil:
		d.syntax(err)
	case body == nil:
		return setError(key, fmt.Sprintf("found no value after =, expected one such as %s", example(key)))
	default:
		d.value(key, body, into)
	}
	if len(d.problems) > 0 {
		for i := range d.problems {
			d.problems[i].Key, d.problems[i].Line, d.problems[i].Column = key, 0, 0
		}
		return &SpecError{Problems: d.problems}
	}
	*spec = changed
	return nil
}

// setFile takes the place of the file name in the problems of Set.
const setFile = "--set"

func setError(key, message string) error {
	return &SpecError{Problems: []Problem{{File: setFile, Key: key, Message: message}}}
}
