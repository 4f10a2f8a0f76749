//go:build !cgo

package main

import (
	"io/fs"

	"github.com/ldalign/ldalign/ops/inspection"
	"github.com/ldalign/ldalign/ops/pipeline"
	"github.com/ldalign/ldalign/ops/plan"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/ops/telemetry"
	"github.com/ldalign/ldalign/schemas"
)

const withTensors = false

// Plans and inspections do without a tokenizer.
var (
	planTokenizer      func(fs.FS, schemas.Spec) (plan.Tokenizer, error)
	inspectedTokenizer func(fs.FS) (inspection.Tokenizer, error)
)

func torch() (version string, cuda bool, err error) { return "", false, errNoTensors }

func freeMemory([]schemas.Spec) (map[string]int64, error) { return nil, nil } // unknown

func openTokenizer(fs.FS) (encoder, error) { return nil, errNoTensors }

func withEngine(schemas.ComputeSpec, func(*pipeline.Engine) error) error { return errNoTensors }

func (*env) player(*runs.Session, *pipeline.Engine, *telemetry.Screen) player { return nil }
