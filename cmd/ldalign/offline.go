package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/ops/progress"
)

// The offline verbs (generate, score, reward, chat) use the code of the stages on files instead of streams.

// computeFlags say where a verb computes.
type computeFlags struct {
	Threads int    `help:"Threads of the tensor library; 0 is all cores. It changes no number." default:"0"`
	Device  string `help:"cpu or cuda:N (not run on a GPU by the project)." default:"cpu"`
}

// modelFlags choose a model.
type modelFlags struct {
	Model string `help:"A model's or adapter's folder, RUN@ITERATION (RUN@ is the newest), or a Hugging Face id (ORG/NAME or ORG/NAME@REVISION)." required:"" placeholder:"MODEL"`
	computeFlags
	serverFlags
}

// templateFlags say how a prompt becomes what the model reads.
type templateFlags struct {
	Raw    bool   `help:"Take prompts as they are; special tokens are those that the tokenizer itself adds." xor:"template"`
	Chat   bool   `help:"Put prompts into the model's chat template. The default is to do so where there is one." xor:"template"`
	System string `help:"System message before every prompt." placeholder:"TEXT"`
}

// offline is a model that is ready to generate and score.
type offline struct {
	place     modelPlace
	engine    *tensor.Engine
	model     *models.Model
	tokenizer *tokenizer.Tokenizer
	chat      bool
	system    string
	// lead is what the template writes before an answer: it is no part of a response.
	lead string
}

// load opens the model of the flags, packed where it can be.
func (e *env) load(ctx context.Context, f modelFlags, t templateFlags) (_ *offline, err error) {
	o := &offline{system: t.System}
	if o.place, err = e.findModel(ctx, f.Model, f.serverFlags); err != nil {
		return nil, err
	}
	dir := o.place.dir
	cfg, err := models.ReadConfig(os.DirFS(dir)) // told before all else
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.Close(ctx))
		}
	}()
	if o.tokenizer, err = o.place.tokenizer(); err != nil {
		return nil, err
	}
	if err := sameVocabulary(dir, o.tokenizer, cfg.Vocab); err != nil {
		return nil, err
	}
	if o.chat = t.Chat || (!t.Raw && o.tokenizer.HasTemplate()); o.chat {
		if _, err := tokenizer.NewFormat(o.tokenizer, tokenizer.FormatOptions{Template: "chat", System: t.System}); err != nil {
			return nil, fmt.Errorf("%s: %w (--raw does without a template)", dir, err)
		}
		o.lead = o.tokenizer.Lead()
	}
	if o.system != "" && !o.chat {
		return nil, fmt.Errorf("%w: --system needs a chat template", errUsage)
	}
	if o.engine, err = f.engine(); err != nil {
		return nil, err
	}
	o.model, err = o.place.load(ctx, o.engine)
	return o, err
}

// sameVocabulary tells of a tokenizer with ids that the model does not have.
func sameVocabulary(dir string, t *tokenizer.Tokenizer, have int) error {
	if got := t.Vocab(); got > have {
		return fmt.Errorf("%s: the tokenizer has ids up to %d, the model's vocabulary %d tokens: they do not belong together",
			dir, got-1, have)
	}
	return nil
}

func (f computeFlags) engine() (*tensor.Engine, error) {
	where, err := device(f.Device)
	if err != nil {
		return nil, err
	}
	return tensor.NewEngine(tensor.Options{Device: where, Threads: f.Threads})
}

// Close frees the model.
func (o *offline) Close(ctx context.Context) error {
	var err error
	if o.model != nil {
		err = o.model.Close(context.WithoutCancel(ctx))
	}
	if o.engine != nil {
		err = errors.Join(err, o.engine.Close())
	}
	if o.tokenizer != nil {
		err = errors.Join(err, o.tokenizer.Close())
	}
	return err
}

// prompt gives the ids that generation starts from: of messages, or of a prompt.
func (o *offline) prompt(prompt string, messages []tokenizer.Message) ([]int64, error) {
	if !o.chat {
		if messages != nil {
			return nil, errors.New("messages need a chat template; with --raw give prompt")
		}
		ids, err := o.tokenizer.Encode(prompt, true)
		if err == nil && len(ids) == 0 {
			err = errors.New("prompt has no tokens, and the tokenizer adds none")
		}
		return ids, err
	}
	if messages == nil {
		messages = []tokenizer.Message{{Role: "user", Content: prompt}}
	}
	if o.system != "" {
		messages = append([]tokenizer.Message{{Role: "system", Content: o.system}}, messages...)
	}
	text, err := o.tokenizer.Render(messages, true)
	if err != nil {
		return nil, err
	}
	return o.tokenizer.Encode(text, false)
}

// response is the text of sampled ids as the content of an answer, before which the template writes its lead itself.
func (o *offline) response(ids []int64) string {
	return strings.TrimPrefix(o.tokenizer.Decode(ids, true), o.lead)
}

// converted is a record on its way from the input to the output.
type converted struct {
	record
	object
	name string // the id as JSON
}

// conversion reads records, in windows, and writes what they become, in their order.
type conversion struct {
	verb, unit    string
	input, output string
	settings      any // what decides the records besides the input
	window        int
	// prepare checks a record; its error names the key.
	prepare func(r *converted) error
	// began, if not nil, is given what shows the progress, for notes of its own.
	began func(task *progress.Task)
	// work does a window. It calls emit for each record when it is done, in any order.
	work func(ctx context.Context, records []*converted, emit func(i int) error) error
}

// convert runs a conversion and tells how many records were done now and before. A bad line ends it behind the records
// before that line; whatever ends it, the output holds what is done, and the same command goes on there.
func (e *env) convert(ctx context.Context, c conversion) (done, before int, err error) {
	in, err := openRecords(c.input)
	if err != nil {
		return 0, 0, err
	}
	defer in.Close()
	out, err := openRecordWriter(c.output, e.stdout, nil)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if before = out.resumed(); c.output != "" && c.output != "-" {
		if err := checkSettings(c.output, before > 0, c.settings); err != nil {
			return 0, before, err
		}
	}
	total, err := countRecords(c.input)
	if err != nil {
		return 0, before, err
	}
	task := e.display.Task(c.verb, total, c.unit)
	defer func() {
		if err == nil || done > 0 { // else the error alone says what there is to say
			task.Done()
		}
	}()
	task.Resume(int64(before))
	if c.began != nil {
		c.began(task)
	}
	for {
		records, more := c.read(in, out)
		if len(records) > 0 {
			ready, written := make([]bool, len(records)), 0
			err := c.work(ctx, records, func(i int) error {
				for ready[i] = true; written < len(ready) && ready[written]; written++ {
					if err := out.write(records[written].name, records[written].object); err != nil {
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
			if len(in.seen) == 0 {
				return 0, before, fmt.Errorf("%s holds no records", in.name)
			}
			return done, before, nil
		}
		if more != nil {
			return done, before, more
		}
	}
}

// read fills a window with records that the output does not have. The error is what ended the reading.
func (c conversion) read(in *recordReader, out *recordWriter) ([]*converted, error) {
	var records []*converted
	for len(records) < c.window {
		rec, id, err := in.nextNew()
		if err != nil {
			return records, err
		}
		if out.isDone(id) {
			continue
		}
		fields, err := parseObject(rec.Raw)
		if err != nil {
			return records, rec.fail("", "%v", err)
		}
		r := &converted{record: rec, object: fields, name: id}
		if err := c.prepare(r); err != nil {
			return records, err
		}
		records = append(records, r)
	}
	return records, nil
}

// checkSettings keeps what decides the records beside the output file, and refuses to go on with one that was written
// with other settings: its records would be of two kinds.
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
		return fmt.Errorf("%w: %s has records, but nothing tells how they were made (%w): name another --out", errUsage, output, err)
	}
	if !bytes.Equal(was, want) {
		return fmt.Errorf("%w: %s was written with other settings (they are in %s): name another --out, or remove both files",
			errUsage, output, name)
	}
	return nil
}

// ended says how a conversion that was interrupted goes on.
func (c conversion) ended(err error, done, before int) error {
	if err == nil || !errors.Is(err, context.Canceled) {
		return err
	}
	if c.output == "" || c.output == "-" {
		return stopped(fmt.Sprintf("interrupted after %d %s", done, c.unit))
	}
	return stopped(fmt.Sprintf("interrupted: %s has %d %s; the same command goes on", c.output, done+before, c.unit))
}

// stopped is context.Canceled in the words of the verb that was interrupted.
type stopped string

func (s stopped) Error() string { return string(s) }

// Is says that it is context.Canceled, whose exit code it has.
func (s stopped) Is(target error) bool { return target == context.Canceled }

// count is a number of a summary, under its name.
type count struct {
	name  string
	value any
}

// summary ends an offline verb: a line on the screen, which is not the output.
func (e *env) summary(verb string, counts ...count) error {
	if e.json {
		o := object{}
		if err := o.set("verb", verb); err != nil {
			return err
		}
		for _, c := range counts {
			if err := o.set(c.name, c.value); err != nil {
				return err
			}
		}
		line, err := o.MarshalJSON()
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(e.stderr, "%s\n", line)
		return err
	}
	text := verb + ":"
	for i, c := range counts {
		if i > 0 {
			text += ","
		}
		text += fmt.Sprintf(" %v %s", c.value, c.name)
	}
	_, err := fmt.Fprintln(e.stderr, text)
	return err
}

// round is a time in seconds, to the millisecond.
func round(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }
