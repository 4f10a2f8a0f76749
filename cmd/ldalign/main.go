// Command ldalign aligns a language model continuously from streamed prompts: LD-Align (arXiv 2404.06390) over JetStream,
// libtorch and a checkpoint store, in one binary. Each verb is a file of this folder.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/dataset/jsonl"
	"github.com/ldalign/ldalign/ops/modelname"
	"github.com/ldalign/ldalign/ops/pipeline"
	"github.com/ldalign/ldalign/ops/plan"
	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/ops/runs/derive"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/activity"
)

// Exit codes, as `ldalign --help` prints them.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 3
	exitInUse       = 4
)

// cli is the table of the verbs. The tag tensors is explained in needs.go.
type cli struct {
	Dir     string `help:"Folder for streams, checkpoints, caches and reports." default:"ldalign-data" env:"LDALIGN_DIR" type:"path"`
	Cache   string `help:"Size limit of DIR/cache, which holds checkpoints downloaded from S3; the least recently used are removed first (50GB unless set)." default:"50GB" env:"LDALIGN_CACHE" placeholder:"SIZE"`
	JSON    bool   `help:"Print JSON, one object per line: results on standard output; progress, notices and errors on standard error." name:"json"`
	Verbose bool   `help:"Show the log on the screen too; it is always in DIR/ldalign.log, which is replaced at 64 MiB." short:"v"`

	Demo        demoCommand        `cmd:"" help:"Align a small model in a few minutes, and print whether it worked." tensors:"unless print-spec"`
	Up          upCommand          `cmd:"" help:"Run a spec with all stages and the trainer in one process; started again, it continues." tensors:"unless dry-run"`
	Plan        planCommand        `cmd:"" help:"Estimate what a spec's runs will need, before anything is loaded or started." tensors:"for lengths"`
	Train       trainCommand       `cmd:"" help:"Train from files alone: sft, dpo, spin or ldalign, without sampling." tensors:"unless dry-run"`
	Guide       guideCommand       `cmd:"" help:"Train only a guide, or check how good one is."`
	Data        dataCommand        `cmd:"" help:"Show what a file of prompts or pairs contains."`
	Worker      workerCommand      `cmd:"" help:"Run one stage as a process of its own against real servers." tensors:"by stage"`
	Trainer     trainerCommand     `cmd:"" help:"Run the trainer as a process of its own against real servers." tensors:"always"`
	Replay      replayCommand      `cmd:"" help:"Repeat part of a run with other settings, from the messages in its log." tensors:"unless dry-run"`
	Sweep       sweepCommand       `cmd:"" help:"Replay a run with every combination of some settings, and compare the results." tensors:"unless dry-run"`
	Compare     compareCommand     `cmd:"" help:"Set runs side by side: differing settings, held-out values, curves."`
	Fork        forkCommand        `cmd:"" help:"Start a new run from a policy of another run, with other settings." tensors:"unless dry-run"`
	Status      statusCommand      `cmd:"" help:"Show the progress of a run."`
	Pause       pauseCommand       `cmd:"" help:"Pause a run, or one of its stages, until it is resumed."`
	Resume      resumeCommand      `cmd:"" help:"Resume a paused run or stage."`
	Runs        runsCommand        `cmd:"" help:"List, prune and delete runs."`
	Tail        tailCommand        `cmd:"" help:"Print messages of a subject as JSON."`
	Audit       auditCommand       `cmd:"" help:"Prove that no pair of a run was lost or trained twice, and name what is missing."`
	Backup      backupCommand      `cmd:"" help:"Copy a run's messages and checkpoints into a folder."`
	Restore     restoreCommand     `cmd:"" help:"Restore a run from a backup."`
	Report      reportCommand      `cmd:"" help:"Write the report of one or more runs."`
	DeadLetters deadLettersCommand `cmd:"" name:"deadletters" help:"List, show, redrive and drop messages that could not be processed."`
	Checkpoints checkpointsCommand `cmd:"" help:"List checkpoints, export one as a Hugging Face folder, remove unused files."`
	Generate    generateCommand    `cmd:"" help:"Generate responses to prompts in a file." tensors:"always"`
	Score       scoreCommand       `cmd:"" help:"Compute the log-probabilities of responses in a file." tensors:"always"`
	Reward      rewardCommand      `cmd:"" help:"Score responses in a file with a reward model." tensors:"always"`
	Chat        chatCommand        `cmd:"" help:"Talk to a model in the terminal." tensors:"always"`
	Models      modelsCommand      `cmd:"" help:"Inspect a model without loading it."`
	Version     versionCommand     `cmd:"" help:"Print the versions of this build." tensors:"with tensors"`
}

const epilogue = "Exit codes: 0 done, 1 failed, 2 wrong usage or spec, 3 interrupted (the same command continues), " +
	"4 in use by another process."

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr, pipeline.Default(), becomeTensors))
}

// run is main with its inputs, its outputs and the stages of its runs as arguments. It calls become before a verb that needs
// tensors, see becomeTensors. It returns the exit code.
func run(args []string, stdout, stderr io.Writer, stages pipeline.Table, become func() error) int {
	var c cli
	exited := -1
	parser, err := kong.New(&c, kong.Name("ldalign"), kong.UsageOnError(), kong.Writers(stdout, stderr),
		kong.Description("Latent distance guided alignment over streams.\n\n"+epilogue),
		kong.Exit(func(code int) { exited = code }),
		vars(stages.Stages().Names()),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}))
	if err != nil {
		fmt.Fprintln(stderr, "ldalign:", err)
		return exitUsage
	}
	explain(parser.Model, stages.Stages())
	command, err := parser.Parse(args)
	if exited >= 0 {
		return exited
	}
	if err != nil { // c.JSON may not be set: parsing ends at the first error
		announce(stderr, asksJSON(args), "error", fmt.Sprintf("%v\nSee `%s --help`.", err, where(err)))
		return exitUsage
	}
	// before the handler of signals: this may replace the process, and a signal that the handler has taken would be lost
	if need := needOf(command.Selected(), stages.Stages()); need != none {
		if err := become(); err != nil && (need == required || !errors.Is(err, errNoTensors)) {
			announce(stderr, c.JSON, "error", fmt.Sprintf("%s: %v", command.Selected().Path(), err))
			return exitFailed
		}
	}
	interrupts := &interrupts{}
	interrupts.json.Store(c.JSON)
	ctx, stop := interruptible(stderr, interrupts)
	defer stop()
	command.BindTo(ctx, (*context.Context)(nil))
	display := progress.New(stderr, progress.Options{JSON: c.JSON})
	err = command.Run(&env{
		dir: c.Dir, cache: c.Cache, json: c.JSON, verbose: c.Verbose, stdout: stdout, stderr: stderr, interrupts: interrupts,
		display: display, pipeline: stages,
	})
	err = errors.Join(err, display.Close())
	if err != nil {
		text := err.Error()
		if errors.Is(err, checkpoints.ErrNoCheckpoint) {
			text += "\n`ldalign checkpoints list RUN` lists what a run has."
		}
		announce(stderr, c.JSON, "error", text)
	}
	return exitCode(err)
}

// vars returns the names of the stages and of the kinds of messages, for the help texts and enums of flags.
func vars(names []string) kong.Vars {
	return kong.Vars{
		"stages": strings.Join(names, ","), "stage_list": orList(names), "worker_list": orList(append(names, runs.Trainer)),
		"kinds":      strings.Join(kindNames(schemas.Kinds()), ", "),
		"pair_kinds": strings.Join(kindNames(schemas.PairKinds()), ","), "pair_kind_list": orList(kindNames(schemas.PairKinds())),
		"replay_from": string(schemas.Scored), "trainer": runs.Trainer,
	}
}

// orList joins words as "a, b or c".
func orList(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

func kindNames(kinds []schemas.Kind) []string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = string(k)
	}
	return names
}

// asksJSON reports whether --json is among the arguments. It serves command lines that cannot be parsed.
func asksJSON(args []string) bool {
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	return slices.Contains(args, "--json")
}

// notice prints a message for the user on stderr.
func (e *env) notice(format string, args ...any) {
	announce(e.stderr, e.json, "notice", fmt.Sprintf(format, args...))
}

// announce prints a message on stderr, as a JSON object if asJSON is set.
func announce(stderr io.Writer, asJSON bool, kind, text string) {
	text = schemas.Redact(text)
	if asJSON {
		text = strings.ReplaceAll(text, "\nldalign: ", "\n")
		if line, err := jsonl.Marshal(map[string]string{kind: text}); err == nil {
			fmt.Fprintln(stderr, line)
			return
		}
	}
	fmt.Fprintln(stderr, "ldalign:", text)
}

// where returns the command whose --help explains a parse error.
func where(err error) string {
	var parsing *kong.ParseError
	if errors.As(err, &parsing) && parsing.Context != nil {
		if node := parsing.Context.Selected(); node != nil {
			return node.FullPath()
		}
	}
	return "ldalign"
}

// exitCode returns the exit code for an error.
func exitCode(err error) int {
	var spec *schemas.SpecError
	var held *streams.ErrHeld
	switch {
	case err == nil:
		return 0
	case errors.As(err, &spec), errors.Is(err, errUsage), errors.Is(err, derive.ErrRequest), errors.Is(err, runs.ErrSettings),
		errors.Is(err, modelname.ErrName), errors.Is(err, plan.ErrReplay), errors.Is(err, streams.ErrExposed):
		return exitUsage
	case activity.Interrupted(err):
		return exitInterrupted
	case errors.Is(err, streams.ErrInUse), errors.Is(err, streams.ErrAtWork), errors.Is(err, jsonl.ErrInUse), errors.As(err, &held):
		return exitInUse
	default:
		return exitFailed
	}
}

var errUsage = errors.New("wrong usage")

// interruptible returns a context that is cancelled at the first Ctrl-C or SIGTERM. The second ends the process at once. That
// loses nothing: the next start repeats what was not yet committed.
func interruptible(stderr io.Writer, who *interrupts) (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	done := make(chan struct{})
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		for {
			select {
			case s := <-signals:
				if s == os.Interrupt && who.handle() {
					continue
				}
				if ctx.Err() != nil {
					os.Exit(exitInterrupted)
				}
				asJSON := who.json.Load()
				if !asJSON {
					fmt.Fprintln(stderr) // behind the terminal's ^C
				}
				announce(stderr, asJSON, "notice", "finishing the current step and saving (Ctrl-C again ends at once) ...")
				cancel()
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel()
	}
}

// interrupts lets a verb handle Ctrl-C itself, in place of ending the program.
type interrupts struct {
	json atomic.Bool // --json
	mu   sync.Mutex
	do   func()
}

// take makes Ctrl-C call do, until release is called.
func (i *interrupts) take(do func()) (release func()) {
	set := func(f func()) {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.do = f
	}
	set(do)
	return func() { set(nil) }
}

// handle calls the function that take has set, and reports whether there is one.
func (i *interrupts) handle() bool {
	i.mu.Lock()
	do := i.do
	i.mu.Unlock()
	if do != nil {
		do()
	}
	return do != nil
}

// env holds the global flags, the outputs and the stages; every verb receives it.
type env struct {
	dir string
	// listen is the embedded server's address; empty for a random port that only verbs on the same folder can use.
	listen string
	// insecure allows listen an address that other machines can reach.
	insecure bool
	// cache is the size limit of the folder of downloaded checkpoints; empty for no limit.
	cache          string
	json, verbose  bool
	stdout, stderr io.Writer
	interrupts     *interrupts
	display        *progress.Display
	// pipeline is the table of the stages.
	pipeline pipeline.Table
}

// reportDir returns the folder of a run's report.
func (e *env) reportDir(run string) string { return filepath.Join(e.dir, "runs", run) }

// version is set at link time. Without it, the version comes from Go's build information.
var version = ""

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "devel"
}

// generatedBy returns the program's name and version, for reports.
func generatedBy() string { return "ldalign " + buildVersion() }
