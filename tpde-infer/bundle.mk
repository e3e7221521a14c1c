# What a machine with a GPU and no Rust needs: `make -f gpu-bundle/Makefile test-gpu`. Copied there by `make gpu-bundle`.
#
# Needs the driver and NVRTC, which is found in the CUDA toolkit if LD_LIBRARY_PATH does not name its folder. `bench-gpu` measures nvCOMP
# on the same words if PYTHON imports CuPy and nvidia.nvcomp (packages cupy-cuda13x, nvidia-nvcomp-cu13), and else says that it did not.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.PHONY: test-gpu bench-gpu sanitize-gpu

HERE := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
CUDA ?= /usr/local/cuda
export LD_LIBRARY_PATH := $(LD_LIBRARY_PATH):$(CUDA)/lib64
export TPDE_REQUIRE_GPU := 1
export TPDE_TEST_DATA := $(HERE)data
PYTHON ?= python3
BENCH_ARGUMENTS ?=
SANITIZER := $(or $(shell command -v compute-sanitizer),$(wildcard $(CUDA)/bin/compute-sanitizer))

test-gpu: ## Parity on the GPU, then the same under compute-sanitizer if it is there
	$(HERE)parity --test-threads 1
	@$(MAKE) --no-print-directory -f $(HERE)Makefile sanitize-gpu

sanitize-gpu:
ifeq ($(SANITIZER),)
	@echo '*** SKIPPED: compute-sanitizer is not here'
else
	$(SANITIZER) --tool memcheck --error-exitcode 9 $(HERE)parity --test-threads 1 a_few_of_each
	$(SANITIZER) --tool racecheck --error-exitcode 9 $(HERE)parity --test-threads 1 a_few_of_each
endif

bench-gpu: ## Speed on the GPU, then nvCOMP's on the same words if it is there
	@if $(PYTHON) -c 'import cupy; from nvidia import nvcomp' 2>/dev/null; then \
		arrays="$$(mktemp -d)"; trap 'rm -rf "$$arrays"' EXIT; \
		$(HERE)speed $(BENCH_ARGUMENTS) --arrays "$$arrays"; \
		$(PYTHON) -B $(HERE)nvcomp_xor.py "$$arrays"; \
	else \
		$(HERE)speed $(BENCH_ARGUMENTS); \
		echo '*** SKIPPED: nvCOMP is not measured: $(PYTHON) does not import cupy and nvidia.nvcomp'; \
	fi
