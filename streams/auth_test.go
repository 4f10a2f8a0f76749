package streams

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// serveWith starts a real server with more settings of JetStream and of the server. It returns the server and its configuration file.
func serveWith(t *testing.T, jetstream, config string) (s *server.Server, path string) {
	t.Helper()
	path = write(t, "nats.conf", fmt.Sprintf("listen: \"127.0.0.1:-1\"\njetstream {store_dir: %q, max_file_store: 1TB%s}\n%s",
		t.TempDir(), jetstream, config))
	o, err := server.ProcessConfigFile(path)
	if err != nil {
		t.Fatal(err)
	}
	o.NoSigs, o.NoLog = true, true
	if s, err = server.NewServer(o); err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(testTimeout) {
		t.Fatal("the server is not ready")
	}
	return s, path
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// openAs connects to a server.
func openAs(t *testing.T, s *server.Server, auth Auth) *Conn {
	t.Helper()
	c, err := Open(testContext(t), Options{URL: s.ClientURL(), Auth: auth, Limits: quick, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// TestRoles: with the permissions in ops/deploy, each role does its own work and no other's. What it may not do is an error, and not
// an outage that it waits for.
func TestRoles(t *testing.T) {
	for _, role := range []string{"TRAINER", "PROMPTER", "GENERATOR", "ENCODER", "DISTANCE", "EVALUATOR", "READER"} {
		t.Setenv("NATS_"+role+"_PASSWORD", "of-"+strings.ToLower(role))
	}
	permissions, err := os.ReadFile(filepath.Join("..", "ops", "deploy", "permissions.conf"))
	if err != nil {
		t.Fatal(err)
	}
	s, _ := serveWith(t, "", string(permissions))
	as := func(role string) *Conn {
		return openAs(t, s, Auth{User: role, Password: schemas.Secret{Value: "of-" + role}})
	}
	trainer, worker, reader := as("trainer"), as("generator"), as("reader")
	declare(t, trainer, "r", quick)
	lease, err := trainer.AcquireLease(testContext(t), "r", "test", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := lease.Release(); err != nil {
		t.Error(err)
	}
	publish(t, as("prompter"), schemas.Prompts, promptList("r", 0, 3)...)
	stop := start(t, worker, generator("r", 2), answer)
	await(t, reader, schemas.Pairs, "r", 3)
	settled(t, reader, generator("r", 2))
	if workers, err := reader.Workers(testContext(t), "r"); err != nil || len(workers) != 1 {
		t.Errorf("the reader sees workers %v, %v", workers, err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for name, forbidden := range map[string]func(context.Context) error{
		"a generator declares a run": func(ctx context.Context) error { return worker.Declare(ctx, "other", quick) },
		"a generator purges": func(ctx context.Context) error {
			_, err := worker.purge(ctx, schemas.Prompts, "r", schemas.Subject(schemas.Prompts, "r", 0))
			return err
		},
		"a generator publishes prompts": func(ctx context.Context) error {
			return worker.Publish(ctx, schemas.Prompts, promptList("r", 1, 1)...)
		},
		"an encoder publishes pairs": func(ctx context.Context) error {
			return as("encoder").Publish(ctx, schemas.Pairs, pairOf(prompt("r", 1, 0)))
		},
		"a generator's output is another stage's": func(ctx context.Context) error {
			declare(t, trainer, "s", quick)
			publish(t, trainer, schemas.Prompts, prompt("s", 0, 0))
			return worker.RunStage(ctx, generator("s", 1), func(_ context.Context, in []events.Message) []Outcome {
				return []Outcome{{Out: []Emit{{schemas.Scored, scoredOf(in[0].(*events.Prompt))}}}}
			})
		},
		"a reader publishes": func(ctx context.Context) error {
			return reader.Publish(ctx, schemas.Control, closedAt("r", 0, 3))
		},
	} {
		if err := forbidden(testContext(t)); !errors.Is(err, ErrDenied) {
			t.Errorf("%s: got %v, want ErrDenied", name, err)
		}
	}
	if got := len(stored(t, reader, schemas.Prompts, "r")); got != 3 {
		t.Errorf("%d prompts are stored, want 3", got)
	}
}

// TestPasswordIsReplaced: a client whose password was replaced on the server is refused until its file has the new one, and goes on
// then.
func TestPasswordIsReplaced(t *testing.T) {
	users := func(password string) string {
		return "authorization {users: [{user: me, password: " + password + "}]}\n"
	}
	s, config := serveWith(t, "", users("old"))
	file := write(t, "password", "old\n")
	lines := &refusals{seen: make(chan struct{}, 1000)}
	c, err := Open(testContext(t), Options{
		URL: s.ClientURL(), Auth: Auth{User: "me", Password: schemas.Secret{File: file}}, Limits: quick, Log: zerolog.New(lines),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	publish(t, c, schemas.Prompts, prompt("r", 0, 0))
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, bytes.Replace(text, []byte("password: old"), []byte("password: new"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	for range 3 { // the client gives up after two, unless it is told not to
		select {
		case <-lines.seen:
		case <-testContext(t).Done():
			t.Fatal("the client was not refused")
		}
	}
	if err := os.WriteFile(file, []byte("new\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	publish(t, c, schemas.Prompts, prompt("r", 0, 1))
	if got := len(stored(t, c, schemas.Prompts, "r")); got != 2 {
		t.Errorf("%d prompts are stored, want 2", got)
	}
}

// refusals tells when a log says that the server has refused the client.
type refusals struct{ seen chan struct{} }

func (r *refusals) Write(line []byte) (int, error) {
	if bytes.Contains(bytes.ToLower(line), []byte("authorization violation")) {
		r.seen <- struct{}{}
	}
	return len(line), nil
}

// TestWaysIn: a client is let in by each way that Auth names, and only with the right secret.
func TestWaysIn(t *testing.T) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	other, err := stranger.Seed()
	if err != nil {
		t.Fatal(err)
	}
	cert, key := certificate(t)
	for name, test := range map[string]struct {
		jetstream, config string
		right, wrong      Auth
	}{
		"nkey": {
			"", fmt.Sprintf("authorization {users: [{nkey: %s}]}", public),
			Auth{NKey: write(t, "seed", string(seed))},
			Auth{NKey: write(t, "seed", string(other))},
		},
		"token": {
			"", "authorization {token: secret}",
			Auth{Token: schemas.Secret{File: write(t, "token", "secret\n")}},
			Auth{Token: schemas.Secret{Value: "wrong"}},
		},
		"client certificate": {
			"", fmt.Sprintf("tls {cert_file: %q, key_file: %q, ca_file: %q, verify: true}", cert, key, cert),
			Auth{Cert: cert, Key: key, CA: cert},
			Auth{CA: cert},
		},
		"domain": {", domain: hub", "", Auth{Domain: "hub"}, Auth{Domain: "elsewhere"}},
		"prefix": {", domain: hub", "", Auth{APIPrefix: "$JS.hub.API"}, Auth{Domain: "hub", APIPrefix: "$JS.hub.API"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := serveWith(t, test.jetstream, test.config)
			publish(t, openAs(t, s, test.right), schemas.Prompts, prompt("r", 0, 0))
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			c, err := Open(ctx, Options{URL: s.ClientURL(), Auth: test.wrong, Limits: quick, Log: zerolog.Nop()})
			if err == nil {
				c.Close()
				t.Error("let in with the wrong secret")
			}
		})
	}
}

// certificate writes a certificate for the loopback address, which signs itself, and its key.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed}))),
		write(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: encoded})))
}
