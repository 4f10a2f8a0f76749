# ldalign. `make` lists the targets. ops/native/native.sh fetches and builds the native layer (libtorch, gotch's binding, the
# tokenizer library) into one folder that git ignores: .native, or $LDALIGN_NATIVE.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export LDALIGN_NATIVE ?= $(CURDIR)/.native

# Waiting OpenMP threads spin for a moment and then sleep. Endless spinning on a busy machine was measured to be 14 times slower
# (ADR 0006). The program sets this for itself; tests and benchmarks get it from here.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 2000

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GOLANGCI_VERSION := v2.15.0
golangci := $(LDALIGN_NATIVE)/tools/golangci-lint-$(GOLANGCI_VERSION)

# Every go command runs with the same cgo flags, and without -trimpath or other tags: Go compiles gotch's binding (minutes of g++)
# again for each set of flags. With the same flags, build, test, vet and lint share one copy.
env := source "$(LDALIGN_NATIVE)/env.sh"
version_flag := -X main.version=$(VERSION)

# cpp_tests lists the packages whose test programs contain gotch, which is not compiled a second time for the race detector.
# pure_tests lists the other packages with tests.
list_tests := go list -test -f '{{if eq .Name "main"}}{{.ImportPath}} {{join .Deps " "}}{{end}}' ./...
cpp := / github.com\/sugarme\/gotch/
cpp_tests := $(list_tests) | awk '$$1 ~ /\.test$$/ && $(cpp) {sub(/\.test$$/, "", $$1); print $$1}'
pure_tests := $(list_tests) | awk '$$1 ~ /\.test$$/ && !$(cpp) {sub(/\.test$$/, "", $$1); print $$1}'
# tests_with lists the folders with a test file that has a line matching the pattern.
tests_with = grep -rlE --include='*_test.go' '$(1)' . | xargs -n 1 dirname | sort -u

say = printf '\n==> %s\n' "$(1)"

.PHONY: help build control test test-integration chaos chaos-trainer demo lint fmt proto cuda bench bench-decode bench-train bench-iteration clean clean-native native

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  On a fresh machine (Go 1.26, a C++20 compiler, Python 3 with pip, cargo): make demo, make test."
	@echo "  The first build fetches 150 MB and compiles for some minutes, and prints each step; later ones start at once."

# The program is two: bin/ldalign, without cgo, starts at once and has the verbs that need no tensors. For the others it replaces itself
# by bin/ldalign-tensors (ADR 0032).
build: native ## build bin/ldalign and bin/ldalign-tensors
	@$(env); go build -ldflags '$(version_flag)' -o bin/ldalign-tensors ./cmd/ldalign
	@CGO_ENABLED=0 go build -ldflags '$(version_flag)' -o bin/ldalign ./cmd/ldalign

# Without cgo Go compiles for other systems as it is. TARGETS names other systems, or some of these.
TARGETS ?= linux/amd64 linux/arm64 darwin/arm64 darwin/amd64 windows/amd64
control: ## build the program without tensors, for Linux, macOS and Windows, into bin/control (the first time: some minutes)
	@for target in $(TARGETS); do \
		name=ldalign-$${target/\//-}; [ "$${target%/*}" != windows ] || name=$$name.exe; \
		CGO_ENABLED=0 GOOS=$${target%/*} GOARCH=$${target#*/} go build -ldflags '-s -w $(version_flag)' -o bin/control/$$name ./cmd/ldalign; \
		echo "bin/control/$$name"; \
	done

test: native ## run go vet and the tests of all packages, with the race detector where there is no C++
	@$(call say,go vet)
	@$(env); go vet ./...
	@export CGO_ENABLED=0; go vet $$(go list -deps ./cmd/ldalign | grep '^github.com/ldalign/')
	@$(call say,tests with the race detector: packages without C++)
	@$(env); $(pure_tests) | xargs go test -race
	@$(call say,tests of the packages with C++)
	@# one package at a time: two at once would each start a team of threads on the same cores
	@$(env); $(cpp_tests) | xargs go test -p 1

test-integration: build ## run the tests that need a real nats-server and MinIO (the first run builds both: 7 minutes)
	@ops/native/servers.sh
	@$(call say,integration tests)
	@$(env); $(call tests_with,^//go:build integration) | xargs go test -tags integration -p 1 -count 1 -timeout 30m

chaos-trainer: native ## kill the trainer's process 25 times and compare its result with that of an undisturbed run
	@$(call say,25 kills of the trainer)
	@$(env); go test ./cmd/ldalign -run '^TestTrainerKilled$$' -count 1 -v -kills 25

chaos: build ## inject 210 faults into a cluster: kills, suspensions, cut connections, wrong S3 answers, full disks (as root; about 16 minutes)
	@ops/native/servers.sh
	@$(env); LDALIGN_CHAOS_FAULTS=$${LDALIGN_CHAOS_FAULTS:-210} LDALIGN_CHAOS_DISKS=$$(mktemp -d) \
		go test -tags integration -run TestChaosCluster -count 1 -timeout 90m -v ./cmd/ldalign

demo: build ## build, then align a small model (about 2 minutes)
	@bin/ldalign demo

lint: native $(golangci) ## run a pinned golangci-lint (the first run compiles it: about 4 minutes)
	@$(env); $(golangci) run ./...

fmt: native $(golangci) ## format all Go code (gofumpt, goimports)
	@$(env); $(golangci) fmt ./...

proto: ## check events.proto and generate its code (the first run compiles buf: some minutes)
	@schemas/events/generate.sh

# There is one program for machines with and without a GPU: it loads libtorch_cuda.so where NVIDIA's driver is.
cuda: ## build bin/ldalign with a libtorch that has CUDA (not run on a GPU by the project)
	@ops/native/native.sh --cuda
	@$(MAKE) build
	@missing=$$(ldd "$$(sed -n 's/.*-rpath,\(.*\)"$$/\1/p' "$(LDALIGN_NATIVE)/env.sh")/libtorch_cuda.so" | awk '/not found/ {print $$1}'); \
	if [ -n "$$missing" ]; then \
		echo "To compute on a GPU, libtorch needs these libraries too:" $$missing; \
		echo "'pip install torch' in a virtual environment installs them: LIBTORCH_FROM=VENV/bin/python make build"; \
	fi

bench: native ## run the benchmarks of all packages
	@$(env); $(call tests_with,^func Benchmark) | xargs go test -p 1 -run '^$$' -bench . -benchmem

# The first run makes the peer's environment (torch and transformers, some GB); LDALIGN_PEER names the python of an existing one.
# MODEL is a folder with a tokenizer of at most 49,152 tokens, such as SmolLM2-135M-Instruct. The benchmark also makes an 18 M Llama
# with random weights. BENCH has further arguments, such as --only sampled --batch 32.
bench-decode: build ## compare decoding and scoring with transformers: make bench-decode MODEL=FOLDER
	@[ -n "$(MODEL)" ] || { echo "bench-decode: MODEL=FOLDER names a model, such as SmolLM2-135M-Instruct" >&2; exit 2; }
	@folder="$(LDALIGN_NATIVE)/bench"; peer="$${LDALIGN_PEER:-}"; mkdir -p "$$folder"; \
	if [ -z "$$peer" ]; then \
		peer="$$folder/peer-decode/bin/python"; \
		[ -x "$$peer" ] || { $(call say,the peer: torch and transformers); python3 -m venv "$$folder/peer-decode"; }; \
		"$$peer" -m pip install -q -r bench/decode/requirements.txt; \
	fi; \
	[ -f "$$folder/llama-18m/model.safetensors" ] || "$$peer" bench/decode/make_model.py "$$folder/llama-18m" "$(MODEL)"; \
	python3 bench/decode/bench.py --ldalign bin/ldalign --peer "$$peer" --model "$$folder/llama-18m" --model "$(MODEL)" $(BENCH)

# PEER is the python of a virtual environment with bench/train/requirements.txt; MODEL is a folder with weights.
bench-train: native ## compare training with TRL: PEER=VENV/bin/python TOKENIZER=FOLDER [MODEL=FOLDER]
	@$(env); go test -c -o bin/trainer.test ./trainer/loop
	@python3 bench/train/bench.py --peer $(PEER) --tokenizer $(TOKENIZER) $(if $(MODEL),--model $(MODEL):4)

bench-iteration: build ## compare a whole iteration with generate and TRL: PEER=VENV/bin/python TOKENIZER=FOLDER [MODEL=FOLDER]
	@python3 bench/iteration/bench.py --peer $(PEER) --tokenizer $(TOKENIZER) $(if $(MODEL),--model $(MODEL))

clean: ## remove bin and coverage; the native layer and all runs stay
	@rm -rf bin coverage

clean-native: ## remove the native layer; the next build fetches and compiles it again
	@[ ! -e "$(LDALIGN_NATIVE)" ] || [ -f "$(LDALIGN_NATIVE)/env.sh" ] || \
		{ echo "$(LDALIGN_NATIVE) does not look like a native layer (no env.sh): not removed" >&2; exit 1; }
	@rm -rf "$(LDALIGN_NATIVE)"

# Left out of the list: every target that needs the native layer depends on this one, which prints nothing when it is complete.
native:
	@ops/native/native.sh
	@$(env); if [ "$$(go list -f '{{.Stale}}' github.com/sugarme/gotch/libtch)" = true ]; then \
		echo "ldalign: compiling gotch's binding to libtorch: about a minute, once" >&2; \
		go build github.com/sugarme/gotch/libtch; \
	fi

$(golangci):
	@echo "ldalign: compiling golangci-lint $(GOLANGCI_VERSION): about 4 minutes on two cores, once" >&2
	@mkdir -p $(@D); scratch=$$(mktemp -d $(@D)/partial.XXXXXX); trap "rm -rf $$scratch" EXIT; \
	GOBIN=$$scratch CGO_ENABLED=0 go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION); \
	mv $$scratch/golangci-lint $@
