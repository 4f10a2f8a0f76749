//go:build integration

package checkpoints

import "context"

// CloseIdleConnections lets go of an S3 store's kept-alive connections, whose goroutines would look like leaks.
func CloseIdleConnections(store Store) { store.(*s3).transport.CloseIdleConnections() }

// RemoveBucket removes a store's bucket, which must be empty.
func RemoveBucket(ctx context.Context, store Store) error {
	return store.(*s3).client.RemoveBucket(ctx, store.(*s3).bucket)
}
