package checkpoints

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// ErrManifest means that bytes are not a manifest that this build can read, or that a draft would make such a manifest.
var ErrManifest = errors.New("checkpoints: bad manifest")

// Schema is the manifest version that this build writes, and the newest that it reads.
const Schema = 1

// maxManifest is the greatest size of a manifest in bytes. A manifest is created in one piece and read into memory.
const maxManifest = 4 << 20

// Kind is what a checkpoint is for.
type Kind string

// The kinds. A Policy or a Guide is a result and is announced to the other stages. A State is a point from which a trainer
// resumes; only the trainer reads it.
const (
	Policy Kind = "policy"
	Guide  Kind = "guide"
	State  Kind = "state"
)

// WeightsFile is the file of a policy that holds its weights.
const WeightsFile = "model.safetensors"

// Cursor is the trainer's position: how far it has read the log, and where it is in the shuffled pairs.
type Cursor struct {
	Stream string `json:"stream"`
	// Sequence is the greatest stream sequence of the messages that were read as the iteration's pairs.
	Sequence  uint64 `json:"sequence"`
	Iteration uint32 `json:"iteration"`
	// Open means that pairs were still arriving when the state was taken, so messages after Sequence also belong to the
	// iteration.
	Open bool `json:"open,omitempty"`
	// Phase is guide or policy.
	Phase string `json:"phase"`
	Epoch int    `json:"epoch"`
	// Position counts the pairs of the epoch's shuffle that are done.
	Position int `json:"position"`
	// Step counts optimizer steps in this phase of the iteration.
	Step int `json:"step"`
	// Pending are the ids of the next step's pairs, in order. It is empty at the end of a phase, and when the pairs have not
	// arrived yet. A trainer that resumes must build the same batch from the log.
	Pending []string `json:"pending,omitempty"`
}

// File is one file of a checkpoint: a blob under a name.
type File struct {
	// Name is the file's path in the exported folder, e.g. model.safetensors or guide/config.json.
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Metric is one small number to show next to a checkpoint. It must not be a measurement of time: see the package comment.
type Metric struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
}

// Manifest describes a checkpoint and lists its files.
type Manifest struct {
	Schema    int    `json:"schema"`
	Run       string `json:"run"`
	Kind      Kind   `json:"kind"`
	Iteration uint32 `json:"iteration"`
	Step      uint64 `json:"step"`
	// Parent is the digest of the policy or guide manifest that this one was trained from; empty for the first.
	Parent     string `json:"parent,omitempty"`
	SpecDigest string `json:"spec_digest,omitempty"`
	// Files, sorted by name.
	Files   []File   `json:"files"`
	Cursor  *Cursor  `json:"cursor,omitempty"`
	Metrics []Metric `json:"metrics,omitempty"`
	// Optional is an object for what later builds add and earlier ones may ignore. This build writes none. What a reader must not
	// ignore needs a new Schema.
	Optional json.RawMessage `json:"optional,omitempty"`

	// Number orders a run's manifests, from 1. It is part of the key and not of the bytes, because a policy's digest must not
	// depend on how many states were written before it (each Ctrl-C adds one).
	Number uint64 `json:"-"`
	// Digest is the sha256 of the manifest's bytes. Everything else names the checkpoint by it.
	Digest string `json:"-"`
	Key    string `json:"-"`
}

// File finds a file by name.
func (m Manifest) File(name string) (File, bool) {
	i, ok := slices.BinarySearchFunc(m.Files, name, func(f File, name string) int { return strings.Compare(f.Name, name) })
	if !ok {
		return File{}, false
	}
	return m.Files[i], true
}

// CanaryMetric is the log-probability that a policy gives a fixed text (models.Model.Canary). A worker that loads the policy
// computes it again and compares.
const CanaryMetric = "canary"

// Metric finds a metric by name.
func (m Manifest) Metric(name string) (float64, bool) {
	for _, x := range m.Metrics {
		if x.Name == name {
			return x.Value, true
		}
	}
	return 0, false
}

// Event returns the event that announces the checkpoint.
func Event(m Manifest) *events.Checkpoint {
	return &events.Checkpoint{
		Schema:    events.Version,
		Run:       m.Run,
		Number:    m.Number,
		Kind:      string(m.Kind),
		Iteration: m.Iteration,
		Step:      m.Step,
		Digest:    m.Digest,
		Key:       m.Key,
	}
}

// encode returns the manifest's bytes: indented JSON in a fixed order, with a newline at the end.
func (m Manifest) encode() ([]byte, error) {
	if err := m.validate(); err != nil {
		return nil, err
	}
	if m.Files == nil {
		m.Files = []File{}
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	data = append(data, '\n')
	if len(data) > maxManifest {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed: move large data to a file", ErrManifest, len(data),
			maxManifest)
	}
	return data, nil
}

// ParseManifest parses the manifest stored under key. It is strict: a manifest has exactly one encoding, and bytes that this
// build would not write itself (an unknown or repeated field, a value out of range) are ErrManifest. A reader that ignored an
// unknown field could resume from the wrong place, so a newer layout gets a newer schema number. Only the members of Optional
// may be unknown.
func ParseManifest(key string, data []byte) (Manifest, error) {
	run, number, ok := parseManifestKey(key)
	if !ok {
		return Manifest{}, fmt.Errorf("%w: key %q is not runs/<run>/checkpoints/<number>.json", ErrManifest, key)
	}
	bad := func(format string, args ...any) (Manifest, error) {
		return Manifest{}, fmt.Errorf("%w: %s: %w", ErrManifest, key, fmt.Errorf(format, args...))
	}
	if len(data) > maxManifest {
		return bad("more than %d bytes", maxManifest)
	}
	var version struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return bad("not JSON (%w): restore it from a copy of the store", err)
	}
	if version.Schema != Schema {
		return bad("schema %d, this build reads %d: use the build that wrote it, or a newer one", version.Schema, Schema)
	}
	var m Manifest
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&m); err != nil {
		return bad("%w", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return bad("data follows the manifest: restore it from a copy")
	}
	if m.Run != run {
		return bad("belongs to run %q", m.Run)
	}
	m.Number, m.Key = number, key
	canonical, err := m.encode()
	if err != nil {
		return bad("%w", err)
	}
	if !bytes.Equal(canonical, data) {
		return bad("was changed by hand or cut off (these are not the bytes that were written): restore it from a copy")
	}
	sum := sha256.Sum256(data)
	m.Digest = hex.EncodeToString(sum[:])
	return m, nil
}

var (
	validSHA256 = regexp.MustCompile(`^[0-9a-f]{64}$`)
	validName   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$`)
)

func (m Manifest) validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %w", ErrManifest, fmt.Errorf(format, args...))
	}
	switch {
	case m.Schema != Schema:
		return bad("schema %d, this build writes %d", m.Schema, Schema)
	case !schemas.ValidRun(m.Run):
		return bad("run %q: lower-case letters, digits, - and _, at most 63", m.Run)
	case m.Kind != Policy && m.Kind != Guide && m.Kind != State:
		return bad("kind %q is none of policy, guide, state", m.Kind)
	case m.Parent != "" && !validSHA256.MatchString(m.Parent):
		return bad("parent %q is not a sha256", m.Parent)
	case m.SpecDigest != "" && !validName.MatchString(m.SpecDigest):
		return bad("spec digest %q", m.SpecDigest)
	}
	if len(m.Optional) > 0 && m.Optional[0] != '{' {
		return bad("optional is not an object")
	}
	if c := m.Cursor; c != nil {
		if c.Phase != "guide" && c.Phase != "policy" {
			return bad("cursor: phase %q is neither guide nor policy", c.Phase)
		}
		if c.Epoch < 0 || c.Position < 0 || c.Step < 0 {
			return bad("cursor: epoch %d, position %d, step %d: none may be negative", c.Epoch, c.Position, c.Step)
		}
	}
	for _, x := range m.Metrics {
		if !validName.MatchString(x.Name) {
			return bad("metric named %q", x.Name)
		}
		if math.IsNaN(x.Value) || math.IsInf(x.Value, 0) {
			return bad("metric %s is %v, which JSON cannot represent: leave it out", x.Name, x.Value)
		}
	}
	return validateFiles(m.Files)
}

func validateFiles(files []File) error {
	folders := map[string]bool{}
	for i, f := range files {
		if err := checkKey(f.Name); err != nil {
			return fmt.Errorf("%w: file name %q: letters, digits, and . _ - in segments that start with a letter or digit",
				ErrManifest, f.Name)
		}
		if i > 0 && files[i-1].Name >= f.Name {
			return fmt.Errorf("%w: file %s follows %s: names must be sorted and different", ErrManifest, f.Name, files[i-1].Name)
		}
		if f.Bytes < 0 {
			return fmt.Errorf("%w: file %s has %d bytes", ErrManifest, f.Name, f.Bytes)
		}
		if !validSHA256.MatchString(f.SHA256) {
			return fmt.Errorf("%w: file %s: sha256 %q is not 64 hexadecimal digits", ErrManifest, f.Name, f.SHA256)
		}
		for dir := path.Dir(f.Name); dir != "."; dir = path.Dir(dir) {
			folders[dir] = true
		}
	}
	for _, f := range files {
		if folders[f.Name] {
			return fmt.Errorf("%w: file %s is also the folder of another file", ErrManifest, f.Name)
		}
	}
	return nil
}

// Keys.

func blobKey(run, sha256 string) string   { return "runs/" + run + "/blobs/" + sha256 }
func detailKey(run, sha256 string) string { return "runs/" + run + "/details/" + sha256 }
func manifestPrefix(run string) string    { return "runs/" + run + "/checkpoints/" }

// manifestKey pads the number so that a listing by name is in order. Readers compare the numbers.
func manifestKey(run string, number uint64) string {
	return fmt.Sprintf("%s%08d.json", manifestPrefix(run), number)
}

func parseManifestKey(key string) (run string, number uint64, ok bool) {
	parts := strings.Split(key, "/")
	if len(parts) != 4 || parts[0] != "runs" || parts[2] != "checkpoints" || !schemas.ValidRun(parts[1]) {
		return "", 0, false
	}
	digits, ok := strings.CutSuffix(parts[3], ".json")
	if !ok {
		return "", 0, false
	}
	number, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || number == 0 || manifestKey(parts[1], number) != key {
		return "", 0, false
	}
	return parts[1], number, true
}
