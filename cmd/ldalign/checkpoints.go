package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
)

type checkpointsCommand struct {
	List   checkpointsListCommand   `cmd:"" help:"List a run's checkpoints."`
	Export checkpointsExportCommand `cmd:"" help:"Write a policy as a Hugging Face folder, which transformers opens."`
}

// openCheckpoints opens the checkpoint store alone.
func (e *env) openCheckpoints(ctx context.Context, servers schemas.ServersSpec) (*node, error) {
	if _, err := os.Stat(e.dir); servers.S3 == "" && errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s holds no runs (another folder: --dir; a server: --s3)", e.dir)
	}
	n := &node{}
	store, err := openStore(ctx, e.dir, servers)
	if err != nil {
		return nil, err
	}
	n.checkpoints = checkpoints.New(store, filepath.Join(e.dir, "cache"), n.log)
	return n, nil
}

type checkpointsListCommand struct {
	Name string `arg:"" name:"run" help:"Name of the run."`
	serverFlags
}

func (checkpointsListCommand) Help() string { return "Example:\n\n    ldalign checkpoints list my-run" }

func (c *checkpointsListCommand) Run(ctx context.Context, e *env) error {
	n, err := e.openCheckpoints(ctx, c.serverFlags.over(schemas.ServersSpec{}))
	if err != nil {
		return err
	}
	manifests, err := n.checkpoints.List(ctx, c.Name)
	if err != nil {
		return err
	}
	if len(manifests) == 0 {
		return fmt.Errorf("%w: %s has no checkpoint (`ldalign runs` lists the runs)", errNoSuchRun, c.Name)
	}
	if e.json {
		listed := make([]listedCheckpoint, len(manifests))
		for i, m := range manifests {
			listed[i] = listedCheckpoint{m.Number, m.Digest, m}
		}
		return printJSON(e.stdout, listed)
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "number\tkind\titeration\tstep\tbytes\tdigest")
	for _, m := range manifests {
		var bytes int64
		for _, f := range m.Files {
			bytes += f.Bytes
		}
		fmt.Fprintf(w, "%d\t%s\t%d\t%d\t%d\t%.12s\n", m.Number, m.Kind, m.Iteration, m.Step, bytes, m.Digest)
	}
	return w.Flush()
}

// listedCheckpoint is a manifest with what its key and its bytes say beside it.
type listedCheckpoint struct {
	Number uint64 `json:"number"`
	Digest string `json:"digest"`
	checkpoints.Manifest
}

type checkpointsExportCommand struct {
	Name      string `arg:"" name:"run" help:"Name of the run."`
	Folder    string `arg:"" help:"Folder to write; it must not exist." type:"path"`
	Iteration int    `help:"Policy of this iteration; -1 is the newest." default:"-1"`
	Guide     bool   `help:"Export the run's guide instead: guide.json and guide.safetensors, with the tokenizer that it reads by."`
	serverFlags
}

func (checkpointsExportCommand) Help() string {
	return `Example:

    ldalign checkpoints export my-run ./aligned
    python -c 'import transformers; transformers.AutoModelForCausalLM.from_pretrained("./aligned")'`
}

func (c *checkpointsExportCommand) Run(ctx context.Context, e *env) error {
	if _, err := os.Stat(c.Folder); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %s exists; name a folder that does not", errUsage, c.Folder)
	}
	n, err := e.openCheckpoints(ctx, c.serverFlags.over(schemas.ServersSpec{}))
	if err != nil {
		return err
	}
	kind := checkpoints.Policy
	if c.Guide {
		kind = checkpoints.Guide
	}
	manifest, err := n.checkpoints.Latest(ctx, c.Name, kind)
	if c.Iteration >= 0 && !c.Guide {
		manifest, err = n.checkpoints.Policy(ctx, c.Name, uint32(c.Iteration))
	}
	if err != nil {
		return err
	}
	if err := n.checkpoints.Materialise(ctx, manifest, c.Folder); err != nil {
		return err
	}
	if c.Guide {
		fmt.Fprintf(e.stdout, "%s: guide of run %s (digest %.12s)\n", c.Folder, c.Name, manifest.Digest)
		return nil
	}
	fmt.Fprintf(e.stdout, "%s: policy of run %s after iteration %d (digest %.12s)\n",
		c.Folder, c.Name, manifest.Iteration, manifest.Digest)
	return nil
}
