# On a fresh machine: `make demo` and `make test`. Both make .venv and install
# into it; only that needs the network.
PYTHON ?= $(shell command -v python3.11 || echo python3)
BIN := .venv/bin
WORKDIR ?= runs/demo
SEED ?= 4

.PHONY: demo test test-libtpu test-jobs soak lint types clean

demo: .venv/runtime
	$(BIN)/python -m byol_jax pretrain --config=shapes \
	  --config.seed=$(SEED) --workdir=$(WORKDIR)
	$(BIN)/python -m byol_jax report --workdir=$(WORKDIR)

test: .venv/development lint types
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

# Compiles for TPUs that are not attached: minutes, and 1 GB to download.
test-libtpu: .venv/libtpu
	PYTHONPATH=.venv/libtpu $(BIN)/python -m pytest -q -m libtpu

# Several devices or processes against one, one job at a time: minutes.
test-jobs: .venv/development
	$(BIN)/python -m pytest -q -m jobs

# Two hundred random kills, stops and damages of one run; minutes.
soak: .venv/development
	rm -rf runs/soak
	PYTHONPATH=. JAX_PLATFORMS=cpu JAX_DISABLE_MOST_OPTIMIZATIONS=1 \
	  JAX_COMPILATION_CACHE_DIR=.pytest_cache/xla \
	  JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
	  $(BIN)/python tests/helpers/soak.py runs/soak --events=200

lint: .venv/development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/development
	$(BIN)/mypy

clean:
	rm -rf .venv runs build *.egg-info

.venv/runtime: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.txt
	touch $@

.venv/development: requirements-dev.txt .venv/runtime
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements-dev.txt
	touch $@

# The compiler for TPUs, in a separate folder, so that runs do not import it.
.venv/libtpu: requirements-plan.txt .venv/development
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps \
	  --upgrade --target $@ -r requirements-plan.txt
	touch $@
