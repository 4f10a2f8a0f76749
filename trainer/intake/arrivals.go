package intake

import (
	"context"
	"errors"
	"fmt"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/activity"
	"github.com/ldalign/ldalign/trainer/loop"
	"github.com/ldalign/ldalign/trainer/schedule"
)

// Await is part of loop.Arrivals.
func (in *Iteration) Await(ctx context.Context, n, trained int, pause func() error) (loop.Arrived, error) {
	return in.grow(ctx, n, trained, pause, func(have, total int) {
		in.reader.Observe(activity.Waiting{Work: in.work(have, total), Kind: in.kind})
	})
}

// ReadBack is part of loop.Arrivals.
func (in *Iteration) ReadBack(
	ctx context.Context, n int, at checkpoints.Cursor, pause func() error,
) (loop.Arrived, error) {
	r := in.reader
	last, err := r.Streams.Last(ctx, in.kind, r.Spec.Run)
	if err != nil && !errors.Is(err, streams.ErrNotFound) {
		return loop.Arrived{}, err
	}
	if last.Seq < at.Sequence {
		return loop.Arrived{}, lost(in.kind, r.Spec.Run, last.Seq, at.Sequence)
	}
	return in.grow(ctx, n, at.Position, pause, func(have, total int) {
		r.Observe(activity.Reading{Work: in.work(have, total), Kind: in.kind})
	})
}

func (in *Iteration) work(have, total int) activity.Work {
	return in.reader.work(schedule.Policy, in.number, have, total)
}

// lost is the error of a log that ends before a checkpoint's cursor.
func lost(kind schemas.Kind, run string, end, cursor uint64) error {
	return fmt.Errorf("trainer: stream %s of run %s ends at sequence %d, but the checkpoint's cursor is at %d: "+
		"messages were lost from the log; restore the stream's store", kind, run, end, cursor)
}

// grow waits until the iteration has n examples or is complete, and adds them to the task. trained is the number of examples
// trained so far. grow calls show and pause while it waits.
func (in *Iteration) grow(
	ctx context.Context, n, trained int, pause func() error, show func(have, total int),
) (loop.Arrived, error) {
	if err := in.report(ctx, trained, busy); err != nil {
		return in.arrived(), err
	}
	for {
		got, err := in.inflow.take(ctx, n+len(in.batches.Skipped), func(have, total int) error {
			show(have, total)
			if err := in.report(ctx, trained, waiting); err != nil {
				return err
			}
			return pause()
		}, func() error { return in.report(ctx, trained, idle) })
		if err != nil {
			return in.arrived(), err
		}
		if err := in.add(ctx, got.messages); err != nil {
			return in.arrived(), err
		}
		in.upTo, in.planned, in.complete = got.last, got.total, got.complete
		switch {
		case in.complete:
			// All prompts are published. A prompter that gets this work again must not wait for the trainer.
			r := in.reader
			return in.arrived(), errors.Join(r.Streams.TrainerProgress(ctx, r.Spec.Run, in.number, got.total), in.whole())
		case len(in.batches.Pairs) >= n:
			return in.arrived(), nil
		}
	}
}

// arrived returns what has arrived so far.
func (in *Iteration) arrived() loop.Arrived {
	return loop.Arrived{Pairs: in.batches.Pairs, Skipped: in.batches.Skipped, Planned: in.planned, Complete: in.complete}
}

// What a trainer does when it reports its progress.
const (
	busy    = iota // it trains
	waiting        // for more pairs
	idle           // it waits, and nothing arrives
)

// report writes to the log how many pairs of an arriving iteration are trained, dead or skipped. The prompter publishes at
// most streams.max_in_flight prompts beyond that number. report writes after each eighth of that bound, and at once when all
// prompts that the prompter may publish have arrived. It also writes whenever nothing arrives, because the prompter may use
// another bound: the key can change between two starts. A resumed trainer may report a number again, which is harmless.
func (in *Iteration) report(ctx context.Context, trained, does int) error {
	r := in.reader
	ahead := r.Spec.MaxInFlight(in.number)
	have, dead := in.inflow.counts()
	taken := trained + dead + len(in.batches.Skipped)
	due := does == idle || ahead > 0 && (taken >= in.reported+ahead/8 || does == waiting && have >= in.reported+ahead)
	if !due || taken <= in.reported {
		return nil
	}
	in.reported = taken
	return r.Streams.TrainerProgress(ctx, r.Spec.Run, in.number, taken)
}
