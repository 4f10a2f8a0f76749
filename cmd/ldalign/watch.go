package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/streams"
)

// watch shows the status repeatedly: in place on a terminal, else as a line for each stage, or as JSON.
func (c *statusCommand) watch(ctx context.Context, e *env, session *runs.Session) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer e.interrupts.take(stop)() // Ctrl-C ends it at once: there is nothing to save
	tick := time.NewTicker(max(c.Every, 100*time.Millisecond))
	defer tick.Stop()
	for {
		s, err := session.LiveStatus(ctx, c.Name, e.pipeline.Stages())
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case e.json:
			err = printJSON(e.stdout, []runs.Status{s})
		case isTerminal(e.stdout):
			var b strings.Builder
			b.WriteString("\x1b[H\x1b[J") // cursor to the top left, then clear the screen
			if err = printStatus(&b, s); err == nil {
				_, err = io.WriteString(e.stdout, b.String())
			}
		default:
			err = printLines(e.stdout, s, time.Now())
		}
		if err != nil || s.State == runs.StateComplete {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd()) && os.Getenv("TERM") != "dumb"
}

// policies says which policy the run has reached, for people.
func policies(s runs.Status) string {
	if s.Policy < 0 {
		return fmt.Sprintf("no policy yet of %d", s.Of)
	}
	return fmt.Sprintf("policy %d of %d", s.Policy, s.Of)
}

func printStatus(w io.Writer, s runs.Status) error {
	fmt.Fprintf(w, "run %s (%s): %s, %s, %d evaluated, %s\n",
		s.Run, s.Objective, s.State, policies(s), s.Evaluated, progress.Count(int64(s.Checkpoints), "checkpoints"))
	if s.Missing != "" {
		fmt.Fprintf(w, "warning: %s\n", s.Missing)
	}
	if s.Data != "" {
		fmt.Fprintf(w, "data: %s\n", s.Data)
	}
	if s.Lineage != "" {
		fmt.Fprintln(w, s.Lineage)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "iteration\ttotal\tprompts\tpairs\tencoded\tscored\tdead\t")
	for _, i := range s.Iterations {
		fmt.Fprintf(t, "%d\t%d\t%d\t%d\t%d\t%d\t%d\t", i.Iteration, i.Total, i.Prompts, i.Pairs, i.Encoded, i.Scored, i.Dead)
		if i.Expired {
			fmt.Fprint(t, "  messages removed by retention")
		}
		fmt.Fprintln(t)
	}
	if err := t.Flush(); err != nil || s.Live == nil || s.State == runs.StateComplete {
		return err
	}
	fmt.Fprintln(w)
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "stage\tlag\trate\teta\tworker\tversion\tstate")
	for _, stage := range s.Live.Stages {
		if len(stage.Workers) == 0 {
			fmt.Fprintf(t, "%s\t%d\t\t\tnone\t\t%s\n", stage.Stage, stage.Lag, unattended(stage))
		}
		for i, worker := range stage.Workers {
			name, lag, rate, eta := "", "", "", ""
			if i == 0 {
				name, lag, rate, eta = stage.Stage, strconv.Itoa(stage.Lag), perSecond(stage), etaOf(stage)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, lag, rate, eta, worker.Worker, worker.Version, doing(worker))
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, p := range s.Live.Pauses {
		what := p.Stage
		if what == "" {
			what = "the run"
		}
		fmt.Fprintf(w, "%s is paused by %s since %s\n", what, p.By, p.Since.Format(time.DateTime))
	}
	for _, full := range s.Live.Full {
		fmt.Fprintf(w, "warning: %s\n", runs.NearlyFull(full))
	}
	_, err := fmt.Fprintf(w, "the run waits for: %s\n", s.Live.Because)
	return err
}

// printLines prints a line for each stage.
func printLines(w io.Writer, s runs.Status, now time.Time) error {
	var b strings.Builder
	at := now.Format(time.TimeOnly)
	fmt.Fprintf(&b, "%s run %s: %s, %s; waits for: %s\n", at, s.Run, s.State, policies(s), s.Live.Because)
	for _, stage := range s.Live.Stages {
		fmt.Fprintf(&b, "%s %s: lag %d", at, stage.Stage, stage.Lag)
		if rate := perSecond(stage); rate != "" {
			fmt.Fprintf(&b, ", %s", rate)
		}
		if eta := etaOf(stage); eta != "" {
			fmt.Fprintf(&b, ", eta %s", eta)
		}
		for _, worker := range stage.Workers {
			fmt.Fprintf(&b, "; %s %s", worker.Worker, doing(worker))
		}
		if len(stage.Workers) == 0 {
			b.WriteString("; no worker")
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// doing says what a worker is doing and, from ten seconds on, for how long.
func doing(w streams.Worker) string {
	text := w.State
	if w.Detail != "" {
		text += ", " + w.Detail
	}
	if d := w.Seen.Sub(w.Since).Round(time.Second); d >= 10*time.Second {
		text += fmt.Sprintf(" (for %v)", d)
	}
	return text
}

func unattended(s runs.StageLiveness) string {
	if s.Lag > 0 {
		return "messages are waiting, but no worker is running"
	}
	return ""
}

func perSecond(s runs.StageLiveness) string {
	if s.Rate == 0 {
		return ""
	}
	return fmt.Sprintf("%.2g/s", s.Rate)
}

func etaOf(s runs.StageLiveness) string {
	if s.ETA == 0 {
		return ""
	}
	return time.Duration(s.ETA * float64(time.Second)).Round(time.Second).String()
}
