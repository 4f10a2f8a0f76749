package hub

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// Options say where to look for models. FromEnv reads them from the environment.
type Options struct {
	// Endpoint is the Hub's address, without a slash at the end.
	Endpoint string
	// Token is sent to the endpoint only. Empty for none.
	Token string
	// Cache is the folder that is shared with huggingface_hub.
	Cache string
	// Offline forbids the network.
	Offline bool
	// Progress, if not nil, is called repeatedly during downloads, and once at the end of each file.
	Progress func(Progress)
}

// FromEnv reads the options as huggingface_hub does: HF_ENDPOINT, HF_TOKEN (or the file HF_TOKEN_PATH, by default
// HF_HOME/token), HF_HUB_CACHE (by default HF_HOME/hub), HF_HOME (by default XDG_CACHE_HOME/huggingface, or
// ~/.cache/huggingface) and HF_HUB_OFFLINE. Pass os.Getenv.
func FromEnv(getenv func(string) string) (Options, error) {
	or := func(key, otherwise string) string {
		if value := getenv(key); value != "" {
			return value
		}
		return otherwise
	}
	home := getenv("HF_HOME")
	if home == "" {
		caches := getenv("XDG_CACHE_HOME")
		if caches == "" {
			if getenv("HOME") == "" {
				return Options{}, errors.New("hub: no folder for the cache: set HF_HOME")
			}
			caches = filepath.Join(getenv("HOME"), ".cache")
		}
		home = filepath.Join(caches, "huggingface")
	}
	o := Options{
		Endpoint: strings.TrimRight(or("HF_ENDPOINT", "https://huggingface.co"), "/"),
		Cache:    or("HF_HUB_CACHE", filepath.Join(home, "hub")),
		Token:    strings.TrimSpace(getenv("HF_TOKEN")),
	}
	switch strings.ToUpper(getenv("HF_HUB_OFFLINE")) {
	case "1", "ON", "YES", "TRUE":
		o.Offline = true
	}
	if o.Token == "" {
		text, err := os.ReadFile(or("HF_TOKEN_PATH", filepath.Join(home, "token")))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Options{}, fmt.Errorf("hub: token: %w", err)
		}
		o.Token = strings.TrimSpace(string(text))
	}
	return o, nil
}

// Resolve returns the folder of a model by its name (see the package comment). An existing folder comes first and needs no
// options. For a repository, Resolve fetches the files that the cache lacks. If it fails or ctx ends, it keeps what it has
// fetched, and the next call continues from there. Several processes may call it at once. Errors wrap those of the package,
// fs.ErrNotExist for a path that does not exist, syscall.ENOSPC for a full disk, or ctx's.
func Resolve(ctx context.Context, name string, o Options) (Model, error) {
	info, err := os.Stat(name)
	switch {
	case err == nil && info.IsDir():
		return Model{Dir: name}, nil
	case err == nil:
		return Model{}, fmt.Errorf("hub: %s is a file; name the folder of a model", name)
	case isPath(name):
		return Model{}, fmt.Errorf("hub: %w", err)
	}
	id, rev, err := ParseName(name)
	if err != nil {
		return Model{}, err
	}
	r := repository{id: id, cache: cache{filepath.Join(o.Cache, "models--"+strings.ReplaceAll(id, "/", "--"))}}
	if o.Offline {
		m, err := r.cached(rev)
		if err != nil {
			return Model{}, fmt.Errorf("%w (HF_HUB_OFFLINE): %s: %w", ErrOffline, name, err)
		}
		return m, nil
	}
	transport, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return Model{}, fmt.Errorf("hub: the default transport is a %T", http.DefaultTransport)
	}
	transport = transport.Clone()
	transport.ResponseHeaderTimeout = stalled
	defer transport.CloseIdleConnections()
	r.client = client{http: &http.Client{Transport: transport}, endpoint: o.Endpoint, token: o.Token}
	r.progress = o.Progress
	m, err := r.fetch(ctx, rev)
	if err != nil {
		return Model{}, fmt.Errorf("%s: %w", name, err)
	}
	return m, nil
}

// isPath reports whether a name can only be a path.
func isPath(name string) bool {
	return name == "" || filepath.IsAbs(name) || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "~") ||
		strings.HasSuffix(name, "/")
}
