package main

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/ldalign/ldalign/ops/pipeline"
)

// controlBuild builds the program without cgo, once, and returns its path.
func controlBuild(t *testing.T) string {
	t.Helper()
	path, err := buildControl()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var buildControl = sync.OnceValues(func() (string, error) {
	path := filepath.Join(controlDir, "ldalign")
	c := exec.Command("go", "build", "-o", path, ".")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build without cgo: %w\n%s", err, text)
	}
	return path, nil
})

// control is the control build at path as a process, in a folder of its own, with the given variables alone in its environment. The
// first variable makes this test binary, to which the process may change, be ldalign.
func control(t *testing.T, path string, vars []string, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(path, args...)
	c.Dir = t.TempDir()
	c.Env = append([]string{programVar + "=1", "PATH=" + os.Getenv("PATH"), "HOME=" + c.Dir}, vars...)
	return c
}

// controlled runs the control build to its end.
func controlled(t *testing.T, vars []string, args string) output {
	t.Helper()
	p := start(t, control(t, controlBuild(t), vars, strings.Fields(args)...))
	code := p.wait(t)
	return output{code, p.stdout.String(), p.stderr.String()}
}

// beside is the setting by which the control build finds this test binary as its tensor build.
func beside(t *testing.T) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{tensorsVar + "=" + self}
}

// leaves calls f with every verb of the table.
func leaves(t *testing.T, f func(*kong.Node)) {
	t.Helper()
	parser, err := kong.New(&cli{}, vars(pipeline.Default().Stages().Names()))
	if err != nil {
		t.Fatal(err)
	}
	for _, leaf := range parser.Model.Leaves(false) {
		f(leaf)
	}
}

// Each rule in the table of the verbs is one of the known ones, and names a flag of its verb.
func TestTensorRules(t *testing.T) {
	stages := pipeline.Default().Stages()
	leaves(t, func(verb *kong.Node) {
		tag := verb.Tag.Get("tensors")
		rule, flag, _ := strings.Cut(tag, " ")
		switch rule {
		case "", "always", "for", "by":
		case "unless", "with":
			if !slices.ContainsFunc(verb.Flags, func(f *kong.Flag) bool { return f.Name == flag }) {
				t.Errorf("%s: tensors:%q, but it has no flag %s", verb.Path(), tag, flag)
			}
		default:
			t.Errorf("%s: unknown rule tensors:%q", verb.Path(), tag)
		}
		if sentence := whenNeeded(verb, stages); (sentence == "") != (tag == "") {
			t.Errorf("%s: tensors:%q, and its help says %q", verb.Path(), tag, sentence)
		}
	})
}

// The control build has all verbs, says which need the tensor build, and is linked with no library.
func TestControlHelp(t *testing.T) {
	program, err := elf.Open(controlBuild(t))
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	if libraries, err := program.ImportedLibraries(); err != nil || len(libraries) > 0 {
		t.Errorf("the control build is linked with %v, %v", libraries, err)
	}
	stages := pipeline.Default().Stages()
	alone, paired := controlled(t, nil, "--help"), controlled(t, beside(t), "--help")
	alone.want(t, 0, "built without tensors")
	paired.want(t, 0)
	if want := ldalign(t, "--help"); paired.stdout != want.stdout {
		t.Errorf("with a tensor build beside it, --help is\n%s\nwant\n%s", paired.stdout, want.stdout)
	}
	listed := strings.Join(strings.Fields(alone.stdout), " ")
	leaves(t, func(verb *kong.Node) {
		help := verb.Help
		if needOf(verb, stages) == required {
			help += " (tensors)"
		}
		if want := verb.Path() + " " + help; !strings.Contains(listed, want) {
			t.Errorf("--help does not list %q", want)
		}
		args := append(strings.Fields(verb.Path()), "--help")
		if got, want := controlled(t, beside(t), strings.Join(args, " ")), ldalign(t, args...); got != want {
			t.Errorf("%v prints\n%s\nwant\n%s", args, got.stdout, want.stdout)
		}
	})
}

// Without a tensor build, the verbs that need one say so and how to get it; everything else works.
func TestControlAlone(t *testing.T) {
	spec, err := filepath.Abs(tiny)
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{
		"up " + spec, "train " + spec, "demo", "guide train " + spec, "replay a --as b", "fork a", "sweep a --set objective.beta=1", "chat --model a",
		"generate --model a --input -", "trainer " + spec, "worker generator --run a", "data inspect " + spec + " --model a", "version --tensors",
	} {
		controlled(t, nil, verb).want(t, exitFailed, "there is no ldalign-tensors in its folder", tensorsVar, "`make build`")
		controlled(t, nil, verb+" --json").want(t, exitFailed, `{"error":"`)
	}
	controlled(t, nil, "up "+spec+" --dry-run").want(t, 0, "# 1 iteration of 64 pairs")
	controlled(t, nil, "demo --print-spec").want(t, 0, "run: demo-base")
	controlled(t, nil, "plan "+spec).want(t, 0, "estimated from bytes", "all met")
	controlled(t, nil, "version").want(t, 0, "tensors: none")
	controlled(t, nil, "worker distance --run a").want(t, exitUsage, "--nats and --s3")
	controlled(t, nil, "upp").want(t, exitUsage, `did you mean "up"?`)

	itself := []string{tensorsVar + "=" + controlBuild(t)}
	controlled(t, itself, "up "+spec).want(t, exitFailed, "names no other program")
}

// A verb that needs tensors changes the process into the tensor build: beside the program, in ../libexec, or by its variable. A
// control build under that name ends with an error.
func TestControlFindsTensors(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	built, err := os.ReadFile(controlBuild(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, place := range []string{"bin", "libexec"} {
		root := t.TempDir()
		program := filepath.Join(root, "bin", "ldalign")
		tensors := filepath.Join(root, place, "ldalign-tensors")
		for _, dir := range []string{"bin", "libexec"} {
			if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(program, built, 0o755); err != nil {
			t.Fatal(err)
		}
		link := filepath.Join(t.TempDir(), "ldalign") // as in a folder on the PATH
		if err := os.Symlink(program, link); err != nil {
			t.Fatal(err)
		}
		run := func(args ...string) output {
			t.Helper()
			p := start(t, control(t, link, nil, args...))
			code := p.wait(t)
			return output{code, p.stdout.String(), p.stderr.String()}
		}
		if err := os.WriteFile(tensors, built, 0o755); err != nil {
			t.Fatal(err)
		}
		run("version").want(t, 0, "tensors: "+tensors)
		run("version", "--tensors").want(t, exitFailed, tensorsVar+"="+tensors+" names no other program")
		if err := os.Remove(tensors); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(self, tensors); err != nil {
			t.Fatal(err)
		}
		run("version").want(t, 0, "tensors: "+tensors)
		run("version", "--tensors").want(t, 0, "libtorch "+libtorch(t))
	}
}

// The process stays the same, with its arguments, its environment, OpenMP's settings and its signals: Ctrl-C drains `up`, and the
// same command continues it to the bits of an undisturbed run.
func TestControlBecomesUp(t *testing.T) {
	want := undisturbed(t)
	spec, err := filepath.Abs(tiny)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := control(t, controlBuild(t), beside(t), "up", spec, "--dir", dir)
	p := start(t, c)
	if !p.eventually(t, "a checkpoint", func() bool { return manifests(dir) >= 5 }) {
		t.Fatalf("it ended by itself:\n%s", p.stderr.String())
	}
	self, err := os.Stat(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	process := fmt.Sprintf("/proc/%d/", c.Process.Pid)
	if now, err := os.Stat(process + "exe"); err != nil || !os.SameFile(now, self) {
		t.Errorf("the process does not run the tensor build: %v", err)
	}
	environment, err := os.ReadFile(process + "environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, setting := range []string{"OMP_WAIT_POLICY=PASSIVE", "GOMP_SPINCOUNT=2000"} {
		if !slices.Contains(strings.Split(string(environment), "\x00"), setting) {
			t.Errorf("the environment lacks %s", setting)
		}
	}
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	code := p.wait(t)
	output{code, p.stdout.String(), p.stderr.String()}.want(t, exitInterrupted, "run the same command to continue")
	p = start(t, control(t, controlBuild(t), beside(t), "up", spec, "--dir", dir))
	code = p.wait(t)
	output{code, p.stdout.String(), p.stderr.String()}.want(t, 0, "LD-Align 1")
	sameAs(t, want, dir)
}

// Standard input, standard output and the exit code are those of the tensor build.
func TestControlPassesInputAndOutput(t *testing.T) {
	model := newOwn(t).model
	for _, c := range []struct {
		input, says string
		code        int
	}{
		{`{"id": "a", "prompt": "Name a colour."}`, `"id":"a"`, 0},
		{`{"id": "a"}`, "prompt", exitFailed},
	} {
		cmd := control(t, controlBuild(t), beside(t), "generate", "--model", model, "--input", "-", "--max-tokens", "4", "--threads", "1")
		cmd.Stdin = strings.NewReader(c.input + "\n")
		p := start(t, cmd)
		code := p.wait(t)
		output{code, p.stdout.String(), p.stderr.String()}.want(t, c.code, c.says)
	}
}
