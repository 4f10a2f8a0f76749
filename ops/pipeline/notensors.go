//go:build !cgo

package pipeline

import "context"

// Engine is empty in a program that is built without tensors.
type Engine struct{}

// The stages that compute tensors cannot be built.
var buildGenerator, buildEncoder, buildEvaluator func(context.Context, Job) (Work, error)
