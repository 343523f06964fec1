# Every target first sets up what it needs; where that is there already, it takes no network and next to no time.

SHELL := /bin/bash
# Debian keeps ip, nft and bird where an ordinary user's PATH does not look.
export PATH := $(PATH):/usr/sbin:/sbin

BIN := .venv/bin
# Namespaces, links and routes belong to root.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

NODES ?= 3
WORKLOADS ?= 2
STORE ?= sqlite
EXAMPLES ?= 100000
DUAL_STACK ?=
WORKERS ?= 2
BENCH ?= all

.DEFAULT_GOAL := help
.PHONY: help setup setup-consul setup-test lab lab-down test lint types pytest fuzz format bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## install what the lab needs; PYTHON=... chooses the interpreter
	@./bootstrap lab

setup-consul: setup ## the same, and a Consul server
	@./bootstrap consul

setup-test: ## install what the tests need: the above, and other BGP daemons to talk to
	@./bootstrap test

lab: ## hosts on this machine: NODES=3 WORKLOADS=2 STORE=sqlite|consul DUAL_STACK=1
lab: $(if $(filter consul,$(STORE)),setup-consul,setup)
	@$(AS_ROOT) $(BIN)/tortiectl lab up --nodes $(NODES) --workloads $(WORKLOADS) --store $(STORE) \
		$(if $(DUAL_STACK),--dual-stack)

lab-down: setup ## remove the lab
	@$(AS_ROOT) $(BIN)/tortiectl lab down

test: setup-test ## every check and every test; fails if one was skipped
	@failed=; \
	for check in lint types pytest; do \
		$(MAKE) --no-print-directory $$check || failed+=" $$check"; \
	done; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

lint: setup ## rules, format, and the layers of the packages
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: setup ## static types
	$(BIN)/mypy

pytest: setup-test ## the tests alone: WORKERS=2 at a time
	$(AS_ROOT) $(BIN)/pytest -p no:cacheprovider -n $(WORKERS) --dist loadfile

fuzz: setup ## made-up CNI calls and Docker requests: EXAMPLES=100000 of each kind
	TORTIE_FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/pytest -p no:cacheprovider tests/unit/test_cni_fuzz.py \
		tests/contract/docker/test_docker_fuzz.py

format: setup ## put the code into its one format
	$(BIN)/ruff format
	$(BIN)/ruff check --fix-only --quiet

bench: setup-test ## measure against other programs into build/bench/results.json: BENCH=name
	@$(AS_ROOT) $(BIN)/python -m tests.bench.run $(BENCH)

clean: ## remove what was built and cached; .venv and .tools stay
	@$(AS_ROOT) rm -rf build dist .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis
	@$(AS_ROOT) find bgp controller ipam tests -name __pycache__ -prune -exec rm -rf {} +
