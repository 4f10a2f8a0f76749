package jsonl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// Object is a JSON object that keeps the order of its fields, so that fields can be added to a line and the rest stays as
// it is.
type Object []field

type field struct {
	key   string
	value json.RawMessage
}

// ParseObject reads a JSON object.
func ParseObject(line []byte) (Object, error) {
	d := json.NewDecoder(bytes.NewReader(line))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	var o Object
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
		name, _ := key.(string)
		o.put(name, value)
	}
	return o, nil
}

// Set sets the value of a key; a new key is added at the end.
func (o *Object) Set(key string, value any) error {
	raw, err := Marshal(value)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	o.put(key, json.RawMessage(raw))
	return nil
}

func (o *Object) put(key string, raw json.RawMessage) {
	for i := range *o {
		if (*o)[i].key == key {
			(*o)[i].value = raw
			return
		}
	}
	*o = append(*o, field{key, raw})
}

// MarshalJSON writes the fields in their order.
func (o Object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, f := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		key, err := json.Marshal(f.key)
		if err != nil {
			return nil, err
		}
		b.Write(key)
		b.WriteByte(':')
		b.Write(f.value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}
