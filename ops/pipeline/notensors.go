//go:build !cgo

package pipeline

import (
	"context"
	"time"
)

// Engine is empty in a program that is built without tensors.
type Engine struct{}

// Busy returns 0, because nothing is computed.
func (*Engine) Busy() time.Duration { return 0 }

// The stages that compute tensors cannot be built.
var buildGenerator, buildEncoder, buildEvaluator func(context.Context, Job) (Work, error)
