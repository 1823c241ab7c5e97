# Two commands need nothing but Python and make:  make demo   and   make test
PYTHON ?= python3
VENV   ?= .venv
OUT    ?= runs/digits
STEPS  ?=
WORKERS ?= 2

BIN     := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
READY   := $(VENV)/.ready-$(VERSION)
PARITY  := .venv-parity
PARITY_READY := $(PARITY)/.ready-$(VERSION)
PEERS   := benchmarks/requirements-peers.txt

.PHONY: help demo test test-slow parity lint clean

help:
	@echo "make demo       train Hölder++ on real handwritten digits, evaluate it, draw the pictures"
	@echo "make test       the default test suite"
	@echo "make test-slow  the slow tests as well"
	@echo "make parity     the same losses as MultiVae's and FID features as PyTorch's, in their own environment"
	@echo "make lint       ruff and mypy"
	@echo "Another Python: make test PYTHON=python3.12.  Fewer demo steps: make demo STEPS=100 OUT=runs/short"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,lint]'
	touch $@

$(PARITY_READY): pyproject.toml constraints.txt $(PEERS)
	$(PYTHON) -m venv --clear $(PARITY)
	$(PARITY)/bin/pip install --quiet --constraint constraints.txt --requirement $(PEERS) --editable '.[test]'
	touch $@

demo: $(READY)
	$(BIN)/python experiments/digits.py --out $(OUT) --resume $(if $(STEPS),--steps $(STEPS))

# Half of the tests' time is XLA compiling programs that run once: here it optimises them less.
test: export XLA_FLAGS := --xla_backend_optimization_level=0 $(XLA_FLAGS)
test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m 'slow or not slow'

parity: $(PARITY_READY)
	$(PARITY)/bin/python -m pytest tests/parity

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(PARITY)
