//go:build integration

package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Settings of TestChaosCluster: how many faults, and a folder to mount small file systems in, so that disks can be full;
// that needs root. `make chaos` sets both.
const (
	faultsVar = "LDALIGN_CHAOS_FAULTS"
	disksVar  = "LDALIGN_CHAOS_DISKS"
	seedVar   = "LDALIGN_CHAOS_SEED"
)

// chaosSettings are read before testAll takes the developer's settings away.
var chaosSettings = map[string]string{
	faultsVar: os.Getenv(faultsVar), disksVar: os.Getenv(disksVar), seedVar: os.Getenv(seedVar),
}

// supervised is a command that is started again whenever it ends, as a container platform would.
type supervised struct {
	name string
	make func() *exec.Cmd

	mu      sync.Mutex
	process *os.Process
	starts  int
	output  tailBuffer
	done    chan struct{} // closed when it ended with 0, or was told to stay down
	stop    atomic.Bool
}

// tailBuffer keeps the end of what is written.
type tailBuffer struct {
	mu   sync.Mutex
	data []byte
}

func (b *tailBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	const most = 16 << 10
	if b.data = append(b.data, p...); len(b.data) > most {
		b.data = b.data[len(b.data)-most:]
	}
	return len(p), nil
}

func (b *tailBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.data)
}

// supervise starts a command and keeps it running until it ends by itself with 0, or the test does.
func supervise(t *testing.T, name string, command func() *exec.Cmd) *supervised {
	s := &supervised{name: name, make: command, done: make(chan struct{})}
	go s.run()
	t.Cleanup(s.end)
	return s
}

func (s *supervised) run() {
	defer close(s.done)
	for !s.stop.Load() {
		c := s.make()
		c.Stdout, c.Stderr = &s.output, &s.output
		if err := c.Start(); err != nil {
			fmt.Fprintln(&s.output, err)
			return
		}
		s.mu.Lock()
		s.process = c.Process
		s.starts++
		s.mu.Unlock()
		if s.stop.Load() { // told between the look and the start
			_ = c.Process.Kill()
		}
		if err := c.Wait(); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (s *supervised) signal(sig os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		_ = s.process.Signal(sig) // it may have ended
	}
}

// end kills it for good.
func (s *supervised) end() {
	s.stop.Store(true)
	s.signal(syscall.SIGCONT)
	s.signal(os.Kill)
	<-s.done
}

// tcpProxy stands between the processes and the NATS server, so that their connections can be cut.
type tcpProxy struct {
	listener net.Listener
	target   string
	mu       sync.Mutex
	open     map[net.Conn]bool
	all      sync.WaitGroup
}

func newTCPProxy(t *testing.T, target string) *tcpProxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tcpProxy{listener: listener, target: target, open: map[net.Conn]bool{}}
	p.all.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			p.all.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		p.cut()
		p.all.Wait()
	})
	return p
}

func (p *tcpProxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	p.mu.Lock()
	p.open[client] = true
	p.mu.Unlock()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		both.Go(func() {
			_, _ = io.Copy(way[1], way[0]) // it ends with either side
			_ = way[0].Close()
			_ = way[1].Close()
		})
	}
	both.Wait()
	p.mu.Lock()
	delete(p.open, client)
	p.mu.Unlock()
}

// cut ends every connection.
func (p *tcpProxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		_ = c.Close()
	}
}

// s3Proxy stands between the processes and MinIO and can answer wrongly.
type s3Proxy struct {
	proxy *httputil.ReverseProxy
	mode  atomic.Int32
	count [s3Modes]atomic.Int64 // answers that were spoilt
}

// What the proxy does to an answer.
const (
	s3Right     = iota
	s3Failing   // 503 without asking the server
	s3Slow      // a second late
	s3Lost      // what was written is stored, and the connection closed instead of the answer
	s3Truncated // half of a blob
	s3Modes
)

func newS3Proxy(t *testing.T, target string) (*s3Proxy, string) {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	p := &s3Proxy{}
	p.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host // it is signed
		},
		ModifyResponse: p.spoil,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			w.WriteHeader(http.StatusBadGateway) // MinIO is down
		},
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: p, ReadHeaderTimeout: time.Minute}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close(); <-ended })
	return p, "http://" + listener.Addr().String()
}

func (p *s3Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch p.mode.Load() {
	case s3Failing:
		p.count[s3Failing].Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case s3Slow:
		p.count[s3Slow].Add(1)
		time.Sleep(time.Second)
	}
	p.proxy.ServeHTTP(w, r)
}

func (p *s3Proxy) spoil(r *http.Response) error {
	switch mode := p.mode.Load(); {
	case mode == s3Lost && r.Request.Method == http.MethodPut:
		p.count[s3Lost].Add(1)
		panic(http.ErrAbortHandler)
	case mode == s3Truncated && r.Request.Method == http.MethodGet && strings.Contains(r.Request.URL.Path, "/blobs/") && r.ContentLength > 1:
		p.count[s3Truncated].Add(1)
		whole := r.Body
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(whole, r.ContentLength/2), whole}
	}
	return nil
}

// disk is a small file system of its own, which can be full.
type disk struct{ dir string }

// newDisk mounts one below parent, or gives a plain folder when parent is empty.
func newDisk(t *testing.T, parent, name string) disk {
	t.Helper()
	if parent == "" {
		return disk{t.TempDir()}
	}
	dir := filepath.Join(parent, fmt.Sprintf("%s-%d", name, os.Getpid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1g"); err != nil {
		t.Fatalf("mount a file system on %s: %v (it needs root; without %s no disk is filled)", dir, err, disksVar)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
		_ = os.Remove(dir)
	})
	return disk{dir}
}

func (d disk) ballast() string { return filepath.Join(d.dir, "ballast") }

// fill leaves no byte free.
func (d disk) fill() {
	f, err := os.Create(d.ballast())
	if err != nil {
		return
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for len(block) > 0 {
		if _, err := f.Write(block); err != nil {
			block = block[:len(block)/2]
		}
	}
}

// chaosRun is a run's processes and servers, and what can be done to them.
type chaosRun struct {
	t       *testing.T
	random  *rand.Rand
	nats    *supervised
	minio   *supervised
	workers []*supervised // the trainer is the last
	dirs    []string      // theirs
	wire    *tcpProxy
	s3      *s3Proxy
	disks   map[string]disk
	done    map[string]int // faults by name
}

// ackWait is that of testdata/apart.yaml.
const ackWait = 2 * time.Second

// fault does one thing and waits until it is over.
func (c *chaosRun) fault() {
	names := []string{
		"kill a worker", "kill a worker", "kill a worker", "kill the trainer", "kill nats-server", "kill minio", "stop a worker",
		"cut connections", "s3 fails", "s3 is slow", "s3 loses answers", "s3 truncates blobs", "truncate a cached blob",
	}
	if c.disks != nil {
		names = append(names, "fill nats-server's disk", "fill minio's disk")
	}
	name := names[c.random.IntN(len(names))]
	worker := c.random.IntN(len(c.workers) - 1)
	lasting := time.Duration(500+c.random.IntN(1500)) * time.Millisecond
	c.done[name]++
	switch name {
	case "kill a worker":
		c.workers[worker].signal(os.Kill)
	case "kill the trainer":
		c.workers[len(c.workers)-1].signal(os.Kill)
	case "kill nats-server":
		c.nats.signal(os.Kill)
	case "kill minio":
		c.minio.signal(os.Kill)
	case "stop a worker":
		stopped := c.workers[c.random.IntN(len(c.workers))] // the trainer too: its lease lasts longer
		stopped.signal(syscall.SIGSTOP)
		time.Sleep(ackWait + lasting)
		stopped.signal(syscall.SIGCONT)
	case "cut connections":
		c.wire.cut()
	case "s3 fails", "s3 is slow", "s3 loses answers", "s3 truncates blobs":
		mode := map[string]int32{
			"s3 fails": s3Failing, "s3 is slow": s3Slow, "s3 loses answers": s3Lost, "s3 truncates blobs": s3Truncated,
		}[name]
		before := c.s3.count[mode].Load()
		c.s3.mode.Store(mode)
		for range 200 { // until it has done something, for the processes ask the store only now and then
			if c.s3.count[mode].Load() > before {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(lasting)
		c.s3.mode.Store(s3Right)
	case "truncate a cached blob":
		found, _ := filepath.Glob(filepath.Join(c.dirs[worker], "cache", "????????????????*"))
		if len(found) > 0 {
			_ = os.Truncate(found[c.random.IntN(len(found))], 100)
		}
		c.workers[worker].signal(os.Kill) // who has it verified does not look again
	case "fill nats-server's disk", "fill minio's disk":
		which, server := "nats", c.nats
		if name == "fill minio's disk" {
			which, server = "minio", c.minio
		}
		c.disks[which].fill()
		time.Sleep(lasting)
		_ = os.Remove(c.disks[which].ballast())
		server.signal(os.Kill) // a server that could not write is started again by whoever made room
	}
	time.Sleep(time.Duration(c.random.IntN(1500)) * time.Millisecond)
}

// All roles as processes against a real NATS server and a real MinIO, three generators among them, while everything that
// can go wrong does: what comes out equals, bit for bit, what one undisturbed process makes of the same spec, and the
// audit finds every pair once.
func TestChaosCluster(t *testing.T) {
	faults := 12
	if text := chaosSettings[faultsVar]; text != "" {
		var err error
		if faults, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	if text := chaosSettings[seedVar]; text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d faults, %s=%d", faults, seedVar, seed)

	// iterations enough for the faults to come to their end first
	sets := []string{"--set", fmt.Sprintf("iterations=%d", 4+5*faults/2)}
	alone := t.TempDir()
	ldalign(t, "up", "testdata/start.yaml", "--dir", alone).want(t, 0)
	model := filepath.Join(t.TempDir(), "start")
	ldalign(t, "checkpoints", "export", "start", model, "--dir", alone).want(t, 0)
	sets = append(sets, "--set", "model.from="+model)
	ldalign(t, append([]string{"up", "testdata/apart.yaml", "--dir", alone}, sets...)...).want(t, 0)
	want := outcomeOf(t, alone, "apart")

	c := newChaosRun(t, seed, sets)
	trainer := c.workers[len(c.workers)-1]
	for k := range faults {
		c.fault()
		select {
		case <-trainer.done:
			t.Fatalf("the run ended after %d of %d faults: it needs more iterations\n%s", k+1, faults, trainer.output.String())
		default:
		}
	}
	t.Logf("faults: %v", c.done)
	t.Logf("S3 answers spoilt: %d refused, %d late, %d lost, %d truncated", c.s3.count[s3Failing].Load(), c.s3.count[s3Slow].Load(),
		c.s3.count[s3Lost].Load(), c.s3.count[s3Truncated].Load())
	select {
	case <-trainer.done:
	case <-time.After(20 * time.Minute):
		t.Errorf("the run did not end\n%s", c.dump())
		return
	}
	servers := cluster{nats: "nats://" + c.wire.target, s3: c.s3Direct()}
	n := servers.reader(t)
	waitFor(t, "the last evaluation", func() bool { return n.evaluated(t, "apart") >= len(want.Results) })
	for _, s := range append(c.workers, c.nats) {
		t.Logf("%s was started %d times", s.name, s.starts)
	}
	if diff := cmp.Diff(want, n.outcome(t, "apart")); diff != "" {
		t.Errorf("not what one undisturbed process gives (-undisturbed +chaos):\n%s", diff)
	}
	audit := start(t, servers.command(t, "audit", "apart"))
	code := audit.wait(t)
	output{code, audit.stdout.String(), audit.stderr.String()}.want(t, 0)
	t.Log(audit.stdout.String())
	if t.Failed() {
		t.Log(c.dump())
	}
}

// s3Direct is MinIO without the proxy.
func (c *chaosRun) s3Direct() string { return c.minio.name }

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	giveUp := time.After(limit)
	for !done() {
		select {
		case <-giveUp:
			t.Fatalf("waited %v for %s", limit, what)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (c *chaosRun) dump() string {
	var text strings.Builder
	for _, s := range append(c.workers, c.nats, c.minio) {
		fmt.Fprintf(&text, "--- %s, started %d times:\n%s\n", s.name, s.starts, s.output.String())
	}
	return text.String()
}

// newChaosRun starts the servers behind their proxies, and all processes of the run.
func newChaosRun(t *testing.T, seed uint64, sets []string) *chaosRun {
	t.Helper()
	c := &chaosRun{t: t, random: rand.New(rand.NewPCG(seed, 0)), done: map[string]int{}}
	parent := chaosSettings[disksVar]
	natsDisk, minioDisk := newDisk(t, parent, "nats"), newDisk(t, parent, "minio")
	if parent != "" {
		c.disks = map[string]disk{"nats": natsDisk, "minio": minioDisk}
	}

	ports := freePorts(t, 2)
	natsAddress, minioAddress := ports[0], ports[1]
	config := filepath.Join(t.TempDir(), "nats.conf")
	text := fmt.Sprintf("listen: %q\njetstream {\n  store_dir: %q\n  max_file_store: 512GB\n  sync_interval: always\n}\n",
		natsAddress, natsDisk.dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	natsServer, minio, home := server(t, "nats-server"), server(t, "minio"), t.TempDir()
	c.nats = supervise(t, "nats-server", func() *exec.Cmd { return exec.Command(natsServer, "--config", config) })
	c.minio = supervise(t, "http://"+minioAddress, func() *exec.Cmd {
		cmd := exec.Command(minio, "server", "--quiet", "--address", minioAddress, filepath.Join(minioDisk.dir, "data"))
		cmd.Env = []string{
			"HOME=" + home, "PATH=" + os.Getenv("PATH"), "MINIO_ROOT_USER=" + account, "MINIO_ROOT_PASSWORD=" + password,
			"MINIO_BROWSER=off", "MINIO_UPDATE=off",
		}
		return cmd
	})
	client := &http.Client{Timeout: time.Second}
	waitFor(t, "MinIO", func() bool {
		answer, err := client.Get("http://" + minioAddress + "/minio/health/ready")
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
	c.wire = newTCPProxy(t, natsAddress)
	var s3 string
	c.s3, s3 = newS3Proxy(t, "http://"+minioAddress)
	through := cluster{nats: "nats://" + c.wire.listener.Addr().String(), s3: s3}

	for _, role := range []string{
		"prompter", "generator", "generator", "generator", "encoder", "encoder", "distance", "distance", "evaluator", "trainer",
	} {
		dir := t.TempDir()
		args := []string{"worker", role, "--run", "apart"}
		if role == "trainer" {
			args = append([]string{"trainer", "testdata/apart.yaml"}, sets...)
		}
		c.dirs = append(c.dirs, dir)
		c.workers = append(c.workers, supervise(t, fmt.Sprintf("%s %d", role, len(c.workers)), func() *exec.Cmd {
			cmd := command(through.args(dir, args...)...)
			cmd.Env = append(cmd.Env, "LDALIGN_S3_ACCESS_KEY="+account, "LDALIGN_S3_SECRET_KEY="+password)
			return cmd
		}))
	}
	return c
}
