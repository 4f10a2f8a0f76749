package plan

import (
	"slices"
	"strings"
	"testing"

	"github.com/ldalign/ldalign/schemas"
)

// on plans the run of the tests with keys set, on a machine whose first GPU has this much free memory.
func on(t *testing.T, free int64, set ...string) Run {
	t.Helper()
	p := &Planner{Dir: t.TempDir()}
	inputs, err := p.Inputs(t.Context(), []schemas.Spec{resolved(t, set...)})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	return Estimate(inputs, Machine{Memory: 1e12, Devices: map[string]int64{"cuda:0": free}})[0]
}

func sum(r Run, device bool) (n int64) {
	for _, role := range r.Memory.Roles {
		for _, p := range role.Parts {
			if p.Device == device {
				n += p.Bytes
			}
		}
	}
	return n
}

// On a GPU the tensors are on the device and the rest stays in the machine's memory.
func TestMemoryOfADevice(t *testing.T) {
	cpu, gpu := on(t, 0), on(t, 80e9, "compute.device=cuda:0")
	d := gpu.Memory.Device
	if cpu.Memory.Device != nil || d == nil || d.Name != "cuda:0" || d.Free != 80e9 || d.Of != "all roles in one process" {
		t.Fatalf("on the CPU %+v, on the GPU %+v", cpu.Memory.Device, d)
	}
	if d.Need != sum(gpu, true) || gpu.Memory.Need != sum(gpu, false) || gpu.Memory.Machine != 1e12 {
		t.Errorf("%+v does not add up to parts of %d and %d bytes", gpu.Memory, sum(gpu, true), sum(gpu, false))
	}
	if got, want := d.Need+gpu.Memory.Need, cpu.Memory.Need+onDevice; got != want {
		t.Errorf("both memories together take %d, on the CPU all takes %d", got, want)
	}
	for _, role := range gpu.Memory.Roles {
		for _, p := range role.Parts {
			if slices.Contains([]string{partState, partPairs, partTexts, partProgram, partServer}, p.Name) == p.Device {
				t.Errorf("%s of the %s: on the device %t", p.Name, role.Name, p.Device)
			}
		}
	}
	if len(gpu.Problems) != 0 || gpu.Refuse() != nil {
		t.Errorf("problems %v, refused %v", gpu.Problems, gpu.Refuse())
	}
}

// A plan whose device is too small names what to change. Only a run that is far too large is refused.
func TestDeviceTooSmall(t *testing.T) {
	need := on(t, 0, "compute.device=cuda:0").Memory.Device.Need
	for _, c := range []struct {
		free             int64
		problem, refused bool
	}{
		{0, false, false}, {need, false, false}, {need - 1, true, false}, {need * 7 / 10, true, false}, {need / 2, true, true},
	} {
		r := on(t, c.free, "compute.device=cuda:0")
		err := r.Refuse()
		if (len(r.Problems) == 1) != c.problem || (err != nil) != c.refused {
			t.Errorf("%d of %d bytes free: problems %v, refused %v", c.free, need, r.Problems, err)
		}
		if err != nil && (!strings.Contains(err.Error(), "cuda:0 has") || !strings.Contains(err.Error(), r.Problems[0].Key)) {
			t.Errorf("%q does not say what is short and what to change", err)
		}
	}
	servers := []string{"compute.device=cuda:0", "servers.nats=nats://10.0.0.5:4222", "servers.s3=http://10.0.0.6:9000"}
	apart := on(t, need, servers...).Memory.Device
	if apart.Need >= need || apart.Of != "the trainer alone" {
		t.Errorf("with a process for each role %+v, want less than %d", apart, need)
	}
}

// Weights in bfloat16 take half, and so do keys and values where the device computes in bfloat16.
func TestMemoryOfRoundedWeights(t *testing.T) {
	sampling := []string{"objective.kind=spin", "generation.slots=4"}
	generator := func(set ...string) Role {
		for _, role := range on(t, 0, append(set, sampling...)...).Memory.Roles {
			if role.Name == "generator" {
				return role
			}
		}
		t.Fatal("no generator")
		return Role{}
	}
	for _, device := range []string{"cpu", "cuda:0"} {
		whole, half := generator("compute.device="+device), generator("compute.device="+device, "compute.weights=bfloat16")
		if 2*half.part(partWeights) != whole.part(partWeights) {
			t.Errorf("%s: weights of %d bytes, in bfloat16 %d", device, whole.part(partWeights), half.part(partWeights))
		}
		cache := whole.part(partCache)
		if device != "cpu" {
			cache /= 2
		}
		if half.part(partCache) != cache {
			t.Errorf("%s: keys and values of %d bytes, in bfloat16 %d", device, whole.part(partCache), half.part(partCache))
		}
	}
	r := on(t, 0, "compute.weights=bfloat16")
	if len(r.Warnings) == 0 || !strings.Contains(strings.Join(r.Warnings, "\n"), "margins") {
		t.Errorf("warnings %q do not say that the reference is rounded", r.Warnings)
	}
	for _, w := range on(t, 0, "compute.weights=bfloat16", "training.precision=bfloat16").Warnings {
		if strings.Contains(w, "margins") {
			t.Errorf("%q, although the trainer rounds too", w)
		}
	}
}
