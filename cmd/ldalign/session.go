package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/ops/logfile"
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

// AfterApply refuses URLs with credentials: other users of the machine can read a command line, and a URL would be stored with
// the run.
func (f serverFlags) AfterApply() error {
	for _, flag := range []struct{ name, value, settings string }{
		{
			"--nats (or LDALIGN_NATS)", f.NATS,
			"LDALIGN_NATS_USER and LDALIGN_NATS_PASSWORD_FILE, LDALIGN_NATS_TOKEN_FILE or LDALIGN_NATS_CREDS",
		},
		{"--s3 (or LDALIGN_S3)", f.S3, "LDALIGN_S3_ACCESS_KEY and LDALIGN_S3_SECRET_KEY, or files: LDALIGN_S3_SECRET_KEY_FILE"},
	} {
		if schemas.Redact(flag.value) != flag.value {
			return fmt.Errorf("%s contains credentials: remove them and set %s (docs/operations.md)", flag.name, flag.settings)
		}
	}
	return nil
}

// over returns s with the values of the flags in place of its own, where flags are given.
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

// servers returns the servers that the flags name.
func (f serverFlags) servers() schemas.ServersSpec { return f.over(schemas.ServersSpec{}) }

// attached calls f with a session for reading: over the servers, over the process that works in the folder, or over the folder.
func (e *env) attached(ctx context.Context, servers schemas.ServersSpec, f func(*runs.Session) error) error {
	if err := runs.Any(e.dir, servers); err != nil { // before opening the log creates the folder
		return err
	}
	return e.session(ctx, runs.Options{Servers: servers, Name: "ldalign-reader"}, runs.Attach, f)
}

// opened calls f with a session for working on runs: over the servers, or over embedded ones in the folder.
func (e *env) opened(ctx context.Context, o runs.Options, f func(*runs.Session) error) error {
	o.Listen, o.Insecure = e.listen, e.insecure
	return e.session(ctx, o, runs.Open, f)
}

// session opens a session and its log, calls f, and closes both.
func (e *env) session(
	ctx context.Context, o runs.Options, open func(context.Context, runs.Options) (*runs.Session, error),
	f func(*runs.Session) error,
) (err error) {
	if o.CacheBytes, err = e.cacheBytes(); err != nil {
		return err
	}
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return fmt.Errorf("cannot create the data folder: %w (choose another with --dir)", err)
	}
	file, err := logfile.Open(filepath.Join(e.dir, "ldalign.log"), logfile.Limits{})
	if err != nil {
		return fmt.Errorf("cannot open the log: %w (choose another folder with --dir)", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	o.Dir, o.Version, o.Log = e.dir, buildVersion(), e.logger(file)
	s, err := open(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return f(s)
}

// redacted is a writer of log lines in which no URL has credentials.
type redacted struct{ io.Writer }

func (r redacted) Write(line []byte) (int, error) {
	if _, err := io.WriteString(r.Writer, schemas.Redact(string(line))); err != nil {
		return 0, err
	}
	return len(line), nil
}

// cacheBytes returns --cache in bytes; 0 for no limit.
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

// logger logs everything to DIR/ldalign.log, and warnings (with --verbose, everything) to the screen too.
func (e *env) logger(file io.Writer) zerolog.Logger {
	var screen io.Writer = redacted{e.display.Log()}
	if !e.json {
		screen = zerolog.ConsoleWriter{Out: screen, TimeFormat: time.TimeOnly, NoColor: true}
	}
	level := zerolog.WarnLevel
	if e.verbose {
		level = zerolog.InfoLevel
	}
	shown := &zerolog.FilteredLevelWriter{Writer: zerolog.LevelWriterAdapter{Writer: screen}, Level: level}
	return zerolog.New(zerolog.MultiLevelWriter(redacted{file}, shown)).With().Timestamp().Logger()
}

// player plays runs. Package play implements it.
type player interface {
	Run(ctx context.Context, spec schemas.Spec) error
	RunAll(ctx context.Context, specs []schemas.Spec, parallel int, ended func(run string)) error
	Guide(ctx context.Context, spec schemas.Spec) error
	Trainer(ctx context.Context, spec schemas.Spec, hints string) error
	Busy() time.Duration
}
