package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
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

// node is a session with what a process shows: its display, its log, its tensor engine. Verbs that only read use it too.
type node struct {
	*runs.Session
	display  *progress.Display
	patience time.Duration // see env.patience
	closers  []func() error
}

// open connects to the servers, or starts the embedded ones in the folder.
func (e *env) open(ctx context.Context, servers schemas.ServersSpec, limits schemas.StreamsSpec, name string) (*node, error) {
	return e.connect(ctx, runs.Options{Servers: servers, Limits: limits, Listen: e.listen, Name: name}, runs.Open)
}

// attach connects for reading: to the servers, to the process that works in the folder, or to the folder itself.
func (e *env) attach(ctx context.Context, servers schemas.ServersSpec) (*node, error) {
	if err := runs.Any(e.dir, servers); err != nil { // before the folder is made for the log
		return nil, err
	}
	return e.connect(ctx, runs.Options{Servers: servers, Name: "ldalign-reader"}, runs.Attach)
}

func (e *env) connect(
	ctx context.Context, o runs.Options, open func(context.Context, runs.Options) (*runs.Session, error),
) (_ *node, err error) {
	n := &node{patience: cmp.Or(e.patience, signPatience)}
	n.display = progress.New(e.stderr, progress.Options{JSON: e.json})
	n.closers = append(n.closers, n.display.Close)
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	if o.CacheBytes, err = e.cacheBytes(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(e.dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the data folder: %w (choose another by --dir)", err)
	}
	o.Dir = e.dir
	if o.Log, err = e.openLog(n); err != nil {
		return nil, err
	}
	if n.Session, err = open(ctx, o); err != nil {
		return nil, err
	}
	n.closers = append(n.closers, n.Session.Close)
	return n, nil
}

// cacheBytes is --cache in bytes; 0 for no bound.
func (e *env) cacheBytes() (int64, error) {
	if e.cache == "" {
		return 0, nil
	}
	bytes, err := schemas.ParseSize(e.cache)
	if err != nil {
		return 0, fmt.Errorf("%w: --cache: %w", errUsage, err)
	}
	return bytes, nil
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
