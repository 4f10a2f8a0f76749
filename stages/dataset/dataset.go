// Package dataset holds the prompts of a run with their human responses: records read from JSONL or built in, the
// order in which an iteration takes them, and the program that scores an answer.
package dataset

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// ErrNoRecords says that a source holds nothing to train on. The wrapping error tells why.
var ErrNoRecords = errors.New("dataset: no usable record")

// Record is a prompt with its human response.
type Record struct {
	// ID is unique within a Set and stays the same from run to run: pair ids and sample seeds are made from it.
	ID string
	// Prompt is x.
	Prompt string
	// Response is y, the human response.
	Response string
	// Rejected is an annotated worse response (DPO); empty where there is none.
	Rejected string
	// Contains lists the words that a right answer holds, in their order; empty where no program can tell.
	Contains []string
	// Line is the record's line in its file, from 1, or its number in built-in data.
	Line int
}

// Set is the usable records of one source in its order, and what became of the others.
type Set struct {
	Records []Record
	Report  Report
}

// Load reads a JSONL file, or data built in: builtin:demo/base, builtin:demo/align, builtin:demo/heldout. See Read.
func Load(source string) (Set, error) {
	if name, ok := strings.CutPrefix(source, "builtin:"); ok {
		return builtin(name)
	}
	f, err := os.Open(source)
	if err != nil {
		return Set{}, fmt.Errorf("dataset: %w", err)
	}
	defer f.Close()
	return Read(source, f)
}

// First is the set cut to its first n records; 0 keeps all.
func (s Set) First(n int) Set {
	if n > 0 && n < len(s.Records) {
		s.Records = s.Records[:n:n]
	}
	return s
}

// Annotated is the set without the records that have no rejected response, as DPO needs it. The error is
// ErrNoRecords.
func (s Set) Annotated() (Set, error) {
	all := len(s.Records)
	s.Records = slices.Clone(s.Records)
	s.Records = slices.DeleteFunc(s.Records, func(r Record) bool { return strings.TrimSpace(r.Rejected) == "" })
	if len(s.Records) == 0 {
		return Set{}, fmt.Errorf(`%w: none of %d has a "rejected" response, which DPO needs`, ErrNoRecords, all)
	}
	return s, nil
}

// Digest is the sha256, in hexadecimal, of all that the records say, in their order. Line numbers don't count.
func (s Set) Digest() string {
	h := sha256.New()
	write := func(text string) {
		var size [8]byte
		binary.LittleEndian.PutUint64(size[:], uint64(len(text)))
		h.Write(size[:])
		h.Write([]byte(text))
	}
	for _, r := range s.Records {
		write(r.ID)
		write(r.Prompt)
		write(r.Response)
		write(r.Rejected)
		for _, word := range r.Contains {
			write(word)
		}
		h.Write([]byte{'\n'})
	}
	return hex.EncodeToString(h.Sum(nil))
}

// WriteJSONL writes the records in the form that Read takes.
func (s Set) WriteJSONL(w io.Writer) error {
	out := bufio.NewWriter(w)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	for _, r := range s.Records {
		line := struct {
			ID       string   `json:"id"`
			Prompt   string   `json:"prompt"`
			Response string   `json:"response"`
			Rejected string   `json:"rejected,omitempty"`
			Contains []string `json:"contains,omitempty"`
		}{r.ID, r.Prompt, r.Response, r.Rejected, r.Contains}
		if err := enc.Encode(line); err != nil {
			return fmt.Errorf("dataset: write: %w", err)
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("dataset: write: %w", err)
	}
	return nil
}

// promptID is the id of a record that names none: the same prompt always gets the same id.
func promptID(prompt string) string {
	sum := sha256.Sum256([]byte(prompt))
	return hex.EncodeToString(sum[:8])
}
