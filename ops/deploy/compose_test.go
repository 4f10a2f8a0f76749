// Package deploy_test checks docker-compose.yml and the files that it refers to, without a Docker daemon.
package deploy_test

import (
	"bufio"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/schemas"
)

const root = "../.."

// settings are the values that a user fills in. No file contains this secret.
var settings = []string{
	"LDALIGN_RUN=align-1", "LDALIGN_SPEC=align.yaml", "LDALIGN_S3_ACCESS_KEY=account", "LDALIGN_S3_SECRET_KEY=not-in-any-file",
}

// load reads docker-compose.yml as `docker compose --profile ... config` does: it checks the schema, interpolates, and
// checks that services refer only to what exists.
func load(t *testing.T, env []string, profiles ...string) (*types.Project, error) {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{filepath.Join(root, "docker-compose.yml")},
		cli.WithEnv(env), cli.WithProfiles(profiles))
	if err != nil {
		t.Fatal(err)
	}
	return options.LoadProject(t.Context())
}

func project(t *testing.T, profiles ...string) *types.Project {
	t.Helper()
	p, err := load(t, settings, profiles...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var (
	servers = []string{"minio", "nats"}
	// commands that each profile must run, once the settings are filled in
	commands = []string{
		"trainer /data/align.yaml",
		"worker distance --run align-1",
		"worker encoder --run align-1",
		"worker evaluator --run align-1",
		"worker generator --run align-1",
		"worker prompter --run align-1",
	}
)

// roles are a project's services that are not servers.
func roles(p *types.Project) []types.ServiceConfig {
	var out []types.ServiceConfig
	for _, name := range p.ServiceNames() {
		if !slices.Contains(servers, name) {
			out = append(out, p.Services[name])
		}
	}
	return out
}

func TestEachProfileRunsEveryRoleOnce(t *testing.T) {
	for _, profile := range []string{"cpu", "gpu"} {
		t.Run(profile, func(t *testing.T) {
			p := project(t, profile)
			var got []string
			for _, s := range roles(p) {
				got = append(got, strings.Join(s.Command, " "))
			}
			slices.Sort(got)
			if diff := cmp.Diff(commands, got); diff != "" {
				t.Errorf("commands of profile %s (-want +got):\n%s", profile, diff)
			}
			for _, name := range servers {
				if _, ok := p.Services[name]; !ok {
					t.Errorf("profile %s lacks the server %s", profile, name)
				}
			}
		})
	}
}

func TestHeavyRolesOfTheGPUProfileReserveACard(t *testing.T) {
	withoutCard := []string{"distance", "prompter"}
	for _, s := range roles(project(t, "gpu")) {
		var cards int
		if s.Deploy != nil && s.Deploy.Resources.Reservations != nil {
			for _, d := range s.Deploy.Resources.Reservations.Devices {
				if d.Driver == "nvidia" && slices.Contains(d.Capabilities, "gpu") {
					cards += int(d.Count)
				}
			}
		}
		want, target := 1, "cuda"
		if slices.Contains(withoutCard, s.Name) {
			want, target = 0, "cpu"
		}
		if cards != want || s.Build.Target != target {
			t.Errorf("%s reserves %d cards in image %s, want %d in %s", s.Name, cards, s.Build.Target, want, target)
		}
	}
	for _, s := range roles(project(t, "cpu")) {
		if s.Build.Target != "cpu" {
			t.Errorf("%s of profile cpu uses image %s", s.Name, s.Build.Target)
		}
	}
}

func TestRolesWaitForTheServersAndKnowWhereTheyAre(t *testing.T) {
	wantNeeds := map[string]string{
		"nats": types.ServiceConditionHealthy, "minio": types.ServiceConditionHealthy,
	}
	wantEnv := map[string]string{
		"LDALIGN_NATS": "nats://nats:4222", "LDALIGN_S3": "http://minio:9000", "LDALIGN_S3_BUCKET": "ldalign",
		"LDALIGN_BUCKET_EVENTS": "arn:minio:sqs::LDALIGN:nats",
		"LDALIGN_S3_ACCESS_KEY": "account", "LDALIGN_S3_SECRET_KEY": "not-in-any-file",
	}
	for _, profile := range []string{"cpu", "gpu"} {
		p := project(t, profile)
		for _, s := range roles(p) {
			needs := map[string]string{}
			for name, d := range s.DependsOn {
				needs[name] = d.Condition
			}
			if diff := cmp.Diff(wantNeeds, needs); diff != "" {
				t.Errorf("%s depends on (-want +got):\n%s", s.Name, diff)
			}
			if diff := cmp.Diff(wantEnv, environment(s)); diff != "" {
				t.Errorf("environment of %s (-want +got):\n%s", s.Name, diff)
			}
			if s.StopGracePeriod == nil || *s.StopGracePeriod == 0 {
				t.Errorf("%s has no time to drain", s.Name)
			}
		}
		for name, condition := range wantNeeds {
			if check := p.Services[name].HealthCheck; condition == types.ServiceConditionHealthy && (check == nil || check.Disable) {
				t.Errorf("%s is waited for until healthy, but has no health check", name)
			}
		}
	}
}

func environment(s types.ServiceConfig) map[string]string {
	out := map[string]string{}
	for key, value := range s.Environment {
		if value != nil {
			out[key] = *value
		}
	}
	return out
}

// The id of the notification target is part of MinIO's variables and of the ARN that the trainer sets at the bucket. MinIO's NATS
// subject must not be one of ldalign's own.
func TestBucketNotificationsReachJetStream(t *testing.T) {
	p := project(t, "cpu")
	env := environment(p.Services["minio"])
	id := targetOf(t, env)
	want := map[string]string{
		"MINIO_NOTIFY_NATS_ENABLE_" + id:    "on",
		"MINIO_NOTIFY_NATS_JETSTREAM_" + id: "on",
		"MINIO_NOTIFY_NATS_ADDRESS_" + id:   "nats:4222",
		"MINIO_NOTIFY_NATS_SUBJECT_" + id:   "ldalign-bucket.manifests",
	}
	for key, value := range want {
		if env[key] != value {
			t.Errorf("minio: %s is %q, want %q", key, env[key], value)
		}
	}
	for key := range env {
		if strings.HasPrefix(key, "MINIO_NOTIFY_") && !strings.HasSuffix(key, "_"+id) {
			t.Errorf("minio: %s is not of the target %s", key, id)
		}
	}
	for _, kind := range schemas.Kinds() {
		prefix := strings.TrimSuffix(schemas.KindSubjects(kind), ">")
		if strings.HasPrefix(env["MINIO_NOTIFY_NATS_SUBJECT_"+id], prefix) {
			t.Errorf("minio publishes into the stream of %s", kind)
		}
	}
	queue := env["MINIO_NOTIFY_NATS_QUEUE_DIR_"+id]
	if !slices.ContainsFunc(p.Services["minio"].Volumes, func(v types.ServiceVolumeConfig) bool { return v.Target == queue }) {
		t.Errorf("minio: the queue of undelivered notifications, %q, is on no volume", queue)
	}
	if got, want := environment(p.Services["trainer"])["LDALIGN_BUCKET_EVENTS"], "arn:minio:sqs::"+id+":nats"; got != want {
		t.Errorf("trainer: LDALIGN_BUCKET_EVENTS is %q, want %q", got, want)
	}
}

// targetOf is the id in the name of the one variable that enables a NATS target.
func targetOf(t *testing.T, env map[string]string) string {
	t.Helper()
	var ids []string
	for key := range env {
		if id, ok := strings.CutPrefix(key, "MINIO_NOTIFY_NATS_ENABLE_"); ok {
			ids = append(ids, id)
		}
	}
	if len(ids) != 1 {
		t.Fatalf("minio enables the NATS targets %v, want one", ids)
	}
	return ids[0]
}

func TestBuildsReferToWhatIsThere(t *testing.T) {
	for _, profile := range []string{"cpu", "gpu"} {
		p := project(t, profile)
		for _, s := range roles(p) {
			file := filepath.Join(s.Build.Context, s.Build.Dockerfile)
			if targets := stages(t, file); !slices.Contains(targets, s.Build.Target) {
				t.Errorf("%s is built from target %q of %s, which has %v", s.Name, s.Build.Target, file, targets)
			}
		}
		for _, s := range p.Services {
			for _, v := range s.Volumes {
				if strings.HasSuffix(v.Source, ".conf") {
					if _, err := os.Stat(v.Source); err != nil {
						t.Errorf("%s mounts a file that is not there: %v", s.Name, err)
					}
				}
			}
		}
	}
}

var fromLine = regexp.MustCompile(`(?i)^FROM\s+\S+\s+AS\s+(\S+)`)

// stages are the named stages of a Dockerfile.
func stages(t *testing.T, file string) []string {
	t.Helper()
	var out []string
	for _, line := range lines(t, file) {
		if m := fromLine.FindStringSubmatch(line); m != nil {
			out = append(out, m[1])
		}
	}
	return out
}

func TestServersAreDurableAndPinned(t *testing.T) {
	p := project(t, "cpu")
	if !slices.Contains(lines(t, "nats.conf"), "  sync_interval: always") {
		t.Error("nats.conf does not sync every message before it is acknowledged")
	}
	for name, folder := range map[string]string{"nats": "/data", "minio": "/data"} {
		if !slices.ContainsFunc(p.Services[name].Volumes, func(v types.ServiceVolumeConfig) bool {
			return v.Target == folder && v.Type == types.VolumeTypeVolume
		}) {
			t.Errorf("%s keeps %s on no volume", name, folder)
		}
	}
	for _, name := range servers {
		image := p.Services[name].Image
		if _, tag, ok := strings.Cut(image, ":"); !ok || tag == "latest" {
			t.Errorf("%s: image %q has no pinned version", name, image)
		}
		for _, port := range p.Services[name].Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %d is open to other machines", name, port.Target)
			}
		}
	}
}

// Every setting without a default is required by name and is in the example file. Neither file has a value of the secret.
func TestSettingsAreAskedForAndHoldNoSecret(t *testing.T) {
	example := map[string]string{}
	for _, line := range lines(t, "env.example") {
		if key, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			example[key] = value
		}
	}
	for _, missing := range []string{"LDALIGN_RUN", "LDALIGN_S3_ACCESS_KEY", "LDALIGN_S3_SECRET_KEY"} {
		env := slices.DeleteFunc(slices.Clone(settings), func(s string) bool { return strings.HasPrefix(s, missing+"=") })
		if _, err := load(t, env, "cpu"); err == nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("without %s: error %v, want one that names it", missing, err)
		}
	}
	variable := regexp.MustCompile(`\$\{(LDALIGN_[A-Z0-9_]+)`)
	text := strings.Join(lines(t, filepath.Join(root, "docker-compose.yml")), "\n")
	for _, m := range variable.FindAllStringSubmatch(text, -1) {
		if _, ok := example[m[1]]; !ok && m[1] != "LDALIGN_VERSION" {
			t.Errorf("env.example lacks %s", m[1])
		}
	}
	if example["LDALIGN_S3_SECRET_KEY"] != "" {
		t.Error("env.example holds a secret")
	}
	for _, s := range project(t, "cpu").Services {
		for key, value := range environment(s) {
			secret := strings.Contains(key, "SECRET") || strings.Contains(key, "PASSWORD")
			if secret != (value == "not-in-any-file") {
				t.Errorf("%s: %s is %q: a secret comes from the settings, and goes where one is expected", s.Name, key, value)
			}
		}
	}
}

func lines(t *testing.T, file string) []string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []string
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		out = append(out, scanner.Text())
	}
	if err := scanner.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}
