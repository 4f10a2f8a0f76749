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

	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

var (
	// ErrNoCheckpoint says that a run has no manifest of the kind asked for.
	ErrNoCheckpoint = errors.New("checkpoints: no such checkpoint")
	// ErrConflict says that another process has written the run's next manifest: this one no longer owns the run.
	ErrConflict = errors.New("checkpoints: another writer owns the run")
	// ErrCorrupt says that a blob is missing or that its bytes are not those that its manifest names.
	ErrCorrupt = errors.New("checkpoints: corrupt blob")
)

// Repository reads and writes the checkpoints of runs in a Store. All methods may be called from many goroutines at
// once; those that write (Claim, Commit, Prune) take turns.
type Repository struct {
	store Store
	cache string // folder for local copies
	log   zerolog.Logger

	cacheBytes int64 // see LimitCache

	scratch scratch // below cache, for stores that are not folders
	sweep   sync.Once
	local   locals

	writing sync.Mutex        // held by Claim, Commit, Prune
	last    map[string]uint64 // by run: number of the newest manifest that this writer builds upon

	mu        sync.Mutex
	manifests map[string][]byte // by key: manifests never change once created
	pruned    map[string]bool   // by key: superseded states of which Prune has nothing left to delete
	damaged   map[string]bool   // by key: blobs that were found not to have the bytes of their name
}

// New makes a Repository over a store. Files that must be local and are not (Local on S3) are kept in cacheDir, which
// may be shared by processes and is made when it is needed. It may be deleted at any time.
func New(store Store, cacheDir string, log zerolog.Logger) *Repository {
	return &Repository{
		store:     store,
		cache:     cacheDir,
		log:       log,
		scratch:   scratch{root: filepath.Join(cacheDir, temporary)},
		local:     locals{files: map[string]*localFile{}},
		last:      map[string]uint64{},
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

// List gives all manifests of a run by number; none is no error.
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

// Latest gives the newest manifest of a run that is of one of the kinds, or of any kind if none is named.
// ErrNoCheckpoint if there is none.
func (r *Repository) Latest(ctx context.Context, run string, kinds ...Kind) (Manifest, error) {
	states := len(kinds) == 0 || slices.Contains(kinds, State)
	m, err := r.newest(ctx, run, states, func(m Manifest) bool { return len(kinds) == 0 || slices.Contains(kinds, m.Kind) })
	if errors.Is(err, ErrNoCheckpoint) {
		return m, fmt.Errorf("%w: run %s, kind %s", ErrNoCheckpoint, run, describe(kinds))
	}
	return m, err
}

// ByDigest gives the manifest with a digest. ErrNoCheckpoint if the run has none.
func (r *Repository) ByDigest(ctx context.Context, run, digest string) (Manifest, error) {
	m, err := r.newest(ctx, run, true, func(m Manifest) bool { return m.Digest == digest })
	if errors.Is(err, ErrNoCheckpoint) {
		return m, fmt.Errorf("%w: run %s, digest %s", ErrNoCheckpoint, run, digest)
	}
	return m, err
}

// Policy gives the newest policy of an iteration. ErrNoCheckpoint if there is none.
func (r *Repository) Policy(ctx context.Context, run string, iteration uint32) (Manifest, error) {
	m, err := r.newest(ctx, run, false, func(m Manifest) bool { return m.Kind == Policy && m.Iteration == iteration })
	if errors.Is(err, ErrNoCheckpoint) {
		return m, fmt.Errorf("%w: run %s, policy of iteration %d", ErrNoCheckpoint, run, iteration)
	}
	return m, err
}

// PolicyOf gives the policy that a reference names. ErrNoCheckpoint if there is none.
func (r *Repository) PolicyOf(ctx context.Context, ref schemas.PolicyRef) (Manifest, error) {
	if ref.Newest() {
		return r.Latest(ctx, ref.Run, Policy)
	}
	return r.Policy(ctx, ref.Run, uint32(ref.Iteration))
}

// Reconcile emits the event of every policy and guide of a run in order, except those that announced knows by digest
// (nil: none is known). An event's id is the manifest's digest, so to emit one twice does no harm.
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

// newest gives the newest manifest that matches, reading no older one; without states none of a state that is pruned.
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

// keys lists a run's manifests by number. Files that are no manifests by their name are passed over.
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
