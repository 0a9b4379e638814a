# On a fresh machine: `make demo` and `make test`. Both make .venv and install
# into it; only that needs the network.
PYTHON ?= $(shell command -v python3.11 || echo python3)
BIN := .venv/bin
WORKDIR ?= runs/demo
SEED ?= 4

.PHONY: demo test lint types clean

demo: .venv/runtime
	$(BIN)/python -m byol_jax pretrain --config=shapes \
	  --config.seed=$(SEED) --workdir=$(WORKDIR)
	$(BIN)/python -m byol_jax report --workdir=$(WORKDIR)

test: .venv/development lint types
	$(BIN)/python -m pytest -q -n 2

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
