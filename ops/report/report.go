// Package report turns the numbers of a run, or of several runs on the same prompts, into a table, figures, and one
// self-contained page with a verdict in plain language.
//
// Its input is plain data, independent of streams and checkpoints. The same Input gives the same bytes. A value that
// is missing or not finite is shown as "–", never as 0.
package report

import (
	"time"

	"github.com/ldalign/ldalign/trainer/curves"
)

// Input is everything that a report shows. Every part may be empty: the page then says what is missing. Input
// marshals to JSON as long as its numbers are finite.
type Input struct {
	Title string `json:"title"`
	// GeneratedBy names the program and its version.
	GeneratedBy string `json:"generated_by"`
	// Created is when the numbers were collected; the zero time shows none.
	Created time.Time `json:"created"`
	// State says how far an unfinished run is ("iteration 1 of 3"); empty for a finished one.
	State string `json:"state,omitempty"`

	Runs []Run `json:"runs,omitempty"`
	// WallSeconds is the time of the whole run. TensorShare in [0, 1] is the share of it spent in tensor work.
	WallSeconds float64  `json:"wall_seconds,omitempty"`
	TensorShare *float64 `json:"tensor_share,omitempty"`
	Stages      []Stage  `json:"stages,omitempty"`

	// Rows of the held-out table, in the order of display. HeldOut is the number of held-out prompts behind every value.
	Rows    []Row `json:"rows,omitempty"`
	HeldOut int   `json:"held_out,omitempty"`
	// Subject is the Method of the row that the verdict judges, Against are the Methods that it is compared with; the
	// first of them is where the subject started from.
	Subject string   `json:"subject,omitempty"`
	Against []string `json:"against,omitempty"`

	Curves    []Curve     `json:"curves,omitempty"`
	Distances []Distances `json:"distances,omitempty"`
	Agreement []Agreement `json:"agreement,omitempty"`
	Guides    []Guide     `json:"guides,omitempty"`
	Examples  []Example   `json:"examples,omitempty"`
	// Notes are printed as they are. They say what a reader must know to interpret the table.
	Notes []string `json:"notes,omitempty"`
}

// Run is a run that contributed to the report.
type Run struct {
	Name   string `json:"name"`
	Method string `json:"method"`
	// Spec is the resolved run spec, YAML.
	Spec string `json:"spec"`
	// Lineage says from which run a replay or fork started; empty for other runs.
	Lineage string `json:"lineage,omitempty"`
}

// Stage is how busy one stage of the pipeline was.
type Stage struct {
	Name  string `json:"name"`
	Items int64  `json:"items"`
	// Unit is the plural of what is counted: prompts, pairs, steps.
	Unit        string  `json:"unit"`
	BusySeconds float64 `json:"busy_seconds"`
}

// Row is one line of the held-out table: a method after an iteration, with its values for each seed.
type Row struct {
	// Method as displayed, unique among the rows: "SFT", "LD-Align 0", "SPIN 2", "Continual SFT 1".
	Method    string   `json:"method"`
	Run       string   `json:"run"`
	Iteration int      `json:"iteration"`
	Seeds     []Scores `json:"seeds"`
}

// Scores are the held-out values of one seed, each a mean over the prompts; nil where it was not measured.
type Scores struct {
	Seed uint64 `json:"seed"`
	// Exact is the share of answers equal to the human one, graded a score in [0, 1]; greedy or sampled at temperature 1.
	GreedyExact   *float64 `json:"greedy_exact,omitempty"`
	GreedyGraded  *float64 `json:"greedy_graded,omitempty"`
	SampledExact  *float64 `json:"sampled_exact,omitempty"`
	SampledGraded *float64 `json:"sampled_graded,omitempty"`
	// Distance is s = ‖φ(x,y) − φ(x,y')‖ between the human answer and the sampled one: what LD-Align lowers.
	Distance *float64 `json:"distance,omitempty"`
	// AnswerTokens is the length of the sampled answers in tokens.
	AnswerTokens *float64 `json:"answer_tokens,omitempty"`
}

// Curve is the training log of one run.
type Curve struct {
	// Method names the curve; curves of several seeds share it.
	Method string `json:"method"`
	Run    string `json:"run"`
	Seed   uint64 `json:"seed"`
	// Objective is ldalign, spin, dpo, sft or guide: only the losses of the first three can be compared with each other.
	Objective string `json:"objective"`
	// Steps are all steps of the run, in order.
	Steps []curves.Step `json:"steps"`
}

// Distances are the scored pairs of one iteration: the paper's first analysis.
type Distances struct {
	Method    string         `json:"method"`
	Run       string         `json:"run"`
	Seed      uint64         `json:"seed"`
	Iteration int            `json:"iteration"`
	Pairs     []PairDistance `json:"pairs"`
}

// PairDistance is one scored pair.
type PairDistance struct {
	Distance float64 `json:"distance"`
	// Weight is w as the trainer used it, after clipping. If all are zero, no weights were used.
	Weight float64 `json:"weight"`
	// Identical reports whether y' equals y.
	Identical bool `json:"identical"`
}

// Agreement is the paper's second analysis: of two samples for one prompt, is the one with the smaller distance the
// one that scores better?
type Agreement struct {
	Method    string       `json:"method"`
	Run       string       `json:"run"`
	Seed      uint64       `json:"seed"`
	Iteration int          `json:"iteration"`
	Pairs     []SamplePair `json:"pairs"`
}

// SamplePair holds two samples A and B for one prompt: their distance to the human answer, their score (larger is
// better), and whether they equal the human answer.
type SamplePair struct {
	DistanceA float64 `json:"distance_a"`
	DistanceB float64 `json:"distance_b"`
	ScoreA    float64 `json:"score_a"`
	ScoreB    float64 `json:"score_b"`
	ExactA    bool    `json:"exact_a"`
	ExactB    bool    `json:"exact_b"`
}

// Guide is the check that the guide's decoder uses the latent: its reconstruction loss, in nats per token, with the
// true latents and with latents shuffled among the pairs.
type Guide struct {
	Run      string  `json:"run"`
	Seed     uint64  `json:"seed"`
	True     float64 `json:"true"`
	Shuffled float64 `json:"shuffled"`
}

// Example is a pair to be read. The report picks the largest, median and smallest distances of those that it is given.
type Example struct {
	Method    string  `json:"method"`
	Run       string  `json:"run"`
	Iteration int     `json:"iteration"`
	Prompt    string  `json:"prompt"`
	Chosen    string  `json:"chosen"`
	Rejected  string  `json:"rejected"`
	Distance  float64 `json:"distance"`
	Weight    float64 `json:"weight"`
}
