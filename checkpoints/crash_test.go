package checkpoints_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ldalign/ldalign/checkpoints"
)

// commitForever commits states to the store in args[0], each a function of the one before, and prints the number of each when it
// is committed.
func commitForever(args []string) error {
	ctx := context.Background()
	store, err := checkpoints.OpenDir(args[0])
	if err != nil {
		return err
	}
	r := checkpoints.New(store, args[1], zerolog.Nop())
	if err := r.Claim(ctx, "run"); err != nil {
		return err
	}
	for {
		manifests, err := r.List(ctx, "run")
		if err != nil {
			return err
		}
		m, err := r.Commit(ctx, "run", crashDraft(manifests))
		if err != nil {
			return err
		}
		fmt.Println(m.Number)
	}
}

// crashDraft returns the checkpoint after the given ones.
func crashDraft(before []checkpoints.Manifest) checkpoints.Draft {
	n := uint64(len(before)) + 1
	d := checkpoints.Draft{Kind: checkpoints.Policy, Step: n, Files: []checkpoints.Source{
		checkpoints.FromBytes("optimizer.bin", content(2*n, 100_000)),
		checkpoints.FromBytes("model.safetensors", content(2*n+1, 200_000)),
	}}
	if len(before) > 0 {
		d.Parent = before[len(before)-1].Digest
	}
	return d
}

func TestKilledCommitsLeaveWholeCheckpoints(t *testing.T) {
	root := t.TempDir()
	random := rand.New(rand.NewPCG(1, 2))
	printed, whole := uint64(0), map[string]bool{}
	for range 15 {
		cmd := exec.Command(os.Args[0], root, t.TempDir())
		cmd.Env = append(os.Environ(), childVar+"=commit")
		cmd.Stderr = os.Stderr
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Killed when it has committed a few, and then after a moment more: somewhere inside of a commit.
		lines := bufio.NewScanner(stdout)
		more := random.IntN(3)
		for i := 0; i <= more && lines.Scan(); i++ {
			printed = number(t, lines.Text())
		}
		killed := time.AfterFunc(time.Duration(random.IntN(20_000))*time.Microsecond, func() { cmd.Process.Kill() })
		for lines.Scan() {
			printed = number(t, lines.Text())
		}
		killed.Stop()
		if err := cmd.Wait(); !strings.Contains(fmt.Sprint(err), "signal: killed") {
			t.Fatalf("the child ended by itself: %v", err)
		}
		printed = checkCrashed(t, root, printed)
		checkBlobs(t, root, whole)
	}
	if printed < 15 {
		t.Errorf("only %d checkpoints came about", printed)
	}
}

// checkCrashed checks the store that a killed writer has left. committed is what the writer had reported.
func checkCrashed(t *testing.T, root string, committed uint64) uint64 {
	t.Helper()
	store, err := checkpoints.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	if files := temporaryFiles(t, root); len(files) > 0 {
		t.Errorf("temporary files are left: %q", files)
	}
	r := checkpoints.New(store, t.TempDir(), zerolog.Nop())
	manifests, err := r.List(t.Context(), "run")
	if err != nil {
		t.Fatal(err)
	}
	if n := uint64(len(manifests)); n < committed || n > committed+1 {
		t.Errorf("%d manifests, but the writer had said %d", n, committed)
	}
	for i, m := range manifests {
		if m.Number != uint64(i)+1 {
			t.Errorf("manifest %d has number %d", i+1, m.Number)
		}
		if i > 0 && m.Parent != manifests[i-1].Digest {
			t.Errorf("manifest %d does not follow manifest %d", i+1, i)
		}
		if uint64(i)+3 < committed {
			continue // read after the kills before
		}
		for _, f := range m.Files {
			if _, err := r.ReadFile(t.Context(), "run", f); err != nil {
				t.Errorf("manifest %d: %v", i+1, err)
			}
		}
	}
	latest, err := r.Latest(t.Context(), "run")
	if err != nil || latest.Number != uint64(len(manifests)) {
		t.Errorf("Latest gives number %d of %d (%v)", latest.Number, len(manifests), err)
	}
	return uint64(len(manifests))
}

// checkBlobs checks that every blob is whole, including those that no manifest names. whole are the blobs checked before.
func checkBlobs(t *testing.T, root string, whole map[string]bool) {
	t.Helper()
	dir := filepath.Join(root, "runs/run/blobs")
	blobs, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, blob := range blobs {
		if whole[blob.Name()] {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, blob.Name()))
		if err != nil || sum(data) != blob.Name() {
			t.Errorf("blob %s is not whole: %d bytes with sha256 %s (%v)", blob.Name(), len(data), sum(data), err)
		}
		whole[blob.Name()] = true
	}
}

func number(t *testing.T, line string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(line, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// fillDisk commits to a store until the disk is full, and checks the error and what is left. args: the store's folder, and how
// the space is limited to about 1 MiB, tmpfs or rlimit.
func fillDisk(args []string) error {
	ctx, root := context.Background(), args[0]
	switch args[1] {
	case "tmpfs":
		if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=1m"); err != nil {
			return fmt.Errorf("%s %w", mountRefused, err)
		}
	case "rlimit":
		signal.Ignore(syscall.SIGXFSZ)
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}); err != nil {
			return err
		}
	}
	store, err := checkpoints.OpenDir(root)
	if err != nil {
		return err
	}
	r := checkpoints.New(store, args[2], zerolog.Nop())
	fits, err := r.Commit(ctx, "run", checkpoints.Draft{Kind: checkpoints.State, Files: []checkpoints.Source{
		checkpoints.FromBytes("small", content(1, 100_000)),
	}})
	if err != nil {
		return fmt.Errorf("a commit that fits: %w", err)
	}
	_, err = r.Commit(ctx, "run", checkpoints.Draft{Kind: checkpoints.State, Files: []checkpoints.Source{
		checkpoints.FromBytes("large", content(2, 2<<20)),
	}})
	fmt.Println(err)
	if err := store.Put(ctx, "large", strings.NewReader(strings.Repeat("x", 2<<20)), 2<<20); err == nil {
		return errors.New("Put of what does not fit gave no error")
	}
	if files, err := filepath.Glob(filepath.Join(root, ".tmp", "*", "*")); err != nil || len(files) > 0 {
		return fmt.Errorf("temporary files are left: %q (%w)", files, err)
	}
	keys, err := store.List(ctx, "")
	if err != nil || len(keys) != 2 {
		return fmt.Errorf("the store holds %q (%w), want one blob and one manifest", keys, err)
	}
	if m, err := r.Latest(ctx, "run"); err != nil || m.Digest != fits.Digest {
		return fmt.Errorf("latest is %s (%w), want %s", m.Digest, err, fits.Digest)
	}
	// and when there is room again the run goes on
	_, err = r.Commit(ctx, "run", checkpoints.Draft{Kind: checkpoints.State, Files: []checkpoints.Source{
		checkpoints.FromBytes("small", content(3, 100_000)),
	}})
	return err
}

const mountRefused = "mount refused:"

func TestFullDiskIsToldAndLeavesNothingHalf(t *testing.T) {
	run := func(t *testing.T, how string) (stdout, stderr string, err error) {
		cmd := exec.Command(os.Args[0], t.TempDir(), how, t.TempDir())
		cmd.Env = append(os.Environ(), childVar+"=fill")
		if how == "tmpfs" { // in a mount namespace of its own: nothing stays mounted however the child ends
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
				UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
			}
		}
		var out, errs strings.Builder
		cmd.Stdout, cmd.Stderr = io.Writer(&out), io.Writer(&errs)
		err = cmd.Run()
		return out.String(), errs.String(), err
	}
	check := func(t *testing.T, stdout, stderr string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v: %s", err, stderr)
		}
		for _, want := range []string{"file large", "no room", "free some space", "start again"} {
			if !strings.Contains(stdout, want) {
				t.Errorf("the error does not say %q: %s", want, stdout)
			}
		}
	}
	t.Run("file size limit", func(t *testing.T) {
		stdout, stderr, err := run(t, "rlimit")
		check(t, stdout, stderr, err)
	})
	t.Run("tmpfs", func(t *testing.T) {
		stdout, stderr, err := run(t, "tmpfs")
		refused := strings.Contains(stderr, mountRefused) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL)
		if err != nil && refused {
			t.Logf("this machine lets nobody mount (%v %s): the file size limit has to do", err, stderr)
			return
		}
		check(t, stdout, stderr, err)
	})
}
