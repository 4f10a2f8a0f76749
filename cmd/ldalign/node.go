package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
)

// serverFlags name real servers on the command line; a spec's servers section does the same.
type serverFlags struct {
	NATS   string `help:"URL of a NATS server with JetStream, e.g. nats://127.0.0.1:4222." env:"LDALIGN_NATS" name:"nats"`
	S3     string `help:"S3 endpoint, e.g. http://127.0.0.1:9000." env:"LDALIGN_S3" name:"s3"`
	Bucket string `help:"S3 bucket." env:"LDALIGN_S3_BUCKET" default:"ldalign"`
	Region string `help:"S3 region." env:"LDALIGN_S3_REGION" default:"us-east-1"`
}

// over replaces what the spec says by what the flags say.
func (f serverFlags) over(s schemas.ServersSpec) schemas.ServersSpec {
	if f.NATS != "" {
		s.NATS = f.NATS
	}
	if f.S3 != "" {
		s.S3 = f.S3
	}
	if s.S3 != "" && s.Bucket == "" {
		s.Bucket = f.Bucket
	}
	if s.S3 != "" && s.Region == "" {
		s.Region = f.Region
	}
	return s
}

// node is a process's connections: streams, checkpoint store, display and log. Verbs that only read use it too.
type node struct {
	// dir is the data folder of this process.
	dir         string
	streams     *streams.Conn
	store       checkpoints.Store
	checkpoints *checkpoints.Repository
	display     *progress.Display
	log         zerolog.Logger
	patience    time.Duration // see env.patience
	closers     []func() error
}

// embeddedAckWait bounds streams.ack_wait where the server is embedded: its stages live and die with it, so no network
// excuses one that is silent. After a crash the next process has to wait no longer than this for what the last one held.
const embeddedAckWait = 3 * time.Second

// open connects to the servers, or starts the embedded ones in the folder.
func (e *env) open(ctx context.Context, servers schemas.ServersSpec, limits schemas.StreamsSpec, name string) (*node, error) {
	return e.connect(ctx, servers, func(log zerolog.Logger) (*streams.Conn, error) {
		parsed, err := streams.ParseLimits(limits)
		if err != nil {
			return nil, err
		}
		if servers.NATS == "" {
			parsed.AckWait = min(parsed.AckWait, embeddedAckWait)
		}
		return openFreed(ctx, log, streams.Options{
			URL: servers.NATS, Dir: filepath.Join(e.dir, "nats"), Listen: e.listen, Creds: os.Getenv("LDALIGN_NATS_CREDS"), Limits: parsed,
			Name: name, Log: log,
		})
	})
}

// openFreed opens a folder that another process may be about to leave: a verb that only reads holds an idle one until it has
// read, which takes an audit of a million pairs half a minute.
func openFreed(ctx context.Context, log zerolog.Logger, o streams.Options) (*streams.Conn, error) {
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
			log.Info().Err(err).Msg("waiting up to " + wait.String() + " for the folder")
			said = true
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(every):
		}
	}
}

// attach connects for reading: to the servers, to the process that works in the folder, or to the folder itself.
func (e *env) attach(ctx context.Context, servers schemas.ServersSpec) (*node, error) {
	if servers.NATS == "" {
		if _, err := os.Stat(filepath.Join(e.dir, "nats")); errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%s holds no runs (another folder: --dir; a server: --nats)", e.dir)
		}
	}
	return e.connect(ctx, servers, func(log zerolog.Logger) (*streams.Conn, error) {
		options := streams.Options{
			URL: servers.NATS, Dir: filepath.Join(e.dir, "nats"), Creds: os.Getenv("LDALIGN_NATS_CREDS"), Name: "ldalign-reader",
			Log: log,
		}
		if servers.NATS != "" {
			return streams.Open(ctx, options)
		}
		return streams.Attach(ctx, options.Dir, options)
	})
}

func (e *env) connect(
	ctx context.Context, servers schemas.ServersSpec, dial func(zerolog.Logger) (*streams.Conn, error),
) (_ *node, err error) {
	n := &node{dir: e.dir, patience: cmp.Or(e.patience, signPatience)}
	n.display = progress.New(e.stderr, progress.Options{JSON: e.json})
	n.closers = append(n.closers, n.display.Close)
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	if err := os.MkdirAll(e.dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the data folder: %w (choose another by --dir)", err)
	}
	if n.log, err = e.openLog(n); err != nil {
		return nil, err
	}
	if n.store, err = openStore(ctx, e.dir, servers); err != nil {
		return nil, err
	}
	n.checkpoints = checkpoints.New(n.store, filepath.Join(e.dir, "cache"), n.log)
	if e.cache != "" {
		bytes, err := schemas.ParseSize(e.cache)
		if err != nil {
			return nil, fmt.Errorf("%w: --cache: %w", errUsage, err)
		}
		n.checkpoints.LimitCache(bytes)
	}
	if n.streams, err = dial(n.log); err != nil {
		return nil, err
	}
	n.closers = append(n.closers, n.streams.Close)
	return n, nil
}

// openLog opens DIR/ldalign.log for everything and the screen for warnings (with --verbose, for everything).
func (e *env) openLog(n *node) (zerolog.Logger, error) {
	file, err := os.OpenFile(filepath.Join(e.dir, "ldalign.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return zerolog.Nop(), fmt.Errorf("cannot open the log: %w (choose another folder by --dir)", err)
	}
	n.closers = append(n.closers, file.Close)
	var screen io.Writer = n.display.Log()
	if !e.json {
		screen = zerolog.ConsoleWriter{Out: screen, TimeFormat: time.TimeOnly, NoColor: true}
	}
	level := zerolog.WarnLevel
	if e.verbose {
		level = zerolog.InfoLevel
	}
	shown := &zerolog.FilteredLevelWriter{Writer: zerolog.LevelWriterAdapter{Writer: screen}, Level: level}
	return zerolog.New(zerolog.MultiLevelWriter(file, shown)).With().Timestamp().Logger(), nil
}

func openStore(ctx context.Context, dir string, servers schemas.ServersSpec) (checkpoints.Store, error) {
	if servers.S3 == "" {
		return checkpoints.OpenDir(dir)
	}
	endpoint, err := url.Parse(servers.S3)
	if err != nil || endpoint.Host == "" {
		return nil, fmt.Errorf("%w: S3 endpoint %q: want http(s)://host:port", errUsage, servers.S3)
	}
	return checkpoints.OpenS3(ctx, checkpoints.S3Options{
		Endpoint: endpoint.Host, Secure: strings.EqualFold(endpoint.Scheme, "https"), Bucket: servers.Bucket, Region: servers.Region,
		AccessKey: os.Getenv("LDALIGN_S3_ACCESS_KEY"), SecretKey: os.Getenv("LDALIGN_S3_SECRET_KEY"),
	})
}

// engine starts the tensor engine that a spec asks for; the node closes it.
func (n *node) engine(spec schemas.ComputeSpec) (*tensor.Engine, error) {
	where, err := device(spec.Device)
	if err != nil {
		return nil, err
	}
	engine, err := tensor.NewEngine(tensor.Options{Device: where, Threads: spec.Threads})
	if err != nil {
		return nil, err
	}
	n.closers = append(n.closers, engine.Close)
	return engine, nil
}

// device is the spec's cpu or cuda:N.
func device(text string) (tensor.Device, error) {
	if text == "cpu" {
		return tensor.CPU, nil
	}
	number, ok := strings.CutPrefix(text, "cuda:")
	n, err := strconv.Atoi(number)
	if !ok || err != nil || n < 0 {
		return tensor.CPU, fmt.Errorf("%w: compute.device %q: want cpu or cuda:N", errUsage, text)
	}
	return tensor.CUDA(n), nil
}

// close closes everything in the reverse order of opening.
func (n *node) close() error {
	var err error
	for i := len(n.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, n.closers[i]())
	}
	n.closers = nil
	return err
}

// holder names this process in leases.
func holder() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown-host"
	}
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}
