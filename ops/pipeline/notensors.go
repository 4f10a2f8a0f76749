//go:build !cgo

package pipeline

import "context"

// Engine is nothing in a program without tensors.
type Engine struct{}

// No stage that computes tensors can be built.
var buildGenerator, buildEncoder, buildEvaluator func(context.Context, Job) (Work, error)
