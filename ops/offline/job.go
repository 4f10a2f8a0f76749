package offline

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/ldalign/ldalign/dataset/jsonl"
	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/ops/runs"
)

// Files are the input and the output of a job.
type Files struct {
	Input  string // "-" is stdin
	Output string // empty or "-" prints to Stdout
	Stdout io.Writer
	// Display shows the progress.
	Display *progress.Display
}

// saved reports whether the output is a file.
func (f Files) saved() bool { return f.Output != "" && f.Output != "-" }

// Item is a record on its way from the input to the output: the line, and the object that the line becomes.
type Item struct {
	jsonl.Line
	jsonl.Object
	// Name is the id as JSON.
	Name string
}

// Job reads records in windows, and writes the resulting records in the same order.
type Job struct {
	Verb string
	// Settings are everything besides the input that determines the output. They are kept beside the output file.
	Settings any
	// Window is the number of records that are worked on together.
	Window int
	// Prepare checks a record; its error names the key.
	Prepare func(r *Item) error
	// Began, if not nil, is called with the progress task, on which the job can show its own notes.
	Began func(task *progress.Task)
	// Work processes a window. It calls emit for each record that is done, in any order.
	Work func(ctx context.Context, records []*Item, emit func(i int) error) error
}

const unit = "records"

// Run runs a job. It returns the number of records that were done now and by earlier runs. A bad line ends the job after the
// records before it. However the job ends, the output holds the finished records, and running the same job again continues
// there. If ctx ends, the error is an *Interrupted.
func (j Job) Run(ctx context.Context, files Files) (done, before int, err error) {
	done, before, err = j.run(ctx, files)
	if errors.Is(err, context.Canceled) {
		err = &Interrupted{Output: files.Output, Now: done, All: done + before}
		if !files.saved() {
			err = &Interrupted{Now: done}
		}
	}
	return done, before, err
}

func (j Job) run(ctx context.Context, files Files) (done, before int, err error) {
	in, err := jsonl.Open(files.Input)
	if err != nil {
		return 0, 0, err
	}
	defer in.Close()
	out, err := jsonl.OpenWriter(files.Output, files.Stdout)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if before = out.Records(); files.saved() {
		if err := checkSettings(files.Output, before > 0, j.Settings); err != nil {
			return 0, before, err
		}
	}
	total, err := jsonl.Count(files.Input)
	if err != nil {
		return 0, before, err
	}
	task := files.Display.Task(j.Verb, total, unit)
	defer func() {
		if err == nil || done > 0 { // else the error is enough
			task.Done()
		}
	}()
	task.Resume(int64(before))
	if j.Began != nil {
		j.Began(task)
	}
	for {
		records, more := j.read(in, out)
		if len(records) > 0 {
			ready, written := make([]bool, len(records)), 0
			err := j.Work(ctx, records, func(i int) error {
				for ready[i] = true; written < len(ready) && ready[written]; written++ {
					if err := out.Write(records[written].Name, records[written].Object); err != nil {
						return err
					}
					done++
					task.Add(1)
				}
				return nil
			})
			if err != nil {
				return done, before, err
			}
		}
		if errors.Is(more, io.EOF) {
			if in.Records() == 0 {
				return 0, before, fmt.Errorf("%s holds no records", in.Name())
			}
			return done, before, nil
		}
		if more != nil {
			return done, before, more
		}
	}
}

// read fills a window with records that the output does not have. The error says why reading ended.
func (j Job) read(in *jsonl.Reader, out *jsonl.Writer) ([]*Item, error) {
	var records []*Item
	for len(records) < j.Window {
		line, id, err := in.NextID()
		if err != nil {
			return records, err
		}
		if out.Done(id) {
			continue
		}
		fields, err := jsonl.ParseObject(line.Raw)
		if err != nil {
			return records, line.Errorf("", "%v", err)
		}
		r := &Item{Line: line, Object: fields, Name: id}
		if err := j.Prepare(r); err != nil {
			return records, err
		}
		records = append(records, r)
	}
	return records, nil
}

// checkSettings keeps the settings beside the output file. It returns runs.ErrSettings if the file was written with other
// settings.
func checkSettings(output string, resumed bool, settings any) error {
	name := output + ".settings.json"
	want, err := json.MarshalIndent(settings, "", "  ")
	if err != nil {
		return err
	}
	want = append(want, '\n')
	if !resumed {
		return os.WriteFile(name, want, 0o644)
	}
	was, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("%w: %s has records, but their settings are unknown (%w): name another --out",
			runs.ErrSettings, output, err)
	}
	if !bytes.Equal(was, want) {
		return fmt.Errorf("%w: %s was written with other settings (see %s): name another --out, or remove both files",
			runs.ErrSettings, output, name)
	}
	return nil
}

// Interrupted reports that ctx ended a job. It wraps context.Canceled.
type Interrupted struct {
	Output   string // empty for a job that prints its output
	Now, All int    // records done in this run, and all records in Output
}

func (e *Interrupted) Error() string {
	if e.Output == "" {
		return fmt.Sprintf("interrupted after %d %s", e.Now, unit)
	}
	return fmt.Sprintf("interrupted: %s has %d %s; run the same command to continue", e.Output, e.All, unit)
}

// Unwrap returns context.Canceled.
func (*Interrupted) Unwrap() error { return context.Canceled }

// Count is a named value of a Summary.
type Count struct {
	Name  string
	Value any
}

// Summary has the counts and means that a job reports when it is done.
type Summary []Count

// MarshalJSON writes an object with the counts in their order.
func (s Summary) MarshalJSON() ([]byte, error) {
	o := jsonl.Object{}
	for _, c := range s {
		if err := o.Set(c.Name, c.Value); err != nil {
			return nil, err
		}
	}
	return o.MarshalJSON()
}

// seconds is a time in seconds, to the millisecond.
func seconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }
