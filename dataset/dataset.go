// Package dataset provides the prompts of a run with their human responses: records from JSONL and Parquet files or built-in
// data, their order in an iteration, and the scoring of answers.
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
	"math"
	"os"
	"strings"

	"github.com/ldalign/ldalign/schemas"
)

// ErrNoRecords is the error of a source without a usable record. The wrapping error says why.
var ErrNoRecords = errors.New("dataset: no usable record")

// Record is a prompt with its human response.
type Record struct {
	// ID is unique within a Set and stays the same from run to run: pair ids and sample seeds are made from it.
	ID string `json:"id"`
	// Prompt is x.
	Prompt string `json:"prompt"`
	// Response is y, the human response.
	Response string `json:"response"`
	// Rejected is the rejected response, if the data has one (DPO, SPIN).
	Rejected string `json:"rejected,omitempty"`
	// Contains lists the phrases that a right answer contains, in this order; empty if no program can check the answer.
	Contains []string `json:"contains,omitempty"`
	// Distance is the latent distance from the data; nil if the data has none.
	Distance *float64 `json:"distance,omitempty"`
	// Reference holds the log-probabilities of Response and Rejected under the model that the run starts from, summed over
	// response tokens; nil if the data does not have both.
	Reference *[2]float64 `json:"reference,omitempty"`
	// Line is the record's line in a JSONL file, its row in a Parquet file, or its number in built-in data, from 1.
	Line int `json:"line"`
}

// Options say which records Load takes from a source.
type Options struct {
	// Columns names columns that do not have the usual names.
	Columns schemas.ColumnsSpec
	// Pairs takes only records with a rejected response that differs from the response, Distances only those with a distance.
	Pairs, Distances bool
	// Limit is how many records to take; 0 takes all. Reading ends there.
	Limit int
	// Subset is how many records to choose at random, by Seed and record id; 0 takes all.
	Subset int
	Seed   uint64
	// Progress, if not nil, is called now and then with the number of rows read; its error ends the reading.
	Progress func(rows int) error
}

// Set holds the usable records of one source, in its order, and a report about the others.
type Set struct {
	Records []Record
	Report  Report
}

// Load reads a source: a file, a folder or a pattern of files, several of these separated by commas, or built-in data
// (builtin:demo/base, builtin:demo/align, builtin:demo/heldout). A file is Parquet, JSONL or gzipped JSONL. The error wraps
// ErrNoRecords if there is no usable record; otherwise it names the file that cannot be read.
func Load(source string, o Options) (Set, error) {
	c := newCollector(source, o)
	if name, ok := strings.CutPrefix(source, "builtin:"); ok {
		set, err := builtin(name)
		if err != nil {
			return Set{}, err
		}
		c.report.Source, c.report.Format = set.Report.Source, set.Report.Format
		for _, r := range set.Records {
			c.report.Read++
			if !c.take(r, place{line: r.Line}) {
				break
			}
		}
		return c.finish()
	}
	files, err := Files(source)
	if err != nil {
		return Set{}, err
	}
	for _, name := range files {
		more, err := c.file(name)
		if err != nil {
			return Set{}, err
		}
		if !more {
			break
		}
	}
	return c.finish()
}

// file takes the records of one file; the first bytes of a file show its format. It reports whether more records are wanted.
func (c *collector) file(name string) (more bool, err error) {
	f, err := os.Open(name)
	if err != nil {
		return false, fmt.Errorf("dataset: %w", err)
	}
	defer f.Close()
	c.source(name)
	var magic [4]byte
	n, err := io.ReadFull(f, magic[:])
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, fmt.Errorf("dataset: %s: %w", name, err)
	}
	if string(magic[:n]) == parquetMagic {
		info, err := f.Stat()
		if err != nil {
			return false, fmt.Errorf("dataset: %w", err)
		}
		return c.table(f, info.Size())
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return false, fmt.Errorf("dataset: %s: %w", name, err)
	}
	text, err := Text(f)
	if err != nil {
		return false, fmt.Errorf("dataset: %s: %w", name, err)
	}
	return c.lines(text)
}

// Digest is the sha256, in hexadecimal, of all records in their order, without their line numbers.
func (s Set) Digest() string {
	h := sha256.New()
	write := func(text string) {
		var size [8]byte
		binary.LittleEndian.PutUint64(size[:], uint64(len(text)))
		h.Write(size[:])
		h.Write([]byte(text))
	}
	number := func(name string, x float64) {
		write(name)
		write(string(binary.LittleEndian.AppendUint64(nil, math.Float64bits(x))))
	}
	for _, r := range s.Records {
		write(r.ID)
		write(r.Prompt)
		write(r.Response)
		write(r.Rejected)
		for _, word := range r.Contains {
			write(word)
		}
		if r.Distance != nil {
			number("distance", *r.Distance)
		}
		if r.Reference != nil {
			number("chosen", r.Reference[0])
			number("rejected", r.Reference[1])
		}
		h.Write([]byte{'\n'})
	}
	return hex.EncodeToString(h.Sum(nil))
}

// WriteJSONL writes the records as a JSONL file that Load reads.
func (s Set) WriteJSONL(w io.Writer) error {
	out := bufio.NewWriter(w)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	for _, r := range s.Records {
		line := struct {
			ID          string   `json:"id"`
			Prompt      string   `json:"prompt"`
			Response    string   `json:"response"`
			Rejected    string   `json:"rejected,omitempty"`
			Contains    []string `json:"contains,omitempty"`
			Distance    *float64 `json:"distance,omitempty"`
			RefChosen   *float64 `json:"ref_chosen_logp,omitempty"`
			RefRejected *float64 `json:"ref_rejected_logp,omitempty"`
		}{ID: r.ID, Prompt: r.Prompt, Response: r.Response, Rejected: r.Rejected, Contains: r.Contains, Distance: r.Distance}
		if r.Reference != nil {
			line.RefChosen, line.RefRejected = &r.Reference[0], &r.Reference[1]
		}
		if err := enc.Encode(line); err != nil {
			return fmt.Errorf("dataset: write: %w", err)
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("dataset: write: %w", err)
	}
	return nil
}

// promptID is the id of a record without one: the same prompt always gets the same id.
func promptID(prompt string) string {
	sum := sha256.Sum256([]byte(prompt))
	return hex.EncodeToString(sum[:8])
}
