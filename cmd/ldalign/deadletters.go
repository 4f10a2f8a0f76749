package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ldalign/ldalign/schemas"
)

type deadLettersCommand struct {
	List    deadLettersListCommand    `cmd:"" help:"List a run's dead letters."`
	Show    deadLettersShowCommand    `cmd:"" help:"Show one dead letter with its original."`
	Redrive deadLettersRedriveCommand `cmd:"" help:"Put originals back on their subject, once the cause is gone."`
}

type deadLettersListCommand struct {
	Name string `arg:"" name:"run" help:"Name of the run."`
	serverFlags
}

func (deadLettersListCommand) Help() string {
	return "Example:\n\n    ldalign deadletters list my-run"
}

func (c *deadLettersListCommand) Run(ctx context.Context, e *env) (err error) {
	n, err := e.attach(ctx, c.serverFlags.over(schemas.ServersSpec{}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	if _, err := n.specsOf(ctx, []string{c.Name}); err != nil {
		return err
	}
	letters, err := n.streams.DeadLetters(ctx, c.Name)
	if err != nil {
		return err
	}
	if e.json {
		for _, l := range letters {
			fmt.Fprintln(e.stdout, protojson.MarshalOptions{}.Format(l.DeadLetter))
		}
		return nil
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "number\titeration\tstage\treason\tpair\terror")
	for _, l := range letters {
		fmt.Fprintf(w, "%d\t%d\t%s\t%s\t%s\t%s\n", l.Seq, l.GetIteration(), l.GetStage(), l.GetReason(), l.GetPairId(), l.GetError())
	}
	return w.Flush()
}

type deadLettersShowCommand struct {
	Number uint64 `arg:"" help:"Number of the dead letter, from list."`
	serverFlags
}

func (deadLettersShowCommand) Help() string { return "Example:\n\n    ldalign deadletters show 17" }

func (c *deadLettersShowCommand) Run(ctx context.Context, e *env) (err error) {
	n, err := e.attach(ctx, c.serverFlags.over(schemas.ServersSpec{}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	letter, err := n.streams.DeadLetter(ctx, c.Number)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(e.stdout, protojson.MarshalOptions{Multiline: true}.Format(letter.DeadLetter))
	return err
}

type deadLettersRedriveCommand struct {
	Numbers []uint64 `arg:"" name:"number" help:"Numbers of dead letters, from list."`
	serverFlags
}

func (deadLettersRedriveCommand) Help() string {
	return `Example:

    ldalign deadletters redrive 17 18

The original goes back on its subject and its stage finds it as a new message. Interrupted in between, the command can be
repeated.`
}

func (c *deadLettersRedriveCommand) Run(ctx context.Context, e *env) (err error) {
	n, err := e.attach(ctx, c.serverFlags.over(schemas.ServersSpec{}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	for _, number := range c.Numbers {
		if err := n.streams.Redrive(ctx, number); err != nil {
			return err
		}
		fmt.Fprintf(e.stdout, "dead letter %d is back on its subject\n", number)
	}
	return nil
}
