package schemas

import (
	"reflect"
	"strconv"
	"strings"
)

// Field is one key of the spec that holds a value.
type Field struct {
	// Key is the full path, such as guide.optimizer.lr.
	Key string
	// Type is text, whole number, number, or true or false.
	Type string
	// Default is the default as in YAML; empty if there is none.
	Default string
	// Example is an example as in YAML; empty if the default serves as one.
	Example string
	// Digested reports whether the value is part of the Digest.
	Digested bool
}

// Fields lists all keys that hold values, in the order of the file. The sections model.scratch, training.lora and source are
// included, with the defaults that they have when present.
func Fields() []Field {
	spec := Default()
	spec.Model.Scratch, spec.Training.LoRA, spec.Source = defaultScratch(), defaultLoRA(), defaultSource()
	var fields []Field
	walk(reflect.ValueOf(spec), func(key string, v reflect.Value, tag reflect.StructTag, digested bool) {
		f := Field{Key: key, Type: typeName(v.Kind()), Example: tag.Get("example"), Digested: digested}
		if v.Kind() != reflect.String || v.String() != "" {
			f.Default = scalarText(v)
		}
		fields = append(fields, f)
	})
	return fields
}

// example is an example value of a key, for a message.
func example(key string) string {
	for _, f := range Fields() {
		if f.Key == key {
			if f.Example != "" {
				return f.Example
			}
			return f.Default
		}
	}
	return ""
}

func typeName(k reflect.Kind) string {
	switch k {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Float64:
		return "number"
	default:
		return "whole number"
	}
}

// walk visits the values of a spec in the order of its fields. It skips a section that is nil.
func walk(v reflect.Value, visit func(key string, v reflect.Value, tag reflect.StructTag, digested bool)) {
	var section func(path string, v reflect.Value, digested bool)
	section = func(path string, v reflect.Value, digested bool) {
		keys := keysOf(v.Type())
		for i, key := range keys {
			field, tag := v.Field(i), v.Type().Field(i).Tag
			full, in := join(path, key), digested && tag.Get("digest") != "-"
			if field.Kind() == reflect.Pointer {
				if field.IsNil() {
					continue
				}
				field = field.Elem()
			}
			if field.Kind() == reflect.Struct {
				section(full, field, in)
				continue
			}
			visit(full, field, tag, in)
		}
	}
	section("", v, true)
}

// scalarText writes a value so that it reads back as the same value.
func scalarText(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Bool:
		return strconv.FormatBool(v.Bool())
	case reflect.Int:
		return strconv.FormatInt(v.Int(), 10)
	case reflect.Uint64:
		return strconv.FormatUint(v.Uint(), 10)
	case reflect.Float64:
		text := strconv.FormatFloat(v.Float(), 'g', -1, 64)
		return strings.NewReplacer("e-0", "e-", "e+0", "e+").Replace(text)
	default:
		return v.String()
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// keysOf lists the keys of a struct of the spec, in order.
func keysOf(t reflect.Type) []string {
	keys := make([]string, t.NumField())
	for i := range keys {
		keys[i], _, _ = strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
	}
	return keys
}

// fieldOf finds the field of a struct of the spec by its key.
func fieldOf(t reflect.Type, key string) (index int, ok bool) {
	for i, k := range keysOf(t) {
		if k == key {
			return i, true
		}
	}
	return 0, false
}
