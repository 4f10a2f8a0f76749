package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ldalign/ldalign/dataset"
	"github.com/ldalign/ldalign/schemas"
)

type dataCommand struct {
	Inspect dataInspectCommand `cmd:"" help:"Show the records of a data set, and which rows would be dropped." tensors:"with model"`
}

type dataInspectCommand struct {
	Source   string            `arg:"" name:"file" help:"A Parquet or JSONL file, a folder, a pattern, or several of these separated by commas."`
	Columns  map[string]string `help:"Names of columns, as in data.columns of a spec, e.g. --columns prompt=question,response=answer." mapsep:"," placeholder:"KEY=NAME"`
	Pairs    bool              `help:"Take only records with a rejected response, as dpo and ldalign train do."`
	Limit    int               `help:"Read only the first N records; 0 reads all." default:"0"`
	Examples int               `help:"Number of records to show." default:"2"`
	Model    string            `help:"Count lengths in tokens of this model's tokenizer, not in characters: a folder, RUN@ITERATION or ORG/NAME." placeholder:"MODEL"`
	serverFlags
}

func (dataInspectCommand) Help() string {
	return `Example:

    ldalign data inspect 'data/train_sft-*.parquet' --model models/zephyr-7b-sft-full
    ldalign data inspect qa.jsonl --columns prompt=question,response=answer --json | jq .dropped

docs/data.md lists the recognised formats of records. Lengths do not include what a chat template adds. The exit code is 1 if no
record is usable.`
}

func (c *dataInspectCommand) Run(ctx context.Context, e *env) (err error) {
	o := dataset.Options{Pairs: c.Pairs, Limit: c.Limit}
	if o.Columns, err = columnsOf(c.Columns); err != nil {
		return err
	}
	reading := e.display.Task("read", 0, "rows")
	o.Progress = func(rows int) error {
		reading.Set(int64(rows))
		return ctx.Err()
	}
	set, err := dataset.Load(c.Source, o)
	if err != nil {
		return err
	}
	reading.Set(int64(set.Report.Read))
	reading.Done()
	by := dataset.Characters()
	if c.Model != "" {
		var tok encoder
		if tok, err = e.tokenizer(ctx, c.Model, c.serverFlags); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, tok.Close()) }()
		by = dataset.Measure{Unit: "tokens", Count: func(text string) (int, error) {
			ids, err := tok.Encode(text, false)
			return len(ids), err
		}}
	}
	counting := e.display.Task("count "+by.Unit, int64(len(set.Records)), "records")
	in, err := dataset.Inspect(ctx, set, by, c.Examples, counting.Add)
	counting.Done()
	if err != nil {
		return err
	}
	if e.json {
		return printJSON(e.stdout, []dataset.Inspection{in})
	}
	printData(e.stdout, in)
	return nil
}

// encoder turns texts into tokens, as a model does.
type encoder interface {
	Encode(text string, addSpecial bool) ([]int64, error)
	Close() error
}

// tokenizer finds a model by its name and opens its tokenizer.
func (e *env) tokenizer(ctx context.Context, name string, servers serverFlags) (encoder, error) {
	folder, err := e.findModel(ctx, name, servers)
	if err != nil {
		return nil, err
	}
	files, dir := folder.TokenizerFiles()
	t, err := openTokenizer(files)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", dir, err)
	}
	return t, nil
}

// columnsOf reads --columns; the keys are those of data.columns.
func columnsOf(names map[string]string) (schemas.ColumnsSpec, error) {
	var spec schemas.Spec
	keys := make([]string, 0, len(names))
	for key := range names {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	var known []string
	for _, f := range schemas.Fields() {
		if key, ok := strings.CutPrefix(f.Key, "data.columns."); ok {
			known = append(known, key)
		}
	}
	for _, key := range keys {
		if !slices.Contains(known, key) {
			return spec.Data.Columns, fmt.Errorf("%w: --columns: there is no %q, want %s", errUsage, key, strings.Join(known, ", "))
		}
		if err := schemas.Set(&spec, "data.columns."+key+"="+names[key]); err != nil {
			return spec.Data.Columns, fmt.Errorf("%w: --columns: %w", errUsage, err)
		}
	}
	return spec.Data.Columns, nil
}

// printData prints an inspection for people.
func printData(w io.Writer, in dataset.Inspection) {
	fmt.Fprintf(w, "%s: %s\nformat: %s\n", in.Source, in.Report.String(), in.Format)
	if len(in.Files) > 1 {
		fmt.Fprintf(w, "files: %s\n", strings.Join(in.Files, " "))
	}
	fmt.Fprintf(w, "digest: %s\n", in.Digest)
	for _, l := range in.Lengths {
		fmt.Fprintf(w, "\n%s, in %s: %d to %d, half up to %d, 90 %% up to %d, 99 %% up to %d\n",
			l.Of, in.Unit, l.Min, l.Max, l.Median, l.P90, l.P99)
		most := 1
		for _, b := range l.Histogram {
			most = max(most, b.Count)
		}
		for _, b := range l.Histogram {
			fmt.Fprintf(w, "  up to %6d  %-40s %d\n", b.UpTo, strings.Repeat("#", (b.Count*40+most-1)/most), b.Count)
		}
	}
	for _, x := range in.Examples {
		fmt.Fprintf(w, "\nrow %d, id %s\n  prompt:   %s\n  response: %s\n", x.Line, x.ID, oneLine(x.Prompt), oneLine(x.Response))
		if x.Rejected != "" {
			fmt.Fprintf(w, "  rejected: %s\n", oneLine(x.Rejected))
		}
	}
	if len(in.Problems) > 0 {
		fmt.Fprintln(w, "\nfirst rows that are dropped:")
	}
	for _, p := range in.Problems {
		fmt.Fprintf(w, "  %s\n", p)
	}
}

// oneLine returns the beginning of a text, as one line for a terminal.
func oneLine(text string) string {
	const most = 100
	r := []rune(strings.Join(strings.Fields(text), " "))
	for i := range r {
		if r[i] < ' ' || r[i] == 0x7f {
			r[i] = '?'
		}
	}
	if len(r) > most {
		return string(r[:most]) + "…"
	}
	return string(r)
}
