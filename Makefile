# make book    builds the book        make test    builds it and runs every test
# Everything is installed into .venv, everything is built in _build; nothing else is touched.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
HTML   := _build/html

export OMP_NUM_THREADS ?= 2
# A caller's backend ("agg") would make every figure of the book vanish.
unexport MPLBACKEND
# Only this folder's package and this environment's tools are meant.
unexport PYTHONPATH PYTHONHOME

.DEFAULT_GOAL := help
.PHONY: help book test check serve exercises bench screenshot clean

help:
	@echo "make book        install into .venv, run every page, build the HTML (warnings are errors)"
	@echo "make test        the same, then every test"
	@echo "make serve       show the built book at http://localhost:8000 (PORT=8001 for another)"
	@echo "make exercises   write exercises/*.ipynb from solutions/*.md"
	@echo "make bench       time the engine and the losses; writes benchmarks/latest.json"
	@echo "make screenshot  photograph the built book for the README"
	@echo "make clean       remove _build (and with it the cache of executed pages)"
	@echo
	@echo "PYTHON=python3.12 make book   chooses the interpreter (3.11 or newer)"

# The stamp is written last: an installation that broke off is taken up again.
$(VENV)/.ok: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is older than 3.11 or missing; try: make PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 || \
	  $(PYTHON) -m venv --clear $(VENV) || \
	  { echo "make: $(PYTHON) -m venv failed. On Debian and Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	@echo "Installing into $(VENV): this takes a few minutes"
	$(BIN)/python -m pip install -qq -r requirements.txt
	@touch $@

# The package is linked, not copied: an edit in kdcourse/ holds at once, in notebooks of any folder.
$(VENV)/.linked: $(VENV)/.ok pyproject.toml
	$(BIN)/python -m pip install -qq --no-deps -e .
	@touch $@

# --all: without it an edited style sheet would not reach the pages. It does not run them again; only a page whose
# cells, or a module of kdcourse that it imports, changed is run (book/_ext/kd_cache.py).
book: $(VENV)/.linked
	$(BIN)/jupyter-book build . --all -W --keep-going
	@echo
	@echo "Open $(CURDIR)/$(HTML)/index.html"

check: $(VENV)/.linked
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: check book
	$(BIN)/python -m pytest

serve: book
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory $(HTML) $(or $(PORT),8000)

exercises: $(VENV)/.linked
	$(BIN)/python -m kdcourse.grading.make

bench: $(VENV)/.linked
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench.py

screenshot: book
	$(BIN)/python tests/browser.py book/screenshot.png

clean:
	rm -rf _build
