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
	"golang.org/x/sys/unix"
)

const (
	// storeDir is where nats-server keeps its files in the folder it is given.
	storeDir    = "jetstream"
	lockFile    = "lock"
	addressFile = "server.json"
	// startTimeout bounds the start, which reads the whole store back.
	startTimeout = time.Minute
)

// embedded is a nats-server in this process, with the exclusive lock of its folder.
type embedded struct {
	server  *server.Server
	log     *serverLog
	lock    *os.File
	dir     string
	address address
	started time.Time
}

// address is what another process needs to connect: the content of server.json.
type address struct {
	PID int    `json:"pid"`
	URL string `json:"url"`
	// Token is empty when the user chose the address.
	Token string `json:"token,omitempty"`
	// Reads is set when the server was started to read what the folder holds.
	Reads bool `json:"reads,omitempty"`
}

func startEmbedded(o Options, reads bool) (*embedded, error) {
	if o.Dir == "" {
		return nil, errors.New("streams: neither a NATS server's URL nor a folder for the embedded one is given")
	}
	host, port, token := "127.0.0.1", server.RANDOM_PORT, rand.Text()
	if o.Listen != "" {
		var err error
		if host, port, err = splitListen(o.Listen); err != nil {
			return nil, err
		}
		token = ""
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("streams: make the store's folder: %w", err)
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
		// The token keeps other users of the machine out of a loopback port that nobody asked for.
		Authorization: token,
		NoSigs:        true,
		JetStream:     true,
		StoreDir:      o.Dir,
		// Streams reserve their MaxBytes: the sum must fit, whatever is free on the disk today.
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

// stop ends the server, waits for it, and gives the folder free.
func (e *embedded) stop() {
	if e.server != nil {
		e.server.Shutdown()
		e.server.WaitForShutdown()
	}
	// Only the holder of the lock writes the address, so it is removed before the lock is given up.
	os.Remove(filepath.Join(e.dir, addressFile))
	if err := e.lock.Close(); err != nil {
		e.log.log.Warn().Err(err).Msg("unlock the store's folder")
	}
}

// healthy is nil, or says why the store takes no more messages. A server whose disk fails logs it, leaves what is
// published unanswered, and may turn JetStream off; it recovers by a restart only.
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

// lockDir takes the folder for this process. The kernel gives the lock up when the process ends, however it ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("streams: lock the store's folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if err = errors.Join(err, f.Close()); !errors.Is(err, unix.EWOULDBLOCK) {
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

// serverLog passes nats-server's log on and remembers the last error and the first fatal one.
type serverLog struct {
	log zerolog.Logger
	// broken is closed when the store could not write.
	broken chan struct{}

	mu           sync.Mutex
	died, failed string
}

// writeError is how nats-server begins, after the stream's name, to say that its store cannot write.
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

// oldIndex tells of the warnings that the log has more than its index says. So it is after every kill, and nothing is lost: the
// index is made anew from the log.
func oldIndex(text string) bool {
	return strings.Contains(text, "Stream state outdated, last block has additional entries") ||
		strings.HasSuffix(text, "Recovering stream state from index errored: prior state file")
}

func (l *serverLog) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.mu.Lock()
	if !l.isBroken() { // what it says afterwards are consequences
		l.failed = text
		if strings.Contains(strings.ToLower(text), writeError) {
			close(l.broken)
		}
	}
	l.mu.Unlock()
	l.log.Error().Msgf("nats-server: "+format, v...)
}

// Fatalf is where nats-server would exit; here its caller returns and the start fails.
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
