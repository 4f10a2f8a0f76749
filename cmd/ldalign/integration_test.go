//go:build integration

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/clustertest"
	"github.com/ldalign/ldalign/streams/ledger"
)

const (
	account  = "ldalign-test"
	password = "ldalign-test-secret"
	// target is the id of MinIO's notification target
	target = "LDALIGN"
)

// server is the path of a server that ops/native/servers.sh has built.
func server(t *testing.T, name string) string {
	t.Helper()
	native := os.Getenv("LDALIGN_NATIVE")
	if native == "" {
		native = filepath.Join("..", "..", ".native")
	}
	path, err := filepath.Abs(filepath.Join(native, "servers", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no %s to test against: run ops/native/servers.sh: %v", name, err)
	}
	return path
}

// healthy waits until a server answers at a URL.
func healthy(t *testing.T, p *process, url string) {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Second}
	up := p.eventually(t, url, func() bool {
		answer, err := client.Get(url)
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
	if !up {
		t.Fatalf("%s ended at its start:\n%s%s", p.Path, p.stdout.String(), p.stderr.String())
	}
}

// startNATS starts a real NATS server with JetStream and gives its URL and that of its monitoring.
func startNATS(t *testing.T) (url, monitor string) {
	t.Helper()
	ports := clustertest.FreePorts(t, 2)
	address, monitor := ports[0], ports[1]
	config := filepath.Join(t.TempDir(), "nats.conf")
	text := fmt.Sprintf("listen: %q\nhttp: %q\njetstream {\n  store_dir: %q\n  max_file_store: 512GB\n  sync_interval: always\n}\n",
		address, monitor, t.TempDir())
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, exec.Command(server(t, "nats-server"), "--config", config))
	healthy(t, p, "http://"+monitor+"/healthz?js-enabled-only=true")
	return "nats://" + address, "http://" + monitor
}

// startMinIO starts a real MinIO server that tells JetStream of what its buckets receive.
func startMinIO(t *testing.T, natsURL string) string {
	t.Helper()
	address, home := clustertest.FreePorts(t, 1)[0], t.TempDir()
	c := exec.Command(server(t, "minio"), "server", "--quiet", "--address", address, filepath.Join(home, "data"))
	c.Env = []string{
		"HOME=" + home, "PATH=" + os.Getenv("PATH"), "MINIO_ROOT_USER=" + account, "MINIO_ROOT_PASSWORD=" + password,
		"MINIO_BROWSER=off", "MINIO_UPDATE=off",
		"MINIO_NOTIFY_NATS_ENABLE_" + target + "=on",
		"MINIO_NOTIFY_NATS_ADDRESS_" + target + "=" + strings.TrimPrefix(natsURL, "nats://"),
		"MINIO_NOTIFY_NATS_SUBJECT_" + target + "=ldalign-bucket.manifests",
		"MINIO_NOTIFY_NATS_JETSTREAM_" + target + "=on",
		"MINIO_NOTIFY_NATS_QUEUE_DIR_" + target + "=" + filepath.Join(home, "queue"),
		"MINIO_NOTIFY_NATS_QUEUE_LIMIT_" + target + "=10000",
	}
	p := start(t, c)
	healthy(t, p, "http://"+address+"/minio/health/ready")
	return "http://" + address
}

// cluster is real servers and the processes that work against them.
type cluster struct {
	nats, monitor, s3 string
}

// args is a command line against the cluster's servers.
func (c cluster) args(dir string, args ...string) []string {
	return append(args, "--dir", dir, "--nats", c.nats, "--s3", c.s3, "--bucket", "ldalign", "--verbose")
}

func (c cluster) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := command(c.args(t.TempDir(), args...)...)
	cmd.Env = append(cmd.Env, "LDALIGN_S3_ACCESS_KEY="+account, "LDALIGN_S3_SECRET_KEY="+password)
	return cmd
}

// reader connects to the servers as the verbs that only read do.
func (c cluster) reader(t *testing.T) *node {
	t.Helper()
	t.Setenv("LDALIGN_S3_ACCESS_KEY", account)
	t.Setenv("LDALIGN_S3_SECRET_KEY", password)
	s, err := runs.Attach(t.Context(), runs.Options{
		Dir: t.TempDir(), Servers: schemas.ServersSpec{NATS: c.nats, S3: c.s3, Bucket: "ldalign", Region: "us-east-1"}, Name: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	n := &node{Session: s}
	return n
}

// evaluated is how many policies have results.
func (n *node) evaluated(t *testing.T, run string) int {
	t.Helper()
	have, err := n.Results(t.Context(), run)
	if err != nil {
		t.Fatal(err)
	}
	return len(have)
}

// count is how many messages of a kind a run has; 0 as long as nobody has declared the run.
func (n *node) count(t *testing.T, kind schemas.Kind, run string) int {
	t.Helper()
	got := 0
	err := n.Streams.Read(t.Context(), kind, run, streams.AllIterations, 0, func(streams.Received) error {
		got++
		return nil
	})
	if err != nil && !errors.Is(err, streams.ErrNotFound) {
		t.Fatal(err)
	}
	return got
}

// The roles run as processes of their own against a real NATS server and a real MinIO. One generator is killed while it
// works. What comes out is what `ldalign up` gives for the same spec in one process.
func TestIntegrationProcesses(t *testing.T) {
	alone := t.TempDir()
	ldalign(t, "up", "testdata/start.yaml", "--dir", alone).want(t, 0)
	model := filepath.Join(t.TempDir(), "start")
	ldalign(t, "checkpoints", "export", "start", model, "--dir", alone).want(t, 0)
	from := "model.from=" + model
	ldalign(t, "up", "testdata/apart.yaml", "--set", from, "--dir", alone).want(t, 0)
	want := outcomeOf(t, alone, "apart")

	var c cluster
	c.nats, c.monitor = startNATS(t)
	c.s3 = startMinIO(t, c.nats)
	worker := func(role string) *process { return start(t, c.command(t, "worker", role, "--run", "apart")) }
	// generators come and go through this process, so that they do not run ahead of it when one of them is to be killed
	wire := clustertest.NewProxy(t, strings.TrimPrefix(c.nats, "nats://"))
	through := cluster{nats: "nats://" + wire.Address, s3: c.s3}
	generator := func() *process { return start(t, through.command(t, "worker", "generator", "--run", "apart")) }
	workers := map[string]*process{
		"generator 1": generator(), "generator 2": generator(), "encoder": worker("encoder"),
		"distance": worker("distance"), "evaluator": worker("evaluator"),
	}
	trainer := start(t, c.command(t, "trainer", "testdata/apart.yaml", "--set", from,
		"--bucket-events", "arn:minio:sqs::"+target+":nats"))
	n := c.reader(t)
	dump := func() string {
		text := "trainer:\n" + trainer.stderr.String()
		for name, w := range workers {
			text += name + ":\n" + w.stderr.String()
		}
		return text
	}

	// a second trainer is refused; the first one cannot end before, for there is no prompter
	if !trainer.eventually(t, "policy 0", func() bool { return n.count(t, schemas.Checkpoints, "apart") > 0 }) {
		t.Fatalf("the trainer ended:\n%s", dump())
	}
	second := start(t, c.command(t, "trainer", "testdata/apart.yaml", "--set", from))
	code := second.wait(t)
	output{code, second.stdout.String(), second.stderr.String()}.want(t, exitInUse, "run apart is held by")

	// both generators have waited for prompts; when the first pairs are there, one dies with a batch in hand
	workers["prompter"] = worker("prompter")
	if !trainer.eventually(t, "the first pairs", func() bool { return n.count(t, schemas.Pairs, "apart") > 0 }) {
		t.Fatalf("the trainer ended:\n%s", dump())
	}
	victim := workers["generator 1"]
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-victim.done
	pairs := n.count(t, schemas.Pairs, "apart")
	t.Logf("killed a generator after %d pairs", pairs)
	if pairs >= 96 {
		t.Errorf("the generator was killed after the first iteration's last pair")
	}
	delete(workers, "generator 1")

	if code := trainer.wait(t); code != 0 {
		t.Fatalf("the trainer ended with %d:\n%s", code, dump())
	}
	workers["evaluator"].eventually(t, "the last evaluation", func() bool { return n.evaluated(t, "apart") == 3 })
	for name, w := range workers {
		if err := w.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code := w.wait(t); code != 0 {
			t.Errorf("%s ended with %d when it was told to end:\n%s", name, code, w.stderr.String())
		}
	}

	if diff := cmp.Diff(want, n.outcome(t, "apart")); diff != "" {
		t.Errorf("not what one process gives (-one process +several):\n%s", diff)
	}
	c.balanced(t)
	n.trainedOnce(t)
	if !t.Run("notifications", func(t *testing.T) { c.notified(t) }) || t.Failed() {
		t.Log(dump())
	}
}

// A trainer that is stopped (SIGSTOP) has the bound before it and no more, and generators say why they rest. It is killed then,
// and the prompter with it; their successors go on, and the run trains every pair once an epoch.
func TestIntegrationTrainerStopped(t *testing.T) {
	const run = "streaming"
	var c cluster
	c.nats, c.monitor = startNATS(t)
	c.s3 = startMinIO(t, c.nats)
	workers := map[string]*process{}
	dump := func() string {
		text := ""
		for name, w := range workers {
			text += name + ":\n" + w.stderr.String()
		}
		return text
	}
	begin := func(roles ...string) {
		for _, r := range roles {
			if r == "trainer" {
				workers[r] = start(t, c.command(t, append([]string{"trainer", "testdata/streaming.yaml"}, bounded()...)...))
				continue
			}
			kind, _, _ := strings.Cut(r, " ")
			workers[r] = start(t, c.command(t, "worker", kind, "--run", run))
		}
	}
	begin("trainer", "prompter", "generator 1", "generator 2")
	n := c.reader(t)
	trainer := workers["trainer"]
	if !trainer.eventually(t, "the first steps", func() bool { return n.count(t, schemas.Results, run) > 2 }) {
		t.Fatalf("the trainer ended:\n%s", dump())
	}
	if err := trainer.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	spec, err := runs.Spec(t.Context(), n.Session, run)
	if err != nil {
		t.Fatal(err)
	}
	if !trainer.eventually(t, "prompter and generators to rest", func() bool { return n.held(t, spec) }) {
		t.Fatalf("the trainer ended:\n%s", dump())
	}
	for _, r := range []string{"trainer", "prompter"} {
		if err := workers[r].Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-workers[r].done
	}
	begin("trainer", "prompter")
	if code := workers["trainer"].wait(t); code != 0 {
		t.Fatalf("the trainer ended with %d:\n%s", code, dump())
	}
	n.finishedBounded(t, run)
	c.run(t, t.TempDir(), "audit "+run).want(t, 0, "0 dead, 0 in flight")
}

// run runs ldalign against the cluster in this process, as the function ldalign does.
func (c cluster) run(t *testing.T, dir, args string) output {
	t.Helper()
	t.Setenv("LDALIGN_S3_ACCESS_KEY", account)
	t.Setenv("LDALIGN_S3_SECRET_KEY", password)
	return ldalign(t, append(strings.Fields(args), "--dir", dir, "--nats", c.nats, "--s3", c.s3, "--bucket", "ldalign")...)
}

// Against a real NATS server and a real MinIO: a replay and a sweep of a run have the bits that they have in one process, and
// no stage in front of the log that they read works; a backup is restored under the run's name, after it was deleted on the
// server that stayed up, and under another one; a replay that was pinned before reads the restored log.
func TestIntegrationReplay(t *testing.T) {
	alone, dir, folder := finishedCopy(t), t.TempDir(), filepath.Join(t.TempDir(), "backup")
	const replay = "replay tiny-ld --from scored --set objective.beta=0.2 --as low"
	const sweep = "sweep tiny-ld --from scored --set objective.beta=0.05,0.3 --parallel 2"
	for _, args := range []string{replay, sweep} {
		ldalign(t, append(strings.Fields(args), "--dir", alone)...).want(t, 0)
	}
	runs := []string{"tiny-sft", "tiny-ld", "low", "tiny-ld-beta-0_05", "tiny-ld-beta-0_3"}
	want := outcomeOf(t, alone, runs...)

	var c cluster
	c.nats, c.monitor = startNATS(t)
	c.s3 = startMinIO(t, c.nats)
	ld := func(args string) output { t.Helper(); return c.run(t, dir, args) }
	ld("up "+tiny).want(t, 0, "LD-Align 1")
	ld(replay+" --dry-run").want(t, 0, "# stages that run: evaluator, trainer")
	ld(replay).want(t, 0)
	ld(sweep).want(t, 0, "| tiny-ld-beta-0_05 ")
	n := c.reader(t)
	if diff := cmp.Diff(want.Weights, n.outcome(t, runs...).Weights); diff != "" {
		t.Errorf("not the weights that one process gives (-one process +servers):\n%s", diff)
	}
	for _, run := range runs[2:] {
		if made := n.messages(t, run); len(made) > 0 {
			t.Errorf("stages of %s have worked, or messages were copied: %v", run, made)
		}
		ld("audit "+run).want(t, 0, "32 trained")
	}
	ld("replay tiny-ld --exact --as again").want(t, 0, "exact: policy 2 of again")

	pinned := filepath.Join(t.TempDir(), "pinned.yaml")
	write(t, pinned, ld("status low --spec").stdout)
	low := n.outcome(t, "low")
	ld("backup tiny-ld --to "+folder).want(t, 0)
	for _, run := range append(runs[2:], "again", "tiny-ld") {
		ld("runs delete "+run+" --yes").want(t, 0, "deleted run "+run)
	}
	ld("restore "+folder).want(t, 0, "run tiny-ld is restored")
	ld("restore "+folder+" --as copy").want(t, 0, "run copy is restored")
	ld("up "+pinned).want(t, 0)
	if diff := cmp.Diff(low, n.outcome(t, "low")); diff != "" {
		t.Errorf("pinned before the source was restored (-before +after):\n%s", diff)
	}
	for _, run := range []string{"tiny-ld", "copy"} {
		ld("audit "+run).want(t, 0, "iteration 1: 32 prompts", "0 dead, 0 in flight")
		ld("replay "+run+" --exact --as exact-"+run).want(t, 0, "exact: policy 2 of exact-"+run)
	}

	// the server remembers the ids of what was deleted, and a new run of the name is whole all the same
	for _, run := range []string{"low", "exact-tiny-ld", "exact-copy", "copy", "tiny-ld"} {
		ld("runs delete "+run+" --yes").want(t, 0, "deleted run "+run)
	}
	ld("up "+tiny+" --set retention.messages=1 --set retention.policies=1").want(t, 0)
	got := n.outcome(t, "tiny-sft", "tiny-ld")
	if got.Pairs["tiny-ld 0"] != 0 || got.Pairs["tiny-ld 1"] != 32 || got.Weights["tiny-ld policy 2 model.safetensors"] == "" ||
		got.Weights["tiny-ld policy 2 model.safetensors"] != want.Weights["tiny-ld policy 2 model.safetensors"] {
		t.Errorf("begun anew, keeping little: %v", got)
	}
	ld("audit tiny-ld").want(t, 0, "32 removed by retention = 32 trained")
}

// balanced has audit prove that each pair of both iterations went through once.
func (c cluster) balanced(t *testing.T) {
	t.Helper()
	p := start(t, c.command(t, "audit", "apart", "--json"))
	code := p.wait(t)
	for i, a := range lines[ledger.Balance](t, output{code, p.stdout.String(), p.stderr.String()}) {
		if int(a.Iteration) != i || !a.Balances() || !a.Closed || a.Total != 96 || a.Scored != 96 || a.DeadTotal() != 0 || a.InFlight > 0 {
			t.Errorf("iteration %d does not balance: %+v", i, a)
		}
	}
}

// trainedOnce checks the number of pairs that each policy's manifest says it was trained from.
func (n *node) trainedOnce(t *testing.T) {
	t.Helper()
	for i := range uint32(2) {
		m, err := n.Checkpoints.Policy(t.Context(), "apart", i+1)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := m.Metric("pairs"); got != 96 {
			t.Errorf("policy %d was trained from %v pairs, want 96", i+1, got)
		}
		got, err := ledger.Collect(t.Context(), n.Streams, schemas.Scored, "apart", i, nil)
		if err != nil {
			t.Fatal(err)
		}
		for k, message := range got.Messages {
			if at := message.(*events.Scored).GetPair().GetPrompt().GetPosition(); int(at) != k {
				t.Fatalf("pair %d of iteration %d stands at position %d", k, i, at)
			}
		}
	}
}

// notified waits until MinIO has told JetStream of a manifest of the run. It is late by design: seconds.
func (c cluster) notified(t *testing.T) {
	t.Helper()
	var told uint64
	giveUp := time.After(limit)
	for told == 0 {
		answer, err := http.Get(c.monitor + "/jsz?streams=true")
		if err != nil {
			t.Fatal(err)
		}
		var status struct {
			Accounts []struct {
				Streams []struct {
					Name  string
					State struct{ Messages uint64 }
				} `json:"stream_detail"`
			} `json:"account_details"`
		}
		err = json.NewDecoder(answer.Body).Decode(&status)
		answer.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		for _, account := range status.Accounts {
			for _, stream := range account.Streams {
				if stream.Name == "LDALIGN_HINTS" {
					told = stream.State.Messages
				}
			}
		}
		select {
		case <-giveUp:
			t.Fatalf("no notification reached JetStream within %v", limit)
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Logf("MinIO has told JetStream of %d manifests", told)
}
