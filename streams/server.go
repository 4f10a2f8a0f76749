package streams

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/filelock"
)

const (
	// storeDir is the folder within its StoreDir where nats-server keeps its files.
	storeDir    = "jetstream"
	lockFile    = "lock"
	addressFile = "server.json"
	// startTimeout bounds the server's start, which reads the whole store.
	startTimeout = time.Minute
)

// embedded is a nats-server in this process that holds the exclusive lock of its folder.
type embedded struct {
	server  *server.Server
	log     *serverLog
	lock    *os.File
	dir     string
	address address
	started time.Time
}

// address is the content of server.json, with which another process can connect.
type address struct {
	PID int    `json:"pid"`
	URL string `json:"url"`
	// Token is empty when the user chose the address.
	Token string `json:"token,omitempty"`
	// Reads is set when the server was started for reading only.
	Reads bool `json:"reads,omitempty"`
}

func startEmbedded(o Options, reads bool) (*embedded, error) {
	if o.Dir == "" {
		return nil, errors.New("streams: neither the URL of a NATS server nor a folder for the embedded one is given")
	}
	host, port, token := "127.0.0.1", server.RANDOM_PORT, rand.Text()
	if o.Listen != "" {
		var err error
		if host, port, err = splitListen(o.Listen); err != nil {
			return nil, err
		}
		if ip := net.ParseIP(host); host != "localhost" && !ip.IsLoopback() && !o.Insecure {
			return nil, fmt.Errorf("streams: listen on %s: %w", o.Listen, ErrExposed)
		}
		token = ""
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("streams: create the store's folder: %w", err)
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	e := &embedded{log: newServerLog(o.Log), lock: lock, dir: o.Dir, started: time.Now(), address: address{Reads: reads}}
	if err := e.start(o, host, port, token); err != nil {
		e.stop()
		return nil, err
	}
	return e, nil
}

func (e *embedded) start(o Options, host string, port int, token string) error {
	if err := completeMeta(o.Dir); err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "ldalign",
		Host:       host,
		Port:       port,
		// On the default loopback port, the token keeps out other users of the machine.
		Authorization: token,
		NoSigs:        true,
		JetStream:     true,
		StoreDir:      o.Dir,
		// Each stream reserves its MaxBytes. The sum may exceed the free disk space, so the server must not check it.
		JetStreamMaxStore:  math.MaxInt64 / 2,
		JetStreamMaxMemory: 64 << 20,
		SyncAlways:         o.Limits.Sync == 0,
		SyncInterval:       o.Limits.Sync,

		DisableJetStreamBanner: true,
	})
	if err != nil {
		return fmt.Errorf("streams: embedded NATS server: %w", err)
	}
	e.server = s
	s.SetLoggerV2(e.log, false, false, false)
	s.Start()
	if reason := e.log.fatal(); reason != "" {
		if o.Listen != "" {
			reason += " (--listen names another address)"
		}
		return fmt.Errorf("streams: embedded NATS server on %s: %s", o.Dir, reason)
	}
	if !s.ReadyForConnections(startTimeout) {
		return fmt.Errorf("streams: embedded NATS server on %s is not ready after %v", o.Dir, startTimeout)
	}
	e.address.PID, e.address.URL, e.address.Token = os.Getpid(), s.ClientURL(), token
	return e.writeAddress()
}

// stop stops the server, waits for it, and unlocks the folder.
func (e *embedded) stop() {
	if e.server != nil {
		e.server.Shutdown()
		e.server.WaitForShutdown()
	}
	// Only the holder of the lock may change the address file, so remove it before unlocking.
	os.Remove(filepath.Join(e.dir, addressFile))
	if err := e.lock.Close(); err != nil {
		e.log.log.Warn().Err(err).Msg("cannot unlock the store's folder")
	}
}

// healthy returns nil, or an error that says why the store accepts no more messages. A server whose disk fails logs that, does
// not answer publishes, and may switch JetStream off. It recovers only by a restart.
func (e *embedded) healthy() error {
	if !e.log.isBroken() && e.server.JetStreamEnabled() {
		return nil
	}
	return fmt.Errorf("%w: make room in %s and start again: %s", ErrStore, e.dir, e.log.last())
}

func (e *embedded) writeAddress() error {
	data, err := json.Marshal(e.address)
	if err != nil {
		return fmt.Errorf("streams: %w", err)
	}
	path := filepath.Join(e.dir, addressFile)
	if err := os.WriteFile(path+".tmp", data, 0o600); err != nil {
		return fmt.Errorf("streams: write the server's address: %w", err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("streams: write the server's address: %w", err)
	}
	return nil
}

func readAddress(dir string) (address, error) {
	var a address
	data, err := os.ReadFile(filepath.Join(dir, addressFile))
	if err != nil {
		return a, fmt.Errorf("streams: read the server's address: %w", err)
	}
	if err := json.Unmarshal(data, &a); err != nil {
		return a, fmt.Errorf("streams: read the server's address: %w", err)
	}
	return a, nil
}

// lockDir locks the folder for this process. The kernel releases the lock when the process ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("streams: lock the store's folder: %w", err)
	}
	if err := filelock.Try(f); err != nil {
		if err = errors.Join(err, f.Close()); !errors.Is(err, filelock.ErrHeld) {
			return nil, fmt.Errorf("streams: lock the store's folder %s: %w", dir, err)
		}
		if holder, err := readAddress(dir); err == nil {
			reason := ErrInUse
			if holder.Reads {
				reason = ErrBeingRead
			}
			return nil, fmt.Errorf("%w: %s is held by process %d (%s)", reason, dir, holder.PID, holder.URL)
		}
		return nil, fmt.Errorf("%w: %s is held by another process", ErrInUse, dir)
	}
	return f, nil
}

func splitListen(listen string) (host string, port int, err error) {
	host, number, err := net.SplitHostPort(listen)
	if err != nil {
		return "", 0, fmt.Errorf("streams: listen address %q is not host:port: %w", listen, err)
	}
	port, err = strconv.Atoi(number)
	if err != nil || port < 0 || port > math.MaxUint16 {
		return "", 0, fmt.Errorf("streams: listen address %q: %q is not a port", listen, number)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, nil
}

// serverLog forwards nats-server's log and keeps the last error and the first fatal one.
type serverLog struct {
	log zerolog.Logger
	// broken is closed when the store has failed to write.
	broken chan struct{}

	mu           sync.Mutex
	died, failed string
}

// writeError is part of nats-server's message that its store cannot write.
const writeError = "critical write error"

func newServerLog(log zerolog.Logger) *serverLog {
	return &serverLog{log: log, broken: make(chan struct{})}
}

func (l *serverLog) isBroken() bool {
	select {
	case <-l.broken:
		return true
	default:
		return false
	}
}

func (l *serverLog) Noticef(format string, v ...any) {
	l.log.Debug().Msgf("nats-server: "+format, v...)
}

func (l *serverLog) Debugf(format string, v ...any) { l.log.Trace().Msgf("nats-server: "+format, v...) }

func (l *serverLog) Tracef(format string, v ...any) { l.log.Trace().Msgf("nats-server: "+format, v...) }

func (l *serverLog) Warnf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	if oldIndex(text) {
		l.log.Debug().Msg("nats-server: " + text)
		return
	}
	l.log.Warn().Msg("nats-server: " + text)
}

// oldIndex reports whether a warning says that a stream's index is older than its data. This happens after every kill, and
// nothing is lost: the server rebuilds the index.
func oldIndex(text string) bool {
	return strings.Contains(text, "Stream state outdated, last block has additional entries") ||
		strings.HasSuffix(text, "Recovering stream state from index errored: prior state file")
}

func (l *serverLog) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.mu.Lock()
	if !l.isBroken() { // later errors are consequences of the first
		l.failed = text
		if strings.Contains(strings.ToLower(text), writeError) {
			close(l.broken)
		}
	}
	l.mu.Unlock()
	l.log.Error().Msgf("nats-server: "+format, v...)
}

// Fatalf records a fatal error. nats-server would exit here; instead the start fails.
func (l *serverLog) Fatalf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.died == "" {
		l.died = fmt.Sprintf(format, v...)
	}
}

func (l *serverLog) fatal() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.died
}

func (l *serverLog) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == "" {
		return "JetStream is off"
	}
	return l.failed
}
