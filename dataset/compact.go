package dataset

import (
	"encoding/binary"
	"errors"
)

// errCompact is the error of bytes that are not a Thrift message.
var errCompact = errors.New("not a Thrift message")

// checkCompact walks a message in Thrift's compact protocol and fails where a text or a list is longer than the rest of the
// message, because the Parquet library allocates memory for a list before it reads it.
func checkCompact(data []byte) error {
	c := compact{data}
	return c.structure(0)
}

// compact is the rest of a message.
type compact struct{ rest []byte }

// The types of fields and elements.
const (
	compactTrue   = 1
	compactFalse  = 2
	compactByte   = 3
	compactI16    = 4
	compactI32    = 5
	compactI64    = 6
	compactDouble = 7
	compactBinary = 8
	compactList   = 9
	compactSet    = 10
	compactMap    = 11
	compactStruct = 12
)

func (c *compact) skip(n uint64) error {
	if n > uint64(len(c.rest)) {
		return errCompact
	}
	c.rest = c.rest[n:]
	return nil
}

func (c *compact) one() (byte, error) {
	if len(c.rest) == 0 {
		return 0, errCompact
	}
	b := c.rest[0]
	c.rest = c.rest[1:]
	return b, nil
}

func (c *compact) varint() (uint64, error) {
	x, n := binary.Uvarint(c.rest)
	if n <= 0 {
		return 0, errCompact
	}
	c.rest = c.rest[n:]
	return x, nil
}

// structure is fields up to the stop.
func (c *compact) structure(depth int) error {
	if depth > 64 {
		return errCompact
	}
	for {
		head, err := c.one()
		if err != nil || head == 0 {
			return err
		}
		if head>>4 == 0 { // the field's number follows
			if _, err := c.varint(); err != nil {
				return err
			}
		}
		if kind := head & 15; kind != compactTrue && kind != compactFalse { // these are their own value
			if err := c.value(kind, depth); err != nil {
				return err
			}
		}
	}
}

func (c *compact) value(kind byte, depth int) error {
	switch kind {
	case compactTrue, compactFalse, compactByte:
		return c.skip(1)
	case compactI16, compactI32, compactI64:
		_, err := c.varint()
		return err
	case compactDouble:
		return c.skip(8)
	case compactBinary:
		n, err := c.varint()
		if err != nil {
			return err
		}
		return c.skip(n)
	case compactList, compactSet:
		head, err := c.one()
		if err != nil {
			return err
		}
		n := uint64(head >> 4)
		if n == 15 {
			if n, err = c.varint(); err != nil {
				return err
			}
		}
		return c.elements(n, depth, head&15)
	case compactMap:
		n, err := c.varint()
		if err != nil || n == 0 {
			return err
		}
		kinds, err := c.one()
		if err != nil {
			return err
		}
		return c.elements(n, depth, kinds>>4, kinds&15)
	case compactStruct:
		return c.structure(depth + 1)
	}
	return errCompact
}

// elements reads n values of each kind. Each value takes at least one byte.
func (c *compact) elements(n uint64, depth int, kinds ...byte) error {
	if n > uint64(len(c.rest)) {
		return errCompact
	}
	for range n {
		for _, kind := range kinds {
			if err := c.value(kind, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}
