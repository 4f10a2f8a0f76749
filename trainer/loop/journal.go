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

// journal is what a phase has recorded: a record and a batch of each step, those before a restart included, and the ids of
// the examples.
//
// States write lines that will not change any more once, in segments of a fixed number of lines that all later states name
// (checkpoints.Manifest.Segments). Where segments are cut depends on the number of the step or pair alone, so that a state is
// the same after any number of kills. A trainer that resumes cuts and names them anew.
type journal struct {
	// records and batches.Steps are of the steps that are not in filed segments.
	records []curves.Step
	batches checkpoints.Batches

	size int // of a segment; 0 for segmentLines
	// files are the segments that a committed state names, and steps is how many steps are in them.
	files []checkpoints.File
	steps int
	// committed is the newest state, until settle looks at it. The commit sets it, and nobody reads it before that has ended.
	committed *checkpoints.Manifest
}

// Names of segments begin so. Sorted by name they are in order, pairs before the steps that count in them.
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

// whole is how many of n lines are in segments. The last line is in none, so that no file is empty.
func (j *journal) whole(n int) int { return max(n-1, 0) / j.length() * j.length() }

// name is that of the segment which begins with line number from.
func (j *journal) name(kind string, from int) string {
	return fmt.Sprintf("%s%08d.jsonl", kind, from/j.length())
}

// of are the filed segments of a kind.
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

// settle drops the steps that the newest state has in segments. No commit may be under way.
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

// lines are the files of a state that grow with the steps: segments that a state has written already, by name alone, those
// that have become whole since then, and what is behind them.
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

// pairsOf are the pairs of a record of batches from one number up to another.
func pairsOf(b checkpoints.Batches, from, to int) checkpoints.Batches {
	own := len(b.Pairs) - b.Earlier
	return checkpoints.Batches{Pairs: b.Pairs[from:to], Earlier: to - max(from, min(to, own))}
}

// complete are records and batches of all steps, each in one file. read reads a filed segment.
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
