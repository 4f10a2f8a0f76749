package checkpoints

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// ErrExpired means that retention has removed a policy's weights from the store.
var ErrExpired = errors.New("checkpoints: removed by retention")

// maxReason is the greatest size in bytes of a note that says why weights were removed.
const maxReason = 4 << 10

// expiredKey is the key of the note that says why the weights of a manifest were removed.
func expiredKey(run, digest string) string { return "runs/" + run + "/expired/" + digest }

// expires reports whether retention removes a file of a policy. It removes weights only: the other files are small, and audits
// and reports read them.
func expires(f File) bool { return strings.HasSuffix(f.Name, ".safetensors") }

// Expired returns why a checkpoint's weights were removed; ok is false if they were not.
func (r *Repository) Expired(ctx context.Context, m Manifest) (reason string, ok bool, err error) {
	body, err := r.store.Get(ctx, expiredKey(m.Run, m.Digest))
	if errors.Is(err, ErrNotFound) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, maxReason))
	if err != nil {
		return "", false, fmt.Errorf("checkpoints: read %s: %w", expiredKey(m.Run, m.Digest), err)
	}
	return strings.TrimSpace(string(data)), true, nil
}

// Whole returns an error that wraps ErrExpired if the checkpoint's weights were removed, and nil otherwise.
func (r *Repository) Whole(ctx context.Context, m Manifest) error {
	reason, expired, err := r.Expired(ctx, m)
	if err == nil && expired {
		err = fmt.Errorf("%w: the weights of %s %d of run %s (%.12s): %s", ErrExpired, m.Kind, m.Iteration, m.Run, m.Digest, reason)
	}
	return err
}

// explained turns the error of a missing blob into ErrExpired when retention has removed it.
func (r *Repository) explained(ctx context.Context, m Manifest, err error) error {
	if !errors.Is(err, ErrCorrupt) {
		return err
	}
	if expired := r.Whole(ctx, m); errors.Is(expired, ErrExpired) {
		return expired
	}
	return err
}

// Expiry counts the files of policies that Expire has removed, or would remove, by iteration.
type Expiry struct {
	Policies []uint32 `json:"policies"`
	Files    int      `json:"files"`
	Bytes    int64    `json:"bytes"`
}

// Expire removes the weights of policies, except blobs that another checkpoint of the run names. It first writes a note with
// the reason, so that missing weights are not taken for damage. It can be repeated. With dry it only counts. The caller must
// hold the run's lease, as for Prune.
func (r *Repository) Expire(
	ctx context.Context, run string, policies []Manifest, reason string, dry bool,
) (out Expiry, err error) {
	out.Policies = []uint32{}
	r.writing.Lock()
	defer r.writing.Unlock()
	failed := func(err error) error { return fmt.Errorf("checkpoints: retention of run %s: %w", run, err) }
	manifests, err := r.List(ctx, run)
	if err != nil {
		return out, err
	}
	live, counted := map[string]bool{}, map[string]bool{}
	for _, m := range manifests {
		going := slices.ContainsFunc(policies, func(p Manifest) bool { return p.Digest == m.Digest })
		for _, f := range m.Files {
			if !going || !expires(f) {
				live[blobKey(run, f.SHA256)] = true
			}
		}
	}
	for _, m := range policies {
		if m.Kind != Policy || m.Run != run {
			return out, failed(fmt.Errorf("%s is not a policy of this run", m.Key))
		}
		going := func(f File) bool { return expires(f) && !live[blobKey(run, f.SHA256)] }
		if !dry && slices.ContainsFunc(m.Files, going) {
			if err := r.store.Put(ctx, expiredKey(run, m.Digest), strings.NewReader(reason), int64(len(reason))); err != nil {
				return out, failed(err)
			}
		}
		had := out.Files
		for _, f := range m.Files {
			key := blobKey(run, f.SHA256)
			if !going(f) || counted[key] {
				continue
			}
			_, err := r.store.Stat(ctx, key)
			if errors.Is(err, ErrNotFound) {
				continue
			}
			if err == nil && !dry {
				err = r.store.Delete(ctx, key)
			}
			if err != nil {
				return out, failed(err)
			}
			counted[key] = true // policies may share it
			out.Files++
			out.Bytes += f.Bytes
		}
		if out.Files > had {
			out.Policies = append(out.Policies, m.Iteration)
		}
	}
	if out.Files > 0 && !dry {
		r.log.Info().Str("run", run).Int("files", out.Files).Int64("bytes", out.Bytes).Msg("weights removed by retention")
	}
	return out, nil
}
