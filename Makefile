# On a fresh machine: `make demo` and `make test`. Both make .venv and install
# into it; only that needs the network.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13; do \
  $$name -c '' >/dev/null 2>&1 && echo $$name && exit; done; echo python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check
EXPORT_PIP := $(subst .venv/,.venv-export/,$(PIP))
# The package as a link to this folder, by a .pth file: pip's other way lets a
# folder that is called byol_jax, as this one, hide it from scripts beside it.
EDITABLE := --config-settings editable_mode=compat -e .
WORKDIR ?= runs/demo
SEED ?= 4
# An extra of setup.py to install too: make demo EXTRA=cuda13
EXTRA ?=
# The tests of `make check`: the method, its configuration, the package's form.
QUICK := $(patsubst %,tests/%_test.py, \
  losses schedules metrics optimizers augment networks convolution resnet \
  parallel \
  configs configuration cli/console errors files layers \
  data/catalog data/sampling/order data/sampling/crops data/sampling/views \
  data/sampling/resize evals/knn conformance/primitives \
  checkpoints/trees checkpoints/digests training/recovery)

.PHONY: demo check test test-libtpu test-jobs test-wheel test-export soak lint \
  types tools docs clean

demo: .venv/runtime $(EXTRA:%=.venv/extra-%)
	$(BIN)/byol-jax pretrain --config=shapes \
	  --config.seed=$(SEED) --workdir=$(WORKDIR)
	$(BIN)/byol-jax report --workdir=$(WORKDIR)

# Before every commit: under a minute.
check: .venv/development lint types
	$(BIN)/python -m pytest -q -n 2 --dist loadfile $(QUICK)

test: tools .venv/development lint types
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

# Compiles for TPUs that are not attached: minutes, and 1 GB to download.
test-libtpu: .venv/libtpu
	PYTHONPATH=.venv/libtpu $(BIN)/python -m pytest -q -m libtpu

# Several devices or processes against one, a run that is killed and damaged
# again and again, other tests of a process of its own; one at a time: minutes.
test-jobs: .venv/development
	$(BIN)/python -m pytest -q -m jobs

# Builds the package and installs it alone; needs the network.
test-wheel: .venv/development
	$(BIN)/python -m pytest -q -m wheel

# Exports in the frameworks that they are for; 1 GB to download.
test-export: .venv-export/export
	.venv-export/bin/python -m pytest -q -m export

# Opens a report in Chromium, as Debian has it; says so and skips without it.
test-report: .venv/development
	$(BIN)/python -m pytest -q -rs -m report

# Two hundred random kills, stops and damages of one run; minutes.
soak: .venv/development
	rm -rf runs/soak
	PYTHONPATH=. JAX_PLATFORMS=cpu JAX_DISABLE_MOST_OPTIMIZATIONS=1 \
	  JAX_COMPILATION_CACHE_DIR=.pytest_cache/xla \
	  JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
	  $(BIN)/python tests/helpers/soak.py runs/soak --events=200

# The page of the configuration's keys, from the comments beside defaults.
docs: .venv/runtime
	$(BIN)/byol-jax config --markdown > docs/configuration.md

lint: .venv/development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/development
	$(BIN)/mypy

tools:
	$(foreach name,gcc git,$(if $(shell command -v $(name) || :),, \
	  $(error make test needs $(name), which is not installed)))

clean:
	rm -rf .venv .venv-export runs build dist *.egg-info

# The package itself is installed as a link to this folder.
.venv/runtime: requirements.txt setup.py
	$(require_python)
	$(PYTHON) -m venv .venv
	$(PIP) -r requirements.txt
	$(PIP) --no-deps $(EDITABLE)
	touch $@

# With requirements.txt, so that the extra's packages fit the pinned ones.
.venv/extra-%: .venv/runtime
	$(PIP) -r requirements.txt $(EDITABLE)'[$*]'
	touch $@

.venv/development: requirements-dev.txt .venv/runtime
	$(PIP) -r requirements-dev.txt
	touch $@

# The compiler for TPUs, in a separate folder, so that runs do not import it.
.venv/libtpu: requirements-plan.txt .venv/development
	$(PIP) --no-deps --upgrade --target $@ -r requirements-plan.txt
	touch $@

# torchvision comes first and without its dependencies: its wheel may be built
# for CUDA, which it would install.
.venv-export/export: requirements-export.txt requirements-dev.txt \
    requirements.txt setup.py
	$(require_python)
	$(PYTHON) -m venv .venv-export
	$(EXPORT_PIP) --no-deps torchvision==0.28.0
	$(EXPORT_PIP) -r requirements-export.txt
	$(EXPORT_PIP) --no-deps $(EDITABLE)
	touch $@

# Ends make with one line if it does not hold.
version = $(shell $(PYTHON) -c \
  'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
require_python = $(if $(filter 3.11 3.12 3.13,$(version)),,$(error \
  byol_jax needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is \
  $(or $(version),not there): make PYTHON=/path/to/python3.11))
