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
	"time"

	"github.com/alecthomas/kong"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/dataset/jsonl"
	"github.com/ldalign/ldalign/ops/modelname"
	"github.com/ldalign/ldalign/ops/offline"
	"github.com/ldalign/ldalign/ops/pipeline"
	"github.com/ldalign/ldalign/ops/plan"
	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/ops/runs/derive"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer"
)

// Exit codes, as `ldalign --help` prints them.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 3
	exitInUse       = 4
)

type cli struct {
	Dir     string `help:"Folder for streams, checkpoints, caches and reports." default:"ldalign-data" env:"LDALIGN_DIR" type:"path"`
	Cache   string `help:"Most bytes of DIR/cache, the checkpoints that were downloaded from S3; what was used longest ago goes (50GB unless set)." default:"50GB" env:"LDALIGN_CACHE" placeholder:"SIZE"`
	JSON    bool   `help:"Print JSON, one object a line: results on standard output; progress, notices and errors on standard error." name:"json"`
	Verbose bool   `help:"Show the log on the screen too; it is always in DIR/ldalign.log." short:"v"`

	Demo        demoCommand        `cmd:"" help:"Align a small model in front of your eyes, in a few minutes, and print whether it worked."`
	Up          upCommand          `cmd:"" help:"Run a spec with all roles in one process; started again, it goes on where it was."`
	Plan        planCommand        `cmd:"" help:"Estimate what a spec's runs will need, before anything is loaded or started."`
	Train       trainCommand       `cmd:"" help:"Train from files alone: sft, dpo, spin or ldalign, without sampling."`
	Guide       guideCommand       `cmd:"" help:"Train a guide alone, or see how good one is."`
	Data        dataCommand        `cmd:"" help:"See what a file of prompts or pairs holds."`
	Worker      workerCommand      `cmd:"" help:"Run one stage as a process of its own against real servers."`
	Trainer     trainerCommand     `cmd:"" help:"Run the trainer as a process of its own against real servers."`
	TrainerRank rankCommand        `cmd:"" name:"trainer-rank" hidden:"" help:"One of several trainer processes; the trainer starts it."`
	Replay      replayCommand      `cmd:"" help:"Run part of a run again with other settings, from what is in its log."`
	Sweep       sweepCommand       `cmd:"" help:"Replay a run with every combination of some settings, and compare the results."`
	Compare     compareCommand     `cmd:"" help:"Set runs side by side: differing settings, held-out values, curves."`
	Fork        forkCommand        `cmd:"" help:"Go on from a policy of a run with other settings, as a new run."`
	Status      statusCommand      `cmd:"" help:"Show how far a run is."`
	Pause       pauseCommand       `cmd:"" help:"Let a run, or a stage of it, rest until it is resumed."`
	Resume      resumeCommand      `cmd:"" help:"Let a paused run or stage go on."`
	Runs        runsCommand        `cmd:"" help:"List runs, delete one."`
	Tail        tailCommand        `cmd:"" help:"Print messages of a subject as JSON."`
	Audit       auditCommand       `cmd:"" help:"Prove that no pair of a run was lost or trained twice, and name what is missing."`
	Backup      backupCommand      `cmd:"" help:"Copy a run, messages and checkpoints, into a folder."`
	Restore     restoreCommand     `cmd:"" help:"Put a run back that backup has copied."`
	Report      reportCommand      `cmd:"" help:"Write the report of runs again."`
	DeadLetters deadLettersCommand `cmd:"" name:"deadletters" help:"List, show and redrive what could not be processed."`
	Checkpoints checkpointsCommand `cmd:"" help:"List checkpoints, export one as a Hugging Face folder."`
	Generate    generateCommand    `cmd:"" help:"Generate responses to prompts in a file."`
	Score       scoreCommand       `cmd:"" help:"Compute the log-probabilities of responses in a file."`
	Reward      rewardCommand      `cmd:"" help:"Score responses in a file by a reward model."`
	Chat        chatCommand        `cmd:"" help:"Talk to a model in the terminal."`
	Models      modelsCommand      `cmd:"" help:"Look into a model without loading it."`
	Version     versionCommand     `cmd:"" help:"Print the versions of this build."`
}

const epilogue = "Exit codes: 0 done, 1 failed, 2 wrong usage or spec, 3 interrupted (the same command goes on), " +
	"4 in use by another process."

func main() {
	if err := waitPassively(); err != nil {
		fmt.Fprintln(os.Stderr, "ldalign:", err)
		os.Exit(exitFailed)
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr, pipeline.Default()))
}

// waitPassively has the threads of libtorch's OpenMP spin for a few microseconds and then sleep while they wait. Spinning
// on beside a busy neighbour was measured to cost a factor of 14, not to spin at all 40 % on an idle machine
// (docs/adr/0006). OpenMP reads the settings before main, so the program starts itself again, in place, unless the user
// has set them.
func waitPassively() error {
	const policy, spin = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
	if os.Getenv(policy) != "" || os.Getenv(spin) != "" {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil //nolint:nilerr // it runs as well, only slower beside busy neighbours
	}
	return syscall.Exec(self, os.Args, append(os.Environ(), policy+"=PASSIVE", spin+"=2000")) //nolint:gosec // it is this program
}

// run is main with its inputs, its outputs and the stages of its runs as arguments. It returns the exit code.
func run(args []string, stdout, stderr io.Writer, stages pipeline.Table) int {
	interrupts := &interrupts{}
	ctx, stop := interruptible(stderr, interrupts)
	defer stop()
	var c cli
	exited := -1
	parser, err := kong.New(&c, kong.Name("ldalign"), kong.UsageOnError(), kong.Writers(stdout, stderr),
		kong.Description("Latent distance guided alignment over streams.\n\n"+epilogue),
		kong.Exit(func(code int) { exited = code }),
		stageVars(stages.Stages().Names()),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}))
	if err != nil {
		fmt.Fprintln(stderr, "ldalign:", err)
		return exitUsage
	}
	command, err := parser.Parse(args)
	if exited >= 0 {
		return exited
	}
	if err != nil { // c.JSON may not be set: parsing ends at the first error
		announce(stderr, asksJSON(args), "error", fmt.Sprintf("%v\nSee `%s --help`.", err, where(err)))
		return exitUsage
	}
	interrupts.json.Store(c.JSON)
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

// stageVars are the names of the stages for the texts of flags.
func stageVars(names []string) kong.Vars {
	last := len(names) - 1
	return kong.Vars{
		"stages": strings.Join(names, ","), "stage_list": strings.Join(names[:last], ", ") + " or " + names[last],
	}
}

// asksJSON tells whether --json is among the arguments of a command line that cannot be parsed.
func asksJSON(args []string) bool {
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	return slices.Contains(args, "--json")
}

// notice tells on stderr what is no result.
func (e *env) notice(format string, args ...any) {
	announce(e.stderr, e.json, "notice", fmt.Sprintf(format, args...))
}

// announce prints a message on stderr, with --json as an object.
func announce(stderr io.Writer, asJSON bool, kind, text string) {
	if asJSON {
		text = strings.ReplaceAll(text, "\nldalign: ", "\n")
		if line, err := jsonl.Marshal(map[string]string{kind: text}); err == nil {
			fmt.Fprintln(stderr, line)
			return
		}
	}
	fmt.Fprintln(stderr, "ldalign:", text)
}

// where is the command whose --help tells what an error of parsing is about.
func where(err error) string {
	var parsing *kong.ParseError
	if errors.As(err, &parsing) && parsing.Context != nil {
		if node := parsing.Context.Selected(); node != nil {
			return node.FullPath()
		}
	}
	return "ldalign"
}

// exitCode maps an error to what a script can branch on.
func exitCode(err error) int {
	var spec *schemas.SpecError
	var held *streams.ErrHeld
	switch {
	case err == nil:
		return 0
	case errors.As(err, &spec), errors.Is(err, errUsage), errors.Is(err, derive.ErrRequest), errors.Is(err, runs.ErrSettings),
		errors.Is(err, offline.ErrOptions), errors.Is(err, modelname.ErrName), errors.Is(err, plan.ErrReplay):
		return exitUsage
	case errors.Is(err, trainer.ErrInterrupted), errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.Is(err, streams.ErrInUse), errors.Is(err, streams.ErrAtWork), errors.Is(err, jsonl.ErrInUse), errors.As(err, &held):
		return exitInUse
	default:
		return exitFailed
	}
}

var errUsage = errors.New("wrong usage")

// interruptible returns a context that ends at the first Ctrl-C or SIGTERM; the second ends the process at once, which
// loses nothing either: the next start repeats what was not yet committed.
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
				announce(stderr, asJSON, "notice", "finishing the step at hand and saving (Ctrl-C again ends at once) ...")
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

// interrupts is where a verb may take Ctrl-C for something else than the end of the program.
type interrupts struct {
	json atomic.Bool // --json
	mu   sync.Mutex
	do   func()
}

// take has do called at Ctrl-C until release.
func (i *interrupts) take(do func()) (release func()) {
	set := func(f func()) {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.do = f
	}
	set(do)
	return func() { set(nil) }
}

// handle tells whether somebody took it.
func (i *interrupts) handle() bool {
	i.mu.Lock()
	do := i.do
	i.mu.Unlock()
	if do != nil {
		do()
	}
	return do != nil
}

// env is what every verb gets.
type env struct {
	dir string
	// listen is the embedded server's address; empty for a random port that only verbs on the same folder can use.
	listen string
	// cache is the bound of the folder of downloaded checkpoints; empty for none.
	cache string
	// patience is how long one of a trainer's processes may give no sign of life; 0 for play.Patience.
	patience       time.Duration
	json, verbose  bool
	stdout, stderr io.Writer
	interrupts     *interrupts
	display        *progress.Display
	// pipeline is the stages of runs.
	pipeline pipeline.Table
}

// reportDir is where a run's report goes.
func (e *env) reportDir(run string) string { return filepath.Join(e.dir, "runs", run) }

// version is set at link time; a plain build says what Go knows.
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

// generatedBy is the program as a report names it.
func generatedBy() string { return "ldalign " + buildVersion() }
