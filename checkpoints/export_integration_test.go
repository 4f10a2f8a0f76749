//go:build integration

package checkpoints

import (
	"context"
	"time"

	"github.com/minio/minio-go/v7"
)

// CloseIdleConnections lets go of an S3 store's kept-alive connections, whose goroutines would look like leaks.
func CloseIdleConnections(store Store) { store.(*s3).transport.CloseIdleConnections() }

// RemoveBucket removes a store's bucket, which must be empty.
func RemoveBucket(ctx context.Context, store Store) error {
	return store.(*s3).client.RemoveBucket(ctx, store.(*s3).bucket)
}

// BeginUpload begins an upload in parts, as a writer does that is killed then.
func BeginUpload(ctx context.Context, store Store, key string) error {
	core := minio.Core{Client: store.(*s3).client}
	_, err := core.NewMultipartUpload(ctx, store.(*s3).bucket, key, minio.PutObjectOptions{})
	return err
}

// AbandonedUploads exports the method of an S3 store.
func AbandonedUploads(ctx context.Context, store Store, prefix string, old func(begun time.Time) bool) error {
	return store.(*s3).abandoned(ctx, prefix, old)
}
