package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

const (
	maxAnswer  = 32 << 20 // bytes of an answer in JSON
	maxMessage = 300      // bytes of it that an error shows
)

// client sends requests to one endpoint.
type client struct {
	http     *http.Client
	endpoint string
	token    string
}

// remote is a file of a repository.
type remote struct {
	name string
	size int64
	// digest is the sha256 of a file in large file storage (64 digits), or git's sha1 of a blob (40).
	digest string
}

var digest = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// transient marks an error that a retry may resolve.
type transient struct{ error }

func (t transient) Unwrap() error { return t.error }

// ask sends a request. The caller closes the body. A status other than 2xx, or 3xx for a HEAD request, is an error.
func (c *client) ask(ctx context.Context, method, address string, from int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	req.Header.Set("User-Agent", "ldalign")
	req.Header.Set("Accept-Encoding", "identity") // the size and the place of a byte are those of the file
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token) // net/http takes it off for another host
	}
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	sender := *c.http
	if method == http.MethodHead { // the Hub's own headers are on the redirect, not behind it
		sender.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	resp, err := sender.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, transient{fmt.Errorf("hub: %w", err)}
	}
	if resp.StatusCode/100 == 2 || method == http.MethodHead && resp.StatusCode/100 == 3 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, c.refusal(resp)
}

// refusal returns the error that a status means.
func (c *client) refusal(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxMessage)) // the status says enough without it
	message := resp.Header.Get("X-Error-Message")
	if message == "" {
		message = strings.ToValidUTF8(strings.TrimSpace(string(text)), "")
	}
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "")
	}
	code := resp.Header.Get("X-Error-Code")
	sent := "HF_TOKEN is not set"
	if c.token != "" {
		sent = "the token of HF_TOKEN was sent"
	}
	said := fmt.Errorf("%s answered %s: %s", resp.Request.URL.Redacted(), resp.Status, message)
	switch status := resp.StatusCode; {
	case code == "GatedRepo":
		return fmt.Errorf("%w: accept its terms on its page, and set HF_TOKEN (%s): %w",
			ErrGated, sent, said)
	case code == "RevisionNotFound":
		return fmt.Errorf("%w: there is no such revision: %w", ErrNotFound, said)
	case code == "RepoNotFound", status == http.StatusNotFound:
		return fmt.Errorf("%w: there is no such model, or it is private (%s): %w", ErrNotFound, sent, said)
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return fmt.Errorf("%w: set HF_TOKEN to a token that may read it (%s): %w", ErrGated, sent, said)
	case status == http.StatusTooManyRequests, status == http.StatusRequestedRangeNotSatisfiable, status/100 == 5:
		return transient{fmt.Errorf("%w: %w", ErrProtocol, said)}
	}
	return fmt.Errorf("%w: %w", ErrProtocol, said)
}

// commitFiles resolves a revision to a commit and lists its files. If the answer lacks size and digest of a wanted file, as
// with some mirrors, commitFiles requests them for that file.
func (c *client) commitFiles(ctx context.Context, id, rev string, wanted func([]string) []string,
) (sha string, files []remote, err error) {
	address := fmt.Sprintf("%s/api/models/%s/revision/%s?blobs=true", c.endpoint, id, url.PathEscape(rev))
	resp, err := c.ask(ctx, http.MethodGet, address, 0)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	var info struct {
		SHA      string `json:"sha"`
		Siblings []struct {
			Name   string `json:"rfilename"`
			Size   int64  `json:"size"`
			BlobID string `json:"blobId"`
			LFS    *struct {
				SHA256 string `json:"sha256"`
				Size   int64  `json:"size"`
			} `json:"lfs"`
		} `json:"siblings"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&info); err != nil {
		if ctx.Err() != nil {
			return "", nil, context.Cause(ctx)
		}
		return "", nil, transient{fmt.Errorf("%w: %s: %w", ErrProtocol, address, err)}
	}
	if !commit.MatchString(info.SHA) {
		return "", nil, fmt.Errorf("%w: %s: the commit is %q", ErrProtocol, address, info.SHA)
	}
	names := make([]string, len(info.Siblings))
	byName := map[string]remote{}
	for i, s := range info.Siblings {
		f := remote{name: s.Name, size: s.Size, digest: s.BlobID}
		if s.LFS != nil {
			f.size, f.digest = s.LFS.Size, s.LFS.SHA256
		}
		names[i], byName[s.Name] = s.Name, f
	}
	for _, name := range wanted(names) {
		f := byName[name]
		if f.digest == "" {
			if f, err = c.head(ctx, id, info.SHA, name); err != nil {
				return "", nil, err
			}
		}
		if !digest.MatchString(f.digest) || f.size < 0 {
			return "", nil, fmt.Errorf("%w: %s: file %s has size %d and digest %q",
				ErrProtocol, address, name, f.size, f.digest)
		}
		files = append(files, f)
	}
	return info.SHA, files, nil
}

// head requests a file's size and digest.
func (c *client) head(ctx context.Context, id, sha, name string) (remote, error) {
	resp, err := c.ask(ctx, http.MethodHead, c.fileURL(id, sha, name), 0)
	if err != nil {
		return remote{}, err
	}
	if err := resp.Body.Close(); err != nil {
		return remote{}, transient{fmt.Errorf("hub: %w", err)}
	}
	f := remote{name: name, size: resp.ContentLength}
	f.digest = resp.Header.Get("X-Linked-Etag")
	if f.digest == "" {
		f.digest = resp.Header.Get("ETag")
	}
	f.digest = strings.Trim(strings.TrimPrefix(f.digest, "W/"), `"`)
	if size := resp.Header.Get("X-Linked-Size"); size != "" {
		if f.size, err = strconv.ParseInt(size, 10, 64); err != nil {
			return remote{}, fmt.Errorf("%w: %s: X-Linked-Size: %w", ErrProtocol, name, err)
		}
	}
	return f, nil
}

func (c *client) fileURL(id, sha, name string) string {
	return fmt.Sprintf("%s/%s/resolve/%s/%s", c.endpoint, id, sha, url.PathEscape(name))
}

// isTransient reports whether a retry may help.
func isTransient(err error) bool {
	var t transient
	return errors.As(err, &t)
}
