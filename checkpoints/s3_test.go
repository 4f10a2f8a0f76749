//go:build integration

package checkpoints_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
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
	"github.com/minio/minio-go/v7/pkg/credentials"
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
	t.Run("an outage is waited for", func(t *testing.T) { outage(t, endpoint) })
	t.Run("ages are by the server's clock", func(t *testing.T) { serverClock(t, endpoint) })
	t.Run("abandoned uploads are aborted", func(t *testing.T) { abandonedUploads(t, endpoint) })
	t.Run("credentials", func(t *testing.T) { credentialChain(t, endpoint) })
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

// gateway is a proxy in front of the server, which keeps the Host header because the client has signed it.
func gateway(t *testing.T, endpoint string, wrap func(http.Handler) http.Handler, change func(*http.Response) error) string {
	t.Helper()
	proxy := httptest.NewServer(wrap(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: endpoint})
			r.Out.Host = r.In.Host
		},
		ModifyResponse: change,
		Transport:      &http.Transport{DisableKeepAlives: true},
		ErrorLog:       log.New(io.Discard, "", 0), // of connections that the test cuts
	}))
	t.Cleanup(proxy.Close)
	return proxy.URL
}

func plain(h http.Handler) http.Handler { return h }

// outage lets the server fail in each way for a while: it answers 503, it cuts connections, it cuts a download in the middle. A
// patient repository commits, reads and prunes nonetheless; another one gets ErrUnavailable, and not ErrCorrupt.
func outage(t *testing.T, endpoint string) {
	var down, cuts atomic.Int32 // down: 0 up, 1 answers 503, 2 cuts connections, 3 cuts the next three bodies
	away := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			switch down.Load() {
			case 1:
				w.WriteHeader(http.StatusServiceUnavailable)
			case 2:
				panic(http.ErrAbortHandler)
			case 3:
				if cuts.Add(1) == 3 {
					down.Store(0)
				}
				h.ServeHTTP(&cutWriter{ResponseWriter: w, left: 100_000}, q)
			default:
				h.ServeHTTP(w, q)
			}
		})
	}
	o := options(gateway(t, endpoint, away, nil), "outage")
	o.MaxRetries = 1
	store := openS3(t, o)
	weights := content(7, 1<<20)
	for kind := range int32(3) {
		run := fmt.Sprintf("run-%d", kind)
		impatient := checkpoints.New(store, t.TempDir(), zerolog.Nop())
		tries, back := 0, 0
		patient := impatient.Patient(t.Context().Done(), func(err error) {
			if err == nil {
				back++
			} else if tries++; tries == 2 {
				down.Store(0)
			}
		})
		d := draft(checkpoints.Policy, 0, checkpoints.FromBytes("model.safetensors", weights))
		if kind < 2 {
			down.Store(kind + 1)
			if _, err := impatient.Commit(t.Context(), run, d); !errors.Is(err, checkpoints.ErrUnavailable) {
				t.Errorf("%s: got %v, want ErrUnavailable", run, err)
			}
		}
		m, err := patient.Commit(t.Context(), run, d)
		if err != nil {
			t.Fatal(err)
		}
		if kind == 2 {
			down.Store(3)
			if _, err := impatient.Local(t.Context(), run, m.Files[0]); !errors.Is(err, checkpoints.ErrUnavailable) ||
				errors.Is(err, checkpoints.ErrCorrupt) {
				t.Errorf("a download that was cut: got %v, want ErrUnavailable", err)
			}
		}
		data, err := patient.ReadFile(t.Context(), run, m.Files[0])
		if err != nil || !bytes.Equal(data, weights) {
			t.Errorf("%s: read %d bytes, %v", run, len(data), err)
		}
		if kind < 2 && (tries != 2 || back != 1) {
			t.Errorf("%s: told of %d tries and %d ends, want 2 and 1", run, tries, back)
		}
	}
	ended, end := context.WithCancel(t.Context())
	down.Store(1)
	defer down.Store(0)
	waiting := checkpoints.New(store, t.TempDir(), zerolog.Nop()).Patient(ended.Done(), func(error) { end() })
	if _, err := waiting.List(t.Context(), "run"); !errors.Is(err, checkpoints.ErrUnavailable) {
		t.Errorf("a repository that was told to end: got %v, want ErrUnavailable", err)
	}
}

// cutWriter aborts a response in the middle of its body.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (w *cutWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		panic(http.ErrAbortHandler)
	}
	return w.ResponseWriter.Write(p)
}

// serverClock sweeps against a server whose clock is two days from this machine's, either way. An age is the difference of two times
// of the server.
func serverClock(t *testing.T, endpoint string) {
	for i, skew := range []time.Duration{-48 * time.Hour, 48 * time.Hour} {
		skewed := gateway(t, endpoint, plain, func(r *http.Response) error {
			if at, err := http.ParseTime(r.Header.Get("Last-Modified")); err == nil {
				r.Header.Set("Last-Modified", at.Add(skew).Format(http.TimeFormat))
			}
			return nil
		})
		store := openS3(t, options(skewed, fmt.Sprintf("skewed-%d", i)))
		r := checkpoints.New(store, t.TempDir(), zerolog.Nop())
		if _, err := r.Commit(t.Context(), "run", draft(checkpoints.Policy, 0, text("model", "1"))); err != nil {
			t.Fatal(err)
		}
		key := "runs/run/blobs/" + strings.Repeat("ab", 32) // a writer is about to name it
		if err := store.Put(t.Context(), key, strings.NewReader("x"), 1); err != nil {
			t.Fatal(err)
		}
		if got, err := r.Sweep(t.Context(), "run", 24*time.Hour, false); err != nil || got != (checkpoints.Swept{Young: 1}) {
			t.Errorf("skew %v: %+v, %v", skew, got, err)
		}
		if got, err := r.Sweep(t.Context(), "run", 0, false); err != nil || got != (checkpoints.Swept{Blobs: 1, Bytes: 1}) {
			t.Errorf("skew %v, without grace: %+v, %v", skew, got, err)
		}
	}
}

// abandonedUploads: MinIO lists uploads only by the whole name of their object, other servers by any prefix.
func abandonedUploads(t *testing.T, endpoint string) {
	store := openS3(t, options(endpoint, "uploads"))
	key := "runs/run/blobs/" + strings.Repeat("cd", 32)
	if err := checkpoints.BeginUpload(t.Context(), store, key); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{1, 1, 0} {
		seen := 0
		err := checkpoints.AbandonedUploads(t.Context(), store, key, func(begun time.Time) bool {
			seen++
			if begun.IsZero() {
				t.Error("the upload has no time")
			}
			return i > 0
		})
		if seen != want || err != nil {
			t.Errorf("pass %d: %d uploads, want %d (%v)", i, seen, want, err)
		}
	}
	r := checkpoints.New(store, t.TempDir(), zerolog.Nop())
	if got, err := r.Sweep(t.Context(), "run", 0, false); err != nil || got != (checkpoints.Swept{}) {
		t.Errorf("%+v, %v", got, err)
	}
}

// credentialChain opens a bucket with temporary keys that the server has issued, found in each of the places where they may be.
func credentialChain(t *testing.T, endpoint string) {
	openS3(t, options(endpoint, "keys"))
	issuer, err := credentials.NewSTSAssumeRole("http://"+endpoint, credentials.STSAssumeRoleOptions{
		AccessKey: user, SecretKey: password, DurationSeconds: 3600,
	})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := issuer.GetWithContext(&credentials.CredContext{Client: &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true},
	}})
	if err != nil {
		t.Fatal(err)
	}
	given := checkpoints.S3Options{Endpoint: endpoint, Bucket: "keys", Writer: true, MaxRetries: 1}
	opens := func(where string, o checkpoints.S3Options) {
		t.Helper()
		openS3(t, o)
		if t.Failed() {
			t.Fatalf("with keys from %s", where)
		}
	}
	nowhere := filepath.Join(t.TempDir(), "none")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", nowhere)
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/")
	if _, err := checkpoints.OpenS3(t.Context(), given); err == nil || !strings.Contains(err.Error(), "docs/operations.md") {
		t.Errorf("without credentials: got %v", err)
	}
	roles := 0
	machine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		roles++
		fmt.Fprintf(w, `{"AccessKeyId": %q, "SecretAccessKey": %q, "Token": %q, "Expiration": %q}`, keys.AccessKeyID,
			keys.SecretAccessKey, keys.SessionToken, time.Now().UTC().Format(time.RFC3339)) // at once: it is asked again
	}))
	defer machine.Close()
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", machine.URL)
	opens("the role", given)
	if roles < 2 {
		t.Errorf("keys that had expired were asked for %d times", roles)
	}
	file := filepath.Join(t.TempDir(), "credentials")
	text := fmt.Sprintf("[other]\naws_access_key_id = %s\naws_secret_access_key = %s\naws_session_token = %s\n",
		keys.AccessKeyID, keys.SecretAccessKey, keys.SessionToken)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	t.Setenv("AWS_PROFILE", "other")
	before := roles
	opens("the shared file", given)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", nowhere)
	t.Setenv("AWS_ACCESS_KEY_ID", keys.AccessKeyID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", keys.SecretAccessKey)
	t.Setenv("AWS_SESSION_TOKEN", keys.SessionToken)
	opens("the environment", given)
	t.Setenv("AWS_ACCESS_KEY_ID", "wrong")
	given.AccessKey, given.SecretKey, given.SessionToken = keys.AccessKeyID, keys.SecretAccessKey, keys.SessionToken
	opens("the options", given)
	if roles != before {
		t.Errorf("the role was asked although an earlier place has keys")
	}
	given.SessionToken = ""
	if _, err := checkpoints.OpenS3(t.Context(), given); err == nil || !strings.Contains(err.Error(), "refuses the credentials") {
		t.Errorf("temporary keys without their token: got %v", err)
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
