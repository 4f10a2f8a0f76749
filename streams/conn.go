package streams

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/schemas"
)

var (
	// ErrInUse: another process runs the embedded server on this folder.
	ErrInUse = errors.New("streams: folder in use")
	// ErrBeingRead wraps ErrInUse: the other process only reads (see Attach) and releases the folder when it has finished.
	ErrBeingRead = fmt.Errorf("%w for reading", ErrInUse)
	// ErrExposed: other machines can reach the address of an embedded server, which has neither TLS nor passwords.
	ErrExposed = errors.New("other machines can reach this address, and the embedded server has neither TLS nor passwords: " +
		"listen on 127.0.0.1, name a NATS server that has both with --nats, or allow it with --insecure")
	// ErrServerTooOld: the NATS server is older than minServer.
	ErrServerTooOld = errors.New("streams: NATS server too old")
	// ErrNotFound: the named run, message, dead letter or store does not exist.
	ErrNotFound = errors.New("streams: not found")
)

const (
	connectTimeout = 5 * time.Second
	// closeTimeout bounds how long Close waits until buffered messages are sent.
	closeTimeout = 5 * time.Second
	// requestTimeout bounds one request to the server when the caller's context has no deadline.
	requestTimeout = 10 * time.Second
	// askTimeout bounds a request that the caller repeats: a server that stops does not answer it.
	askTimeout = 3 * time.Second
)

// Options say where the streams are.
type Options struct {
	// URL of a NATS server with JetStream, 2.10.26 or newer. Empty runs the embedded server on Dir.
	URL string
	// Dir is the embedded server's folder. It is created if it does not exist. One process at a time may use it.
	Dir string
	// Listen is the embedded server's host:port. When it is empty, the server listens on a random loopback port that requires a
	// token. Only processes of this user can read the token, and use it through Attach. On an address that is given the server
	// requires nothing, so only loopback addresses are allowed, unless Insecure is set.
	Listen   string
	Insecure bool
	Auth     Auth
	Limits   Limits
	Log      zerolog.Logger
	// Name of this client in the server's list of connections.
	Name string
	// Version of this program, which heartbeats name.
	Version string
}

// Conn is a connection to the streams, and to the embedded server when there is one. It is safe for concurrent use.
// A method that needs the server waits for a lost connection to return until its context ends.
type Conn struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	server *embedded // nil when the server runs elsewhere
	limits Limits
	log    zerolog.Logger
	closed chan struct{} // closed when nc is
	worker string        // host/pid of this process
	// version of this program; empty if unknown.
	version string
	// outages are the requests that wait for the server.
	outages outages
	denied  denials
}

// Open connects to the server at o.URL, or starts the embedded one on o.Dir. It returns ErrInUse, naming the process that uses
// the folder; ErrServerTooOld; or an error when the port is in use, the folder cannot be written, or the server does not answer.
func Open(ctx context.Context, o Options) (*Conn, error) {
	o.Limits = o.Limits.withDefaults()
	if err := o.Limits.validate(); err != nil {
		return nil, err
	}
	if o.URL != "" {
		return connect(ctx, o, o.URL, nil)
	}
	return openEmbedded(ctx, o, false)
}

// openEmbedded starts the embedded server. reads marks it as started for reading only.
func openEmbedded(ctx context.Context, o Options, reads bool) (*Conn, error) {
	server, err := startEmbedded(o, reads)
	if err != nil {
		return nil, err
	}
	c, err := connect(ctx, o, server.address.URL, server,
		nats.InProcessServer(server.server), nats.Token(server.address.Token))
	if err != nil {
		server.stop()
		return nil, err
	}
	return c, nil
}

// Attach connects to the embedded server that another process runs on dir. When none runs there, it starts one on the existing
// store. It returns ErrNotFound when dir holds no store.
func Attach(ctx context.Context, dir string, o Options) (*Conn, error) {
	if _, err := os.Stat(filepath.Join(dir, storeDir)); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: no streams in %s", ErrNotFound, dir)
	}
	o.URL, o.Auth, o.Dir, o.Limits = "", Auth{}, dir, o.Limits.withDefaults()
	if err := o.Limits.validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		c, err := openEmbedded(ctx, o, true)
		if !errors.Is(err, ErrInUse) {
			return c, err
		}
		at, readErr := readAddress(dir)
		if readErr == nil {
			c, readErr = connect(ctx, o, at.URL, nil, nats.Token(at.Token))
		}
		if readErr == nil {
			return c, nil
		}
		// The other process is starting or stopping: its address is not written yet, or its server no longer listens.
		if !pause(ctx, 50*time.Millisecond) {
			return nil, fmt.Errorf("%w; its server does not answer: %w", err, readErr)
		}
	}
}

func connect(ctx context.Context, o Options, url string, server *embedded, more ...nats.Option) (*Conn, error) {
	c := &Conn{server: server, limits: o.Limits, log: o.Log, closed: make(chan struct{}), worker: thisWorker(), version: o.Version}
	options := append([]nats.Option{
		nats.Name(o.Name),
		nats.Timeout(connectTimeout),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(200 * time.Millisecond),
		nats.PingInterval(10 * time.Second),
		nats.ClosedHandler(func(*nats.Conn) { close(c.closed) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				c.log.Warn().Err(err).Msg("lost the NATS server, reconnecting")
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			c.denied.forget()
			c.log.Info().Str("server", nc.ConnectedUrlRedacted()).Msg("reconnected to the NATS server")
			if err := supported(nc); err != nil {
				c.log.Error().Err(err).Msg("a server of the cluster is not supported: upgrade it")
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if c.denied.note(err) {
				c.log.Warn().Err(err).Msg("NATS connection error")
			}
		}),
	}, more...)
	if server == nil {
		auth, err := o.Auth.options()
		if err != nil {
			return nil, fmt.Errorf("streams: connect to NATS server %s: %w", schemas.Redact(url), err)
		}
		options = append(options, auth...)
	}
	nc, err := nats.Connect(url, options...)
	if err != nil {
		return nil, fmt.Errorf("streams: connect to NATS server %s: %w (is it running, and are the LDALIGN_NATS_… settings right?)",
			schemas.Redact(url), err)
	}
	c.nc = nc
	if err := c.check(ctx, o.Auth); err != nil {
		nc.Close()
		<-c.closed
		return nil, err
	}
	return c, nil
}

// thisWorker is this process's name in heartbeats and dead letters: host/pid.
func thisWorker() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown-host"
	}
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}

// check verifies the server's version, opens JetStream, and logs the messages that the store reports as lost.
func (c *Conn) check(ctx context.Context, auth Auth) error {
	if err := supported(c.nc); err != nil {
		return err
	}
	js, err := auth.jetStream(c.nc,
		jetstream.WithPublishAsyncMaxPending(maxPending),
		jetstream.WithPublishAsyncTimeout(ackTimeout),
		jetstream.WithDefaultTimeout(requestTimeout))
	if err != nil {
		return fmt.Errorf("streams: open JetStream: %w", err)
	}
	c.js = js
	_, err = ask(ctx, c, "reach JetStream", func(ctx context.Context) (*jetstream.AccountInfo, error) {
		info, err := js.AccountInfo(ctx)
		// While a cluster elects a leader, the error is another one.
		if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
			err = errNoJetStream
		}
		return info, err
	})
	if err != nil {
		return fmt.Errorf("streams: NATS server %s has no JetStream (start it with -js): %w", c.URL(), err)
	}
	return c.checkStore(ctx)
}

// checkStore logs, for each stream of a run, the messages that the server's store reports as lost. It is safe to continue after
// that: an audit names every pair that is missing because of them.
func (c *Conn) checkStore(ctx context.Context) error {
	infos, err := ask(ctx, c, "list the streams", func(ctx context.Context) (infos []*jetstream.StreamInfo, err error) {
		list := c.js.ListStreams(ctx, jetstream.WithStreamListSubject("ldalign.>"))
		for info := range list.Info() {
			infos = append(infos, info)
		}
		return infos, list.Err()
	})
	if err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
		return fmt.Errorf("streams: list streams: %w", err)
	}
	for _, info := range infos {
		if lost := info.State.Lost; lost != nil && len(lost.Msgs) > 0 {
			c.log.Error().Str("stream", info.Config.Name).Uints64("seq", lost.Msgs).
				Msg("the store has lost messages: run `ldalign audit` to see what is missing")
		}
		holes := info.State.NumDeleted
		if holes > 0 && info.Config.DenyDelete && uint64(holes) > purged(info.Config) {
			c.log.Error().Str("stream", info.Config.Name).Int("holes", holes).
				Msg("the log has holes: run `ldalign audit` to see what is missing")
		}
	}
	return nil
}

// Version returns the version of this program, as Options have it.
func (c *Conn) Version() string { return c.version }

// URL returns the server's URL. The embedded server's default address requires a token, which Attach reads.
func (c *Conn) URL() string {
	if c.server != nil {
		return c.server.address.URL
	}
	return c.nc.ConnectedUrlRedacted()
}

// Close sends what is buffered, disconnects, stops the embedded server and waits for it. End the contexts of stages and readers
// and wait for them before calling Close.
func (c *Conn) Close() error {
	var err error
	if c.nc.IsConnected() {
		if err = c.nc.FlushTimeout(closeTimeout); err != nil {
			err = fmt.Errorf("streams: close: %w", err)
		}
	}
	c.nc.Close()
	<-c.closed
	if c.server != nil {
		c.server.stop()
	}
	return err
}

// flush waits until the server has received everything sent so far. It is for acknowledgements, which the server does not answer.
func (c *Conn) flush() error {
	if err := c.nc.FlushTimeout(closeTimeout); err != nil {
		return fmt.Errorf("streams: flush: %w", err)
	}
	return nil
}

// minServer is the oldest server version that is supported. 2.10 has the features used here: several filter subjects, and
// metadata. 2.10.20 to 2.10.22 lose streams when they are killed.
var minServer = [3]int{2, 10, 26}

// supported returns an error when the connected server is older than minServer.
func supported(nc *nats.Conn) error {
	version := nc.ConnectedServerVersion()
	if atLeast(version, minServer) {
		return nil
	}
	return fmt.Errorf("%w: %s runs %s, want %d.%d.%d or newer (2.10.20 to 2.10.22 lose streams when they are killed)",
		ErrServerTooOld, nc.ConnectedUrlRedacted(), version, minServer[0], minServer[1], minServer[2])
}

// atLeast compares versions such as 2.15.2 and 2.11.0-beta.1.
func atLeast(version string, least [3]int) bool {
	core, _, _ := strings.Cut(version, "-")
	var have [3]int
	for i, part := range strings.SplitN(core, ".", len(have)) {
		n, err := strconv.Atoi(part)
		if err != nil {
			return false
		}
		have[i] = n
	}
	return slices.Compare(have[:], least[:]) >= 0
}

// errNoJetStream: no server in reach has JetStream.
var errNoJetStream = errors.New("JetStream is off")

// pause waits for d. It returns false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
