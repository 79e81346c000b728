# netseq. `make demo` replays a small capture and shows its alerts; `make test` runs every check.
# Both set up .venv first, once: a second run reuses it. Another Python: make PYTHON=python3.12 test

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
APPINSPECT := .venv-splunk
DEMO := tests/data/demo.pcap.gz
CODE := sensor models benchmarks tests plugins/splunk

# Where `make install` puts netseq. DESTDIR is a folder that becomes the root of another machine, such as a package or an image.
PREFIX ?= /opt/netseq
DESTDIR ?=
SYSCONFDIR ?= /etc
BINDIR ?= /usr/local/bin
LIBDIR ?= /usr/local/lib
UNITDIR ?= $(LIBDIR)/systemd/system
DATADIR ?= /usr/local/share
MANDIR ?= $(DATADIR)/man
# Extras of setup.cfg that are installed too: zstd reads captures that are compressed so, parquet lets netseq-flows write it.
EXTRAS ?= zstd
INSTALL := PYTHON='$(PYTHON)' PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' SYSCONFDIR='$(SYSCONFDIR)' BINDIR='$(BINDIR)' \
	LIBDIR='$(LIBDIR)' UNITDIR='$(UNITDIR)' DATADIR='$(DATADIR)' MANDIR='$(MANDIR)' EXTRAS='$(EXTRAS)' systemd/install.sh

# The folder that `make lab` writes to, what it runs, and the seed of its schedule.
LAB ?= build/lab
LAB_DESCRIPTION ?= tests/lab/small.toml
LAB_SEED ?= 1

.PHONY: help demo test lint types bench bench-live lab clean install uninstall test-system
.DELETE_ON_ERROR:

.DEFAULT_GOAL := help
help:
	@echo "make demo    install into $(VENV) and replay a small capture"
	@echo "make test    install into $(VENV) and run lint, types and tests"
	@echo "make lint    ruff alone            make types   mypy alone"
	@echo "make install install the sensor as a service: PREFIX=/opt/netseq, DESTDIR, SYSCONFDIR (as root)"
	@echo "make uninstall take that away again, but for an edited configuration and the state"
	@echo "make test-system  boot a Debian 12 with netseq in it and try the service there (root)"
	@echo "make bench   measure speed and memory, and write the table in README.md"
	@echo "make bench-live  measure the sensor on a wire, and write benchmarks/RESULTS-live.md (root)"
	@echo "make lab     make labelled traffic in namespaces, five minutes of it, into LAB=build/lab (root)"
	@echo "make splunk  pack the Splunk add-on: dist/TA-netseq-VERSION.tar.gz"
	@echo "make splunk-appinspect  install what checks it, into $(APPINSPECT): make test then asks it, too"
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

bench-live: $(STAMP)
	@$(BIN)/python -m benchmarks.live

# What an earlier run left there is replaced, and nothing else.
lab: $(STAMP)
	@$(BIN)/python -m tests.lab run $(LAB_DESCRIPTION) --seed $(LAB_SEED) --output $(LAB) --replace

install: python-is-new-enough
	@$(INSTALL) install

uninstall:
	@$(INSTALL) uninstall

test-system: $(STAMP)
	@$(BIN)/python -m pytest -q tests/system

splunk:
	@$(PYTHON) plugins/splunk/pack.py

# In an environment of its own: it asks for older versions of some packages than netseq has.
splunk-appinspect: $(APPINSPECT)/installed

$(APPINSPECT)/installed:
	@test -x $(APPINSPECT)/bin/python || $(PYTHON) -m venv $(APPINSPECT)
	@$(APPINSPECT)/bin/python -m pip install --quiet --disable-pip-version-check splunk-appinspect==4.3.1
	@$(APPINSPECT)/bin/splunk-appinspect list version >/dev/null || { echo "it also needs libmagic (Debian: libmagic1)"; exit 1; }
	@touch $@

clean:
	rm -rf $(VENV) $(APPINSPECT) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so an install that failed is tried again; pip does nothing for what is there already.
$(STAMP): setup.cfg constraints.txt pyproject.toml | python-is-new-enough
	@echo "setting up $(VENV): downloads some hundred megabytes, once"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,zstd,parquet]'
	@touch $@

.PHONY: python-is-new-enough
python-is-new-enough:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("netseq needs Python 3.11 or later, and $(PYTHON) is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12")'
