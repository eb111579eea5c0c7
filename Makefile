# Everything runs in .venv, made from requirements.lock: `make demo`, `make test`, `make lint`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint format lock clean

demo: .venv/ready
	$(BIN)/python scripts/demo.py --overwrite

test: .venv/ready
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The environment is made again when the locked versions or the packaging change.
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# Locks the versions for every supported Python at once, by environment markers.
lock: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --no-header \
		--extra dev --output-file requirements.lock pyproject.toml

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
