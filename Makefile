# Two commands need nothing but Python and make:  make demo   and   make test
PYTHON ?= python3
VENV   ?= .venv
OUT    ?= runs/digits
STEPS  ?=
WORKERS ?= 2

BIN     := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
READY   := $(VENV)/.ready-$(VERSION)

.PHONY: help demo test test-slow lint clean

help:
	@echo "make demo       train Hölder++ on real handwritten digits, evaluate it, draw the pictures"
	@echo "make test       the default test suite"
	@echo "make test-slow  the slow tests as well"
	@echo "make lint       ruff and mypy"
	@echo "Another Python: make test PYTHON=python3.12.  Fewer demo steps: make demo STEPS=100 OUT=runs/short"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,lint]'
	touch $@

demo: $(READY)
	$(BIN)/python experiments/digits.py --out $(OUT) --resume $(if $(STEPS),--steps $(STEPS))

test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS)

test-slow: $(READY)
	$(BIN)/python -m pytest -m 'slow or not slow'

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV)
