package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/user"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/streams/ledger"
)

type deadLettersCommand struct {
	List    deadLettersListCommand    `cmd:"" help:"List a run's dead letters."`
	Show    deadLettersShowCommand    `cmd:"" help:"Show one dead letter with its original."`
	Redrive deadLettersRedriveCommand `cmd:"" help:"Publish the original messages again, once the cause is fixed."`
	Drop    deadLettersDropCommand    `cmd:"" help:"Give up the pairs of dead letters; the audit still counts them."`
}

// letterFilter selects some of a run's dead letters.
type letterFilter struct {
	Reason    string `help:"Only letters of this reason." placeholder:"REASON"`
	Stage     string `help:"Only letters of this stage." placeholder:"STAGE"`
	Iteration int    `help:"Only letters of this iteration; -1 for all." default:"-1"`
}

func (f letterFilter) filter() runs.LetterFilter { return runs.LetterFilter(f) }

// letterStatus is a letter as list --json prints it, and as show prints it with its original.
type letterStatus struct {
	Number     uint64    `json:"number"`
	Time       time.Time `json:"time"`
	Run        string    `json:"run"`
	Iteration  uint32    `json:"iteration"`
	Stage      string    `json:"stage"`
	Worker     string    `json:"worker,omitempty"`
	Reason     string    `json:"reason"`
	Error      string    `json:"error"`
	Tries      uint32    `json:"tries"`
	Deliveries uint32    `json:"deliveries"`
	Subject    string    `json:"subject"`
	Stream     string    `json:"stream"`
	Sequence   uint64    `json:"sequence"`
	PairID     string    `json:"pair_id,omitempty"`
	DroppedBy  string    `json:"dropped_by,omitempty"`
	// Original is the message. If it cannot be decoded, Bytes holds its bytes.
	Original json.RawMessage `json:"original,omitempty"`
	Bytes    []byte          `json:"bytes,omitempty"`
}

func letterStatusOf(l ledger.Letter) letterStatus {
	return letterStatus{
		Number: l.Seq, Time: l.Time.UTC(), Run: l.GetRun(), Iteration: l.GetIteration(), Stage: l.GetStage(),
		Worker: l.GetWorker(), Reason: l.GetReason(), Error: l.GetError(), Tries: l.GetTries(),
		Deliveries: l.GetDeliveries(), Subject: l.GetSubject(), Stream: l.GetStream(), Sequence: l.GetSequence(),
		PairID: l.GetPairId(), DroppedBy: l.GetDroppedBy(),
	}
}

type deadLettersListCommand struct {
	Name string `arg:"" name:"run" help:"Name of the run."`
	letterFilter
	serverFlags
}

func (deadLettersListCommand) Help() string {
	return `Example:

    ldalign deadletters list my-run
    ldalign deadletters list my-run --reason poison --stage generator
    ldalign deadletters list my-run --json | jq -r .pair_id`
}

func (c *deadLettersListCommand) Run(ctx context.Context, e *env) error {
	return e.attached(ctx, c.servers(), func(s *runs.Session) error {
		letters, err := runs.Letters(ctx, s, c.Name, c.filter())
		if err != nil {
			return err
		}
		return e.printLetters(letters)
	})
}

func (e *env) printLetters(letters []ledger.Letter) error {
	if e.json {
		out := make([]letterStatus, len(letters))
		for i, l := range letters {
			out[i] = letterStatusOf(l)
		}
		return printJSON(e.stdout, out)
	}
	if len(letters) == 0 {
		fmt.Fprintln(e.stdout, "no dead letters")
		return nil
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "number\titeration\tstage\treason\ttries\tpair\terror")
	for _, l := range letters {
		reason := l.GetReason()
		if l.GetDroppedBy() != "" {
			reason += " (dropped)"
		}
		first, _, _ := strings.Cut(l.GetError(), "\n") // an error from a panic includes a stack trace, which only show prints
		fmt.Fprintf(w, "%d\t%d\t%s\t%s\t%d\t%s\t%s\n",
			l.Seq, l.GetIteration(), l.GetStage(), reason, l.GetTries(), l.GetPairId(), first)
	}
	return w.Flush()
}

type deadLettersShowCommand struct {
	Name   string `arg:"" name:"run" help:"Name of the run."`
	Number uint64 `arg:"" help:"Number of the dead letter, from list."`
	serverFlags
}

func (deadLettersShowCommand) Help() string {
	return "Example:\n\n    ldalign deadletters show my-run 17\n    ldalign deadletters show my-run 17 | jq -r .original.prompt"
}

func (c *deadLettersShowCommand) Run(ctx context.Context, e *env) error {
	return e.attached(ctx, c.servers(), func(s *runs.Session) error {
		letter, err := ledger.DeadLetter(ctx, s.Streams, c.Name, c.Number)
		if err != nil {
			return err
		}
		return e.printLetter(letter)
	})
}

// printLetter prints a letter with its original: the message, or its bytes if they cannot be decoded.
func (e *env) printLetter(letter ledger.Letter) error {
	shown := letterStatusOf(letter)
	if m, err := letter.Message(); err == nil {
		if shown.Original, err = protojson.Marshal(m); err != nil {
			return fmt.Errorf("dead letter %d: %w", letter.Seq, err)
		}
	} else {
		shown.Bytes = letter.GetOriginal()
	}
	if e.json {
		return printJSON(e.stdout, []letterStatus{shown})
	}
	encode := json.NewEncoder(e.stdout)
	encode.SetIndent("", "  ")
	return encode.Encode(shown)
}

// letterChoice selects letters of a run by their numbers, or by a filter.
type letterChoice struct {
	Numbers []uint64 `arg:"" name:"number" optional:"" help:"Numbers of dead letters, from list; if none is given, the flags select them."`
	Name    string   `name:"run" help:"Name of the run." placeholder:"RUN"`
	letterFilter
}

// letters returns the chosen letters. A filter leaves out those that were dropped.
func (c letterChoice) letters(ctx context.Context, s *runs.Session) ([]ledger.Letter, error) {
	if c.Name == "" || len(c.Numbers) > 0 && c.filter().Narrow() {
		return nil, fmt.Errorf("%w: give --run, and either numbers of letters or --reason, --stage, --iteration", errUsage)
	}
	if len(c.Numbers) > 0 {
		return runs.LettersAt(ctx, s, c.Name, c.Numbers)
	}
	letters, err := runs.Letters(ctx, s, c.Name, c.filter())
	return slices.DeleteFunc(letters, func(l ledger.Letter) bool { return l.GetDroppedBy() != "" }), err
}

type deadLettersRedriveCommand struct {
	letterChoice
	DryRun bool `help:"List the letters and change nothing."`
	serverFlags
}

func (deadLettersRedriveCommand) Help() string {
	return `Example:

    ldalign deadletters redrive --run my-run 17 18
    ldalign deadletters redrive --run my-run --reason poison --dry-run

Publishes each original message again on its subject, where its stage receives it as a new message. If it is interrupted, run
the same command again.`
}

func (c *deadLettersRedriveCommand) Run(ctx context.Context, e *env) error {
	return e.attached(ctx, c.servers(), func(s *runs.Session) error {
		letters, err := c.letters(ctx, s)
		if err != nil {
			return err
		}
		if c.DryRun {
			return e.printLetters(letters)
		}
		task := e.display.Task("redrive", int64(len(letters)), "letters")
		defer task.Done()
		return runs.Redrive(ctx, s, letters, func(l ledger.Letter) error {
			task.Add(1)
			return e.printDone(l, "redriven", "is back on its subject")
		})
	})
}

type deadLettersDropCommand struct {
	letterChoice
	Yes bool `help:"Drop them; without it, only list them."`
	serverFlags
}

func (deadLettersDropCommand) Help() string {
	return `Example:

    ldalign deadletters drop --run my-run --reason too_long
    ldalign deadletters drop --run my-run --reason too_long --yes

The ledger keeps a dropped letter and notes who dropped it. The original message is deleted, so the letter cannot be redriven.`
}

func (c *deadLettersDropCommand) Run(ctx context.Context, e *env) error {
	return e.attached(ctx, c.servers(), func(s *runs.Session) error {
		letters, err := c.letters(ctx, s)
		if err != nil {
			return err
		}
		if !c.Yes {
			e.notice("would drop %d letters and delete their originals; --yes does it", len(letters))
			return e.printLetters(letters)
		}
		task := e.display.Task("drop", int64(len(letters)), "letters")
		defer task.Done()
		return runs.Drop(ctx, s, letters, person(), func(l ledger.Letter) error {
			task.Add(1)
			return e.printDone(l, "dropped", "is dropped")
		})
	})
}

// printDone prints what was done to a letter: key is the JSON key, says the text for people.
func (e *env) printDone(l ledger.Letter, key, says string) error {
	if e.json {
		return printJSON(e.stdout, []map[string]any{{"number": l.Seq, key: true}})
	}
	_, err := fmt.Fprintf(e.stdout, "dead letter %d %s\n", l.Seq, says)
	return err
}

// person returns USER@HOST of whoever runs this command.
func person() string {
	host, _, _ := strings.Cut(runs.Holder(), "/")
	if u, err := user.Current(); err == nil {
		return u.Username + "@" + host
	}
	return "somebody@" + host
}
