# `make reproduce` runs the study, `make test` the tests; both set up .venv first, once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: reproduce test lint notebooks

reproduce: .venv/installed
	$(BIN)/python -m study reproduce

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --durations 15

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("error: Python 3.11 or newer is needed; run make PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[notebooks,test,escnn,export]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps escnn  # its py3nj would need Fortran
	touch $@

notebooks: .venv/installed
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace notebooks/*.ipynb
