package models_test

import (
	"context"
	"errors"
	"testing"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
)

func TestLogProbsOfRowsThatDoNotFit(t *testing.T) {
	eng := newEngine(t, 1)
	m := loadGolden(t, eng, "mistral", tensor.Float32)
	ok := models.Sequence{IDs: []int64{1, 2, 3}, PromptLen: 1}
	for name, test := range map[string]struct {
		rows []models.Sequence
		pad  models.PadRule
	}{
		"no prompt":         {[]models.Sequence{{IDs: []int64{1, 2}}}, models.PadRule{Rows: 1, Length: 4}},
		"prompt too long":   {[]models.Sequence{{IDs: []int64{1, 2}, PromptLen: 3}}, models.PadRule{Rows: 1, Length: 4}},
		"row too long":      {[]models.Sequence{ok}, models.PadRule{Rows: 1, Length: 2}},
		"too many rows":     {[]models.Sequence{ok, ok}, models.PadRule{Rows: 1, Length: 4}},
		"no shape":          {nil, models.PadRule{}},
		"past the window":   {[]models.Sequence{ok}, models.PadRule{Rows: 1, Length: 129}},
		"token outside":     {[]models.Sequence{{IDs: []int64{1, 64}, PromptLen: 1}}, models.PadRule{Rows: 1, Length: 4}},
		"negative token id": {[]models.Sequence{{IDs: []int64{1, -1}, PromptLen: 1}}, models.PadRule{Rows: 1, Length: 4}},
	} {
		t.Run(name, func(t *testing.T) {
			var values []float32
			err := eng.Do(context.Background(), func(s *tensor.Scope) error {
				values = models.LogProbs(s, m, test.rows, test.pad).Float32s()
				return nil
			})
			if err == nil || values != nil {
				t.Errorf("values %v, error %v: want an error alone", values, err)
			}
			if _, padding := test.pad.Pad(test.rows); padding != nil && test.rows != nil && !errors.Is(err, models.ErrSequence) {
				t.Errorf("error %v, want ErrSequence", err)
			}
		})
	}
	// Without a response there is nothing to add up.
	do(t, eng, func(s *tensor.Scope) error {
		bare := []models.Sequence{{IDs: []int64{1}, PromptLen: 1}}
		for _, v := range models.LogProbs(s, m, bare, models.PadRule{Rows: 2, Length: 4}).Float32s() {
			if v != 0 {
				t.Errorf("log-prob of an empty response is %g", v)
			}
		}
		return nil
	})
}
