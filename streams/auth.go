package streams

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ldalign/ldalign/schemas"
)

// ErrDenied: the server does not permit this client what it has tried.
var ErrDenied = errors.New("streams: permission denied")

// Auth says who this client is to a NATS server, and where its JetStream is. A file that holds a secret is read again at each
// connection, so it can be replaced while the process works.
type Auth struct {
	// Creds is the path of a credentials file, NKey that of an nkey's seed.
	Creds, NKey string
	// User has Password. Token is instead of both.
	User            string
	Password, Token schemas.Secret
	// Cert and Key are a client certificate and its key, CA the certificates that the server's is checked with.
	Cert, Key, CA string
	// Domain is a JetStream domain, or APIPrefix the prefix of its API in this account. At most one may be given.
	Domain, APIPrefix string
}

// options returns the client's options. It returns an error for a file that cannot be read.
func (a Auth) options() ([]nats.Option, error) {
	for _, s := range []schemas.Secret{{File: a.Creds}, {File: a.NKey}, a.Password, a.Token} {
		if _, err := s.Read(); err != nil {
			return nil, err
		}
	}
	// The same refusal twice may come from two servers between which a secret is being replaced.
	options := []nats.Option{nats.IgnoreAuthErrorAbort()}
	if a.Creds != "" {
		options = append(options, nats.UserCredentials(a.Creds))
	}
	if a.NKey != "" {
		nkey, err := nats.NkeyOptionFromSeed(a.NKey)
		if err != nil {
			return nil, fmt.Errorf("the file of the nkey: %w", err)
		}
		options = append(options, nkey)
	}
	if a.User != "" {
		options = append(options, nats.UserInfoHandler(func() (user, password string) { return a.User, present(a.Password) }))
	}
	if a.Token.Given() {
		options = append(options, nats.TokenHandler(func() string { return present(a.Token) }))
	}
	if a.Cert != "" || a.Key != "" {
		options = append(options, nats.ClientCert(a.Cert, a.Key))
	}
	if a.CA != "" {
		options = append(options, nats.RootCAs(a.CA))
	}
	return options, nil
}

// present returns a secret. While its file cannot be read it is empty, and the server refuses it.
func present(s schemas.Secret) string {
	value, _ := s.Read()
	return value
}

// jetStream opens JetStream in the domain or under the prefix.
func (a Auth) jetStream(nc *nats.Conn, options ...jetstream.JetStreamOpt) (jetstream.JetStream, error) {
	switch {
	case a.Domain != "" && a.APIPrefix != "":
		return nil, errors.New("both a JetStream domain and an API prefix are given")
	case a.Domain != "":
		return jetstream.NewWithDomain(nc, a.Domain, options...)
	case a.APIPrefix != "":
		return jetstream.NewWithAPIPrefix(nc, a.APIPrefix, options...)
	}
	return jetstream.New(nc, options...)
}

// denials are what the server has not permitted since the connection was made. The server does not answer such a request, so
// without them it could not be told from an outage.
type denials struct {
	mu      sync.Mutex
	all     []denial
	waiting map[*waiting]bool
}

// waiting is a request that ends with the next denial.
type waiting struct{ end context.CancelCauseFunc }

type denial struct {
	subject string
	err     error
}

// note records an error of the connection. It reports whether the error is news.
func (d *denials) note(err error) bool {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return true
	}
	_, subject, _ := strings.Cut(err.Error(), `"`) // ... violation for Publish to "subject"
	subject, _, _ = strings.Cut(subject, `"`)
	known := d.of(subject) != nil
	d.mu.Lock()
	defer d.mu.Unlock()
	if !known {
		d.all = append(d.all, denial{subject, err})
	}
	for w := range d.waiting {
		w.end(denied(err))
	}
	return !known
}

// watch returns a context for a request. It ends when the server does not permit something, with a cause that wraps ErrDenied.
// The caller must call stop.
func (d *denials) watch(ctx context.Context) (_ context.Context, stop func()) {
	ctx, end := context.WithCancelCause(ctx)
	w := &waiting{end}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.waiting == nil {
		d.waiting = map[*waiting]bool{}
	}
	d.waiting[w] = true
	return ctx, func() {
		end(nil)
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.waiting, w)
	}
}

// permitted calls a request. If it fails because the server does not permit it, the error wraps ErrDenied.
func (c *Conn) permitted(ctx context.Context, request func(context.Context) error) error {
	asking, stop := c.denied.watch(ctx)
	defer stop()
	err := request(asking)
	if cause := context.Cause(asking); err != nil && errors.Is(cause, ErrDenied) {
		return cause
	}
	return err
}

// forget is called when the connection is made again, since the permissions may be others then.
func (d *denials) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = nil
}

// of returns the newest denial of a subject that contains part; nil if there is none.
func (d *denials) of(part string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := len(d.all) - 1; i >= 0; i-- {
		if strings.Contains(d.all[i].subject, part) {
			return denied(d.all[i].err)
		}
	}
	return nil
}

func denied(err error) error {
	return fmt.Errorf("%w: %w: ops/deploy/permissions.conf has what each role needs", ErrDenied, err)
}
