# Everything is built, checked and shown from here; `make help` lists how.

# sudo may have a PATH of its own, so go is also looked for where its own installer puts it.
export PATH := $(PATH):/usr/local/go/bin
# Only bin/ip6d needs to know its version; asked for it, go fails where git is missing or distrusts the folder's owner.
export GOFLAGS := $(GOFLAGS) -buildvcs=false
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

VERSIONED := $(shell git rev-parse --verify HEAD >/dev/null 2>&1 && echo true || echo false)

TEST_TIMEOUT := 15m# for the tests of one package
FUZZTIME     := 10s# for each fuzz test
PACKAGES     := ./...# what test, race and fuzz look at
NO_SKIP      := $(if $(filter true,$(CI)),-no-skip)

# The Debian packages that each kind of work needs, beside go and make.
TEST_DEPS     := iproute2 iputils-ping iptables nftables e2fsprogs mount
KERNEL_DEPS   := $(TEST_DEPS) qemu-system-x86
RACE_DEPS     := gcc libc6-dev
MODEL_DEPS    := spin gcc libc6-dev
GENERATE_DEPS := clang-19 llvm-19 libbpf-dev linux-libc-dev
LINT_DEPS     := clang-format-19 shellcheck

ifeq ($(shell PATH='$(PATH)' command -v go),) # make 4.3 does not export to $(shell)
$(error There is no go in PATH or /usr/local/go/bin: install Go 1.26 or later, see https://go.dev/doc/install)
endif

.PHONY: build bin/ip6d demo test soak test-kernel race model fuzz bench-datapath bench-control lint lint-go lint-c lint-shell lint-proto lint-modules generate check-generated deps deps-% root clean help

## build: bin/ip6d, and bin/etcd for the lab and the tests (the default)
build: bin/ip6d bin/etcd

# Always run: go knows best, and quickly, what has changed. No cgo: the binary runs with any C library, or none.
bin/ip6d:
	CGO_ENABLED=0 go build -trimpath -buildvcs=$(VERSIONED) -o $@ ./cmd/ip6d

bin/etcd: tools/go.mod tools/go.sum
	CGO_ENABLED=0 go -C tools build -trimpath -o ../$@ go.etcd.io/etcd/server/v3

bin/testreport: $(wildcard tools/testreport/*.go)
	CGO_ENABLED=0 go -C tools build -trimpath -o ../$@ ./testreport

bin/testkernel: $(wildcard tools/testkernel/*.go) tools/go.mod tools/go.sum
	CGO_ENABLED=0 go -C tools build -trimpath -o ../$@ ./testkernel

## demo: move a machine between three hosts of a throwaway fleet on this computer (root)
demo: root build
	@bin/ip6d lab demo

## test: every test (root); with CI=true a skipped test is a failure; PACKAGES=./nat for some
test: root deps-test build bin/testreport
	go -C tools test ./...
	go test -json -count=1 -timeout=$(TEST_TIMEOUT) $(PACKAGES) | tee bin/test.json | bin/testreport $(NO_SKIP)
ifeq ($(PACKAGES),./...)
	go -C integration/soak test -json -count=1 -timeout=$(TEST_TIMEOUT) ./... | tee bin/test-soak.json | bin/testreport $(NO_SKIP)
	go -C integration/control test -json -count=1 -timeout=$(TEST_TIMEOUT) ./... | tee bin/test-control.json | bin/testreport $(NO_SKIP)
endif

## soak: random calls and faults for SOAK_TIME (5m), as drawn from SEED (a random one), on three hosts with three etcd members (root)
soak: export SOAK_TIME ?= 5m
soak: root build
	go -C integration/soak run .

## test-kernel: the tests of nat/ and host/ on the oldest kernel, Linux 6.1, which QEMU emulates
test-kernel: deps-test-kernel bin/testkernel bin/testreport
	bin/testkernel nat host | tee bin/test-kernel.json | bin/testreport $(NO_SKIP)

## race: the tests of all but integration/ under the race detector (root)
race: PACKAGES = $$(go list ./... | grep -v ^ip6d/integration)
race: root deps-test deps-race build bin/testreport
	go test -race -json -count=1 -timeout=$(TEST_TIMEOUT) $(PACKAGES) | tee bin/race.json | bin/testreport $(NO_SKIP)

## model: check the model of a machine's life in docs/model, and that what breaks it is found
model: deps-model
	@docs/model/run.sh

## fuzz: each fuzz test for FUZZTIME
fuzz:
	go test -list '^Fuzz' $(PACKAGES) | \
	awk '/^Fuzz/ { name[n++] = $$1 } /^ok/ { while (n) print $$2, name[--n] }' | \
	while read -r package name; do go test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s "$$package"; done

## bench-datapath: measure the datapath beside its rivals, into bench/; takes about six minutes (root)
bench-datapath: root deps-test
	go run ./integration/bench

## bench-control: measure the control plane beside its rivals, into bench/; takes about five minutes (root)
bench-control: root build
	go -C integration/control build -o ../../bin/bench-control .
	bin/bench-control

## lint: gofmt, go vet, staticcheck, tidy modules, clang-format, shellcheck, buf
lint: lint-go lint-c lint-shell lint-proto lint-modules

lint-go:
	@badly=$$("$$(go env GOROOT)/bin/gofmt" -l .); [[ -z $$badly ]] || { echo "gofmt -w" $$badly >&2; exit 1; }
	go vet ./...
	go -C tools vet ./...
	go -C integration/soak vet ./...
	go -C integration/control vet ./...
	go tool -modfile=tools/go.mod staticcheck ./...
	go -C tools tool staticcheck ./...
	go -C integration/soak tool -modfile=$(CURDIR)/tools/go.mod staticcheck ./...
	go -C integration/control tool -modfile=$(CURDIR)/tools/go.mod staticcheck ./...

lint-c: deps-lint
	clang-format-19 --dry-run -Werror bpf/*.[ch] integration/bench/harness/*.c integration/lab/guard/*.c

lint-shell: deps-lint
	grep -rlIE --exclude-dir=.git --exclude-dir=bin '^#!/bin/(ba)?sh' . | xargs shellcheck

lint-proto:
	cd api && go tool -modfile=../tools/go.mod buf lint
	cd api && go tool -modfile=../tools/go.mod buf format --diff --exit-code

lint-modules:
	go mod tidy -diff
	go -C tools mod tidy -diff
	go -C integration/soak mod tidy -diff
	go -C integration/control mod tidy -diff

## generate: the Go code of api/, and the BPF objects with their Go code
generate: deps-generate
	go generate ./...

## check-generated: fails if generate would change anything; changes nothing itself
check-generated:
	tools/check-generated.sh

## deps: install what test, test-kernel, race, model, lint and generate need, by apt (root); they do it themselves, too
deps: deps-test deps-test-kernel deps-race deps-model deps-lint deps-generate

deps-test:     ; @tools/deps.sh $(TEST_DEPS)
deps-test-kernel: ; @tools/deps.sh $(KERNEL_DEPS)
deps-race:     ; @tools/deps.sh $(RACE_DEPS)
deps-model:    ; @tools/deps.sh $(MODEL_DEPS)
deps-lint:     ; @tools/deps.sh $(LINT_DEPS)
deps-generate: ; @tools/deps.sh $(GENERATE_DEPS)

root:
	@((EUID == 0)) || { echo "Network namespaces and BPF need root: sudo make $(MAKECMDGOALS)" >&2; exit 1; }

## clean: remove bin/
clean:
	rm -rf bin

## help: this list
help:
	@sed -n 's/^## \([a-z-]*\): /\1\t/p' Makefile | expand -t 17
