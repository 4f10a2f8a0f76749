package tokenizer

// #cgo LDFLAGS: -lldalign_tokenizer -ldl -lm
// #include "bridge/bridge.h"
import "C"

import (
	"encoding/json"
	"errors"
	"fmt"
	"unsafe"
)

// This file alone calls the library of bridge/, which ops/native/native.sh builds.

// errRefused marks the error of a template that called raise_exception.
var errRefused = errors.New("the template refuses the conversation")

// take returns the result of a call, or its error, and frees out.
func take(status C.int32_t, out *C.ldalign_buffer) ([]byte, error) {
	defer C.ldalign_free(*out)
	data := C.GoBytes(out.data, C.int(out.len))
	switch status {
	case C.LDALIGN_OK:
		return data, nil
	case C.LDALIGN_REFUSED:
		return nil, fmt.Errorf("%w: raise_exception: %s", errRefused, short(string(data)))
	}
	return nil, errors.New(short(string(data)))
}

// takeIDs is take for a call whose result is ids.
func takeIDs(status C.int32_t, out *C.ldalign_buffer) ([]int64, error) {
	if status != C.LDALIGN_OK {
		_, err := take(status, out)
		return nil, err
	}
	defer C.ldalign_free(*out)
	list := unsafe.Slice((*uint32)(out.data), int(out.len)/4)
	ids := make([]int64, len(list))
	for i, id := range list {
		ids[i] = int64(id)
	}
	return ids, nil
}

func bytesOf(text string) (*C.uint8_t, C.size_t) {
	return (*C.uint8_t)(unsafe.Pointer(unsafe.StringData(text))), C.size_t(len(text))
}

// library is a tokenizer.json that Hugging Face's library has read. Its methods may be called from several goroutines.
type library struct {
	handle *C.ldalign_tokenizer
	size   int64          // greatest id + 1
	bytes  map[int64]bool // ids of byte tokens, where the decoder has byte fallback
	skip   map[int64]bool // ids of special tokens, which decoding may skip
}

func newLibrary(file []byte) (*library, error) {
	data, n := bytesOf(unsafe.String(unsafe.SliceData(file), len(file)))
	l := &library{bytes: map[int64]bool{}, skip: map[int64]bool{}}
	var out C.ldalign_buffer
	text, err := take(C.ldalign_tokenizer_new(data, n, &l.handle, &out), &out)
	if err != nil {
		return nil, err
	}
	var about struct {
		Vocab   int64
		Special []int64
		Bytes   []int64
	}
	if err := json.Unmarshal(text, &about); err != nil {
		return nil, errors.Join(err, l.close())
	}
	l.size = about.Vocab
	for _, id := range about.Special {
		l.skip[id] = true
	}
	for _, id := range about.Bytes {
		l.bytes[id] = true
	}
	return l, nil
}

func (l *library) close() error {
	var out C.ldalign_buffer
	_, err := take(C.ldalign_tokenizer_free(l.handle, &out), &out)
	l.handle = nil
	return err
}

// id returns the id of the token with a text.
func (l *library) id(token string) (id int64, found bool, err error) {
	var out C.ldalign_buffer
	data, n := bytesOf(token)
	ids, err := takeIDs(C.ldalign_tokenizer_id(l.handle, data, n, &out), &out)
	if err != nil || len(ids) == 0 {
		return 0, false, err
	}
	return ids[0], true, nil
}

func (l *library) encode(text string, addSpecial bool) ([]int64, error) {
	var out C.ldalign_buffer
	data, n := bytesOf(text)
	return takeIDs(C.ldalign_tokenizer_encode(l.handle, data, n, C.bool(addSpecial), &out), &out)
}

func (l *library) decode(ids []uint32, skipSpecial bool) (string, error) {
	var out C.ldalign_buffer
	data := (*C.uint32_t)(unsafe.Pointer(unsafe.SliceData(ids)))
	text, err := take(C.ldalign_tokenizer_decode(l.handle, data, C.size_t(len(ids)), C.bool(skipSpecial), &out), &out)
	return string(text), err
}

// compiled is a template that minijinja has compiled. Several goroutines may render it.
type compiled struct{ handle *C.ldalign_template }

func compile(source string) (*compiled, error) {
	var c compiled
	var out C.ldalign_buffer
	data, n := bytesOf(source)
	if _, err := take(C.ldalign_template_new(data, n, &c.handle, &out), &out); err != nil {
		return nil, err
	}
	return &c, nil
}

func (c *compiled) close() error {
	var out C.ldalign_buffer
	_, err := take(C.ldalign_template_free(c.handle, &out), &out)
	c.handle = nil
	return err
}

// render returns the text for variables, a JSON object.
func (c *compiled) render(variables []byte) (string, error) {
	var out C.ldalign_buffer
	data, n := bytesOf(unsafe.String(unsafe.SliceData(variables), len(variables)))
	text, err := take(C.ldalign_template_render(c.handle, data, n, &out), &out)
	return string(text), err
}
