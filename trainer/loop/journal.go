package loop

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/trainer/curves"
)

// segmentLines is how many steps, or pairs, a segment of a state's files has.
const segmentLines = 1000

// journal contains the record and the batch of each step, including those before a restart, and the ids of the examples.
//
// Lines that will not change any more are written once, in segments of a fixed number of lines, which all later states name
// (checkpoints.Manifest.Segments). Where a segment begins depends only on the number of the step or pair, so a state is the
// same after any number of restarts. A trainer that resumes cuts and names the segments again.
type journal struct {
	// records and batches.Steps contain the steps that are not in written segments.
	records []curves.Step
	batches checkpoints.Batches

	size int // the lines of a segment; 0 for segmentLines
	// files are the segments that a committed state names; they contain the first steps steps.
	files []checkpoints.File
	steps int
	// committed is the newest state, until settle has processed it. The commit sets it; it is read only after the commit.
	committed *checkpoints.Manifest
}

// Prefixes of the names of segments. Sorted by name they are in order, and pairs come before the steps that refer to them.
const (
	recordSegments = "records/"
	pairSegments   = "batches/pairs-"
	stepSegments   = "batches/steps-"
)

func (j *journal) length() int {
	if j.size == 0 {
		return segmentLines
	}
	return j.size
}

// whole is how many of n lines are in segments. The last line never is, so that no file is empty.
func (j *journal) whole(n int) int { return max(n-1, 0) / j.length() * j.length() }

// name is the name of the segment that begins with line number from.
func (j *journal) name(kind string, from int) string {
	return fmt.Sprintf("%s%08d.jsonl", kind, from/j.length())
}

// of returns the written segments of a kind.
func (j *journal) of(kind string) []checkpoints.File {
	return slices.DeleteFunc(slices.Clone(j.files), func(f checkpoints.File) bool { return !strings.HasPrefix(f.Name, kind) })
}

// made is the number of steps so far.
func (j *journal) made() int { return j.steps + len(j.records) }

// add records a step and returns its record, which may be added to.
func (j *journal) add(record curves.Step, batch []int) *curves.Step {
	j.records = append(j.records, record)
	j.batches.Steps = append(j.batches.Steps, checkpoints.Batch{Step: record.Step, Epoch: record.Epoch, Pairs: batch})
	return &j.records[len(j.records)-1]
}

// settle drops the steps that are in segments of the newest state. No commit may be running.
func (j *journal) settle() {
	if j.committed == nil {
		return
	}
	j.files = append(j.committed.Segments(curves.File), j.committed.Segments(checkpoints.BatchesFile)...)
	j.committed = nil
	filed := len(j.of(recordSegments)) * j.length()
	j.records = slices.Clone(j.records[filed-j.steps:])
	j.batches.Steps = slices.Clone(j.batches.Steps[filed-j.steps:])
	j.steps = filed
}

// lines returns the files of a state that grow with the steps: the segments that an earlier state has written, which are only
// named; the segments that are complete since then; and the lines after them.
func (j *journal) lines() []checkpoints.Source {
	all := j.batches
	var out []checkpoints.Source
	for _, f := range j.files {
		out = append(out, checkpoints.Carry(f))
	}
	n := j.length()
	steps := j.whole(j.made()) - j.steps // of those in memory
	for at := 0; at < steps; at += n {
		out = append(out, recordsSource(j.name(recordSegments, j.steps+at), j.records[at:at+n]),
			batchesSource(j.name(stepSegments, j.steps+at), checkpoints.Batches{Steps: all.Steps[at : at+n]}))
	}
	pairs := j.whole(len(all.Pairs))
	for at := len(j.of(pairSegments)) * n; at < pairs; at += n {
		out = append(out, batchesSource(j.name(pairSegments, at), pairsOf(all, at, at+n)))
	}
	rest := pairsOf(all, pairs, len(all.Pairs))
	rest.Skipped, rest.Steps = all.Skipped, all.Steps[steps:]
	return append(out, recordsSource(curves.File, j.records[steps:]), batchesSource(checkpoints.BatchesFile, rest))
}

// pairsOf returns the pairs of a record of batches from number from up to, not including, to.
func pairsOf(b checkpoints.Batches, from, to int) checkpoints.Batches {
	own := len(b.Pairs) - b.Earlier
	return checkpoints.Batches{Pairs: b.Pairs[from:to], Earlier: to - max(from, min(to, own))}
}

// complete returns the records and the batches of all steps, each as one file. read reads a written segment.
func (j *journal) complete(read func(checkpoints.File) ([]byte, error)) []checkpoints.Source {
	filed := func(w io.Writer, kind string) error {
		for _, f := range j.of(kind) {
			data, err := read(f)
			if err == nil {
				_, err = w.Write(data)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	pairs, steps := j.batches, checkpoints.Batches{Steps: j.batches.Steps}
	pairs.Steps = nil
	return []checkpoints.Source{
		{Name: curves.File, Write: func(w io.Writer) error {
			if err := filed(w, recordSegments); err != nil {
				return err
			}
			return curves.Write(w, j.records)
		}},
		{Name: checkpoints.BatchesFile, Write: func(w io.Writer) error {
			if err := pairs.Write(w); err != nil {
				return err
			}
			if err := filed(w, stepSegments); err != nil {
				return err
			}
			return steps.Write(w)
		}},
	}
}

func recordsSource(name string, records []curves.Step) checkpoints.Source {
	return checkpoints.Source{Name: name, Write: func(w io.Writer) error { return curves.Write(w, records) }}
}

func batchesSource(name string, b checkpoints.Batches) checkpoints.Source {
	return checkpoints.Source{Name: name, Write: b.Write}
}
