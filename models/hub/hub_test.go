package hub_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/models/hub"
	"github.com/ldalign/ldalign/models/hub/hubtest"
)

// tiny is a repository with weights in two shards and many files that are not wanted.
func tiny() *hubtest.Repository {
	weights := func(n int) []byte { return bytes.Repeat([]byte("0123456789abcde\n"), n) }
	return &hubtest.Repository{
		Branches: []string{"main", "v1", "refs/pr/1"},
		Files: map[string][]byte{
			"config.json":                      []byte(`{"model_type":"llama"}`),
			"generation_config.json":           []byte(`{}`),
			"tokenizer.json":                   []byte(`{"model":{}}`),
			"tokenizer_config.json":            []byte(`{}`),
			"special_tokens_map.json":          {},
			"chat_template.jinja":              []byte(`{{ messages }}`),
			"model.safetensors.index.json":     []byte(index),
			"model-00001-of-00002.safetensors": weights(100_000),
			"model-00002-of-00002.safetensors": weights(3),
			"consolidated.safetensors":         weights(7),
			"pytorch_model.bin":                []byte("pickle"),
			"README.md":                        []byte("# Tiny"),
			"onnx/model.safetensors":           weights(2),
			".gitattributes":                   []byte("*"),
		},
	}
}

const index = `{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}`

// fetched are the files of tiny that are wanted.
var fetched = []string{
	"chat_template.jinja", "config.json", "generation_config.json", "model-00001-of-00002.safetensors",
	"model-00002-of-00002.safetensors", "model.safetensors.index.json", "special_tokens_map.json", "tokenizer.json",
	"tokenizer_config.json",
}

const (
	id        = "acme/tiny"
	bigShard  = "model-00001-of-00002.safetensors"
	bigLength = 1_600_000
)

func start(t *testing.T, repo *hubtest.Repository) (*hubtest.Server, hub.Options) {
	t.Helper()
	s := hubtest.New(map[string]*hubtest.Repository{id: repo})
	t.Cleanup(s.Close)
	return s, hub.Options{Endpoint: s.URL, Cache: t.TempDir()}
}

func checkFiles(t *testing.T, m hub.Model, repo *hubtest.Repository) {
	t.Helper()
	entries, err := os.ReadDir(m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
		text, err := os.ReadFile(filepath.Join(m.Dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(text, repo.Files[e.Name()]) {
			t.Errorf("%s differs", e.Name())
		}
	}
	if diff := cmp.Diff(fetched, names); diff != "" {
		t.Error(diff)
	}
}

func TestResolve(t *testing.T) {
	for name, plain := range map[string]bool{"with digests": false, "digests by HEAD": true} {
		t.Run(name, func(t *testing.T) {
			repo := tiny()
			s, o := start(t, repo)
			s.Plain = plain
			var told []hub.Progress
			o.Progress = func(p hub.Progress) { told = append(told, p) }
			m, err := hub.Resolve(t.Context(), id, o)
			if err != nil {
				t.Fatal(err)
			}
			want := hub.Model{
				Dir: filepath.Join(o.Cache, "models--acme--tiny", "snapshots", repo.Commit()), ID: id, Revision: repo.Commit(),
			}
			if diff := cmp.Diff(want, m); diff != "" {
				t.Error(diff)
			}
			checkFiles(t, m, repo)
			if last := told[len(told)-1]; last.AllDone != last.AllSize || last.AllSize < bigLength || len(told) <= len(fetched) {
				t.Errorf("told %d times, at last %+v", len(told), last)
			}
			ref, err := os.ReadFile(filepath.Join(o.Cache, "models--acme--tiny", "refs", "main"))
			if err != nil || string(ref) != repo.Commit() {
				t.Errorf("refs/main: %q, %v", ref, err)
			}

			before := len(s.Requests())
			for _, again := range []string{id, id + "@v1", id + "@refs/pr/1", id + "@" + repo.Commit()} {
				if other, err := hub.Resolve(t.Context(), again, o); err != nil || other != m {
					t.Errorf("%s: %+v, %v", again, other, err)
				}
			}
			for _, r := range s.Requests()[before:] {
				if strings.HasPrefix(r, "GET /"+id) || strings.HasPrefix(r, "cdn") {
					t.Errorf("fetched again: %s", r)
				}
			}
			s.Close()
			o.Offline = true
			for _, offline := range []string{id, id + "@v1", id + "@refs/pr/1", id + "@" + repo.Commit()} {
				if other, err := hub.Resolve(t.Context(), offline, o); err != nil || other != m {
					t.Errorf("offline, %s: %+v, %v", offline, other, err)
				}
			}
		})
	}
}

func TestLocalFoldersComeFirst(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.MkdirAll("acme/tiny", 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if m, err := hub.Resolve(t.Context(), id, hub.Options{}); err != nil || m != (hub.Model{Dir: id}) {
		t.Errorf("%+v, %v", m, err)
	}
	for _, missing := range []string{"./acme/other", "/nowhere/at/all", "../x", "~/models/x", "acme2/", ""} {
		if _, err := hub.Resolve(t.Context(), missing, hub.Options{}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v", missing, err)
		}
	}
	if _, err := hub.Resolve(t.Context(), "file", hub.Options{}); err == nil || !strings.Contains(err.Error(), "file") {
		t.Error(err)
	}
	for _, name := range []string{
		"run@3", "run", "a/b/c", "a//b", "a/b@", "a/..", "a/b--c", "a b/c", "a/b@x..y", "a/-b", "ä/b",
	} {
		if _, err := hub.Resolve(t.Context(), name, hub.Options{}); !errors.Is(err, hub.ErrNotHub) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for name, want := range map[string][2]string{
		"a/b": {"a/b", "main"}, "a/b.c-1@v1.0": {"a/b.c-1", "v1.0"}, "HuggingFaceTB/SmolLM2-135M@refs/pr/1": {
			"HuggingFaceTB/SmolLM2-135M", "refs/pr/1",
		},
	} {
		if id, rev, err := hub.ParseName(name); err != nil || [2]string{id, rev} != want {
			t.Errorf("%s: %s %s %v", name, id, rev, err)
		}
	}
}

// A download continues where its connection broke.
func TestCutConnections(t *testing.T) {
	repo := tiny()
	s, o := start(t, repo)
	s.Cut, s.Cuts = 500_000, 2
	m, err := hub.Resolve(t.Context(), id, o)
	if err != nil {
		t.Fatal(err)
	}
	checkFiles(t, m, repo)
	var asked []string
	for _, r := range s.Requests() {
		if strings.HasPrefix(r, "cdn GET /"+hubtest.SHA256(repo.Files[bigShard])) {
			asked = append(asked, r[strings.LastIndex(r, " ")+1:])
		}
	}
	if len(asked) != 3 || asked[1] != "bytes=500000-" || asked[2] != "bytes=1000000-" {
		t.Errorf("asked for %q", asked)
	}
}

func TestCutConnectionsWithoutRange(t *testing.T) {
	repo := tiny()
	s, o := start(t, repo)
	s.Cut, s.Cuts, s.NoRange = 500_000, 2, true
	m, err := hub.Resolve(t.Context(), id, o)
	if err != nil {
		t.Fatal(err)
	}
	checkFiles(t, m, repo)
}

// An interrupted download keeps what it has received, and requests only the rest.
func TestInterruptedCallGoesOn(t *testing.T) {
	repo := tiny()
	s, o := start(t, repo)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	o.Progress = func(p hub.Progress) {
		if p.File == bigShard {
			cancel(stop)
		}
	}
	if _, err := hub.Resolve(ctx, id, o); !errors.Is(err, stop) {
		t.Fatalf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(o.Cache, "models--acme--tiny", "snapshots")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a snapshot of a part: %v", err)
	}
	o.Progress = nil
	before := len(s.Requests())
	m, err := hub.Resolve(t.Context(), id, o)
	if err != nil {
		t.Fatal(err)
	}
	checkFiles(t, m, repo)
	for _, r := range s.Requests()[before:] {
		if strings.Contains(r, "config.json") || strings.Contains(r, "cdn") && !strings.Contains(r, "bytes=") &&
			strings.Contains(r, hubtest.SHA256(repo.Files[bigShard])) {
			t.Errorf("asked again: %s", r)
		}
	}
}

func TestDamagedFiles(t *testing.T) {
	for _, name := range []string{bigShard, "config.json"} {
		repo := tiny()
		s, o := start(t, repo)
		s.Damaged = name
		_, err := hub.Resolve(t.Context(), id, o)
		if !errors.Is(err, hub.ErrDigest) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		blobs, err := filepath.Glob(filepath.Join(o.Cache, "models--acme--tiny", "blobs", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, blob := range blobs {
			if strings.HasSuffix(blob, ".incomplete") {
				t.Errorf("%s stayed", blob)
			}
		}
		s.Damaged = ""
		m, err := hub.Resolve(t.Context(), id, o)
		if err != nil {
			t.Fatal(err)
		}
		checkFiles(t, m, repo)
	}
}

// A partial file of other bytes, or a longer one, does no harm.
func TestForeignPartialFiles(t *testing.T) {
	repo := tiny()
	_, o := start(t, repo)
	partial := filepath.Join(o.Cache, "models--acme--tiny", "blobs", hubtest.SHA256(repo.Files[bigShard])+".incomplete")
	if err := os.MkdirAll(filepath.Dir(partial), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(partial, make([]byte, bigLength+1), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := hub.Resolve(t.Context(), id, o)
	if err != nil {
		t.Fatal(err)
	}
	checkFiles(t, m, repo)
}

func TestRefusals(t *testing.T) {
	gated := tiny()
	gated.Token = "secret"
	old := &hubtest.Repository{Branches: []string{"main"}, Files: map[string][]byte{
		"config.json": []byte("{}"), "pytorch_model.bin": []byte("x"),
	}}
	for name, test := range map[string]struct {
		repo  *hubtest.Repository
		name  string
		token string
		want  error
		says  string
	}{
		"no token":         {gated, id, "", hub.ErrGated, "HF_TOKEN is not set"},
		"wrong token":      {gated, id, "other", hub.ErrGated, "the token of HF_TOKEN was sent"},
		"no such model":    {tiny(), "acme/other", "", hub.ErrNotFound, "acme/other"},
		"no such revision": {tiny(), id + "@v9", "", hub.ErrNotFound, "revision"},
		"no safetensors":   {old, id, "", hub.ErrNoWeights, "save_pretrained"},
	} {
		t.Run(name, func(t *testing.T) {
			_, o := start(t, test.repo)
			o.Token = test.token
			_, err := hub.Resolve(t.Context(), test.name, o)
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v", err)
			}
			if test.token != "" && strings.Contains(err.Error(), test.token+" ") {
				t.Errorf("the token is told: %v", err)
			}
		})
	}
	_, o := start(t, gated)
	o.Token = "secret" // the server's second host refuses it
	m, err := hub.Resolve(t.Context(), id, o)
	if err != nil {
		t.Fatal(err)
	}
	checkFiles(t, m, gated)
}

func TestServersInTrouble(t *testing.T) {
	repo := tiny()
	s, o := start(t, repo)
	s.Status, s.Statuses = http.StatusServiceUnavailable, 2
	m, err := hub.Resolve(t.Context(), id, o)
	if err != nil {
		t.Fatal(err)
	}
	checkFiles(t, m, repo)
	s.Close()
	if _, err := hub.Resolve(t.Context(), id, o); err == nil || !strings.Contains(err.Error(), "HF_HUB_OFFLINE=1") {
		t.Errorf("no server, but a cache: %v", err)
	}
	page := hubtest.New(nil)
	defer page.Close()
	o.Endpoint = page.URL + "/page"
	if _, err := hub.Resolve(t.Context(), id, o); !errors.Is(err, hub.ErrNotFound) {
		t.Errorf("another server: %v", err)
	}
}

func TestOffline(t *testing.T) {
	repo := tiny()
	_, o := start(t, repo)
	o.Offline = true
	if _, err := hub.Resolve(t.Context(), id, o); !errors.Is(err, hub.ErrOffline) {
		t.Error(err)
	}
	o.Offline = false
	m, err := hub.Resolve(t.Context(), id, o)
	if err != nil {
		t.Fatal(err)
	}
	o.Offline = true
	if err := os.Remove(filepath.Join(m.Dir, bigShard)); err != nil {
		t.Fatal(err)
	}
	_, err = hub.Resolve(t.Context(), id, o)
	if !errors.Is(err, hub.ErrOffline) || !strings.Contains(err.Error(), bigShard) {
		t.Error(err)
	}
}

// /dev/full is a disk without room.
func TestFullDisk(t *testing.T) {
	repo := tiny()
	_, o := start(t, repo)
	blobs := filepath.Join(o.Cache, "models--acme--tiny", "blobs")
	if err := os.MkdirAll(blobs, 0o750); err != nil {
		t.Fatal(err)
	}
	partial := filepath.Join(blobs, hubtest.SHA256(repo.Files[bigShard])+".incomplete")
	if err := os.Symlink("/dev/full", partial); err != nil {
		t.Fatal(err)
	}
	_, err := hub.Resolve(t.Context(), id, o)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), " bytes and try again") {
		t.Error(err)
	}
}

// Callers that want the same model at once fetch each file once.
func TestTwoAtOnce(t *testing.T) {
	repo := tiny()
	s, o := start(t, repo)
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			m, err := hub.Resolve(t.Context(), id, o)
			if err != nil {
				t.Error(err)
				return
			}
			checkFiles(t, m, repo)
		})
	}
	group.Wait()
	asked := map[string]int{}
	for _, r := range s.Requests() {
		if strings.Contains(r, "GET") && !strings.Contains(r, "/api/") {
			asked[r]++
		}
	}
	for _, r := range slices.Sorted(maps.Keys(asked)) {
		if asked[r] > 1 {
			t.Errorf("%d times: %s", asked[r], r)
		}
	}
}

func TestFromEnv(t *testing.T) {
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, "token"), []byte("of the file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		env  map[string]string
		want hub.Options
	}{
		"home": {
			map[string]string{"HOME": "/h"},
			hub.Options{Endpoint: "https://huggingface.co", Cache: "/h/.cache/huggingface/hub"},
		},
		"all": {map[string]string{
			"HF_ENDPOINT": "http://mirror/", "HF_HOME": home, "HF_HUB_CACHE": "/c", "HF_TOKEN": "t", "HF_HUB_OFFLINE": "1",
		}, hub.Options{Endpoint: "http://mirror", Cache: "/c", Token: "t", Offline: true}},
		"token of a file": {map[string]string{"HF_HOME": home, "HF_HUB_OFFLINE": "0"}, hub.Options{
			Endpoint: "https://huggingface.co", Cache: home + "/hub", Token: "of the file",
		}},
		"caches": {map[string]string{"XDG_CACHE_HOME": "/x"}, hub.Options{
			Endpoint: "https://huggingface.co", Cache: "/x/huggingface/hub",
		}},
	} {
		got, err := hub.FromEnv(func(key string) string { return test.env[key] })
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if _, err := hub.FromEnv(func(string) string { return "" }); err == nil {
		t.Error("no home, but a cache")
	}
}
