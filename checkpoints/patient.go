package checkpoints

import (
	"context"
	"errors"
	"io"
	"time"
)

// The pauses between two tries double from the first to the longest. A client of S3 repeats a request by itself for some seconds
// before it counts as failed.
const (
	firstPause   = 250 * time.Millisecond
	longestPause = 10 * time.Second
)

// maxStuck is how often a reader opens an object again without getting a byte further.
const maxStuck = 5

// Patient returns a Repository over the same store and cache folder whose methods wait while the store is unavailable
// (ErrUnavailable), until their context ends or ended is closed. Then they return the error. told is called with the error of
// each failed try, and with nil when the store answers again.
func (r *Repository) Patient(ended <-chan struct{}, told func(error)) *Repository {
	if _, inStore := r.store.(folder); inStore {
		return r // local files need no network
	}
	waits := New(&patient{Store: r.store, ended: ended, told: told}, r.cache, r.log)
	waits.cacheBytes = r.cacheBytes
	return waits
}

// patient is a Store that waits while the one behind it is unavailable.
type patient struct {
	Store
	ended <-chan struct{}
	told  func(error)
}

// await calls do until it succeeds or fails for another reason than ErrUnavailable.
func (p *patient) await(ctx context.Context, do func() error) error {
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := do()
		if !errors.Is(err, ErrUnavailable) {
			if pause > firstPause {
				p.told(nil)
			}
			return err
		}
		p.told(err)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
			continue
		case <-ctx.Done():
			err = ctx.Err()
		case <-p.ended:
		}
		timer.Stop()
		return err
	}
}

// Put waits only if r can be read again.
func (p *patient) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	seeker, ok := r.(io.Seeker)
	if !ok {
		return p.Store.Put(ctx, key, r, size)
	}
	start, err := seeker.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	return p.await(ctx, func() error {
		if _, err := seeker.Seek(start, io.SeekStart); err != nil {
			return err
		}
		return p.Store.Put(ctx, key, r, size)
	})
}

func (p *patient) Create(ctx context.Context, key string, data []byte) error {
	return p.await(ctx, func() error { return p.Store.Create(ctx, key, data) })
}

func (p *patient) Stat(ctx context.Context, key string) (size int64, err error) {
	err = p.await(ctx, func() (err error) {
		size, err = p.Store.Stat(ctx, key)
		return err
	})
	return size, err
}

func (p *patient) List(ctx context.Context, prefix string) (keys []string, err error) {
	err = p.await(ctx, func() (err error) {
		keys, err = p.Store.List(ctx, prefix)
		return err
	})
	return keys, err
}

func (p *patient) Delete(ctx context.Context, key string) error {
	return p.await(ctx, func() error { return p.Store.Delete(ctx, key) })
}

// Get returns a reader that continues where it was when the connection is cut.
func (p *patient) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	b := &patientBody{open: func(at int64) (body io.ReadCloser, err error) {
		err = p.await(ctx, func() error {
			if body, err = p.Store.Get(ctx, key); err != nil {
				return err
			}
			if _, err = io.CopyN(io.Discard, body, at); err != nil {
				_ = body.Close()
			}
			return err
		})
		return body, err
	}}
	var err error
	b.ReadCloser, err = b.open(0)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// patientBody reads an object, and opens it again when the connection is cut.
type patientBody struct {
	io.ReadCloser
	open  func(at int64) (io.ReadCloser, error)
	at    int64
	stuck int
}

func (b *patientBody) Read(buf []byte) (int, error) {
	for {
		n, err := b.ReadCloser.Read(buf)
		b.at += int64(n)
		if n > 0 {
			b.stuck = 0
		}
		if !errors.Is(err, ErrUnavailable) || b.stuck == maxStuck {
			return n, err
		}
		b.stuck++
		body, err := b.open(b.at)
		if err != nil {
			return n, err
		}
		_ = b.ReadCloser.Close() // the connection is broken
		b.ReadCloser = body
		if n > 0 {
			return n, nil
		}
	}
}
