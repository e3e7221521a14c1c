# The few commands of this project. `make` alone lists them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup tools fixtures build lint doc test test-python soak demo bench bench-python gpu-bundle test-gpu bench-gpu clean

FIXTURES := target/fixtures
# Where cargo builds, if it was told to build elsewhere.
TARGET := $(or $(CARGO_TARGET_DIR),target)
VENV_STAMP := .venv/.stamp
# PyTorch and the trainers that the Python package is tested with are large: they are kept outside, one folder for every clone.
PY_VENV ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tpde/python-tests
PY_STAMP := $(PY_VENV)/.stamp-$(shell cksum < requirements-python.txt | tr ' ' -)
# The environment's Python once it is there; any whole Python 3 does for the fixtures and the demo.
PYTHON ?= python3
VENV_OR_PYTHON = $(shell [[ -x .venv/bin/python ]] && echo .venv/bin/python || echo $(PYTHON))

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+( [a-z-]+)?:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: tools $(VENV_STAMP) ## Install what is missing: C compiler, Python, .venv for the reference decoder and the servers of tests

tools:
	@PYTHON=$(PYTHON) .ci/tools

# s3rver needs npm; without it one test is left out, and says so.
$(VENV_STAMP): requirements-test.txt tests/node/package.json tests/node/package-lock.json | tools
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements-test.txt
	@mkdir .venv/node && cp tests/node/package.json tests/node/package-lock.json .venv/node
	@npm ci --silent --no-audit --no-fund --ignore-scripts --prefix .venv/node || echo 'setup: no s3rver, for npm is not here or failed'
	@touch $@

fixtures: tools ## Write the model directories of tests/data into target/fixtures
	@$(VENV_OR_PYTHON) -B tests/data/expand.py $(FIXTURES)

build: tools ## Build the tpde binary into target/release, or below CARGO_TARGET_DIR
	cargo build --locked --release -p tpde-cli

lint: tools ## Formatting, clippy and documentation, every warning an error
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps

# The name of the stamp says which requirements are there, whatever their date in this clone.
$(PY_STAMP): | tools
	$(PYTHON) -m venv --clear $(PY_VENV)
	$(PY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements-python.txt
	@touch $@

# The wheel as a user builds it, then everything that is said of it; a framework that is not there is a failure here.
test-python: tools fixtures $(PY_STAMP) ## The Python package: wheel, stubs, types, tests with PyTorch and its trainers
	PATH="$(PY_VENV)/bin:$$PATH" pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --force-reinstall ./tpde-py
	cd tpde-py && $(PY_VENV)/bin/ruff format --check . && $(PY_VENV)/bin/ruff check .
	$(PY_VENV)/bin/ruff check --config tpde-py/pyproject.toml examples benches/python && $(PY_VENV)/bin/ruff format --check --config tpde-py/pyproject.toml examples benches/python
	cd tpde-py && $(PY_VENV)/bin/python -m mypy python && $(PY_VENV)/bin/python -m mypy.stubtest tpde._tpde
	cd tpde-py && TPDE_REQUIRE_FRAMEWORKS=1 $(PY_VENV)/bin/python -m pytest

# The tests of Rust come last, so that their own summary is the last thing on the screen.
test: setup fixtures lint test-python ## Everything CI runs
	cargo test --locked --workspace --doc
	cargo test --locked --workspace --lib --bins --tests

# One after the other: rounds that wait for moments want the machine to themselves. The seed of fuzzing is any number.
soak: export TPDE_SOAK := 1
soak: setup fixtures ## Long rounds, about an hour: protocol, power, kills, races, flips, fuzz (TPDE_FUZZ_SEED=n for other inputs)
	cargo test --locked -p tpde-tests --test protocol -- --nocapture
	cargo test --locked -p tpde-store --lib faults -- --nocapture
	cargo test --locked -p tpde-tests --test hostile -- --nocapture
	cargo test --locked -p tpde-tests --test race -- --nocapture
	cargo test --locked -p tpde-tests --test backends -- --nocapture
	cargo test --locked -p tpde-tests --test fuzz -- --nocapture
	cargo test --locked -p tpde-tests --test crash -- --nocapture --test-threads 1

demo: fixtures build ## Save, compare and restore a real run with the built binary
	@PYTHON=$(VENV_OR_PYTHON) examples/demo.sh $(TARGET)/release/tpde $(FIXTURES)

bench: fixtures ## Run the measurements of benches/
	cargo bench --locked -p tpde-bench

bench-python: $(PY_STAMP) ## What saving costs a training loop, beside torch.save, safetensors and DCP (after make test-python, which installs the wheel)
	$(PY_VENV)/bin/python benches/python/training_loop.py

gpu-bundle: ## Build gpu-bundle/: tests and measurements for a machine with a GPU and no Rust
	rm -rf gpu-bundle
	mkdir -p gpu-bundle/data/state
	cp "$$(cargo test --locked --release -p tpde-infer --test gpu --no-run --message-format json | .ci/executable)" gpu-bundle/parity
	cp "$$(cargo bench --locked -p tpde-bench --bench gpu --no-run --message-format json | .ci/executable)" gpu-bundle/speed
	strip gpu-bundle/parity gpu-bundle/speed
	cp tests/data/state/*.safetensors gpu-bundle/data/state
	cp benches/peers/nvcomp_xor.py gpu-bundle
	cp tpde-infer/bundle.mk gpu-bundle/Makefile

test-gpu bench-gpu: ## Run gpu-bundle/ on a machine with a GPU, without cargo: parity; speed, nvCOMP's too if CuPy and it are there
	@[[ -x gpu-bundle/parity ]] || { echo 'no gpu-bundle/ here: run `make gpu-bundle` where Rust is' >&2; exit 1; }
	@$(MAKE) --no-print-directory -f gpu-bundle/Makefile $@

clean: ## Remove everything that was built or downloaded here
	cargo clean
	rm -rf .venv gpu-bundle $(FIXTURES)
