package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/ldalign/ldalign/ops/runs"
)

// ldalign is built twice from this folder. The control build, without cgo, has the verbs that need no tensors: it starts at
// once and runs where libtorch does not. The tensor build, with cgo, has all verbs. For a verb that needs tensors, the control
// build replaces itself by the tensor build that is installed with it. The tag "tensors" of a verb's row in cli says when it
// needs them:
//
//	tensors:"always"         always
//	tensors:"unless FLAG"    unless the flag is given
//	tensors:"with FLAG"      if the flag is given
//	tensors:"by stage"       if the stage in its argument needs an engine
//	tensors:"for lengths"    never, but without them it lacks a tokenizer and estimates lengths

// need says whether a command line needs tensors.
type need int

const (
	none need = iota
	wanted
	required
)

// needOf applies the rule of a verb to its arguments.
func needOf(verb *kong.Node, stages runs.Pipeline) need {
	rule, flag, _ := strings.Cut(verb.Tag.Get("tensors"), " ")
	given := slices.ContainsFunc(verb.Flags, func(f *kong.Flag) bool { return f.Name == flag && !f.Target.IsZero() })
	needed := false
	switch rule {
	case "for":
		return wanted
	case "always":
		needed = true
	case "unless":
		needed = !given
	case "with":
		needed = given
	case "by":
		needed = slices.Contains(withEngines(stages), verb.Positional[0].Target.String())
	}
	if needed {
		return required
	}
	return none
}

// withEngines returns the names of the stages that compute with tensors.
func withEngines(stages runs.Pipeline) []string {
	return slices.DeleteFunc(slices.Clone(stages), func(s runs.Stage) bool { return !s.NeedsEngine }).Names()
}

// whenNeeded says when a verb needs tensors, for its help; "" if it never does.
func whenNeeded(verb *kong.Node, stages runs.Pipeline) string {
	rule, flag, _ := strings.Cut(verb.Tag.Get("tensors"), " ")
	return map[string]string{
		"always": "Needs the tensor build.",
		"unless": "Needs the tensor build, except with --" + flag + ".",
		"with":   "With --" + flag + ", needs the tensor build.",
		"by":     "For the stages " + strings.Join(withEngines(stages), ", ") + " it needs the tensor build.",
		"for":    "Without the tensor build there is no tokenizer: what depends on one is estimated or left out.",
	}[rule]
}

// explain adds to the help of each verb when it needs tensors. If there is no tensor build, the list of verbs marks those that
// do.
func explain(app *kong.Application, stages runs.Pipeline) {
	_, missing := tensorProgram()
	if missing != nil {
		app.Help += "\n\nThis program was built without tensors: verbs marked (tensors) need ldalign-tensors beside it."
	}
	for _, verb := range app.Leaves(false) {
		if when := whenNeeded(verb, stages); when != "" {
			verb.Detail += "\n\n" + when
		}
		if missing != nil && needOf(verb, stages) == required {
			verb.Help += " (tensors)"
		}
	}
}

// tensorsVar names the environment variable with the path of the tensor build.
const tensorsVar = "LDALIGN_TENSORS"

var errNoTensors = errors.New("this program was built without tensors")

// tensorProgram returns the path of the tensor build: this program itself if it is one, else the program that tensorsVar names,
// else the one that is installed beside this one.
func tensorProgram() (string, error) {
	self, err := os.Executable()
	if err != nil || withTensors {
		return self, err
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return "", err
	}
	folder := filepath.Dir(self)
	candidates := []string{filepath.Join(folder, "ldalign-tensors"), filepath.Join(folder, "..", "libexec", "ldalign-tensors")}
	named := os.Getenv(tensorsVar)
	if named != "" {
		candidates = []string{named}
	}
	this, err := os.Stat(self)
	if err != nil {
		return "", err
	}
	for _, path := range candidates {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && !os.SameFile(info, this) {
			return path, nil
		}
	}
	if named != "" {
		return "", fmt.Errorf("%w, and %s=%s names no other program", errNoTensors, tensorsVar, named)
	}
	return "", fmt.Errorf("%w, and there is no ldalign-tensors in its folder, %s, nor in ../libexec: copy one there, or name one "+
		"with %s. `make build` builds it. `ldalign --help` marks the verbs that need it; the others work",
		errNoTensors, folder, tensorsVar)
}

// becomeTensors returns nil if this process is ready to compute with tensors. Otherwise it replaces the process by the tensor
// build, with the same arguments, and returns only if that fails.
//
// To be ready, OpenMP's threads must spin for a few microseconds before they sleep. Measured: unlimited spinning on a machine
// with another busy process costs a factor of 14, and no spinning costs 40 % on an idle machine (docs/adr/0006). OpenMP reads
// its settings when it is loaded, before main, so they are set here, unless the user has set them.
func becomeTensors() error {
	const policy, spin = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
	tuned := os.Getenv(policy) != "" || os.Getenv(spin) != ""
	if withTensors && tuned {
		return nil
	}
	program, err := tensorProgram()
	if err != nil {
		return err
	}
	environment := os.Environ()
	if !tuned {
		environment = append(environment, policy+"=PASSIVE", spin+"=2000")
	}
	if os.Getenv(tensorsVar) == "" { // so that a control build under that name finds itself, and says so
		environment = append(environment, tensorsVar+"="+program)
	}
	if err := syscall.Exec(program, os.Args, environment); err != nil { //nolint:gosec // the user's choice of the tensor build
		return fmt.Errorf("cannot start %s on %s/%s: %w", program, runtime.GOOS, runtime.GOARCH, err)
	}
	return nil
}
