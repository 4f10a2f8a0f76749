package report

import "encoding/json"

// The types of table.json: the numbers behind the tables, without the raw pairs and training records.
type (
	jsonReport struct {
		Title       string          `json:"title"`
		GeneratedBy string          `json:"generated_by"`
		State       string          `json:"state,omitempty"`
		HeldOut     int             `json:"held_out"`
		Verdict     Verdict         `json:"verdict"`
		Rows        []jsonRow       `json:"rows"`
		Distances   []jsonDistance  `json:"distances"`
		Agreement   []jsonAgreement `json:"agreement"`
		Guides      []jsonGuide     `json:"guides"`
		Stages      []Stage         `json:"stages"`
		WallSeconds *float64        `json:"wall_seconds"`
		TensorShare *float64        `json:"tensor_share"`
		Notes       []string        `json:"notes"`
	}
	jsonRow struct {
		Method    string                 `json:"method"`
		Run       string                 `json:"run"`
		Iteration int                    `json:"iteration"`
		Seeds     []uint64               `json:"seeds"`
		Measures  map[string]jsonMeasure `json:"measures"`
	}
	// jsonMeasure has a null mean where nothing was measured, and a null value for a seed without one.
	jsonMeasure struct {
		N      int        `json:"n"`
		Mean   *float64   `json:"mean"`
		SD     *float64   `json:"sd"`
		Values []*float64 `json:"values"`
	}
	jsonDistance struct {
		Method        string   `json:"method"`
		Iteration     int      `json:"iteration"`
		Pairs         int      `json:"pairs"`
		Identical     float64  `json:"identical_share"`
		Mean          float64  `json:"mean"`
		MeanDiffering *float64 `json:"mean_differing"`
		Max           float64  `json:"max"`
		MaxWeight     *float64 `json:"max_weight"`
		ESSShare      *float64 `json:"effective_sample_size_share"`
		// Histogram counts the differing pairs in equal bins over [0, HistogramTop].
		HistogramTop float64 `json:"histogram_top"`
		Histogram    []int   `json:"histogram"`
	}
	jsonAgreement struct {
		Method    string         `json:"method"`
		Iteration int            `json:"iteration"`
		All       jsonProportion `json:"all"`
		Inexact   jsonProportion `json:"neither_exact"`
	}
	jsonProportion struct {
		Agree int     `json:"agree"`
		N     int     `json:"n"`
		Low   float64 `json:"low"`
		High  float64 `json:"high"`
	}
	jsonGuide struct {
		Run      string   `json:"run"`
		Seed     uint64   `json:"seed"`
		True     *float64 `json:"true"`
		Shuffled *float64 `json:"shuffled"`
	}
)

// tableJSON is table.json.
func tableJSON(in Input) ([]byte, error) {
	out := jsonReport{
		Title: title(in), GeneratedBy: in.GeneratedBy, State: in.State, HeldOut: in.HeldOut, Verdict: Judge(in),
		Rows: []jsonRow{}, Distances: []jsonDistance{}, Agreement: []jsonAgreement{}, Guides: []jsonGuide{},
		Stages:      []Stage{},
		TensorShare: shown(in.TensorShare), Notes: append([]string{}, in.Notes...),
	}
	if in.WallSeconds > 0 {
		out.WallSeconds = shown(&in.WallSeconds)
	}
	for _, r := range in.Rows {
		row := jsonRow{Method: r.Method, Run: r.Run, Iteration: r.Iteration, Measures: map[string]jsonMeasure{}}
		for _, s := range r.Seeds {
			row.Seeds = append(row.Seeds, s.Seed)
		}
		for _, m := range measures() {
			row.Measures[m.key] = newJSONMeasure(m, r)
		}
		out.Rows = append(out.Rows, row)
	}
	groups := groupDistances(in.Distances)
	for _, g := range groups {
		d := jsonDistance{
			Method: g.method, Iteration: g.iteration, Pairs: g.pairs, Identical: g.identical.Mean, Mean: g.mean.Mean, Max: g.max,
			HistogramTop: histogramTop(groups, g.method),
		}
		d.Histogram = histogram(g.values, d.HistogramTop, histogramBins)
		if g.differing.N > 0 {
			d.MeanDiffering = new(g.differing.Mean)
		}
		if g.essShare.N > 0 {
			d.MaxWeight, d.ESSShare = new(g.maxWeight), new(g.essShare.Mean)
		}
		out.Distances = append(out.Distances, d)
	}
	for _, g := range groupAgreement(in.Agreement) {
		out.Agreement = append(out.Agreement, jsonAgreement{
			Method: g.method, Iteration: g.iteration, All: proportion(g.all), Inexact: proportion(g.inexact),
		})
	}
	for _, g := range in.Guides {
		out.Guides = append(out.Guides, jsonGuide{g.Run, g.Seed, shown(&g.True), shown(&g.Shuffled)})
	}
	for _, s := range in.Stages {
		if !finite(s.BusySeconds) {
			s.BusySeconds = 0
		}
		out.Stages = append(out.Stages, s)
	}
	data, err := json.MarshalIndent(out, "", "  ")
	return append(data, '\n'), err
}

func newJSONMeasure(m measure, r Row) jsonMeasure {
	s := m.summary(r)
	out := jsonMeasure{N: s.N, Values: []*float64{}}
	if s.N > 0 {
		out.Mean = &s.Mean
	}
	if s.N > 1 {
		out.SD = &s.SD
	}
	for _, seed := range r.Seeds {
		out.Values = append(out.Values, shown(m.of(seed)))
	}
	return out
}

// shown is v, or nil where it cannot be shown.
func shown(v *float64) *float64 {
	if v == nil || !finite(*v) {
		return nil
	}
	return v
}

func proportion(c count) jsonProportion {
	low, high := wilson(c.agree, c.n)
	return jsonProportion{c.agree, c.n, low, high}
}
