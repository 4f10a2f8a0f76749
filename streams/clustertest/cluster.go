// Package clustertest runs three nats-servers in a JetStream cluster for tests. Each is a process, which a test can kill and
// suspend, and every route between two of them passes a proxy, which a test can cut.
package clustertest

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// serverEnv makes a process of a test binary a nats-server.
const serverEnv = "LDALIGN_TEST_NATS_SERVER"

// readyTimeout bounds the start of the cluster, and the time until a stream has a leader.
const readyTimeout = time.Minute

// Main makes this process a nats-server if Start has started it. TestMain calls it first.
func Main() {
	if os.Getenv(serverEnv) == "" {
		return
	}
	options, err := server.ConfigureOptions(flag.NewFlagSet("nats-server", flag.ExitOnError), os.Args[1:], nil, nil, nil)
	var s *server.Server
	if err == nil {
		s, err = server.NewServer(options)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s.ConfigureLogger()
	s.Start()
	s.WaitForShutdown()
	os.Exit(0)
}

// Cluster is three servers.
type Cluster struct {
	Servers []*Server
}

// Server is one server of a cluster.
type Server struct {
	Name string
	// URL is where clients connect.
	URL    string
	config string
	routes []*Proxy // all routes from and to this server
	log    log
	cmd    *exec.Cmd
}

// log collects what a server writes.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String returns the lines that say more than that the server starts and connects.
func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines []string
	for line := range strings.Lines(l.text.String()) {
		if !strings.Contains(line, "[INF]") || strings.Contains(line, "leader") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// Start starts a cluster and waits until it can create a stream with three replicas. The servers end with the test.
func Start(t testing.TB) *Cluster {
	t.Helper()
	const n = 3
	c := &Cluster{}
	ports := FreePorts(t, 2*n)
	clients, peers := ports[:n], ports[n:]
	for i := range n {
		c.Servers = append(c.Servers, &Server{Name: fmt.Sprintf("n%d", i), URL: "nats://" + clients[i]})
	}
	for i, s := range c.Servers {
		var routes []string
		for j, other := range c.Servers {
			if i != j {
				p := NewProxy(t, peers[j])
				routes = append(routes, fmt.Sprintf("%q", "nats://"+p.Address))
				s.routes, other.routes = append(s.routes, p), append(other.routes, p)
			}
		}
		// Servers tell one another the advertised address. Nothing listens there, so all routes pass the proxies.
		text := fmt.Sprintf(`server_name: %s
listen: %q
jetstream { store_dir: %q, max_file_store: 512GB, sync_interval: always }
cluster { name: test, listen: %q, advertise: "127.0.0.1:9", no_advertise: true, routes: [%s] }
`, s.Name, clients[i], t.TempDir(), peers[i], strings.Join(routes, ", "))
		s.config = filepath.Join(t.TempDir(), "nats.conf")
		if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s.Start(t)
	}
	t.Cleanup(func() {
		for _, s := range c.Servers {
			s.Kill()
			if t.Failed() {
				t.Logf("nats-server %s:\n%s", s.Name, s.log.String())
			}
		}
	})
	js := c.connect(t)
	eventually(t, "a cluster of three", func(ctx context.Context) bool {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "ready", Replicas: n, Storage: jetstream.MemoryStorage})
		return err == nil && js.DeleteStream(ctx, "ready") == nil
	})
	return c
}

// URL returns the addresses of all servers as one argument for clients, without those of except.
func (c *Cluster) URL(except ...*Server) string {
	var urls []string
	for _, s := range c.Servers {
		if !slices.Contains(except, s) {
			urls = append(urls, s.URL)
		}
	}
	return strings.Join(urls, ",")
}

// Leader waits until a stream has a leader and returns it.
func (c *Cluster) Leader(t testing.TB, stream string) *Server {
	t.Helper()
	js := c.connect(t)
	var leader *Server
	eventually(t, "a leader of "+stream, func(ctx context.Context) bool {
		found, err := js.Stream(ctx, stream)
		if err != nil || found.CachedInfo().Cluster == nil {
			return false
		}
		i := slices.IndexFunc(c.Servers, func(s *Server) bool { return s.Name == found.CachedInfo().Cluster.Leader })
		if i >= 0 {
			leader = c.Servers[i]
		}
		return leader != nil
	})
	return leader
}

func (c *Cluster) connect(t testing.TB) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(c.URL(),
		nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.RetryOnFailedConnect(true))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// Start starts the server, also after Kill. It does not wait until the server is ready.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	s.cmd = exec.Command(os.Args[0], "--config", s.config)
	s.cmd.Env = append(os.Environ(), serverEnv+"=1")
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

// Kill ends the server as kill -9 does.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait() // it was killed
}

// Signal sends a signal to the server.
func (s *Server) Signal(sig os.Signal) { _ = s.cmd.Process.Signal(sig) }

// Isolate cuts the server's routes to the others until Isolate(false). Its clients stay connected.
func (s *Server) Isolate(isolated bool) {
	for _, p := range s.routes {
		p.Block(isolated)
	}
}

// FreePorts returns n different loopback addresses on which nobody listens. They are below the ports that the system gives to
// outgoing connections, so that no connection takes one before the test does.
func FreePorts(t testing.TB, n int) []string {
	t.Helper()
	const first, ports = 20000, 12000
	var addresses []string
	for range 1000 {
		if len(addresses) == n {
			return addresses
		}
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(first+rand.IntN(ports)))
		listener, err := net.Listen("tcp", address)
		if err != nil {
			continue // somebody's
		}
		defer listener.Close() // not before all are found: a port must not be found twice
		addresses = append(addresses, address)
	}
	t.Fatalf("found %d of %d free ports from %d to %d", len(addresses), n, first, first+ports-1)
	return nil
}

// eventually waits until done reports true.
func eventually(t testing.TB, what string, done func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readyTimeout)
	defer cancel()
	for {
		asking, stop := context.WithTimeout(ctx, 2*time.Second)
		ok := done(asking)
		stop()
		if ok {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("waited %v for %s", readyTimeout, what)
		}
	}
}
