package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// object is a JSON object with its fields in their order, so that a verb adds fields to a record and leaves the rest as
// it is.
type object []field

type field struct {
	key   string
	value json.RawMessage
}

// parseObject reads the object of a line that is known to be one.
func parseObject(line []byte) (object, error) {
	d := json.NewDecoder(bytes.NewReader(line))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	var o object
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

// set puts a value at a key, behind the others when the key is new.
func (o *object) set(key string, value any) error {
	raw, err := compact(value)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	o.put(key, json.RawMessage(raw))
	return nil
}

func (o *object) put(key string, raw json.RawMessage) {
	for i := range *o {
		if (*o)[i].key == key {
			(*o)[i].value = raw
			return
		}
	}
	*o = append(*o, field{key, raw})
}

// MarshalJSON writes the fields in their order.
func (o object) MarshalJSON() ([]byte, error) {
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
