package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
)

type checkpointsCommand struct {
	List   checkpointsListCommand   `cmd:"" help:"List a run's checkpoints."`
	Export checkpointsExportCommand `cmd:"" help:"Write a policy as a Hugging Face folder that transformers can open."`
	GC     checkpointsGCCommand     `cmd:"" name:"gc" help:"Remove blobs, files of the store, that no checkpoint names."`
}

// store opens the checkpoint store alone.
func (e *env) store(ctx context.Context, servers schemas.ServersSpec) (*runs.Session, error) {
	return runs.OpenStore(ctx, runs.Options{Dir: e.dir, Servers: servers})
}

type checkpointsListCommand struct {
	Name string `arg:"" name:"run" help:"Name of the run."`
	serverFlags
}

func (checkpointsListCommand) Help() string {
	return `Example:

    ldalign checkpoints list my-run
    ldalign checkpoints list my-run --json | jq -r 'select(.kind == "policy") | .digest'

A policy is the model that an iteration produced, a guide measures distances, and a state is a point within an iteration from
which the trainer can resume. The column libtorch has the version that computed it; --json has the machine. A checkpoint that was
copied from another run has neither.`
}

func (c *checkpointsListCommand) Run(ctx context.Context, e *env) error {
	n, err := e.store(ctx, c.servers())
	if err != nil {
		return err
	}
	manifests, err := n.Checkpoints.List(ctx, c.Name)
	if err != nil {
		return err
	}
	if len(manifests) == 0 {
		return fmt.Errorf("%w: %s has no checkpoint (`ldalign runs` lists the runs)", runs.ErrNoSuchRun, c.Name)
	}
	listed := make([]listedCheckpoint, len(manifests))
	for i, m := range manifests {
		machine, noted, err := n.Checkpoints.Machine(ctx, m)
		if err != nil {
			return err
		}
		listed[i] = listedCheckpoint{Number: m.Number, Digest: m.Digest, Manifest: m}
		if noted {
			listed[i].Machine = &machine
		}
	}
	if e.json {
		return printJSON(e.stdout, listed)
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "number\tkind\titeration\tstep\tbytes\tdigest\tlibtorch")
	for _, m := range listed {
		var bytes int64
		for _, f := range m.Files {
			bytes += f.Bytes
		}
		libtorch := "-"
		if m.Machine != nil {
			libtorch = m.Machine.Libtorch
		}
		fmt.Fprintf(w, "%d\t%s\t%d\t%d\t%d\t%.12s\t%s\n", m.Number, m.Kind, m.Iteration, m.Step, bytes, m.Digest, libtorch)
	}
	return w.Flush()
}

// listedCheckpoint is a manifest with its number and digest, and the machine that made it.
type listedCheckpoint struct {
	Number uint64 `json:"number"`
	Digest string `json:"digest"`
	checkpoints.Manifest
	Machine *checkpoints.Machine `json:"machine,omitempty"`
}

type checkpointsExportCommand struct {
	Name      string `arg:"" name:"run" help:"Name of the run."`
	Folder    string `arg:"" help:"Folder to write; it must not exist." type:"path"`
	Iteration int    `help:"Policy of this iteration; -1 is the newest." default:"-1"`
	Guide     bool   `help:"Export the run's guide instead: guide.json, guide.safetensors and, if guide.encoder is a folder, the tokenizer. Other guides use the policy's tokenizer."`
	serverFlags
}

func (checkpointsExportCommand) Help() string {
	return `Example:

    ldalign checkpoints export my-run ./aligned
    python -c 'import transformers; transformers.AutoModelForCausalLM.from_pretrained("./aligned")'`
}

func (c *checkpointsExportCommand) Run(ctx context.Context, e *env) error {
	s, err := e.store(ctx, c.servers())
	if err != nil {
		return err
	}
	kind := checkpoints.Policy
	if c.Guide {
		kind, c.Iteration = checkpoints.Guide, -1
	}
	manifest, err := runs.Export(ctx, s, schemas.PolicyRef{Run: c.Name, Iteration: c.Iteration}, kind, c.Folder)
	if err != nil {
		return err
	}
	if e.json {
		return printJSON(e.stdout, []exported{{c.Folder, c.Name, kind, manifest.Iteration, manifest.Digest}})
	}
	if c.Guide {
		fmt.Fprintf(e.stdout, "%s: guide of run %s (digest %.12s)\n", c.Folder, c.Name, manifest.Digest)
		return nil
	}
	fmt.Fprintf(e.stdout, "%s: policy of run %s after iteration %d (digest %.12s)\n",
		c.Folder, c.Name, manifest.Iteration, manifest.Digest)
	return nil
}

// exported is what export prints with --json.
type exported struct {
	Folder    string           `json:"folder"`
	Run       string           `json:"run"`
	Kind      checkpoints.Kind `json:"kind"`
	Iteration uint32           `json:"iteration"`
	Digest    string           `json:"digest"`
}

type checkpointsGCCommand struct {
	Runs  []string      `arg:"" name:"run" optional:"" help:"Names of runs (default: all runs)."`
	Grace time.Duration `help:"Keep blobs younger than this: a trainer may be about to name them in a checkpoint." default:"24h"`
	Yes   bool          `help:"Remove them; without it, only count them."`
	serverFlags
}

func (checkpointsGCCommand) Help() string {
	return `Example:

    ldalign checkpoints gc
    ldalign checkpoints gc my-run --yes

Removes the blobs that a process left behind when it died after writing a checkpoint's blobs and before writing its manifest,
and aborts uploads to S3 that it did not complete. Ages are by the store's clock.
Blobs that a manifest names are never removed, so every checkpoint stays readable. Skips runs that a trainer is working on: the
trainer itself removes the blobs of states that it no longer needs.`
}

func (c *checkpointsGCCommand) Run(ctx context.Context, e *env) error {
	return e.attached(ctx, c.servers(), func(s *runs.Session) error {
		all, err := runs.RemoveUnnamed(ctx, s, c.Runs, c.Grace, !c.Yes)
		if err != nil {
			return err
		}
		if e.json {
			return printJSON(e.stdout, all)
		}
		for _, u := range all {
			switch {
			case u.Held != "":
				fmt.Fprintf(e.stdout, "run %s: skipped, %s is working on it\n", u.Run, u.Held)
			case u.Removed:
				fmt.Fprintf(e.stdout, "run %s: removed %d blobs of %d bytes and %d uploads, kept %d younger ones\n",
					u.Run, u.Blobs, u.Bytes, u.Uploads, u.Young)
			default:
				fmt.Fprintf(e.stdout, "run %s: would remove %d blobs of %d bytes and %d uploads, and keep %d younger ones; --yes does it\n",
					u.Run, u.Blobs, u.Bytes, u.Uploads, u.Young)
			}
		}
		return nil
	})
}
