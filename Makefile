# netseq. `make demo` replays a small capture and shows its alerts; `make test` runs every check.
# Both set up .venv first, once: a second run reuses it. Another Python: make PYTHON=python3.12 test

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
DEMO := tests/data/demo.pcap.gz
CODE := sensor models benchmarks tests

.PHONY: help demo test lint types bench clean
.DELETE_ON_ERROR:

.DEFAULT_GOAL := help
help:
	@echo "make demo    install into $(VENV) and replay a small capture"
	@echo "make test    install into $(VENV) and run lint, types and tests"
	@echo "make lint    ruff alone            make types   mypy alone"
	@echo "make bench   measure speed and memory, and write the table in README.md"
	@echo "make clean   remove $(VENV), caches and build output"

demo: $(STAMP)
	@$(BIN)/netseq-replay $(DEMO)

test: lint types
	@$(BIN)/python -m pytest -q -n $(WORKERS)

lint: $(STAMP)
	@$(BIN)/ruff check --quiet $(CODE)
	@$(BIN)/ruff format --quiet --check $(CODE)
	@echo "lint: clean"

types: $(STAMP)
	@$(BIN)/mypy $(CODE)

bench: $(STAMP)
	@$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so an install that failed is tried again; pip does nothing for what is there already.
$(STAMP): setup.cfg constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("netseq needs Python 3.11 or later, and $(PYTHON) is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12")'
	@echo "setting up $(VENV): downloads some hundred megabytes, once"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,zstd,parquet]'
	@touch $@
