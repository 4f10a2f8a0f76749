package ledger

import (
	"encoding/json"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/schemas"
)

// TestBalanceAsJSON: scripts read these keys.
func TestBalanceAsJSON(t *testing.T) {
	b := Balance{
		Iteration: 1, Closed: true, Total: 9, Prompts: 8, Pairs: 7, Encoded: 6, Scored: 5, Expired: 1, Recorded: true, Trained: 4,
		Dead: []ReasonCount{{"poison", 1}, {"too_long", 1}}, Dropped: 1, Skipped: []ReasonCount{{"late", 1}}, Ready: 1,
		InFlight: 1, Flights: []Flight{{"a", schemas.Pairs}}, Unnamed: 2, Duplicates: 4,
		Libtorch: []VersionCount{{"2.15.0", schemas.Pairs, 7}},
	}
	const want = `{"iteration":1,"closed":true,"total":9,"prompts":8,"pairs":7,"encoded":6,"scored":5,"expired":1,"recorded":true,` +
		`"trained":4,"dead_by":[{"reason":"poison","count":1},{"reason":"too_long","count":1}],"dropped":1,` +
		`"skipped_by":[{"reason":"late","count":1}],"ready":1,"in_flight":1,"flights":[{"pair":"a","at":"pairs"}],"lost":0,"unnamed":2,` +
		`"duplicates":4,"libtorch":[{"version":"2.15.0","stream":"pairs","count":7}],"dead":2,"skipped":1,"balanced":true}`
	data, err := json.Marshal(b)
	if err != nil || string(data) != want {
		t.Errorf("%s, %v; want\n%s", data, err, want)
	}
	var read Balance
	if err := json.Unmarshal(data, &read); err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(b, read); diff != "" {
		t.Errorf("read again (-written +read):\n%s", diff)
	}
	b.Findings = []Finding{{FoundGap, schemas.Encoded, 1, []string{"b"}, "it is missing"}}
	const finding = `{"findings":[{"code":"gap","stream":"encoded","count":1,"pairs":["b"],"text":"it is missing"}],"balanced":false}`
	var some struct {
		Findings []Finding `json:"findings"`
		Balanced bool      `json:"balanced"`
	}
	if data, err = json.Marshal(b); err == nil {
		err = json.Unmarshal(data, &some)
	}
	if data, _ := json.Marshal(some); err != nil || string(data) != finding {
		t.Errorf("%s, %v; want\n%s", data, err, finding)
	}
}
