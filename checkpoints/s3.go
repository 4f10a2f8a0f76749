package checkpoints

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/notification"
)

// S3Options locate an S3 store.
type S3Options struct {
	// Endpoint is host:port, or http(s)://host:port, whose scheme then replaces Secure.
	Endpoint string
	Bucket   string
	// Region defaults to us-east-1, MinIO's.
	Region string
	// AccessKey and SecretKey, and SessionToken if the keys are temporary. Without them the credentials come from the first of
	// these that has some: the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN), the shared credentials
	// file (AWS_SHARED_CREDENTIALS_FILE, AWS_PROFILE), and the role of the process: by web identity, container or machine.
	AccessKey    string
	SecretKey    string
	SessionToken string
	// Secure uses TLS.
	Secure bool
	// Writer opens the bucket for a process that commits checkpoints: a missing bucket is created, and a server that does not
	// honour If-None-Match is refused.
	Writer bool
	// MaxRetries is how often a request is retried after a temporary failure, about once a second; 0 means 5.
	MaxRetries int
}

// s3 is the store in a bucket of any S3 server that supports If-None-Match (MinIO, AWS, and most others).
type s3 struct {
	client    *minio.Client
	transport *http.Transport
	endpoint  string
	bucket    string
	region    string
}

// OpenS3 opens the store in a bucket. For a writer, the error wraps ErrUnconditional if the server, or a proxy in front of it,
// ignores conditions.
func OpenS3(ctx context.Context, o S3Options) (Store, error) {
	s, err := openS3(ctx, o)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func openS3(ctx context.Context, o S3Options) (*s3, error) {
	if host, ok := strings.CutPrefix(o.Endpoint, "https://"); ok {
		o.Endpoint, o.Secure = host, true
	} else if host, ok := strings.CutPrefix(o.Endpoint, "http://"); ok {
		o.Endpoint, o.Secure = host, false
	}
	o.Endpoint = strings.TrimSuffix(o.Endpoint, "/")
	if o.Region == "" {
		o.Region = "us-east-1"
	}
	if o.MaxRetries == 0 {
		o.MaxRetries = 5
	}
	transport, err := minio.DefaultTransport(o.Secure)
	if err != nil {
		return nil, fmt.Errorf("checkpoints: S3 at %s: %w", o.Endpoint, err)
	}
	client, err := minio.New(o.Endpoint, &minio.Options{
		Creds:      o.credentials(),
		Secure:     o.Secure,
		Region:     o.Region,
		Transport:  transport,
		MaxRetries: o.MaxRetries,
	})
	if err != nil {
		return nil, fmt.Errorf("checkpoints: S3 endpoint %q: %w (wanted: host:port or http(s)://host:port)", o.Endpoint, err)
	}
	s := &s3{client: client, transport: transport, endpoint: o.Endpoint, bucket: o.Bucket, region: o.Region}
	err = s.findBucket(ctx, o.Writer)
	if err == nil && o.Writer {
		err = s.probe(ctx)
	}
	if err != nil {
		transport.CloseIdleConnections()
		return nil, err
	}
	return s, nil
}

// roleTimeout bounds a request for the credentials of a role. Where there is no role, nobody answers.
const roleTimeout = 5 * time.Second

// credentials returns the credentials that the options give, or the chain of the places where they may be.
func (o S3Options) credentials() *credentials.Credentials {
	if o.AccessKey != "" || o.SecretKey != "" {
		return credentials.NewStaticV4(o.AccessKey, o.SecretKey, o.SessionToken)
	}
	role := &credentials.IAM{Region: o.Region, Client: &http.Client{
		Timeout: roleTimeout, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true},
	}}
	if os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE") != "" {
		role.Endpoint = os.Getenv("AWS_ENDPOINT_URL_STS") // of a server other than AWS
	}
	return credentials.NewChainCredentials([]credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, role})
}

// findBucket asks the server for the bucket. With create it creates a missing one; otherwise the first use of it fails.
func (s *s3) findBucket(ctx context.Context, create bool) error {
	there, err := s.client.BucketExists(ctx, s.bucket)
	if err != nil {
		return s.explain(ctx, "open", "", err)
	}
	if there || !create {
		return nil
	}
	err = s.client.MakeBucket(ctx, s.bucket, minio.MakeBucketOptions{Region: s.region})
	if minio.ToErrorResponse(err).Code == "BucketAlreadyOwnedByYou" {
		return nil // another process was faster
	}
	return s.explain(ctx, "make", "", err)
}

// probe creates an object twice. The second creation must fail, or two trainers could replace each other's manifests.
func (s *s3) probe(ctx context.Context) error {
	key := probeKey()
	first := s.putIfAbsent(ctx, key, []byte(key))
	if first != nil && !occupied(first) { // occupied: the client repeated a creation whose answer was lost
		return s.explain(ctx, "create", key, first)
	}
	second := s.putIfAbsent(ctx, key, []byte(key))
	if err := s.Delete(ctx, key); err != nil {
		return err
	}
	if second == nil {
		return fmt.Errorf("%w: %s took two creations of the same object with If-None-Match, so two trainers could replace each "+
			"other's checkpoints: use a server with conditional writes, such as AWS S3 or MinIO, without a proxy that drops the "+
			"header", ErrUnconditional, s)
	}
	if !occupied(second) {
		return s.explain(ctx, "create again", key, second)
	}
	return nil
}

// probeKey returns the key of an object that is written to learn something about the server.
func probeKey() string { return "probes/" + rand.Text() }

// String is part of Store.
func (s *s3) String() string { return fmt.Sprintf("bucket %s at %s", s.bucket, s.endpoint) }

// targetsLoaded is how long a server that has just started may take to load the targets of its configuration.
const targetsLoaded = 10 * time.Second

// EnableNotifications makes the server announce every new manifest to a target of its configuration, named by its ARN
// (arn:minio:sqs::<ID>:nats). The announcements are hints: they may come late, twice or not at all. The store must be an S3
// store. If the server does not know the target, EnableNotifications waits ten seconds, because a server that has just
// started may still be loading it, and then returns an error.
func EnableNotifications(ctx context.Context, store Store, arn string) error {
	s, ok := store.(*s3)
	if !ok {
		return errors.New("checkpoints: bucket notifications: the store is not an S3 bucket")
	}
	target, err := notification.NewArnFromString(arn)
	if err != nil {
		return fmt.Errorf("checkpoints: bucket notifications: %q: %w", arn, err)
	}
	config, err := s.client.GetBucketNotification(ctx, s.bucket)
	if err != nil {
		return s.explain(ctx, "read the notifications of", "", err)
	}
	wanted := []notification.EventType{notification.ObjectCreatedPut}
	for _, q := range config.QueueConfigs {
		if q.Queue == arn && q.Equal(wanted, "runs/", ".json") {
			return nil
		}
	}
	queue := notification.NewConfig(target)
	queue.AddEvents(wanted...)
	queue.AddFilterPrefix("runs/")
	queue.AddFilterSuffix(".json")
	config.AddQueue(queue)
	// MinIO answers before it has loaded its targets, and until then knows none of them.
	patience := time.After(targetsLoaded)
	for {
		err = s.client.SetBucketNotification(ctx, s.bucket, config)
		if minio.ToErrorResponse(err).Code == "InvalidArgument" {
			select {
			case <-time.After(targetsLoaded / 50):
				continue
			case <-patience:
			case <-ctx.Done():
			}
		}
		return s.explain(ctx, "announce to "+arn+" the manifests of", "", err)
	}
}

func (s *s3) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	if err := checkKey(key); err != nil {
		return err
	}
	body, err := exactly(key, r, size)
	if err != nil {
		return err
	}
	_, err = s.client.PutObject(ctx, s.bucket, key, body, size, minio.PutObjectOptions{})
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: %d bytes announced: %w", ErrSize, size, err)
	}
	return s.explain(ctx, "put", key, err)
}

func (s *s3) Create(ctx context.Context, key string, data []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	for range 3 {
		err := s.putIfAbsent(ctx, key, data)
		if !occupied(err) {
			return s.explain(ctx, "create", key, err)
		}
		// An object exists. It may be ours: the client repeats a request whose answer was lost.
		found, err := s.read(ctx, key)
		if errors.Is(err, ErrNotFound) {
			continue // another writer's creation failed
		}
		if err != nil {
			return err
		}
		if !bytes.Equal(found, data) {
			return fmt.Errorf("%w: %s", ErrExists, key)
		}
		return nil
	}
	return fmt.Errorf("checkpoints: create %s in %s: the server says both that it exists and that it does not: try again", key, s)
}

// putIfAbsent stores data unless the key has an object, and returns the client's error.
func (s *s3) putIfAbsent(ctx context.Context, key string, data []byte) error {
	// In one part: servers differ in where they look at the condition of a multipart upload.
	options := minio.PutObjectOptions{DisableMultipart: true, ContentType: "application/json"}
	options.SetMatchETagExcept("*")
	_, err := s.client.PutObject(ctx, s.bucket, key, bytes.NewReader(data), int64(len(data)), options)
	return err
}

// occupied reports whether a conditional creation failed because the object exists, or because another one is under way.
func occupied(err error) bool {
	code := minio.ToErrorResponse(err).Code
	return code == minio.PreconditionFailed || code == "ConditionalRequestConflict"
}

func (s *s3) read(ctx context.Context, key string) ([]byte, error) {
	body, err := s.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	return data, s.explain(ctx, "read", key, err)
}

func (s *s3) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	core := minio.Core{Client: s.client}
	body, _, _, err := core.GetObject(ctx, s.bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return nil, s.explain(ctx, "get", key, err)
	}
	return &s3Body{body, func(err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: read %s in %s: the connection was cut: %v", ErrUnavailable, key, s, err) //nolint:errorlint // see s3Body
	}}, nil
}

// s3Body is an object's body. It reports a cut connection as ErrUnavailable, and hides io.ErrUnexpectedEOF, with which readers
// would take the object for damaged.
type s3Body struct {
	io.ReadCloser
	cut func(error) error
}

func (b *s3Body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.cut(err)
	}
	return n, err
}

func (s *s3) Stat(ctx context.Context, key string) (int64, error) {
	if err := checkKey(key); err != nil {
		return 0, err
	}
	info, err := s.client.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{})
	return info.Size, s.explain(ctx, "stat", key, err)
}

func (s *s3) List(ctx context.Context, prefix string) ([]string, error) {
	if err := checkPrefix(prefix); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var keys []string
	options := minio.ListObjectsOptions{Prefix: prefix, Recursive: true}
	for object := range s.client.ListObjectsIter(ctx, s.bucket, options) {
		if object.Err != nil {
			return nil, s.explain(ctx, "list", prefix, object.Err)
		}
		if checkKey(object.Key) == nil {
			keys = append(keys, object.Key)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	slices.Sort(keys)
	return keys, nil
}

func (s *s3) Delete(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	err := s.client.RemoveObject(ctx, s.bucket, key, minio.RemoveObjectOptions{})
	if minio.ToErrorResponse(err).Code == minio.NoSuchKey {
		return nil
	}
	return s.explain(ctx, "delete", key, err)
}

func (s *s3) now(ctx context.Context) (written time.Time, err error) {
	key := probeKey()
	if err = s.Put(ctx, key, strings.NewReader(key), int64(len(key))); err == nil {
		written, err = s.written(ctx, key)
	}
	if err != nil {
		return written, err
	}
	return written, s.Delete(ctx, key)
}

func (s *s3) written(ctx context.Context, key string) (time.Time, error) {
	info, err := s.client.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{})
	return info.LastModified, s.explain(ctx, "stat", key, err)
}

func (s *s3) abandoned(ctx context.Context, prefix string, old func(begun time.Time) bool) error {
	core := minio.Core{Client: s.client}
	keys, uploads := "", ""
	for {
		list, err := core.ListMultipartUploads(ctx, s.bucket, prefix, keys, uploads, "", 1000)
		if err != nil {
			return s.explain(ctx, "list the uploads in", "", err)
		}
		for _, u := range list.Uploads {
			if !old(u.Initiated) {
				continue
			}
			err := core.AbortMultipartUpload(ctx, s.bucket, u.Key, u.UploadID)
			if err != nil && minio.ToErrorResponse(err).Code != minio.NoSuchUpload {
				return s.explain(ctx, "abort the upload of", u.Key, err)
			}
		}
		if !list.IsTruncated {
			return nil
		}
		keys, uploads = list.NextKeyMarker, list.NextUploadIDMarker
	}
}

// explain turns a client's error into one that says what to do; nil stays nil.
func (s *s3) explain(ctx context.Context, verb, key string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	what := fmt.Sprintf("checkpoints: %s %s", verb, s)
	if key != "" {
		what = fmt.Sprintf("checkpoints: %s %s in %s", verb, key, s)
	}
	switch minio.ToErrorResponse(err).Code {
	case minio.NoSuchKey:
		return fmt.Errorf("%w: %s in bucket %s", ErrNotFound, key, s.bucket)
	case minio.NoSuchBucket:
		return fmt.Errorf("%s: the bucket does not exist: check --s3 and --bucket, or restore it; a trainer or `ldalign up` creates "+
			"one: %w", what, err)
	case minio.InvalidAccessKeyID, minio.SignatureDoesNotMatch, minio.AccessDenied, "InvalidTokenId", "ExpiredToken":
		return fmt.Errorf("%s: the server refuses the credentials: check LDALIGN_S3_ACCESS_KEY and LDALIGN_S3_SECRET_KEY"+
			" (if they are not set, the AWS settings that docs/operations.md lists), and that they may do this in the bucket: %w",
			what, err)
	case "XMinioStorageFull":
		return fmt.Errorf("%s: no room on the server: free some space there and start again: %w", what, err)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		err = fmt.Errorf("nothing listens there: is the server running, and is this its S3 port? %w", err)
	}
	if unavailable(err) {
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// unavailable reports whether a request failed because the server could not be reached or could not work, so that the same
// request may succeed later.
func unavailable(err error) bool {
	var answer minio.ErrorResponse
	if errors.As(err, &answer) {
		return answer.StatusCode >= http.StatusInternalServerError && answer.StatusCode != http.StatusNotImplemented ||
			answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode == http.StatusRequestTimeout ||
			answer.Code == "InternalError" // in an answer with another status
	}
	var request *url.Error
	var certificate *tls.CertificateVerificationError
	return errors.As(err, &request) && !errors.As(err, &certificate) && !errors.Is(err, ErrSize)
}

// exactly refuses readers that do not have exactly size bytes: at once if the size can be found out, else with the last
// bytes.
func exactly(key string, r io.Reader, size int64) (io.Reader, error) {
	if size < 0 {
		return nil, fmt.Errorf("%w: %s: %d bytes announced", ErrSize, key, size)
	}
	seeker, ok := r.(io.Seeker)
	if !ok {
		e := &exactReader{r: r, left: size}
		return e, e.ended()
	}
	start, err := seeker.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, fmt.Errorf("checkpoints: put %s: %w", key, err)
	}
	end, err := seeker.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("checkpoints: put %s: %w", key, err)
	}
	if _, err := seeker.Seek(start, io.SeekStart); err != nil {
		return nil, fmt.Errorf("checkpoints: put %s: %w", key, err)
	}
	if end-start != size {
		return nil, fmt.Errorf("%w: %s: %d bytes announced, the reader holds %d", ErrSize, key, size, end-start)
	}
	return r, nil
}

// exactReader passes on the last bytes only after it has seen that the underlying reader ends there.
type exactReader struct {
	r    io.Reader
	left int64
}

func (e *exactReader) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n, err := e.r.Read(p[:min(int64(len(p)), e.left)])
	e.left -= int64(n)
	if err == io.EOF && e.left > 0 {
		return 0, fmt.Errorf("%w: the reader ended %d bytes early", ErrSize, e.left)
	}
	if err := e.ended(); err != nil {
		return 0, err
	}
	return n, err
}

// ended checks, after size bytes, that the reader has no more.
func (e *exactReader) ended() error {
	if e.left > 0 {
		return nil
	}
	if extra, _ := io.ReadFull(e.r, make([]byte, 1)); extra > 0 {
		return fmt.Errorf("%w: the reader holds more", ErrSize)
	}
	return nil
}
