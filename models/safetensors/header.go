package safetensors

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"
)

const (
	lengthBytes = 8
	// maxHeader is the reference implementation's bound on the JSON header.
	maxHeader   = 100_000_000
	metadataKey = "__metadata__"
)

// entry is a tensor and where it lies, relative to the end of the header.
type entry struct {
	Info
	begin, end int64
}

// header is a file's parsed and checked header: entries ordered by offset, without overlaps or holes.
type header struct {
	entries  []entry
	metadata map[string]string
	// dataAt is where the tensors' bytes begin in the file.
	dataAt int64
}

// parseHeader reads the header from the file's bytes and checks it against their number. What it allocates is bounded
// by the header's real length.
func parseHeader(file []byte) (*header, error) {
	if len(file) < lengthBytes {
		return nil, fmt.Errorf("%w: %d bytes, a header length alone takes %d", ErrTruncated, len(file), lengthBytes)
	}
	n := binary.LittleEndian.Uint64(file)
	if n > maxHeader {
		return nil, fmt.Errorf("%w: header of %d bytes is over the limit of %d (not a safetensors file?)",
			ErrFormat, n, maxHeader)
	}
	if n > uint64(len(file)-lengthBytes) {
		return nil, fmt.Errorf("%w: header of %d bytes in a file of %d", ErrTruncated, n, len(file))
	}
	text := file[lengthBytes : lengthBytes+int(n)]
	if len(text) == 0 || text[0] != '{' || !utf8.Valid(text) {
		return nil, fmt.Errorf("%w: the header is not a JSON object in UTF-8 (not a safetensors file?)", ErrFormat)
	}
	p := headerParser{dec: json.NewDecoder(bytes.NewReader(text))}
	p.dec.UseNumber()
	h, err := p.header()
	if err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrFormat, err)
	}
	h.dataAt = int64(lengthBytes + len(text))
	return h, h.check(int64(len(file)) - h.dataAt)
}

// check demands that the entries, by offset, tile exactly size bytes and that each range has the size of its tensor.
func (h *header) check(size int64) error {
	slices.SortStableFunc(h.entries, func(a, b entry) int {
		switch {
		case a.begin != b.begin:
			return cmpInt(a.begin, b.begin)
		case a.end != b.end: // an empty tensor lies before the one that begins there
			return cmpInt(a.end, b.end)
		}
		return 0
	})
	at := int64(0)
	for _, e := range h.entries {
		want, err := e.Bytes()
		if err != nil {
			return err
		}
		if e.begin > e.end || e.end-e.begin != want {
			return fmt.Errorf("%w: tensor %q: offsets [%d, %d] for %d bytes of %s %v",
				ErrFormat, e.Name, e.begin, e.end, want, e.DType, e.Shape)
		}
		if e.begin != at {
			return fmt.Errorf("%w: tensor %q: begins at %d where %d was expected (overlap or hole)",
				ErrFormat, e.Name, e.begin, at)
		}
		if e.end > size {
			return fmt.Errorf("%w: tensor %q: ends at byte %d of %d", ErrTruncated, e.Name, e.end, size)
		}
		at = e.end
	}
	if at != size {
		return fmt.Errorf("%w: %d bytes follow the last tensor", ErrFormat, size-at)
	}
	return nil
}

func cmpInt(a, b int64) int {
	if a < b {
		return -1
	}
	return 1
}

// headerParser reads the header token by token, since encoding/json into structs lets duplicate keys, other spellings
// of a key and unknown fields through.
type headerParser struct{ dec *json.Decoder }

func (p *headerParser) header() (*header, error) {
	h := &header{metadata: map[string]string{}}
	seen := map[string]bool{}
	err := p.object(func(name string) error {
		if seen[name] {
			return fmt.Errorf("tensor %q is declared twice", name)
		}
		seen[name] = true
		if name == metadataKey {
			return p.metadata(h.metadata)
		}
		e, err := p.entry(name)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		h.entries = append(h.entries, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if _, err := p.dec.Token(); err != io.EOF {
		return nil, errors.New("something follows the JSON object")
	}
	return h, nil
}

func (p *headerParser) metadata(into map[string]string) error {
	return p.object(func(key string) error {
		if _, dup := into[key]; dup {
			return fmt.Errorf("%s: key %q is given twice", metadataKey, key)
		}
		value, err := p.text()
		if err != nil {
			return fmt.Errorf("%s: %q: %w", metadataKey, key, err)
		}
		into[key] = value
		return nil
	})
}

func (p *headerParser) entry(name string) (entry, error) {
	e := entry{Info: Info{Name: name}}
	var seen struct{ dtype, shape, offsets bool }
	err := p.object(func(key string) error {
		switch {
		case key == "dtype" && !seen.dtype:
			seen.dtype = true
			text, err := p.text()
			e.DType = DType(text)
			return err
		case key == "shape" && !seen.shape:
			seen.shape = true
			shape, err := p.integers()
			e.Shape = shape
			return err
		case key == "data_offsets" && !seen.offsets:
			seen.offsets = true
			offsets, err := p.integers()
			if err == nil && len(offsets) != 2 {
				err = fmt.Errorf("data_offsets has %d numbers instead of 2", len(offsets))
			}
			if err != nil {
				return err
			}
			e.begin, e.end = offsets[0], offsets[1]
			return nil
		}
		return fmt.Errorf("field %q is unknown or given twice", key)
	})
	if err == nil && !(seen.dtype && seen.shape && seen.offsets) {
		err = errors.New("dtype, shape or data_offsets is missing")
	}
	return e, err
}

// object reads a JSON object, calling field after each key.
func (p *headerParser) object(field func(key string) error) error {
	if err := p.delim('{'); err != nil {
		return err
	}
	for p.dec.More() {
		key, err := p.text()
		if err != nil {
			return err
		}
		if err := field(key); err != nil {
			return err
		}
	}
	return p.delim('}')
}

// integers reads an array of integers in 0..2^63-1.
func (p *headerParser) integers() ([]int64, error) {
	if err := p.delim('['); err != nil {
		return nil, err
	}
	list := []int64{}
	for p.dec.More() {
		token, err := p.dec.Token()
		if err != nil {
			return nil, err
		}
		number, ok := token.(json.Number)
		if !ok {
			return nil, fmt.Errorf("%v where a number was expected", token)
		}
		value, err := strconv.ParseUint(number.String(), 10, 63)
		if err != nil {
			return nil, fmt.Errorf("%s is not an integer in 0..2^63-1", number)
		}
		list = append(list, int64(value))
	}
	return list, p.delim(']')
}

func (p *headerParser) text() (string, error) {
	token, err := p.dec.Token()
	if err != nil {
		return "", err
	}
	text, ok := token.(string)
	if !ok {
		return "", fmt.Errorf("%v where a string was expected", token)
	}
	return text, nil
}

func (p *headerParser) delim(want json.Delim) error {
	token, err := p.dec.Token()
	if err != nil {
		return err
	}
	if token != want {
		return fmt.Errorf("%v where %v was expected", token, want)
	}
	return nil
}

// encodeHeader gives the length, the JSON and the padding in spaces that aligns the data to 8 bytes, as the reference
// implementation writes them. It returns each tensor's size beside.
func encodeHeader(infos []Info, metadata map[string]string) (head []byte, sizes []int64, err error) {
	var b bytes.Buffer
	b.Write(make([]byte, lengthBytes))
	b.WriteByte('{')
	if len(metadata) > 0 {
		b.WriteString(`"` + metadataKey + `":{`)
		for i, key := range slices.Sorted(maps.Keys(metadata)) {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := writeText(&b, key); err != nil {
				return nil, nil, fmt.Errorf("metadata: %w", err)
			}
			b.WriteByte(':')
			if err := writeText(&b, metadata[key]); err != nil {
				return nil, nil, fmt.Errorf("metadata %q: %w", key, err)
			}
		}
		b.WriteByte('}')
	}
	seen := make(map[string]bool, len(infos))
	at := int64(0)
	for i, info := range infos {
		if seen[info.Name] || info.Name == metadataKey {
			return nil, nil, fmt.Errorf("%w: tensor %q is declared twice or reserved", ErrFormat, info.Name)
		}
		seen[info.Name] = true
		size, err := info.Bytes()
		if err != nil {
			return nil, nil, err
		}
		if at+size < at {
			return nil, nil, fmt.Errorf("%w: tensor %q: the file's size overflows", ErrFormat, info.Name)
		}
		if i > 0 || len(metadata) > 0 {
			b.WriteByte(',')
		}
		if err := writeText(&b, info.Name); err != nil {
			return nil, nil, fmt.Errorf("tensor: %w", err)
		}
		fmt.Fprintf(&b, `:{"dtype":%q,"shape":[`, string(info.DType))
		for j, d := range info.Shape {
			if j > 0 {
				b.WriteByte(',')
			}
			b.WriteString(strconv.FormatInt(d, 10))
		}
		fmt.Fprintf(&b, `],"data_offsets":[%d,%d]}`, at, at+size)
		at += size
		sizes = append(sizes, size)
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	head = b.Bytes()
	n := len(head) - lengthBytes
	if n > maxHeader {
		return nil, nil, fmt.Errorf("%w: header of %d bytes is over the limit of %d", ErrFormat, n, maxHeader)
	}
	binary.LittleEndian.PutUint64(head, uint64(n))
	return head, sizes, nil
}

func writeText(b *bytes.Buffer, text string) error {
	if !utf8.ValidString(text) {
		return fmt.Errorf("%w: %q is not UTF-8", ErrFormat, text)
	}
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(text); err != nil {
		return err
	}
	b.Truncate(b.Len() - 1) // Encode ends the line
	return nil
}
