// Package hubtest is a Hub for tests: a local server for the part of the Hugging Face Hub's protocol that clients need to fetch a
// model. huggingface_hub 2.4 can download from it (see the test of package hub).
package hubtest

import (
	"crypto/sha1" //nolint:gosec // git names its objects by it
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Repository is one model with a single commit.
type Repository struct {
	// Files are the contents by name. Those whose name ends in .safetensors are in large file storage.
	Files map[string][]byte
	// Branches are names of the commit, besides its digest.
	Branches []string
	// Token is the token that a gated repository requires; empty for a public one.
	Token string
}

// Commit returns the digest of the repository's commit, a function of its files.
func (r *Repository) Commit() string {
	sum := sha1.New() //nolint:gosec // git names its objects by it
	for _, name := range r.names() {
		fmt.Fprintf(sum, "%s %s\n", BlobID(r.Files[name]), name)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func (r *Repository) names() []string {
	names := make([]string, 0, len(r.Files))
	for name := range r.Files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// BlobID returns git's name of a file with these bytes.
func BlobID(content []byte) string {
	sum := sha1.New() //nolint:gosec // git names its objects by it
	fmt.Fprintf(sum, "blob %d\x00%s", len(content), content)
	return hex.EncodeToString(sum.Sum(nil))
}

// SHA256 returns the name of a file with these bytes in large file storage.
func SHA256(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

func large(name string) bool { return strings.HasSuffix(name, ".safetensors") }

// Server is a running Hub. Set its faults before use.
type Server struct {
	// URL is the endpoint.
	URL string

	// Cut ends the connection after that many bytes of a file's content, for the first Cuts answers.
	Cut, Cuts int
	// Status is the answer to the first Statuses requests.
	Status, Statuses int
	// NoRange makes the server ignore ranges and send whole files.
	NoRange bool
	// Plain makes the server leave out sizes and digests of a repository's files.
	Plain bool
	// Damaged is the name of a file that is sent with a wrong last byte.
	Damaged string

	mu    sync.Mutex
	repos map[string]*Repository
	log   []string
	hub   *httptest.Server
	cdn   *httptest.Server
}

// New starts a server with repositories by id. The caller must Close it.
func New(repos map[string]*Repository) *Server {
	s := &Server{repos: repos}
	s.hub = httptest.NewServer(http.HandlerFunc(s.serveHub))
	s.cdn = httptest.NewServer(http.HandlerFunc(s.serveCDN))
	s.URL = s.hub.URL
	return s
}

// Close stops the server and waits until its connections have ended.
func (s *Server) Close() {
	s.hub.Close()
	s.cdn.Close()
}

// Requests lists the requests: method, path, and the range if any, with "cdn" in front of those to the second host.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

func (s *Server) note(host string, r *http.Request) {
	line := strings.Join([]string{host, r.Method, r.URL.Path, r.Header.Get("Range")}, " ")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, strings.TrimSpace(line))
}

// counts reports whether a fault should still happen, and counts it down.
func (s *Server) counts(n *int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if *n == 0 {
		return false
	}
	*n--
	return true
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("X-Error-Code", code)
	w.Header().Set("X-Error-Message", message)
	http.Error(w, message, status)
}

func (s *Server) serveHub(w http.ResponseWriter, r *http.Request) {
	s.note("", r)
	if s.counts(&s.Statuses) {
		http.Error(w, "later", s.Status)
		return
	}
	path := strings.TrimPrefix(r.URL.EscapedPath(), "/") // a branch may have an escaped slash
	rest, api := strings.CutPrefix(path, "api/models/")
	parts := strings.SplitN(rest, "/", 4) // org, name, what, and where
	if len(parts) < 3 {
		http.NotFound(w, r)
		return
	}
	repo, ok := s.repos[parts[0]+"/"+parts[1]]
	if !ok { // the Hub does not tell a private repository from none
		refuse(w, http.StatusUnauthorized, "RepoNotFound", "Repository Not Found")
		return
	}
	where := ""
	if len(parts) == 4 {
		where = parts[3]
	}
	revision, file, _ := strings.Cut(where, "/")
	revision, err := url.PathUnescape(revision)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if revision != repo.Commit() && !slices.Contains(repo.Branches, revision) {
		refuse(w, http.StatusNotFound, "RevisionNotFound", "Invalid rev id: "+revision)
		return
	}
	switch what := parts[2]; {
	case api && what == "revision":
		s.serveInfo(w, r, parts[0]+"/"+parts[1], repo)
	case api && what == "tree":
		serveTree(w, repo)
	case !api && what == "resolve":
		s.serveFile(w, r, repo, file)
	default:
		http.NotFound(w, r)
	}
}

// object is a JSON object.
type object = map[string]any

func answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(value); err != nil {
		panic(http.ErrAbortHandler) // the client has gone
	}
}

func (s *Server) serveInfo(w http.ResponseWriter, r *http.Request, id string, repo *Repository) {
	siblings := []object{}
	for _, name := range repo.names() {
		content := repo.Files[name]
		sibling := object{"rfilename": name}
		if r.URL.Query().Get("blobs") != "" && !s.Plain {
			sibling["size"], sibling["blobId"] = len(content), BlobID(content)
			if large(name) {
				sibling["blobId"] = BlobID([]byte("pointer " + name))
				sibling["lfs"] = object{"sha256": SHA256(content), "size": len(content), "pointerSize": 130}
			}
		}
		siblings = append(siblings, sibling)
	}
	gated := any(false)
	if repo.Token != "" {
		gated = "manual"
	}
	answer(w, object{
		"id": id, "modelId": id, "sha": repo.Commit(), "private": false, "gated": gated, "tags": []string{},
		"downloads": 0, "siblings": siblings,
	})
}

func serveTree(w http.ResponseWriter, repo *Repository) {
	tree := []object{}
	for _, name := range repo.names() {
		content := repo.Files[name]
		entry := object{"type": "file", "path": name, "size": len(content), "oid": BlobID(content)}
		if large(name) {
			entry["oid"] = BlobID([]byte("pointer " + name))
			entry["lfs"] = object{"oid": SHA256(content), "size": len(content), "pointerSize": 130}
		}
		tree = append(tree, entry)
	}
	answer(w, tree)
}

// serveFile sends a small file, or a redirect to a large one.
func (s *Server) serveFile(w http.ResponseWriter, r *http.Request, repo *Repository, name string) {
	w.Header().Set("X-Repo-Commit", repo.Commit())
	if repo.Token != "" && r.Header.Get("Authorization") != "Bearer "+repo.Token {
		refuse(w, http.StatusUnauthorized, "GatedRepo", "Access to this model is restricted.")
		return
	}
	content, ok := repo.Files[name]
	if !ok {
		refuse(w, http.StatusNotFound, "EntryNotFound", "Entry not found")
		return
	}
	if !large(name) {
		w.Header().Set("ETag", `"`+BlobID(content)+`"`)
		s.serveContent(w, r, name, content)
		return
	}
	w.Header().Set("X-Linked-Size", strconv.Itoa(len(content)))
	w.Header().Set("X-Linked-Etag", `"`+SHA256(content)+`"`)
	w.Header().Set("ETag", `"`+SHA256(content)+`"`)
	// The other host has another name, as a content network does: a client must not send its token there.
	cdn := strings.Replace(s.cdn.URL, "127.0.0.1", "localhost", 1)
	http.Redirect(w, r, cdn+"/"+SHA256(content)+"?signed=yes", http.StatusFound)
}

func (s *Server) serveCDN(w http.ResponseWriter, r *http.Request) {
	s.note("cdn", r)
	if r.Header.Get("Authorization") != "" {
		http.Error(w, "a token was sent to another host", http.StatusBadRequest)
		return
	}
	for _, repo := range s.repos {
		for name, content := range repo.Files {
			if large(name) && r.URL.Path == "/"+SHA256(content) {
				w.Header().Set("ETag", `"of-the-network"`)
				s.serveContent(w, r, name, content)
				return
			}
		}
	}
	http.NotFound(w, r)
}

// serveContent sends a file's bytes with the server's faults.
func (s *Server) serveContent(w http.ResponseWriter, r *http.Request, name string, content []byte) {
	if name == s.Damaged {
		content = slices.Clone(content)
		content[len(content)-1] ^= 1
	}
	if s.NoRange {
		r.Header.Del("Range")
	}
	if r.Method == http.MethodGet && len(content) > s.Cut && s.counts(&s.Cuts) {
		w = &cutter{ResponseWriter: w, left: s.Cut}
	}
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(content)))
}

// cutter ends the connection after a number of bytes.
type cutter struct {
	http.ResponseWriter
	left int
}

// Write implements io.Writer.
func (c *cutter) Write(p []byte) (int, error) {
	if len(p) < c.left {
		c.left -= len(p)
		return c.ResponseWriter.Write(p)
	}
	if _, err := c.ResponseWriter.Write(p[:c.left]); err == nil {
		if f, ok := c.ResponseWriter.(http.Flusher); ok {
			f.Flush()
		}
	}
	panic(http.ErrAbortHandler)
}
