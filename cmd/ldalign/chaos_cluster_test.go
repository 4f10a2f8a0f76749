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
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/clustertest"
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
	wire    *clustertest.Proxy
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
		c.wire.Cut()
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

// chaosPlan returns how many faults `make chaos` asks for, or fewest, and the seed.
func chaosPlan(t *testing.T, fewest int) (faults int, seed uint64) {
	t.Helper()
	faults, seed = fewest, uint64(time.Now().UnixNano())
	var err error
	if text := chaosSettings[faultsVar]; text != "" {
		if faults, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	if text := chaosSettings[seedVar]; text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d faults, %s=%d", faults, seedVar, seed)
	return faults, seed
}

// playedAlone plays a run of a number of iterations in one process. It returns what comes out, and the settings with which a
// cluster plays the same run.
func playedAlone(t *testing.T, iterations int) (want outcome, sets []string) {
	t.Helper()
	alone := t.TempDir()
	ldalign(t, "up", "testdata/start.yaml", "--dir", alone).want(t, 0)
	model := filepath.Join(t.TempDir(), "start")
	ldalign(t, "checkpoints", "export", "start", model, "--dir", alone).want(t, 0)
	sets = []string{"--set", fmt.Sprintf("iterations=%d", iterations), "--set", "model.from=" + model}
	ldalign(t, append([]string{"up", "testdata/apart.yaml", "--dir", alone}, sets...)...).want(t, 0)
	return outcomeOf(t, alone, "apart"), sets
}

// All roles as processes against a real NATS server and a real MinIO, three generators among them, while everything that
// can go wrong does: what comes out equals, bit for bit, what one undisturbed process makes of the same spec, and the
// audit finds every pair once.
func TestChaosCluster(t *testing.T) {
	faults, seed := chaosPlan(t, 12)
	want, sets := playedAlone(t, 4+5*faults/2) // iterations enough for the faults to come to their end first
	c := newChaosRun(t, seed, sets, nil)
	for k := range faults {
		c.fault()
		c.running(k+1, faults)
	}
	t.Logf("S3 answers spoilt: %d refused, %d late, %d lost, %d truncated", c.s3.count[s3Failing].Load(), c.s3.count[s3Slow].Load(),
		c.s3.count[s3Lost].Load(), c.s3.count[s3Truncated].Load())
	c.finished("nats://"+c.wire.Target, want)
}

// The same against three NATS servers and streams with three replicas, while servers are killed, suspended beyond the trainer's
// lease and cut off from one another. No process ends because of that.
func TestChaosClusterOfThree(t *testing.T) {
	short := []string{"kill a leader", "suspend a server", "isolate a server", "kill the trainer"}
	faults, seed := chaosPlan(t, len(short))
	iterations := 4 + faults
	if chaosSettings[faultsVar] != "" {
		faults = max(faults/10, len(short)) // a fault takes ten times as long as one of TestChaosCluster
		iterations = 8 * faults
	}
	want, sets := playedAlone(t, iterations)
	three := clustertest.Start(t)
	c := newChaosRun(t, seed, append(sets, "--set", "streams.replicas=3", "--set", "servers.nats="+three.URL()), three)
	waitFor(t, "the first policy", func() bool { return strings.Contains(c.trainer().output.String(), "checkpoint committed") })
	for k := range faults {
		name := append(short, "restart all servers in turn")[c.random.IntN(len(short)+1)]
		if chaosSettings[faultsVar] == "" {
			name = short[k]
		}
		c.faultOfThree(three, name)
		c.running(k+1, faults)
	}
	c.finished(three.URL(), want)
	for _, s := range c.workers {
		starts := 1
		if s == c.trainer() {
			starts += c.done["kill the trainer"]
		}
		if s.starts != starts {
			t.Errorf("%s was started %d times, want %d: it ended by a fault of a server\n%s", s.name, s.starts, starts, s.output.String())
		}
	}
}

// faultOfThree does one thing to a cluster of servers and waits until it is over.
func (c *chaosRun) faultOfThree(three *clustertest.Cluster, name string) {
	c.done[name]++
	server := three.Servers[c.random.IntN(len(three.Servers))]
	lasting := time.Duration(9+c.random.IntN(2)) * time.Second // the trainer's lease becomes doubtful after 7.5 s
	if chaosSettings[faultsVar] != "" && c.random.IntN(3) == 0 {
		lasting = time.Minute
	}
	switch name {
	case "kill a leader":
		kind := []schemas.Kind{schemas.Control, schemas.Prompts, schemas.Pairs, schemas.Scored}[c.random.IntN(4)]
		server = three.Leader(c.t, streams.StreamName(kind, "apart"))
		server.Kill()
		time.Sleep(lasting / 4)
		server.Start(c.t)
	case "suspend a server":
		server.Signal(syscall.SIGSTOP)
		time.Sleep(lasting)
		server.Signal(syscall.SIGCONT)
	case "isolate a server":
		server.Isolate(true)
		time.Sleep(lasting / 2)
		server.Isolate(false)
	case "restart all servers in turn":
		for _, s := range three.Servers {
			s.Kill()
			s.Start(c.t)
			time.Sleep(lasting / 4)
		}
	case "kill the trainer":
		c.trainer().signal(os.Kill)
	}
}

func (c *chaosRun) trainer() *supervised { return c.workers[len(c.workers)-1] }

// running fails the test when the run has ended before its faults.
func (c *chaosRun) running(done, faults int) {
	c.t.Helper()
	select {
	case <-c.trainer().done:
		c.t.Fatalf("the run ended after %d of %d faults: it needs more iterations\n%s", done, faults, c.trainer().output.String())
	default:
	}
}

// finished waits for the end of the run, and compares what came out of it with what is wanted.
func (c *chaosRun) finished(nats string, want outcome) {
	t := c.t
	t.Helper()
	t.Logf("faults: %v", c.done)
	select {
	case <-c.trainer().done:
	case <-time.After(20 * time.Minute):
		t.Errorf("the run did not end\n%s", c.dump())
		return
	}
	servers := cluster{nats: nats, s3: c.s3Direct()}
	n := servers.reader(t)
	waitFor(t, "the last evaluation", func() bool { return n.evaluated(t, "apart") >= len(want.Results) })
	for _, s := range c.processes() {
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

// processes are all that are supervised.
func (c *chaosRun) processes() []*supervised {
	all := append(slices.Clone(c.workers), c.minio)
	if c.nats != nil {
		all = append(all, c.nats)
	}
	return all
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
	for _, s := range c.processes() {
		fmt.Fprintf(&text, "--- %s, started %d times:\n%s\n", s.name, s.starts, s.output.String())
	}
	return text.String()
}

// newChaosRun starts the servers behind their proxies, and all processes of the run. Without a cluster it starts one NATS server.
func newChaosRun(t *testing.T, seed uint64, sets []string, three *clustertest.Cluster) *chaosRun {
	t.Helper()
	c := &chaosRun{t: t, random: rand.New(rand.NewPCG(seed, 0)), done: map[string]int{}}
	parent := chaosSettings[disksVar]
	natsDisk, minioDisk := newDisk(t, parent, "nats"), newDisk(t, parent, "minio")
	if parent != "" {
		c.disks = map[string]disk{"nats": natsDisk, "minio": minioDisk}
	}

	ports := clustertest.FreePorts(t, 2)
	natsAddress, minioAddress := ports[0], ports[1]
	config := filepath.Join(t.TempDir(), "nats.conf")
	text := fmt.Sprintf("listen: %q\njetstream {\n  store_dir: %q\n  max_file_store: 512GB\n  sync_interval: always\n}\n",
		natsAddress, natsDisk.dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	minio, home := server(t, "minio"), t.TempDir()
	if three == nil {
		natsServer := server(t, "nats-server")
		c.nats = supervise(t, "nats-server", func() *exec.Cmd { return exec.Command(natsServer, "--config", config) })
	}
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
	c.wire = clustertest.NewProxy(t, natsAddress)
	var s3 string
	c.s3, s3 = newS3Proxy(t, "http://"+minioAddress)
	through := cluster{nats: "nats://" + c.wire.Address, s3: s3}
	if three != nil {
		through.nats = three.URL()
	}

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
