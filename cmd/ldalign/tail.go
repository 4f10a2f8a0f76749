package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/streams"
)

type tailCommand struct {
	Subject string        `arg:"" help:"Kind of message (${kinds}), or a NATS subject, which may have wildcards."`
	Since   time.Duration `help:"Print messages from this far back, e.g. 10m; 0 starts at the beginning of the log." default:"0"`
	Count   int           `help:"Stop after this many messages; 0 continues until Ctrl-C." short:"n" default:"0"`
	serverFlags
}

func (tailCommand) Help() string {
	return `Example:

    ldalign tail scored -n 5
    ldalign tail 'ldalign.*.my-run.0' --since 10m | jq .message.distance

Prints one JSON object per line: stream, subject, seq, time and the message.`
}

func (c *tailCommand) Run(ctx context.Context, e *env) error {
	return e.attached(ctx, c.servers(), func(s *runs.Session) error { return c.run(ctx, e, s) })
}

func (c *tailCommand) run(ctx context.Context, e *env, s *runs.Session) (err error) {
	var since time.Time
	if c.Since > 0 {
		since = time.Now().Add(-c.Since)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer e.interrupts.take(stop)() // Ctrl-C ends tail at once: there is nothing to save
	encode := json.NewEncoder(e.stdout)
	printed := 0
	err = s.Streams.Tail(ctx, c.Subject, since, func(line streams.Line) error {
		if err := encode.Encode(line); err != nil {
			return fmt.Errorf("tail: %w", err)
		}
		if printed++; c.Count > 0 && printed >= c.Count {
			return streams.ErrStop
		}
		return nil
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}
