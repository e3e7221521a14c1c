# What a machine with a GPU and no Rust needs: `make -f gpu-bundle/Makefile test-gpu`. Copied there by `make gpu-bundle`.
#
# Needs the driver and NVRTC. Its folder is found in the CUDA toolkit if LD_LIBRARY_PATH does not name it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.PHONY: test-gpu bench-gpu sanitize-gpu

HERE := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
CUDA ?= /usr/local/cuda
export LD_LIBRARY_PATH := $(LD_LIBRARY_PATH):$(CUDA)/lib64
export TPDE_REQUIRE_GPU := 1
export TPDE_TEST_DATA := $(HERE)data
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

bench-gpu: ## Speed on the GPU
	$(HERE)speed $(BENCH_ARGUMENTS)
