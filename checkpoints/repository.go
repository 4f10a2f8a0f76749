package checkpoints

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

var (
	// ErrNoCheckpoint means that a run has no manifest of the requested kind.
	ErrNoCheckpoint = errors.New("checkpoints: no such checkpoint")
	// ErrOtherStore means that a store does not have the checkpoints of a declared run.
	ErrOtherStore = errors.New("checkpoints: not the run's store")
	// ErrConflict means that another process has written the run's next manifest: this one no longer owns the run.
	ErrConflict = errors.New("checkpoints: another writer owns the run")
	// ErrCorrupt means that a blob is missing, or that its bytes differ from the manifest's sha256.
	ErrCorrupt = errors.New("checkpoints: corrupt blob")
)

// Repository reads and writes the checkpoints of runs in a Store. All methods may be called from many goroutines at
// once; those that write (Claim, Commit, Prune) take turns.
type Repository struct {
	store Store
	cache string // folder for local copies
	log   zerolog.Logger

	cacheBytes int64 // see LimitCache

	read atomic.Uint64 // see BytesRead

	scratch scratch // below cache, for stores that are not folders
	sweep   sync.Once
	local   locals

	writing sync.Mutex                             // held by Claim, Commit, Prune
	last    map[string]uint64                      // by run: number of the newest manifest that this writer builds upon
	guards  map[string]func(context.Context) error // by run: see Guard

	mu        sync.Mutex
	manifests map[string][]byte // by key: manifests never change once created
	pruned    map[string]bool   // by key: superseded states that Prune has finished with
	damaged   map[string]bool   // by key: blobs that were found not to have the bytes of their name
}

// BytesRead returns how many bytes of checkpoints' files were read so far. It grows while a file is downloaded or verified.
func (r *Repository) BytesRead() uint64 { return r.read.Load() }

// New returns a Repository over a store. If the store does not keep local files, as S3, the Repository keeps local copies and
// temporary files in cacheDir. It creates the folder when it needs it. Processes may share the folder, and it may be deleted
// at any time.
func New(store Store, cacheDir string, log zerolog.Logger) *Repository {
	return &Repository{
		store:     store,
		cache:     cacheDir,
		log:       log,
		scratch:   scratch{root: filepath.Join(cacheDir, temporary)},
		local:     locals{files: map[string]*localFile{}},
		last:      map[string]uint64{},
		guards:    map[string]func(context.Context) error{},
		manifests: map[string][]byte{},
		pruned:    map[string]bool{},
		damaged:   map[string]bool{},
	}
}

// Runs lists the runs that have a manifest, sorted.
func (r *Repository) Runs(ctx context.Context) ([]string, error) {
	keys, err := r.store.List(ctx, "runs/")
	if err != nil {
		return nil, err
	}
	var runs []string
	for _, key := range keys {
		if run, _, ok := parseManifestKey(key); ok {
			runs = append(runs, run)
		}
	}
	slices.Sort(runs)
	return slices.Compact(runs), nil
}

// List returns all manifests of a run, by number. A run without manifests is no error.
func (r *Repository) List(ctx context.Context, run string) ([]Manifest, error) {
	keys, err := r.keys(ctx, run)
	if err != nil {
		return nil, err
	}
	manifests := make([]Manifest, len(keys))
	for i, key := range keys {
		if manifests[i], err = r.manifest(ctx, key); err != nil {
			return nil, err
		}
	}
	return manifests, nil
}

// Holds checks that the store is the one to which the trainer of a declared run writes. specDigest is the digest of the spec with
// which the run was declared. A trainer commits the first policy before it declares the run, so the run's store has a manifest
// with that digest. If this one has none, the error wraps ErrOtherStore.
func (r *Repository) Holds(ctx context.Context, run, specDigest string) error {
	keys, err := r.keys(ctx, run)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return fmt.Errorf("%w: run %s is declared, but %s has no checkpoints below %s", ErrOtherStore, run, r.store,
			manifestPrefix(run))
	}
	m, err := r.manifest(ctx, keys[0])
	if err == nil && m.SpecDigest != specDigest {
		err = fmt.Errorf("%w: %s in %s was made with the spec %.12s, run %s was declared with %.12s", ErrOtherStore, m.Key, r.store,
			m.SpecDigest, run, specDigest)
	}
	return err
}

// Latest returns the newest manifest of a run that is of one of the kinds, or of any kind if none is given. The error wraps
// ErrNoCheckpoint if there is none.
func (r *Repository) Latest(ctx context.Context, run string, kinds ...Kind) (Manifest, error) {
	states := len(kinds) == 0 || slices.Contains(kinds, State)
	m, err := r.newest(ctx, run, states, func(m Manifest) bool { return len(kinds) == 0 || slices.Contains(kinds, m.Kind) })
	if errors.Is(err, ErrNoCheckpoint) {
		return m, fmt.Errorf("%w: run %s, kind %s", ErrNoCheckpoint, run, describe(kinds))
	}
	return m, err
}

// ByDigest returns the manifest with a digest. The error wraps ErrNoCheckpoint if the run has none.
func (r *Repository) ByDigest(ctx context.Context, run, digest string) (Manifest, error) {
	m, err := r.newest(ctx, run, true, func(m Manifest) bool { return m.Digest == digest })
	if errors.Is(err, ErrNoCheckpoint) {
		return m, fmt.Errorf("%w: run %s, digest %s", ErrNoCheckpoint, run, digest)
	}
	return m, err
}

// Policy returns the newest policy of an iteration. The error wraps ErrNoCheckpoint if there is none.
func (r *Repository) Policy(ctx context.Context, run string, iteration uint32) (Manifest, error) {
	m, err := r.newest(ctx, run, false, func(m Manifest) bool { return m.Kind == Policy && m.Iteration == iteration })
	if errors.Is(err, ErrNoCheckpoint) {
		return m, fmt.Errorf("%w: run %s, policy of iteration %d", ErrNoCheckpoint, run, iteration)
	}
	return m, err
}

// PolicyOf returns the policy that a reference names. The error wraps ErrNoCheckpoint if there is none.
func (r *Repository) PolicyOf(ctx context.Context, ref schemas.PolicyRef) (Manifest, error) {
	if ref.Newest() {
		return r.Latest(ctx, ref.Run, Policy)
	}
	return r.Policy(ctx, ref.Run, uint32(ref.Iteration))
}

// Reconcile emits the events of a run's policies and guides in order, except those whose digest announced reports as known; a
// nil announced knows none. An event's id is the manifest's digest, so emitting an event twice does no harm.
func (r *Repository) Reconcile(ctx context.Context, run string, announced func(digest string) bool,
	emit func(context.Context, *events.Checkpoint) error,
) error {
	manifests, err := r.List(ctx, run)
	if err != nil {
		return err
	}
	for _, m := range manifests {
		if m.Kind == State || announced != nil && announced(m.Digest) {
			continue
		}
		if err := emit(ctx, Event(m)); err != nil {
			return fmt.Errorf("checkpoints: announce %s: %w", m.Key, err)
		}
		r.log.Debug().Str("run", run).Str("checkpoint", m.Digest).Uint32("iteration", m.Iteration).Msg("checkpoint announced")
	}
	return nil
}

// newest returns the newest manifest that matches, and reads no older one. Without states it skips states that are pruned.
func (r *Repository) newest(ctx context.Context, run string, states bool, match func(Manifest) bool) (Manifest, error) {
	keys, err := r.keys(ctx, run)
	if err != nil {
		return Manifest{}, err
	}
	for _, key := range slices.Backward(keys) {
		if !states && r.isPruned(key) {
			continue
		}
		m, err := r.manifest(ctx, key)
		if err != nil || match(m) {
			return m, err
		}
	}
	return Manifest{}, ErrNoCheckpoint
}

// keys returns the keys of a run's manifests, by number. It ignores files whose name is not that of a manifest.
func (r *Repository) keys(ctx context.Context, run string) ([]string, error) {
	if err := checkRun(run); err != nil {
		return nil, err
	}
	keys, err := r.store.List(ctx, manifestPrefix(run))
	if err != nil {
		return nil, err
	}
	keys = slices.DeleteFunc(keys, func(key string) bool {
		_, _, ok := parseManifestKey(key)
		return !ok
	})
	slices.SortFunc(keys, func(a, b string) int { return cmp.Compare(numberOf(a), numberOf(b)) })
	return keys, nil
}

func numberOf(key string) uint64 {
	_, number, _ := parseManifestKey(key)
	return number
}

func (r *Repository) manifest(ctx context.Context, key string) (Manifest, error) {
	r.mu.Lock()
	data, ok := r.manifests[key]
	r.mu.Unlock()
	if !ok {
		body, err := r.store.Get(ctx, key)
		if err != nil {
			return Manifest{}, err
		}
		defer body.Close()
		if data, err = io.ReadAll(io.LimitReader(body, maxManifest+1)); err != nil {
			return Manifest{}, fmt.Errorf("checkpoints: read %s: %w", key, err)
		}
	}
	m, err := ParseManifest(key, data)
	if err == nil && !ok {
		r.mu.Lock()
		r.manifests[key] = data
		r.mu.Unlock()
	}
	return m, err
}

func checkRun(run string) error {
	if !schemas.ValidRun(run) {
		return fmt.Errorf("%w: run %q: lower-case letters, digits, - and _, at most 63", ErrKey, run)
	}
	return nil
}

func describe(kinds []Kind) string {
	if len(kinds) == 0 {
		return "any"
	}
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = string(k)
	}
	return strings.Join(names, " or ")
}
