package checkpoints_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas/events"
)

// remote is a store without local files that cannot adopt any, as S3. It counts calls.
type remote struct {
	checkpoints.Store
	puts, gets atomic.Int64
}

func (s *remote) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	s.puts.Add(1)
	return s.Store.Put(ctx, key, r, size)
}

func (s *remote) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	s.gets.Add(1)
	return s.Store.Get(ctx, key)
}

// fixture is a repository over a store whose objects the test can reach as files below root.
type fixture struct {
	*checkpoints.Repository
	store checkpoints.Store
	root  string
	cache string
}

// both runs a test over a directory store and over a remote one.
func both(t *testing.T, test func(t *testing.T, f fixture)) {
	open := func(t *testing.T) fixture {
		f := fixture{root: t.TempDir(), cache: filepath.Join(t.TempDir(), "cache")}
		var err error
		if f.store, err = checkpoints.OpenDir(f.root); err != nil {
			t.Fatal(err)
		}
		return f
	}
	t.Run("folder", func(t *testing.T) {
		f := open(t)
		f.Repository = f.again()
		test(t, f)
	})
	t.Run("remote", func(t *testing.T) {
		f := open(t)
		f.store = &remote{Store: f.store}
		f.Repository = f.again()
		test(t, f)
	})
}

// again returns a Repository as another process on the same store and machine would use it.
func (f fixture) again() *checkpoints.Repository {
	return checkpoints.New(f.store, f.cache, zerolog.Nop())
}

func (f fixture) commit(t *testing.T, d checkpoints.Draft) checkpoints.Manifest {
	t.Helper()
	m, err := f.Commit(t.Context(), "run", d)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// blob returns the path in the store of a checkpoint's file.
func (f fixture) blob(file checkpoints.File) string {
	return filepath.Join(f.root, "runs/run/blobs", file.SHA256)
}

func sum(data []byte) string {
	h := sha256.Sum256(data)
	return hex.EncodeToString(h[:])
}

func draft(kind checkpoints.Kind, iteration uint32, files ...checkpoints.Source) checkpoints.Draft {
	return checkpoints.Draft{Kind: kind, Iteration: iteration, SpecDigest: sum([]byte("spec")), Files: files}
}

func text(name, data string) checkpoints.Source { return checkpoints.FromBytes(name, []byte(data)) }

func TestCommitIsReadBack(t *testing.T) {
	both(t, func(t *testing.T, f fixture) {
		d := checkpoints.Draft{
			Kind: checkpoints.State, Iteration: 2, Step: 7, Parent: sum([]byte("parent")), SpecDigest: sum([]byte("spec")),
			Cursor: &checkpoints.Cursor{
				Stream: "scored", Sequence: 1<<64 - 1, Iteration: 2, Phase: "policy", Epoch: 1,
				Position: 24, Step: 3, Pending: []string{"p1", "p2"},
			},
			Metrics: []checkpoints.Metric{{Name: "loss", Value: 0.1}, {Name: "margin", Value: -1e-300}},
			Files: []checkpoints.Source{
				checkpoints.FromBytes("model.safetensors", content(1, 300_000)), text("guide/config.json", "{}"),
				text("empty", ""),
			},
		}
		m := f.commit(t, d)
		want := checkpoints.Manifest{
			Schema: 1, Run: "run", Kind: d.Kind, Iteration: 2, Step: 7, Parent: d.Parent, SpecDigest: d.SpecDigest,
			Cursor: d.Cursor, Metrics: d.Metrics,
			Files: []checkpoints.File{
				{Name: "empty", SHA256: sum(nil)},
				{Name: "guide/config.json", Bytes: 2, SHA256: sum([]byte("{}"))},
				{Name: "model.safetensors", Bytes: 300_000, SHA256: sum(content(1, 300_000))},
			},
			Number: 1, Key: "runs/run/checkpoints/00000001.json",
		}
		data, err := os.ReadFile(filepath.Join(f.root, m.Key))
		if err != nil {
			t.Fatal(err)
		}
		want.Digest = sum(data)
		if diff := cmp.Diff(want, m); diff != "" {
			t.Errorf("Commit (-want +got):\n%s", diff)
		}
		read, err := f.again().Latest(t.Context(), "run")
		if diff := cmp.Diff(want, read); diff != "" || err != nil {
			t.Errorf("Latest (-want +got): %v\n%s", err, diff)
		}
		file, ok := m.File("model.safetensors")
		got, err := f.again().ReadFile(t.Context(), "run", file)
		if !ok || err != nil || !bytes.Equal(got, content(1, 300_000)) {
			t.Errorf("ReadFile gives %d bytes, %v", len(got), err)
		}
		if _, ok := m.File("model"); ok {
			t.Error("File finds a name that is not there")
		}
		if files := temporaryFiles(t, f.root); len(files) > 0 {
			t.Errorf("temporary files are left: %q", files)
		}
		if files := temporaryFiles(t, f.cache); len(files) > 0 {
			t.Errorf("temporary files are left: %q", files)
		}
	})
}

func TestManifestsAreFound(t *testing.T) {
	both(t, func(t *testing.T, f fixture) {
		ctx := t.Context()
		var all []checkpoints.Manifest
		for i, kind := range []checkpoints.Kind{
			checkpoints.Policy, checkpoints.State, checkpoints.Guide, checkpoints.State,
			checkpoints.Policy, checkpoints.Policy, checkpoints.State,
		} {
			d := draft(kind, uint32(i/3), text("n", string(rune('a'+i))))
			all = append(all, f.commit(t, d))
		}
		// what somebody puts next to manifests is none
		for _, name := range []string{
			"00000003.json.bak", "9.json", "000000009.json", "00000000.json", "notes.json",
			"x/00000099.json",
		} {
			path := filepath.Join(f.root, "runs/run/checkpoints", name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("?"), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		r := f.again()
		got, err := r.List(ctx, "run")
		if diff := cmp.Diff(all, got); diff != "" || err != nil {
			t.Errorf("List (-want +got): %v\n%s", err, diff)
		}
		byDigest := func() (checkpoints.Manifest, error) { return r.ByDigest(ctx, "run", all[3].Digest) }
		latest := func(kinds ...checkpoints.Kind) func() (checkpoints.Manifest, error) {
			return func() (checkpoints.Manifest, error) { return r.Latest(ctx, "run", kinds...) }
		}
		for name, c := range map[string]struct {
			got  func() (checkpoints.Manifest, error)
			want checkpoints.Manifest
		}{
			"latest":                 {latest(), all[6]},
			"latest policy":          {latest(checkpoints.Policy), all[5]},
			"latest guide":           {latest(checkpoints.Guide), all[2]},
			"latest guide or policy": {latest(checkpoints.Guide, checkpoints.Policy), all[5]},
			"by digest":              {byDigest, all[3]},
			"policy 0":               {func() (checkpoints.Manifest, error) { return r.Policy(ctx, "run", 0) }, all[0]},
			"policy 1":               {func() (checkpoints.Manifest, error) { return r.Policy(ctx, "run", 1) }, all[5]},
		} {
			m, err := c.got()
			if diff := cmp.Diff(c.want, m); diff != "" || err != nil {
				t.Errorf("%s (-want +got): %v\n%s", name, err, diff)
			}
		}
		for name, call := range map[string]func() error{
			"other run": func() error { _, err := r.Latest(ctx, "other"); return err },
			"policy 2":  func() error { _, err := r.Policy(ctx, "run", 2); return err },
			"digest":    func() error { _, err := r.ByDigest(ctx, "run", sum(nil)); return err },
		} {
			if err := call(); !errors.Is(err, checkpoints.ErrNoCheckpoint) {
				t.Errorf("%s: got %v, want ErrNoCheckpoint", name, err)
			}
		}
		if none, err := r.List(ctx, "other"); err != nil || len(none) > 0 {
			t.Errorf("List of a run without checkpoints: %v, %v", none, err)
		}
		if _, err := f.Commit(ctx, "another", draft(checkpoints.Policy, 0)); err != nil {
			t.Fatal(err)
		}
		if runs, err := r.Runs(ctx); err != nil || !slices.Equal(runs, []string{"another", "run"}) {
			t.Errorf("Runs gives %q, %v", runs, err)
		}
		for _, run := range []string{"", "..", "a/b", "Run", "../run"} {
			if _, err := r.List(ctx, run); !errors.Is(err, checkpoints.ErrKey) {
				t.Errorf("List of run %q: got %v, want ErrKey", run, err)
			}
		}
	})
}

func TestNumbersBeyondTheirPaddingStayInOrder(t *testing.T) {
	both(t, func(t *testing.T, f fixture) {
		m := f.commit(t, draft(checkpoints.State, 0))
		data, err := os.ReadFile(filepath.Join(f.root, m.Key))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"99999999.json", "100000000.json"} {
			if err := os.WriteFile(filepath.Join(f.root, "runs/run/checkpoints", name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := f.again().Latest(t.Context(), "run"); err != nil || got.Number != 100_000_000 {
			t.Errorf("Latest gives number %d, %v", got.Number, err)
		}
	})
}

// A run that was interrupted has more states than an undisturbed one. Its policies must have the same digests.
func TestStatesDoNotShowInPolicyDigests(t *testing.T) {
	both(t, func(t *testing.T, undisturbed fixture) {
		want := undisturbed.commit(t, draft(checkpoints.Policy, 1, text("model", "weights")))
		both(t, func(t *testing.T, f fixture) {
			for i := range 3 {
				f.commit(t, draft(checkpoints.State, 0, text("optimizer", string(rune('a'+i)))))
			}
			got := f.commit(t, draft(checkpoints.Policy, 1, text("model", "weights")))
			if got.Digest != want.Digest || got.Number != 4 {
				t.Errorf("got digest %s, number %d, want %s, 4", got.Digest, got.Number, want.Digest)
			}
		})
	})
}

func TestCommitWritesABlobOnce(t *testing.T) {
	both(t, func(t *testing.T, f fixture) {
		first := f.commit(t, draft(checkpoints.State, 0, text("a", "weights"), text("b", "weights")))
		before, err := os.Stat(f.blob(first.Files[0]))
		if err != nil {
			t.Fatal(err)
		}
		f.commit(t, draft(checkpoints.Policy, 0, text("c", "weights"), checkpoints.Carry(first.Files[0])))
		after, err := os.Stat(f.blob(first.Files[0]))
		if err != nil || !os.SameFile(before, after) {
			t.Errorf("the blob was written again (%v)", err)
		}
		if s, ok := f.store.(*remote); ok && s.puts.Load() != 1 {
			t.Errorf("the blob was put %d times", s.puts.Load())
		}
		// one that was cut off is no reason to skip
		if err := os.Truncate(f.blob(first.Files[0]), 3); err != nil {
			t.Fatal(err)
		}
		f.commit(t, draft(checkpoints.State, 0, text("d", "weights")))
		if data, err := f.ReadFile(t.Context(), "run", first.Files[0]); err != nil || string(data) != "weights" {
			t.Errorf("got %q, %v", data, err)
		}
	})
}

// A commit stores its files, and creates its manifest only when the guard agrees.
func TestGuard(t *testing.T) {
	both(t, func(t *testing.T, f fixture) {
		lost := errors.New("the lease is lost")
		var allowed error
		asked := 0
		f.Guard("run", func(context.Context) error { asked++; return allowed })
		first := f.commit(t, draft(checkpoints.Policy, 0, text("model", "0")))
		allowed = lost
		if _, err := f.Commit(t.Context(), "run", draft(checkpoints.State, 0, text("model", "1"))); !errors.Is(err, lost) {
			t.Errorf("got %v, want the guard's error", err)
		}
		latest, err := f.List(t.Context(), "run")
		if err != nil || len(latest) != 1 || latest[0].Digest != first.Digest {
			t.Errorf("manifests %v, %v, want the first only", latest, err)
		}
		allowed = nil
		if got := f.commit(t, draft(checkpoints.State, 0, text("model", "1"))); got.Number != 2 || asked != 3 {
			t.Errorf("manifest %d after %d questions, want 2 after 3", got.Number, asked)
		}
	})
}

func TestStaleWriterIsFenced(t *testing.T) {
	both(t, func(t *testing.T, f fixture) {
		ctx := t.Context()
		f.commit(t, draft(checkpoints.Policy, 0, text("model", "0")))
		stale, fresh := f.again(), f.again()
		for _, r := range []*checkpoints.Repository{stale, fresh} {
			if err := r.Claim(ctx, "run"); err != nil {
				t.Fatal(err)
			}
		}
		want, err := fresh.Commit(ctx, "run", draft(checkpoints.Policy, 1, text("model", "fresh")))
		if err != nil {
			t.Fatal(err)
		}
		// Reading the newest manifest does not make the stale writer its heir, nor does trying again.
		for range 2 {
			if _, err := stale.Latest(ctx, "run"); err != nil {
				t.Fatal(err)
			}
			_, err := stale.Commit(ctx, "run", draft(checkpoints.Policy, 1, text("model", "stale")))
			if !errors.Is(err, checkpoints.ErrConflict) || !strings.Contains(err.Error(), "manifest 2 of run run") {
				t.Errorf("got %v, want ErrConflict for manifest 2", err)
			}
		}
		if got, err := f.Latest(ctx, "run"); err != nil || got.Digest != want.Digest {
			t.Errorf("latest is %s (%v), want %s", got.Digest, err, want.Digest)
		}
		// Work that came to the same result is no conflict.
		if got, err := stale.Commit(ctx, "run", draft(checkpoints.Policy, 1, text("model", "fresh"))); err != nil ||
			got.Digest != want.Digest || got.Number != 2 {
			t.Errorf("got %+v, %v", got, err)
		}
		// The lease may come back.
		if err := stale.Claim(ctx, "run"); err != nil {
			t.Fatal(err)
		}
		m, err := stale.Commit(ctx, "run", draft(checkpoints.Policy, 2, text("model", "next")))
		if err != nil || m.Number != 3 {
			t.Errorf("after a new claim: number %d, %v", m.Number, err)
		}
	})
}

func TestRacingWritersDoNotFork(t *testing.T) {
	both(t, func(t *testing.T, f fixture) {
		var all sync.WaitGroup
		writers := make([]*checkpoints.Repository, 8)
		for i := range writers {
			writers[i] = f.again()
			if err := writers[i].Claim(t.Context(), "run"); err != nil {
				t.Fatal(err)
			}
		}
		errs := make([]error, len(writers))
		for i, r := range writers {
			all.Go(func() {
				_, errs[i] = r.Commit(t.Context(), "run", draft(checkpoints.Policy, 0, text("model", string(rune('a'+i)))))
			})
		}
		all.Wait()
		won := 0
		for i, err := range errs {
			if err == nil {
				won++
			} else if !errors.Is(err, checkpoints.ErrConflict) {
				t.Errorf("writer %d: %v", i, err)
			}
		}
		if manifests, err := f.List(t.Context(), "run"); err != nil || len(manifests) != 1 || won != 1 {
			t.Errorf("%d writers won, %d manifests (%v)", won, len(manifests), err)
		}
	})
}

// faulty fails one call of a kind, before or after the call has had its effect.
type faulty struct {
	checkpoints.Store
	fail  string // Put or Create
	after bool
}

var errFault = errors.New("connection reset")

func (s *faulty) call(name string, f func() error) error {
	if s.fail != name {
		return f()
	}
	s.fail = ""
	if s.after {
		if err := f(); err != nil {
			return err
		}
	}
	return errFault
}

func (s *faulty) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	return s.call("Put", func() error { return s.Store.Put(ctx, key, r, size) })
}

func (s *faulty) Create(ctx context.Context, key string, data []byte) error {
	return s.call("Create", func() error { return s.Store.Create(ctx, key, data) })
}

func TestCommitCanBeRepeatedAfterAnyFault(t *testing.T) {
	for _, fault := range []faulty{
		{fail: "Put"}, {fail: "Put", after: true}, {fail: "Create"}, {fail: "Create", after: true},
	} {
		fault.Store = openDir(t)
		r := checkpoints.New(&fault, t.TempDir(), zerolog.Nop())
		d := draft(checkpoints.Policy, 0, text("model", "weights"))
		name := fault.fail
		if _, err := r.Commit(t.Context(), "run", d); !errors.Is(err, errFault) {
			t.Errorf("%s: got %v, want the fault", name, err)
		}
		if m, err := r.Commit(t.Context(), "run", d); err != nil || m.Number != 1 {
			t.Errorf("%s, after %v: the second try gives number %d, %v", name, fault.after, m.Number, err)
		}
		if m, err := r.Commit(t.Context(), "run", d); err != nil || m.Number != 2 {
			t.Errorf("%s, after %v: the next commit gives number %d, %v", name, fault.after, m.Number, err)
		}
	}
}

func TestBadDraftsWriteNothing(t *testing.T) {
	both(t, func(t *testing.T, f fixture) {
		file := checkpoints.File{Name: "f", Bytes: 1, SHA256: sum(nil)}
		huge := strings.Repeat("x", 4<<20)
		good := func(change func(d *checkpoints.Draft)) checkpoints.Draft {
			d := draft(checkpoints.State, 0, text("a", "weights"))
			d.Cursor = &checkpoints.Cursor{Phase: "policy"}
			change(&d)
			return d
		}
		for name, d := range map[string]checkpoints.Draft{
			"no kind":         good(func(d *checkpoints.Draft) { d.Kind = "" }),
			"unknown kind":    good(func(d *checkpoints.Draft) { d.Kind = "best" }),
			"parent":          good(func(d *checkpoints.Draft) { d.Parent = "1" }),
			"phase":           good(func(d *checkpoints.Draft) { d.Cursor.Phase = "train" }),
			"position":        good(func(d *checkpoints.Draft) { d.Cursor.Position = -1 }),
			"NaN":             good(func(d *checkpoints.Draft) { d.Metrics = []checkpoints.Metric{{Name: "x", Value: nan()}} }),
			"metric name":     good(func(d *checkpoints.Draft) { d.Metrics = []checkpoints.Metric{{}} }),
			"manifest's size": good(func(d *checkpoints.Draft) { d.Cursor.Pending = []string{huge} }),
			"escaping name":   good(func(d *checkpoints.Draft) { d.Files[0].Name = "../../../../etc/passwd" }),
			"absolute name":   good(func(d *checkpoints.Draft) { d.Files[0].Name = "/etc/passwd" }),
			"no name":         good(func(d *checkpoints.Draft) { d.Files[0].Name = "" }),
			"no source":       good(func(d *checkpoints.Draft) { d.Files[0].Write = nil }),
			"two sources":     good(func(d *checkpoints.Draft) { d.Files[0].Blob = &file }),
			"same name twice": good(func(d *checkpoints.Draft) { d.Files = append(d.Files, text("a", "other")) }),
			"file and folder": good(func(d *checkpoints.Draft) { d.Files = append(d.Files, text("a-b", ""), text("a/b", "")) }),
			"blob's sha256": good(func(d *checkpoints.Draft) {
				d.Files = append(d.Files, checkpoints.Carry(checkpoints.File{Name: "b"}))
			}),
			"negative size": good(func(d *checkpoints.Draft) {
				d.Files = append(d.Files, checkpoints.Carry(checkpoints.File{Name: "b", Bytes: -1, SHA256: sum(nil)}))
			}),
		} {
			if _, err := f.Commit(t.Context(), "run", d); !errors.Is(err, checkpoints.ErrManifest) {
				t.Errorf("%s: got %v, want ErrManifest", name, err)
			}
		}
		if _, err := f.Commit(t.Context(), "Run 1", good(func(*checkpoints.Draft) {})); err == nil {
			t.Error("a commit to run \"Run 1\" gave no error")
		}
		// a source that fails, and a file to carry that is not there
		broken := errors.New("out of tensors")
		failing := good(func(d *checkpoints.Draft) {
			d.Files[0].Write = func(w io.Writer) error {
				if _, err := w.Write(content(1, 1<<20)); err != nil {
					return err
				}
				return broken
			}
		})
		_, err := f.Commit(t.Context(), "run", failing)
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), "file a") {
			t.Errorf("got %v, want the source's error and the file's name", err)
		}
		gone := good(func(d *checkpoints.Draft) { d.Files = []checkpoints.Source{checkpoints.Carry(file)} })
		if _, err := f.Commit(t.Context(), "run", gone); !errors.Is(err, checkpoints.ErrCorrupt) {
			t.Errorf("got %v, want ErrCorrupt", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancelled := good(func(d *checkpoints.Draft) {
			d.Files[0].Write = func(w io.Writer) error {
				cancel()
				_, err := w.Write(content(1, 1<<20))
				return err
			}
		})
		if _, err := f.Commit(ctx, "run", cancelled); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
		keys, err := f.store.List(t.Context(), "")
		if err != nil || len(keys) > 0 {
			t.Errorf("the store holds %q (%v)", keys, err)
		}
		if files := append(temporaryFiles(t, f.root), temporaryFiles(t, f.cache)...); len(files) > 0 {
			t.Errorf("temporary files are left: %q", files)
		}
	})
}

func nan() float64 {
	zero := 0.0
	return zero / zero
}

// damage is what can happen to a blob behind the store's back.
var damage = map[string]func(path string, data []byte) error{
	"flipped bit": func(path string, data []byte) error {
		data[len(data)/2] ^= 1
		return os.WriteFile(path, data, 0o600)
	},
	"cut off":  func(path string, data []byte) error { return os.WriteFile(path, data[:len(data)-1], 0o600) },
	"emptied":  func(path string, _ []byte) error { return os.WriteFile(path, nil, 0o600) },
	"extended": func(path string, data []byte) error { return os.WriteFile(path, append(data, 0), 0o600) },
	"removed":  func(string, []byte) error { return nil },
}

func TestDamagedBlobsAreFound(t *testing.T) {
	for name, damage := range damage {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, f fixture) {
				ctx := t.Context()
				m := f.commit(t, draft(checkpoints.Policy, 0, text("config.json", "{}"),
					checkpoints.FromBytes("model.safetensors", content(1, 100_000))))
				file := m.Files[1]
				path := f.blob(file)
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				if err := damage(path, content(1, 100_000)); err != nil {
					t.Fatal(err)
				}
				dir := t.TempDir()
				r := f.again()
				for call, read := range map[string]func() error{
					"ReadFile":    func() error { _, err := r.ReadFile(ctx, "run", file); return err },
					"Local":       func() error { _, err := r.Local(ctx, "run", file); return err },
					"Folder":      func() error { _, err := r.Folder(ctx, m); return err },
					"Materialise": func() error { return r.Materialise(ctx, m, dir) },
				} {
					err := read()
					if !errors.Is(err, checkpoints.ErrCorrupt) {
						t.Errorf("%s: got %v, want ErrCorrupt", call, err)
						continue
					}
					for _, want := range []string{
						"model.safetensors", "runs/run/blobs/" + file.SHA256, "100000 bytes",
						"replace it with a copy", "checkpoint before",
					} {
						if !strings.Contains(err.Error(), want) {
							t.Errorf("%s: the error does not say %q: %v", call, want, err)
						}
					}
					if found, readErr := os.ReadFile(path); readErr == nil && len(found) == 100_000 &&
						!strings.Contains(err.Error(), sum(found)) {
						t.Errorf("%s: the error does not name the sha256 that it found: %v", call, err)
					}
				}
				entries, err := os.ReadDir(dir)
				if err != nil || len(entries) != 1 || entries[0].Name() != "config.json" {
					t.Errorf("Materialise left %v (%v), want config.json alone", entries, err)
				}
				if got, err := f.Latest(ctx, "run"); err != nil || got.Digest != m.Digest {
					t.Errorf("the manifest can no longer be read: %v", err)
				}
			})
		})
	}
}

func TestLocalFilesAreFetchedOnce(t *testing.T) {
	both(t, func(t *testing.T, f fixture) {
		ctx := t.Context()
		m := f.commit(t, draft(checkpoints.Policy, 0, checkpoints.FromBytes("model", content(1, 200_000))))
		file := m.Files[0]
		gets := func() int64 {
			if s, ok := f.store.(*remote); ok {
				return s.gets.Swap(0)
			}
			return 0
		}
		gets()
		r := f.again()
		check := func(r *checkpoints.Repository) (path string) {
			path, err := r.Local(ctx, "run", file)
			if err != nil {
				t.Error(err)
				return ""
			}
			if data, err := os.ReadFile(path); err != nil || !bytes.Equal(data, content(1, 200_000)) {
				t.Errorf("%s holds %d other bytes (%v)", path, len(data), err)
			}
			return path
		}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() { check(r) })
		}
		all.Wait()
		_, isRemote := f.store.(*remote)
		if n := gets(); isRemote && n != 1 {
			t.Errorf("8 callers downloaded %d times", n)
		}
		path := check(f.again()) // another process on this machine
		if n := gets(); n != 0 {
			t.Errorf("the next process downloaded it %d times again", n)
		}
		if want := filepath.Join(f.cache, file.SHA256); isRemote && path != want {
			t.Errorf("got path %s, want %s", path, want)
		} else if !isRemote && path != f.blob(file) {
			t.Errorf("got path %s, want the blob", path)
		}
		if !isRemote {
			return
		}
		// a copy that was damaged is fetched again
		if err := os.WriteFile(path, content(2, 200_000), 0o600); err != nil {
			t.Fatal(err)
		}
		check(f.again())
		if n := gets(); n != 1 {
			t.Errorf("a damaged copy was downloaded %d times", n)
		}
	})
}

func TestLocalOfBadFiles(t *testing.T) {
	both(t, func(t *testing.T, f fixture) {
		for name, file := range map[string]checkpoints.File{
			"sha256": {Name: "a", SHA256: "../../../../etc/passwd"},
			"name":   {Name: "../a", SHA256: sum(nil)},
			"size":   {Name: "a", Bytes: -1, SHA256: sum(nil)},
		} {
			if _, err := f.Local(t.Context(), "run", file); !errors.Is(err, checkpoints.ErrManifest) {
				t.Errorf("%s: got %v, want ErrManifest", name, err)
			}
		}
		bad := checkpoints.File{Name: "a", SHA256: "x"}
		if _, err := f.Open(t.Context(), "run", bad); !errors.Is(err, checkpoints.ErrManifest) {
			t.Errorf("Open: got %v, want ErrManifest", err)
		}
	})
}

func TestCheckpointAsFolder(t *testing.T) {
	both(t, func(t *testing.T, f fixture) {
		ctx := t.Context()
		want := map[string]string{"config.json": "{}", "guide/decoder/config.json": "{}", "model.safetensors": "weights"}
		var files []checkpoints.Source
		for _, name := range []string{"model.safetensors", "config.json", "guide/decoder/config.json"} {
			files = append(files, text(name, want[name]))
		}
		m := f.commit(t, draft(checkpoints.Policy, 0, files...))
		dir := filepath.Join(t.TempDir(), "new", "export")
		if err := f.Materialise(ctx, m, dir); err != nil {
			t.Fatal(err)
		}
		// the files are the user's: changing one changes no checkpoint, and a second export puts it right
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte("changed"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "README"), []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		if data, err := f.ReadFile(ctx, "run", m.Files[0]); err != nil || string(data) != "{}" {
			t.Errorf("the checkpoint's file is %q, %v", data, err)
		}
		if err := f.Materialise(ctx, m, dir); err != nil {
			t.Fatal(err)
		}
		exported := filesBelow(t, dir)
		if exported["README"] != "mine" {
			t.Error("the second export touched a file that is not the checkpoint's")
		}
		delete(exported, "README")
		if diff := cmp.Diff(want, exported); diff != "" {
			t.Errorf("Materialise (-want +got):\n%s", diff)
		}
		for range 2 {
			folder, err := f.again().Folder(ctx, m)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, filesBelow(t, folder)); diff != "" {
				t.Errorf("Folder (-want +got):\n%s", diff)
			}
		}
		m.Files[0].Name = "../config.json"
		if err := f.Materialise(ctx, m, dir); !errors.Is(err, checkpoints.ErrManifest) {
			t.Errorf("a name that leaves the folder: got %v, want ErrManifest", err)
		}
	})
}

// filesBelow gives the contents of all files below dir by name, following links.
func filesBelow(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		name, relErr := filepath.Rel(dir, path)
		files[name] = string(data)
		return errors.Join(err, relErr)
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestDetails(t *testing.T) {
	both(t, func(t *testing.T, f fixture) {
		digest, err := f.PutBlob(t.Context(), "run", []byte("samples"))
		if err != nil || digest != sum([]byte("samples")) {
			t.Fatalf("got %s, %v", digest, err)
		}
		if data, err := f.again().ReadBlob(t.Context(), "run", digest); err != nil || string(data) != "samples" {
			t.Errorf("got %q, %v", data, err)
		}
		if _, err := f.ReadBlob(t.Context(), "run", sum(nil)); !errors.Is(err, checkpoints.ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
		if _, err := f.ReadBlob(t.Context(), "run", "../checkpoints/00000001.json"); !errors.Is(err, checkpoints.ErrKey) {
			t.Errorf("got %v, want ErrKey", err)
		}
		path := filepath.Join(f.root, "runs/run/details", digest)
		if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte("Samples"), 0o600)); err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadBlob(t.Context(), "run", digest); !errors.Is(err, checkpoints.ErrCorrupt) {
			t.Errorf("got %v, want ErrCorrupt", err)
		}
	})
}

func TestReconcile(t *testing.T) {
	both(t, func(t *testing.T, f fixture) {
		ctx := t.Context()
		var want []*events.Checkpoint
		for i, kind := range []checkpoints.Kind{
			checkpoints.Policy, checkpoints.State, checkpoints.Guide, checkpoints.Policy,
		} {
			d := draft(kind, uint32(i/3), text("n", string(rune('a'+i))))
			d.Step = uint64(10 * i)
			m := f.commit(t, d)
			if kind != checkpoints.State {
				want = append(want, &events.Checkpoint{
					Schema: 1, Run: "run", Number: uint64(i) + 1, Kind: string(kind),
					Iteration: uint32(i / 3), Step: uint64(10 * i), Digest: m.Digest, Key: m.Key,
				})
			}
		}
		var got []*events.Checkpoint
		emit := func(_ context.Context, e *events.Checkpoint) error {
			got = append(got, e)
			return nil
		}
		if err := f.again().Reconcile(ctx, "run", nil, emit); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("all (-want +got):\n%s", diff)
		}
		got = nil
		announced := func(digest string) bool { return digest != want[1].GetDigest() }
		if err := f.Reconcile(ctx, "run", announced, emit); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want[1:2], got, protocmp.Transform()); diff != "" {
			t.Errorf("what was not announced (-want +got):\n%s", diff)
		}
		refused := errors.New("no stream")
		err := f.Reconcile(ctx, "run", nil, func(context.Context, *events.Checkpoint) error { return refused })
		if !errors.Is(err, refused) {
			t.Errorf("got %v, want the emitter's error", err)
		}
		if err := f.Reconcile(ctx, "other", nil, emit); err != nil {
			t.Errorf("a run without checkpoints: %v", err)
		}
	})
}

func TestDamagedManifestIsToldNotSkipped(t *testing.T) {
	both(t, func(t *testing.T, f fixture) {
		f.commit(t, draft(checkpoints.Policy, 0, text("model", "0")))
		m := f.commit(t, draft(checkpoints.Policy, 1, text("model", "1")))
		path := filepath.Join(f.root, m.Key)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for name, damaged := range map[string][]byte{
			"empty":      nil,
			"cut off":    data[:len(data)/2],
			"edited":     bytes.Replace(data, []byte(`"iteration": 1`), []byte(`"iteration":  1`), 1),
			"newer":      bytes.Replace(data, []byte(`"schema": 1`), []byte(`"schema": 2`), 1),
			"other run":  bytes.Replace(data, []byte(`"run": "run"`), []byte(`"run": "ran"`), 1),
			"new field":  bytes.Replace(data, []byte(`"schema": 1,`), []byte("\"schema\": 1,\n  \"more\": 1,"), 1),
			"repeated":   bytes.Replace(data, []byte(`"schema": 1,`), []byte("\"schema\": 1,\n  \"schema\": 1,"), 1),
			"two of it":  append(slices.Clone(data), data...),
			"other case": bytes.Replace(data, []byte(`"step"`), []byte(`"Step"`), 1),
		} {
			if bytes.Equal(data, damaged) {
				t.Fatalf("%s: nothing was changed", name)
			}
			if err := errors.Join(os.Remove(path), os.WriteFile(path, damaged, 0o600)); err != nil {
				t.Fatal(err)
			}
			for call, read := range map[string]func(r *checkpoints.Repository) error{
				"Latest": func(r *checkpoints.Repository) error { _, err := r.Latest(t.Context(), "run"); return err },
				"List":   func(r *checkpoints.Repository) error { _, err := r.List(t.Context(), "run"); return err },
				"Prune":  func(r *checkpoints.Repository) error { _, err := r.Prune(t.Context(), "run", 1); return err },
			} {
				err := read(f.again())
				if !errors.Is(err, checkpoints.ErrManifest) || !strings.Contains(err.Error(), m.Key) {
					t.Errorf("%s of a manifest that is %s: got %v, want ErrManifest with its key", call, name, err)
				}
			}
		}
	})
}

// BytesRead grows with every part of a file that is read, so that a long download shows progress.
func TestBytesRead(t *testing.T) {
	both(t, func(t *testing.T, f fixture) {
		m := f.commit(t, draft(checkpoints.Policy, 0, text("model", "0123456789")))
		file := m.Files[slices.IndexFunc(m.Files, func(f checkpoints.File) bool { return f.Name == "model" })]
		r := f.again()
		body, err := r.Open(t.Context(), "run", file)
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		if _, err := io.ReadFull(body, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		if got := r.BytesRead(); got < 4 || got > uint64(file.Bytes) {
			t.Errorf("%d bytes read of a part of 4 of %d", got, file.Bytes)
		}
	})
}

// A later build may add members to the manifest's optional object; this build reads such a manifest and keeps its digest.
func TestManifestOfALaterBuild(t *testing.T) {
	both(t, func(t *testing.T, f fixture) {
		m := f.commit(t, draft(checkpoints.Policy, 0, text("model", "0")))
		path := filepath.Join(f.root, m.Key)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		later := slices.Concat(bytes.TrimSuffix(data, []byte("\n}\n")), []byte(",\n  \"optional\": {\n    \"later\": [\n      1\n    ]\n  }\n}\n"))
		for name, test := range map[string]struct {
			data []byte
			ok   bool
		}{
			"a member": {later, true},
			"a list":   {bytes.Replace(later, []byte("{\n    \"later\": [\n      1\n    ]\n  }"), []byte("[\n    1\n  ]"), 1), false},
			"edited":   {bytes.Replace(later, []byte("      1"), []byte("     1"), 1), false},
		} {
			if err := errors.Join(os.Remove(path), os.WriteFile(path, test.data, 0o600)); err != nil {
				t.Fatal(err)
			}
			got, err := f.again().Latest(t.Context(), "run")
			switch {
			case test.ok && (err != nil || got.Digest != sum(test.data) || !slices.Equal(got.Files, m.Files)):
				t.Errorf("%s: %+v, %v", name, got, err)
			case !test.ok && !errors.Is(err, checkpoints.ErrManifest):
				t.Errorf("%s: got %v, want ErrManifest", name, err)
			}
		}
	})
}

func FuzzParseManifest(f *testing.F) {
	const key = "runs/run/checkpoints/00000001.json"
	for _, seed := range []string{
		"{\n  \"schema\": 1,\n  \"run\": \"run\",\n  \"kind\": \"policy\",\n  \"iteration\": 0,\n" +
			"  \"step\": 0,\n  \"files\": []\n}\n",
		`{"schema":1,"run":"run","kind":"state","iteration":0,"step":0,"files":[{"name":"a","bytes":-1,"sha256":"00"}]}`,
		`{"schema":1,"cursor":{"phase":"policy","pending":[]}}`,
		`{"schema":1,"metrics":[{"value":1e999}]}`,
		`{"schema":1,"run":"run","kind":"guide","files":null}`,
		"null", "", "[]",
	} {
		f.Add(key, []byte(seed))
	}
	f.Fuzz(func(t *testing.T, key string, data []byte) {
		m, err := checkpoints.ParseManifest(key, data)
		if err != nil {
			if !errors.Is(err, checkpoints.ErrManifest) {
				t.Errorf("got %v, want ErrManifest", err)
			}
			return
		}
		if m.Digest != sum(data) || m.Key != key || m.Number == 0 {
			t.Errorf("digest %s, key %s, number %d", m.Digest, m.Key, m.Number)
		}
		for i, file := range m.Files {
			local := filepath.IsLocal(file.Name) && filepath.Clean(file.Name) == file.Name
			if file.Bytes < 0 || len(file.SHA256) != 64 || !local {
				t.Errorf("a manifest was read with file %+v", file)
			}
			if i > 0 && m.Files[i-1].Name >= file.Name {
				t.Errorf("files are not sorted: %s, %s", m.Files[i-1].Name, file.Name)
			}
		}
		// What was read, committed again, has the same bytes.
		store, err := checkpoints.OpenDir(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		again := checkpoints.Draft{
			Kind: m.Kind, Iteration: m.Iteration, Step: m.Step, Parent: m.Parent,
			SpecDigest: m.SpecDigest, Cursor: m.Cursor, Metrics: m.Metrics,
		}
		if len(m.Files) > 0 {
			return // their blobs are not there
		}
		got, err := checkpoints.New(store, "", zerolog.Nop()).Commit(t.Context(), m.Run, again)
		if err != nil || got.Digest != m.Digest {
			t.Errorf("committed again: %v\n%s", err, cmp.Diff(m, got, cmpopts.IgnoreFields(m, "Key", "Number")))
		}
	})
}
