package curves

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/ldalign/ldalign/checkpoints"
)

// ProbeFile is the name of the file with the guide's Probe at the end of its training, as JSON.
const ProbeFile = "probe.json"

// Probe measures whether a guide is useful, on the first of its training pairs.
type Probe struct {
	// Pairs is the number of pairs that were used.
	Pairs int `json:"pairs"`
	// True and Shuffled are the mean reconstruction losses of y' given its own latent and given that of another prompt's y',
	// without word dropout, in nats (per token, or per sequence with guide.reduction: sum). If there is no gap between them, the
	// decoder ignores the latent, and distances mean nothing.
	True     float64 `json:"reconstruction"`
	Shuffled float64 `json:"reconstruction_shuffled"`
	// Distance is the mean of ||h - h'|| over pairs whose responses differ, and Norm the mean of ||h||.
	Distance float64 `json:"distance_mean"`
	Norm     float64 `json:"latent_norm"`
	// Identical is the share of pairs whose responses are the same.
	Identical float64 `json:"identical_share"`
	// Distances are ||h - h'|| of the pairs, in their order. Only the probe at the end has them.
	Distances []float64 `json:"distances,omitempty"`
}

// Gap is how much worse reconstruction is with another prompt's latent than with the own.
func (p Probe) Gap() float64 { return p.Shuffled - p.True }

// Collapsed says what is wrong with the guide and what to do; empty if the probe shows nothing wrong.
func (p Probe) Collapsed() string {
	switch {
	case p.Pairs > 1 && p.Gap() <= 0:
		return fmt.Sprintf("its decoder ignores the latent (reconstruction loss %.4f with the own latent, %.4f with another): "+
			"train it longer or at a higher guide.optimizer.lr, raise guide.word_dropout, or start from a fresh decoder (scratch:2)",
			p.True, p.Shuffled)
	case p.Identical < 1 && !(p.Distance > 1e-3*p.Norm):
		return fmt.Sprintf("its latents are all but equal (mean distance %.3g, mean norm %.3g): train it longer or at "+
			"a higher guide.optimizer.lr", p.Distance, p.Norm)
	}
	return ""
}

// Metrics returns the probe's metrics for the guide's manifest.
func (p Probe) Metrics() []checkpoints.Metric {
	list := []checkpoints.Metric{
		{Name: "reconstruction", Value: p.True},
		{Name: "reconstruction_shuffled", Value: p.Shuffled},
		{Name: "distance_mean", Value: p.Distance},
	}
	sorted := slices.Sorted(slices.Values(p.Distances))
	for _, q := range []struct {
		name  string
		share float64
	}{{"distance_p10", 0.1}, {"distance_p50", 0.5}, {"distance_p90", 0.9}} {
		if n := len(sorted); n > 0 {
			list = append(list, checkpoints.Metric{Name: q.name, Value: sorted[int(q.share*float64(n-1)+0.5)]})
		}
	}
	return append(list, checkpoints.Metric{Name: "latent_norm", Value: p.Norm},
		checkpoints.Metric{Name: "identical_share", Value: p.Identical},
		checkpoints.Metric{Name: "probe_pairs", Value: float64(p.Pairs)})
}

// ReadProbe reads the contents of ProbeFile.
func ReadProbe(data []byte) (Probe, error) {
	var p Probe
	if err := json.Unmarshal(data, &p); err != nil {
		return p, fmt.Errorf("trainer: %s: %w", ProbeFile, err)
	}
	return p, nil
}

// JSON returns the contents of ProbeFile.
func (p Probe) JSON() ([]byte, error) {
	data, err := json.Marshal(p)
	return append(data, '\n'), err
}
