package trainer

import (
	"bufio"
	"context"
	"os"
	"strings"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models/tensor"
)

// machine describes the machine that this trainer runs on.
func (t *Trainer) machine() *checkpoints.Machine {
	version, err := tensor.Version()
	if err != nil {
		version = "unknown"
	}
	return &checkpoints.Machine{
		CPU: processor(), Device: t.Spec.Compute.Device, Threads: t.Spec.Compute.Threads, Libtorch: version,
	}
}

// processor is the name of the first processor on Linux; empty elsewhere.
func processor() string {
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// compare warns when the checkpoint that the run resumes from was made on another machine or with another libtorch.
func (t *Trainer) compare(ctx context.Context, m checkpoints.Manifest) error {
	made, noted, err := t.Checkpoints.Machine(ctx, m)
	if err != nil || !noted {
		return err
	}
	if differences := made.Differences(*t.machine()); len(differences) > 0 {
		t.Log.Warn().Str("run", t.Spec.Run).Str("checkpoint", m.Key).Strs("differs", differences).
			Msg("the checkpoint was made on another machine or with another libtorch: the run continues, but the last bits of its " +
				"results may differ")
	}
	return nil
}
