package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
)

// modelFolder finds the folder of a model by its name: a folder, a policy of a run (RUN@ITERATION, RUN@ for the newest),
// or a Hugging Face id.
func (e *env) modelFolder(ctx context.Context, name string, servers serverFlags) (string, error) {
	if info, err := os.Stat(name); err == nil {
		if !info.IsDir() {
			return "", fmt.Errorf("%s is no folder; name the folder that holds config.json", name)
		}
		return name, nil
	}
	if run, iteration, ok := strings.Cut(name, "@"); ok && !strings.ContainsAny(run, `/\`) {
		return e.runFolder(ctx, run, iteration, servers)
	}
	return "", fmt.Errorf("there is no folder %s, and no run is named so (RUN@ITERATION)", filepath.Clean(name))
}

// runFolder is the policy of a run as a folder, from the checkpoint store's cache.
func (e *env) runFolder(ctx context.Context, run, iteration string, servers serverFlags) (string, error) {
	n, err := e.openCheckpoints(ctx, servers.over(schemas.ServersSpec{}))
	if err != nil {
		return "", err
	}
	var manifest checkpoints.Manifest
	if iteration == "" {
		manifest, err = n.checkpoints.Latest(ctx, run, checkpoints.Policy)
	} else {
		number, bad := strconv.ParseUint(iteration, 10, 32)
		if bad != nil {
			return "", fmt.Errorf("%w: %s@%s: the iteration is a whole number", errUsage, run, iteration)
		}
		manifest, err = n.checkpoints.Policy(ctx, run, uint32(number))
	}
	if err != nil {
		return "", err
	}
	return n.checkpoints.Folder(ctx, manifest)
}
