package checkpoints_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/ldalign/ldalign/checkpoints"
)

func TestOpenS3SaysWhatIsWrong(t *testing.T) {
	const closed = "127.0.0.1:1"
	for name, c := range map[string]struct {
		options checkpoints.S3Options
		want    []string
	}{
		"nobody listens": {
			checkpoints.S3Options{Endpoint: "http://" + closed, Bucket: "bucket"},
			[]string{closed, "bucket bucket", "nothing listens there"},
		},
		"no host":    {checkpoints.S3Options{Endpoint: "http://", Bucket: "bucket"}, []string{"host:port"}},
		"a path":     {checkpoints.S3Options{Endpoint: "http://a/b/c", Bucket: "bucket"}, []string{"a/b/c", "host:port"}},
		"bad bucket": {checkpoints.S3Options{Endpoint: closed, Bucket: "Not A Bucket"}, []string{"Not A Bucket"}},
	} {
		c.options.MaxRetries = 1
		_, err := checkpoints.OpenS3(t.Context(), c.options)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: the error does not say %q: %v", name, want, err)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := checkpoints.OpenS3(ctx, checkpoints.S3Options{Endpoint: closed, Bucket: "bucket"})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: got %v, want context.Canceled", err)
	}
}

func TestNotificationsNeedABucket(t *testing.T) {
	err := checkpoints.EnableNotifications(t.Context(), openDir(t), "arn:minio:sqs::LDALIGN:nats")
	if err == nil || !strings.Contains(err.Error(), "not an S3 bucket") {
		t.Errorf("got %v", err)
	}
}
