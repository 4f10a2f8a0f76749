package clustertest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Proxy forwards TCP connections to a target, so that a test can cut them.
type Proxy struct {
	// Address is the host:port on which it listens, Target the one that it connects to.
	Address, Target string

	listener net.Listener
	all      sync.WaitGroup
	mu       sync.Mutex
	open     map[net.Conn]bool
	blocked  bool
}

// NewProxy starts a proxy that ends with the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Address: listener.Addr().String(), Target: target, listener: listener, open: map[net.Conn]bool{}}
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
		p.Block(true)
		p.all.Wait()
	})
	return p
}

// serve forwards one connection until either side or the test ends it.
func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.Target)
	if err != nil {
		return
	}
	defer server.Close()
	p.mu.Lock()
	blocked := p.blocked
	p.open[client] = !blocked
	p.mu.Unlock()
	if !blocked {
		var both sync.WaitGroup
		for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
			both.Go(func() {
				_, _ = io.Copy(way[1], way[0]) // it ends with either side
				_ = way[0].Close()
				_ = way[1].Close()
			})
		}
		both.Wait()
	}
	p.mu.Lock()
	delete(p.open, client)
	p.mu.Unlock()
}

// Cut ends every connection. New ones are forwarded.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		_ = c.Close()
	}
}

// Block ends every connection and refuses new ones until Block(false).
func (p *Proxy) Block(blocked bool) {
	p.mu.Lock()
	p.blocked = blocked
	p.mu.Unlock()
	p.Cut()
}
