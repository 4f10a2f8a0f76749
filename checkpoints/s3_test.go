//go:build integration

package checkpoints_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/checkpoints/storetest"
)

const (
	user     = "ldalign-test"
	password = "ldalign-test-secret"
)

// startMinIO starts a real server on a free loopback port and waits until it is ready. It ends with the test.
func startMinIO(t *testing.T, env ...string) (endpoint string) {
	t.Helper()
	binary := os.Getenv("LDALIGN_MINIO")
	if binary == "" {
		native := os.Getenv("LDALIGN_NATIVE")
		if native == "" {
			native = filepath.Join("..", ".native")
		}
		binary = filepath.Join(native, "servers", "minio")
	}
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("no MinIO server to test against: run ops/native/servers.sh, or name one by LDALIGN_MINIO: %v", err)
	}
	// below the ports of outgoing connections (from 32768 on Linux), one of which could take it before MinIO does
	var (
		listener net.Listener
		err      error
	)
	for range 100 {
		endpoint = net.JoinHostPort("127.0.0.1", strconv.Itoa(10000+rand.IntN(10000)))
		if listener, err = net.Listen("tcp", endpoint); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	var log bytes.Buffer
	server := exec.Command(binary, "server", "--quiet", "--address", endpoint, filepath.Join(home, "data"))
	server.Env = append([]string{
		"HOME=" + home, "PATH=" + os.Getenv("PATH"), "MINIO_ROOT_USER=" + user, "MINIO_ROOT_PASSWORD=" + password,
		"MINIO_BROWSER=off", "MINIO_UPDATE=off",
	}, env...)
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	t.Cleanup(func() {
		if err := server.Process.Kill(); err == nil {
			t.Logf("MinIO: %v", <-ended)
		}
		if t.Failed() {
			t.Logf("MinIO said:\n%s", log.String())
		}
	})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	giveUp := time.After(time.Minute)
	for {
		select {
		case err := <-ended:
			t.Fatalf("MinIO ended at its start: %v\n%s", err, log.String())
		case <-giveUp:
			t.Fatal("MinIO was not ready within a minute")
		case <-poll.C:
		}
		answer, err := client.Get("http://" + endpoint + "/minio/health/ready")
		if err != nil {
			continue
		}
		answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			return endpoint
		}
	}
}

func options(endpoint, bucket string) checkpoints.S3Options {
	return checkpoints.S3Options{Endpoint: endpoint, Bucket: bucket, AccessKey: user, SecretKey: password, Writer: true}
}

func openS3(t *testing.T, o checkpoints.S3Options) checkpoints.Store {
	t.Helper()
	store, err := checkpoints.OpenS3(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { checkpoints.CloseIdleConnections(store) })
	return store
}

func TestS3(t *testing.T) {
	endpoint := startMinIO(t)
	buckets := 0
	open := func(t *testing.T) checkpoints.Store {
		buckets++
		return openS3(t, options(endpoint, fmt.Sprintf("bucket-%d", buckets)))
	}
	t.Run("conformance", func(t *testing.T) { storetest.Run(t, open) })
	t.Run("a run's checkpoints", func(t *testing.T) { runOnS3(t, open(t)) })
	t.Run("a lost answer is no conflict", func(t *testing.T) { lostAnswer(t, endpoint) })
	t.Run("errors say what to do", func(t *testing.T) { errorsOnS3(t, endpoint) })
	t.Run("a server without conditions is refused", func(t *testing.T) { unconditional(t, endpoint) })
	t.Run("a reader creates nothing", func(t *testing.T) { readerCreatesNothing(t, endpoint) })
	t.Run("a bucket is opened again", func(t *testing.T) {
		for range 2 {
			if err := openS3(t, options("http://"+endpoint+"/", "again")).Create(t.Context(), "a", []byte("x")); err != nil {
				t.Error(err)
			}
		}
	})
}

// runOnS3 commits, reads and prunes the checkpoints of one run.
func runOnS3(t *testing.T, store checkpoints.Store) {
	ctx := t.Context()
	r := checkpoints.New(store, t.TempDir(), zerolog.Nop())
	weights := content(3, 20<<20) // more than one part
	state, err := r.Commit(ctx, "run", draft(checkpoints.State, 0, checkpoints.FromBytes("optimizer", content(4, 1000))))
	if err != nil {
		t.Fatal(err)
	}
	policy, err := r.Commit(ctx, "run", draft(checkpoints.Policy, 0, text("config.json", "{}"),
		checkpoints.FromBytes("model.safetensors", weights)))
	if err != nil {
		t.Fatal(err)
	}
	worker := checkpoints.New(store, t.TempDir(), zerolog.Nop())
	if got, err := worker.Latest(ctx, "run", checkpoints.Policy); err != nil || got.Digest != policy.Digest {
		t.Fatalf("latest is %s (%v), want %s", got.Digest, err, policy.Digest)
	}
	path, err := worker.Local(ctx, "run", policy.Files[1])
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(path); err != nil || !bytes.Equal(data, weights) {
		t.Errorf("Local holds %d other bytes (%v)", len(data), err)
	}
	dir := t.TempDir()
	if err := worker.Materialise(ctx, policy, dir); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"config.json": "{}", "model.safetensors": string(weights)}
	if files := filesBelow(t, dir); !cmp.Equal(want, files) {
		t.Errorf("Materialise wrote %d files, not the checkpoint's", len(files))
	}
	// a second trainer that has not seen the policy
	stale := checkpoints.New(store, t.TempDir(), zerolog.Nop())
	if err := stale.Claim(ctx, "run"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Commit(ctx, "run", draft(checkpoints.State, 1, text("optimizer", "1"))); err != nil {
		t.Fatal(err)
	}
	if _, err := stale.Commit(ctx, "run", draft(checkpoints.State, 1, text("optimizer", "2"))); !errors.Is(err,
		checkpoints.ErrConflict) {
		t.Errorf("got %v, want ErrConflict", err)
	}
	if freed, err := r.Prune(ctx, "run", 1); err != nil || freed != 1000 {
		t.Errorf("pruned %d bytes (%v), want the first state's 1000", freed, err)
	}
	if _, err := r.ReadFile(ctx, "run", state.Files[0]); !errors.Is(err, checkpoints.ErrCorrupt) {
		t.Errorf("got %v, want ErrCorrupt", err)
	}
	damaged := bytes.Clone(weights)
	damaged[1<<20] ^= 1
	key := "runs/run/blobs/" + policy.Files[1].SHA256
	if err := store.Put(ctx, key, bytes.NewReader(damaged), int64(len(damaged))); err != nil {
		t.Fatal(err)
	}
	fresh := checkpoints.New(store, t.TempDir(), zerolog.Nop())
	if _, err := fresh.Local(ctx, "run", policy.Files[1]); !errors.Is(err, checkpoints.ErrCorrupt) {
		t.Errorf("got %v, want ErrCorrupt", err)
	}
	if runs, err := fresh.Runs(ctx); err != nil || !cmp.Equal(runs, []string{"run"}) {
		t.Errorf("Runs gives %q, %v", runs, err)
	}
}

// lostAnswer starts a proxy in front of the server that forwards the first creation and then drops the connection. The client
// tries again and learns that the object exists.
func lostAnswer(t *testing.T, endpoint string) {
	var drop atomic.Bool
	var creations atomic.Int64
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: endpoint})
			r.Out.Host = r.In.Host // which is signed
		},
		Transport: &http.Transport{DisableKeepAlives: true},
	}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("If-None-Match") == "" {
			forward.ServeHTTP(w, q)
			return
		}
		creations.Add(1)
		if !drop.CompareAndSwap(true, false) {
			forward.ServeHTTP(w, q)
			return
		}
		forward.ServeHTTP(httptest.NewRecorder(), q)
		panic(http.ErrAbortHandler)
	}))
	defer proxy.Close()
	store := openS3(t, options(proxy.URL, "lossy"))
	drop.Store(true)
	creations.Store(0) // without those of the probe
	if err := store.Create(t.Context(), "a", []byte("mine")); err != nil {
		t.Errorf("Create whose answer was lost: %v", err)
	}
	if n := creations.Load(); n != 2 {
		t.Errorf("the server saw %d creations, want the first and its repetition", n)
	}
	if err := store.Create(t.Context(), "a", []byte("yours")); !errors.Is(err, checkpoints.ErrExists) {
		t.Errorf("got %v, want ErrExists", err)
	}
	checkpoints.CloseIdleConnections(store)
}

// unconditional opens a bucket through a proxy that answers as a server does that ignores If-None-Match: every creation succeeds.
// (A proxy that drops the header breaks the request's signature.) A writer refuses the store, and leaves nothing behind.
func unconditional(t *testing.T, endpoint string) {
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: endpoint})
			r.Out.Host = r.In.Host // which is signed
		},
		ModifyResponse: func(r *http.Response) error {
			if r.StatusCode == http.StatusPreconditionFailed {
				r.StatusCode, r.Body, r.ContentLength = http.StatusOK, http.NoBody, 0
				r.Header.Set("ETag", `"00000000000000000000000000000000"`)
				r.Header.Del("Content-Length")
			}
			return nil
		},
		Transport: &http.Transport{DisableKeepAlives: true},
	})
	defer proxy.Close()
	o := options(proxy.URL, "careless")
	_, err := checkpoints.OpenS3(t.Context(), o)
	if !errors.Is(err, checkpoints.ErrUnconditional) || !strings.Contains(err.Error(), "careless") {
		t.Errorf("got %v, want ErrUnconditional that names the bucket", err)
	}
	o.Writer = false
	store := openS3(t, o)
	if keys, err := store.List(t.Context(), ""); err != nil || len(keys) > 0 {
		t.Errorf("the probe left %v (%v)", keys, err)
	}
}

// readerCreatesNothing: whoever only reads neither creates a bucket nor takes a missing one for an empty one.
func readerCreatesNothing(t *testing.T, endpoint string) {
	o := options(endpoint, "mistyped")
	o.Writer = false
	r := checkpoints.New(openS3(t, o), t.TempDir(), zerolog.Nop())
	for range 2 {
		if err := r.Holds(t.Context(), "run", "digest"); err == nil || !strings.Contains(err.Error(), "mistyped") ||
			!strings.Contains(err.Error(), "does not exist") {
			t.Errorf("got %v, want an error that says that the bucket does not exist", err)
		}
	}
}

func errorsOnS3(t *testing.T, endpoint string) {
	wrong := options(endpoint, "bucket")
	wrong.SecretKey = "wrong"
	stranger := options(endpoint, "bucket")
	stranger.AccessKey = "nobody"
	for name, o := range map[string]checkpoints.S3Options{"secret": wrong, "access key": stranger} {
		o.MaxRetries = 1
		_, err := checkpoints.OpenS3(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), "LDALIGN_S3_SECRET_KEY") {
			t.Errorf("a wrong %s: got %v", name, err)
		}
	}
	store := openS3(t, options(endpoint, "vanishes"))
	if err := checkpoints.RemoveBucket(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"Put":    func() error { return store.Put(t.Context(), "a", strings.NewReader("x"), 1) },
		"Create": func() error { return store.Create(t.Context(), "a", []byte("x")) },
		"Get":    func() error { _, err := store.Get(t.Context(), "a"); return err },
		"Stat":   func() error { _, err := store.Stat(t.Context(), "a"); return err },
		"List":   func() error { _, err := store.List(t.Context(), ""); return err },
	} {
		err := call()
		if err == nil || errors.Is(err, checkpoints.ErrNotFound) || !strings.Contains(err.Error(), "the bucket does not exist") {
			t.Errorf("%s in a bucket that is gone: got %v", name, err)
		}
	}
	err := checkpoints.EnableNotifications(t.Context(), openS3(t, options(endpoint, "quiet")), "arn:minio:sqs::NONE:nats")
	if err == nil || !strings.Contains(err.Error(), "arn:minio:sqs::NONE:nats") {
		t.Errorf("a target that the server does not know: got %v", err)
	}
}

// A manifest makes the server call the target, a blob does not, and to enable it twice is to enable it once.
func TestS3Notifications(t *testing.T) {
	keys := make(chan string, 100)
	target := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		var event struct{ Key string }
		if body, err := io.ReadAll(q.Body); err == nil && json.Unmarshal(body, &event) == nil && event.Key != "" {
			keys <- event.Key
		}
	}))
	defer target.Close()
	endpoint := startMinIO(t, "MINIO_NOTIFY_WEBHOOK_ENABLE_TEST=on", "MINIO_NOTIFY_WEBHOOK_ENDPOINT_TEST="+target.URL)
	store := openS3(t, options(endpoint, "announcing"))
	for range 2 {
		if err := checkpoints.EnableNotifications(t.Context(), store, "arn:minio:sqs::TEST:webhook"); err != nil {
			t.Fatal(err)
		}
	}
	r := checkpoints.New(store, t.TempDir(), zerolog.Nop())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i := range 3 {
		m, err := r.Commit(ctx, "run", draft(checkpoints.Policy, uint32(i), text("model", fmt.Sprint(i))))
		if err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-keys:
			if want := "announcing/" + m.Key; got != want {
				t.Errorf("announced is %s, want %s", got, want)
			}
		case <-ctx.Done():
			t.Fatal("no announcement within a minute")
		}
	}
}
