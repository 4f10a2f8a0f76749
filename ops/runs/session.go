package runs

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/lineage"
)

var (
	// ErrNoRuns reports that the data folder holds no runs.
	ErrNoRuns = errors.New("holds no runs")
	// ErrSettings reports a setting that is malformed or does not fit, such as an endpoint, a run's name or the flag of a verb.
	ErrSettings = errors.New("wrong settings")
)

// Options say where a session's server and store are.
type Options struct {
	// Dir is the data folder: the embedded server's streams, the directory store, downloaded checkpoints, reports.
	Dir     string
	Servers schemas.ServersSpec
	// Limits is the streams section of the run's spec; Attach does not use it.
	Limits schemas.StreamsSpec
	// Listen is the embedded server's host:port; empty for a random port that only verbs on the same folder can use.
	Listen string
	// Insecure allows Listen an address that other machines can reach.
	Insecure bool
	// CacheBytes limits the size of the folder of downloaded checkpoints; 0 for no limit.
	CacheBytes int64
	// Name is this client's name, as the server lists it.
	Name string
	// Version of this program, which status shows for each worker.
	Version string
	Log     zerolog.Logger
}

// Session holds a process's connections to the streams and the checkpoint store of the runs in a folder or on servers.
type Session struct {
	Dir         string
	Streams     *streams.Conn           // nil after OpenStore
	Store       checkpoints.Store       // nil after OpenStreams
	Checkpoints *checkpoints.Repository // likewise
	Log         zerolog.Logger
}

// embeddedAckWait limits streams.ack_wait for an embedded server. Its stages run in the server's process, so no network delays
// their acknowledgements. After a crash, the next process waits this long for the messages that the last one held.
const embeddedAckWait = 3 * time.Second

// Open connects to the servers, or starts the embedded ones in the folder. The session may declare runs and commit checkpoints,
// so Open creates a bucket that does not exist, and refuses a store that cannot keep two writers apart.
func Open(ctx context.Context, o Options) (*Session, error) {
	s, err := open(ctx, o, true)
	if err != nil {
		return nil, err
	}
	return s, s.dial(ctx, o)
}

// Join is Open for a worker of a declared run. It creates no bucket. The error wraps checkpoints.ErrOtherStore if the store does
// not have the run's checkpoints.
func Join(ctx context.Context, o Options, run string) (*Session, error) {
	s, err := open(ctx, o, false)
	if err != nil {
		return nil, err
	}
	if err := s.dial(ctx, o); err != nil {
		return nil, err
	}
	declared, err := lineage.Declaration(ctx, s.Streams, run)
	if err == nil {
		err = s.Checkpoints.Holds(ctx, run, declared.Digest)
	}
	if errors.Is(err, checkpoints.ErrOtherStore) {
		err = fmt.Errorf("%w: give this worker the --s3 and --bucket of the run's trainer", err)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// OpenStreams is Open without the checkpoint store.
func OpenStreams(ctx context.Context, o Options) (*Session, error) {
	s := &Session{Dir: o.Dir, Log: o.Log}
	return s, s.dial(ctx, o)
}

// dial connects a session to the streams, with the limits of o.
func (s *Session) dial(ctx context.Context, o Options) (err error) {
	limits, err := streams.ParseLimits(o.Limits)
	if err != nil {
		return err
	}
	if o.Servers.NATS == "" {
		limits.AckWait = min(limits.AckWait, embeddedAckWait)
	}
	options := o.streams()
	options.Listen, options.Insecure, options.Limits = o.Listen, o.Insecure, limits
	s.Streams, err = openFreed(ctx, options)
	return err
}

// Attach connects for reading: to the servers, to the process that works in the folder, or to the folder itself. It
// returns ErrNoRuns if the folder has no streams.
func Attach(ctx context.Context, o Options) (*Session, error) {
	if err := Any(o.Dir, o.Servers); err != nil {
		return nil, err
	}
	s, err := open(ctx, o, false)
	if err != nil {
		return nil, err
	}
	options := o.streams()
	if o.Servers.NATS != "" {
		s.Streams, err = streams.Open(ctx, options)
	} else {
		s.Streams, err = streams.Attach(ctx, options.Dir, options)
	}
	return s, err
}

// Any returns ErrNoRuns if no NATS server is named and the folder has no streams.
func Any(dir string, servers schemas.ServersSpec) error {
	if _, err := os.Stat(filepath.Join(dir, "nats")); servers.NATS == "" && errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s %w (use --dir for another folder, --nats for a server)", dir, ErrNoRuns)
	}
	return nil
}

// OpenStore opens only the checkpoint store. It returns ErrNoRuns if the folder does not exist.
func OpenStore(ctx context.Context, o Options) (*Session, error) {
	if _, err := os.Stat(o.Dir); o.Servers.S3 == "" && errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s %w (use --dir for another folder, --s3 for a server)", o.Dir, ErrNoRuns)
	}
	return open(ctx, o, false)
}

func (o Options) streams() streams.Options {
	return streams.Options{
		URL: o.Servers.NATS, Dir: filepath.Join(o.Dir, "nats"), Auth: natsAuth(), Name: o.Name,
		Version: o.Version, Log: o.Log,
	}
}

// natsAuth returns the settings of the environment for a NATS server.
func natsAuth() streams.Auth {
	return streams.Auth{
		Creds: os.Getenv("LDALIGN_NATS_CREDS"), NKey: os.Getenv("LDALIGN_NATS_NKEY"),
		User: os.Getenv("LDALIGN_NATS_USER"), Password: schemas.SecretFromEnv("LDALIGN_NATS_PASSWORD"),
		Token: schemas.SecretFromEnv("LDALIGN_NATS_TOKEN"),
		Cert:  os.Getenv("LDALIGN_NATS_CERT"), Key: os.Getenv("LDALIGN_NATS_KEY"), CA: os.Getenv("LDALIGN_NATS_CA"),
		Domain: os.Getenv("LDALIGN_NATS_DOMAIN"), APIPrefix: os.Getenv("LDALIGN_NATS_API_PREFIX"),
	}
}

// open returns a session without streams.
func open(ctx context.Context, o Options, writer bool) (*Session, error) {
	store, err := openStore(ctx, o.Dir, o.Servers, writer)
	if err != nil {
		return nil, err
	}
	s := &Session{
		Dir: o.Dir, Store: store, Checkpoints: checkpoints.New(store, filepath.Join(o.Dir, "cache"), o.Log), Log: o.Log,
	}
	if o.CacheBytes > 0 {
		s.Checkpoints.LimitCache(o.CacheBytes)
	}
	return s, nil
}

// openFreed opens the streams in a folder, and waits for a while if another process is using them: it may be about to end. A verb
// that only reads can hold an otherwise unused folder for long; an audit of a million pairs takes half a minute.
func openFreed(ctx context.Context, o streams.Options) (*streams.Conn, error) {
	const patience, forReader, every = 3 * time.Second, time.Minute, 100 * time.Millisecond
	said := false
	for began := time.Now(); ; {
		c, err := streams.Open(ctx, o)
		wait := patience
		if errors.Is(err, streams.ErrBeingRead) {
			wait = forReader
		}
		if !errors.Is(err, streams.ErrInUse) || time.Since(began) > wait {
			return c, err
		}
		if !said {
			o.Log.Info().Err(err).Msg("waiting up to " + wait.String() + " for the folder")
			said = true
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(every):
		}
	}
}

func openStore(ctx context.Context, dir string, servers schemas.ServersSpec, writer bool) (checkpoints.Store, error) {
	if servers.S3 == "" {
		return checkpoints.OpenDir(dir)
	}
	endpoint, err := url.Parse(servers.S3)
	if err != nil || endpoint.Host == "" {
		return nil, fmt.Errorf("%w: S3 endpoint %q: want http(s)://host:port", ErrSettings, schemas.Redact(servers.S3))
	}
	var keys [3]string
	for i, name := range []string{"LDALIGN_S3_ACCESS_KEY", "LDALIGN_S3_SECRET_KEY", "LDALIGN_S3_SESSION_TOKEN"} {
		if keys[i], err = schemas.SecretFromEnv(name).Read(); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrSettings, name, err)
		}
	}
	return checkpoints.OpenS3(ctx, checkpoints.S3Options{
		Endpoint: endpoint.Host, Secure: strings.EqualFold(endpoint.Scheme, "https"), Bucket: servers.Bucket, Region: servers.Region,
		Writer:    writer,
		AccessKey: keys[0], SecretKey: keys[1], SessionToken: keys[2],
	})
}

// Declare creates the streams of a run with the limits of its spec, or raises existing limits to these.
func (s *Session) Declare(ctx context.Context, spec schemas.Spec) error {
	limits, err := streams.ParseLimits(spec.Streams)
	if err != nil {
		return err
	}
	return s.Streams.Declare(ctx, spec.Run, limits)
}

// Close disconnects from the streams. Callers end all work in the session first.
func (s *Session) Close() error {
	if s.Streams == nil {
		return nil
	}
	return s.Streams.Close()
}

// ReportDir returns the folder of a run's report.
func (s *Session) ReportDir(run string) string { return filepath.Join(s.Dir, "runs", run) }

// Holder returns the name of this process in leases: host/pid.
func Holder() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown-host"
	}
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}
