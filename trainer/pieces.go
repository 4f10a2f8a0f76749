package trainer

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/trainer/curves"
)

// pieceLines is how many steps, or pairs, a piece of a state's files has.
const pieceLines = 1000

// pieces are what the states of a phase write once: records and batches of finished steps, and ids of pairs, in files of
// size lines that all later states name (checkpoints.Manifest.Pieces). Where they are cut depends on the number of the step or
// pair alone, so that a state is the same whoever was killed before it. A trainer that goes on cuts and names them anew.
type pieces struct {
	size int // 0 for pieceLines
	// files that a committed state names. Of the steps in them the phase holds neither records nor batches.
	files []checkpoints.File
	steps int
	// committed is the newest state, until settle looks at it. The commit sets it, and nobody reads it before that has ended.
	committed *checkpoints.Manifest
}

// Names of pieces begin so. Sorted by name they are in order, pairs before the steps that count in them.
const (
	recordPieces = "records/"
	pairPieces   = "batches/pairs-"
	stepPieces   = "batches/steps-"
)

func (c *pieces) length() int {
	if c.size == 0 {
		return pieceLines
	}
	return c.size
}

// whole is how many of n lines are in pieces. The last line is in none, so that no file is empty.
func (c *pieces) whole(n int) int { return max(n-1, 0) / c.length() * c.length() }

// name is that of the piece which begins with line number from.
func (c *pieces) name(kind string, from int) string {
	return fmt.Sprintf("%s%08d.jsonl", kind, from/c.length())
}

// of are the files of a kind.
func (c *pieces) of(kind string) []checkpoints.File {
	return slices.DeleteFunc(slices.Clone(c.files), func(f checkpoints.File) bool { return !strings.HasPrefix(f.Name, kind) })
}

// made is the number of steps so far.
func (p *phase) made() int { return p.pieces.steps + len(p.records) }

// settle lets go of the steps that the newest state has in pieces. No commit may be under way.
func (p *phase) settle() {
	c := &p.pieces
	if c.committed == nil {
		return
	}
	c.files = append(c.committed.Pieces(curves.File), c.committed.Pieces(checkpoints.BatchesFile)...)
	c.committed = nil
	filed := len(c.of(recordPieces)) * c.length()
	p.records = slices.Clone(p.records[filed-c.steps:])
	p.batches.Steps = slices.Clone(p.batches.Steps[filed-c.steps:])
	c.steps = filed
}

// lines are the files of a state that grow with the steps: pieces that a state has written already, by name alone, those that
// have become whole since then, and what is behind them.
func (p *phase) lines() []checkpoints.Source {
	c, all := &p.pieces, p.batches
	var out []checkpoints.Source
	for _, f := range c.files {
		out = append(out, checkpoints.Carry(f))
	}
	n := c.length()
	steps := c.whole(p.made()) - c.steps // of those in memory
	for at := 0; at < steps; at += n {
		out = append(out, recordsSource(c.name(recordPieces, c.steps+at), p.records[at:at+n]),
			batchesSource(c.name(stepPieces, c.steps+at), checkpoints.Batches{Steps: all.Steps[at : at+n]}))
	}
	pairs := c.whole(len(all.Pairs))
	for at := len(c.of(pairPieces)) * n; at < pairs; at += n {
		out = append(out, batchesSource(c.name(pairPieces, at), pairsOf(all, at, at+n)))
	}
	rest := pairsOf(all, pairs, len(all.Pairs))
	rest.Skipped, rest.Steps = all.Skipped, all.Steps[steps:]
	return append(out, recordsSource(curves.File, p.records[steps:]), batchesSource(checkpoints.BatchesFile, rest))
}

// pairsOf are the pairs of a record of batches from one number up to another.
func pairsOf(b checkpoints.Batches, from, to int) checkpoints.Batches {
	own := len(b.Pairs) - b.Earlier
	return checkpoints.Batches{Pairs: b.Pairs[from:to], Earlier: to - max(from, min(to, own))}
}

// wholeLines are records and batches of all steps, each in one file.
func (t *Trainer) wholeLines(ctx context.Context, p *phase) []checkpoints.Source {
	filed := func(w io.Writer, kind string) error {
		for _, f := range p.pieces.of(kind) {
			data, err := t.Checkpoints.ReadFile(ctx, t.Spec.Run, f)
			if err == nil {
				_, err = w.Write(data)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	pairs, steps := p.batches, checkpoints.Batches{Steps: p.batches.Steps}
	pairs.Steps = nil
	return []checkpoints.Source{
		{Name: curves.File, Write: func(w io.Writer) error {
			if err := filed(w, recordPieces); err != nil {
				return err
			}
			return curves.Write(w, p.records)
		}},
		{Name: checkpoints.BatchesFile, Write: func(w io.Writer) error {
			if err := pairs.Write(w); err != nil {
				return err
			}
			if err := filed(w, stepPieces); err != nil {
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
