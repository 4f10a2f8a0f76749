package schemas

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// YAML writes the spec with all its keys, as one document that ParseSpecs reads back to the same spec. A text that is not
// UTF-8 is an error.
func (s Spec) YAML() ([]byte, error) {
	var b bytes.Buffer
	all := func(reflect.Value, reflect.StructTag) bool { return false }
	if err := writeSection(&b, "", 0, reflect.ValueOf(s), all); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// writeSection writes the keys of a section that without does not leave out.
func writeSection(
	b *bytes.Buffer, path string, depth int, v reflect.Value, without func(reflect.Value, reflect.StructTag) bool,
) error {
	indent := strings.Repeat("  ", depth)
	for i, key := range keysOf(v.Type()) {
		field, full := v.Field(i), join(path, key)
		if field.Kind() == reflect.Pointer {
			if field.IsNil() {
				continue
			}
			field = field.Elem()
		}
		if field.Kind() != reflect.Struct && without(field, v.Type().Field(i).Tag) {
			continue
		}
		switch field.Kind() {
		case reflect.Struct:
			fmt.Fprintf(b, "%s%s:\n", indent, key)
			if err := writeSection(b, full, depth+1, field, without); err != nil {
				return err
			}
		case reflect.String:
			text, err := quote(field.String())
			if err != nil {
				return fmt.Errorf("schemas: run spec: %s: %w", full, err)
			}
			fmt.Fprintf(b, "%s%s: %s\n", indent, key, text)
		default:
			fmt.Fprintf(b, "%s%s: %s\n", indent, key, scalarText(field))
		}
	}
	return nil
}

// JSON writes the spec with all its keys as one object, in the same order as YAML. ParseSpecs reads it back to the same spec,
// because YAML is a superset of JSON.
func (s Spec) JSON() ([]byte, error) {
	var b bytes.Buffer
	if err := writeObject(&b, reflect.ValueOf(s)); err != nil {
		return nil, fmt.Errorf("schemas: run spec: %w", err)
	}
	return b.Bytes(), nil
}

func writeObject(b *bytes.Buffer, v reflect.Value) error {
	separator := "{"
	for i, key := range keysOf(v.Type()) {
		field := v.Field(i)
		if field.Kind() == reflect.Pointer {
			if field.IsNil() {
				continue
			}
			field = field.Elem()
		}
		fmt.Fprintf(b, "%s%q:", separator, key)
		separator = ","
		if field.Kind() == reflect.Struct {
			if err := writeObject(b, field); err != nil {
				return err
			}
			continue
		}
		value, err := json.Marshal(field.Interface())
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		b.Write(value)
	}
	b.WriteByte('}')
	return nil
}

// quote writes a text in double quotes.
func quote(s string) (string, error) {
	if !utf8.ValidString(s) {
		return "", fmt.Errorf("%s is not UTF-8 text", strconv.Quote(s))
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	b.WriteByte('"')
	return b.String(), nil
}
