# Everything runs in .venv, made on first use from python3 alone.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow benchmark docs lint clean

demo: .venv/ready
	$(BIN)/python -m experiments.lr_transfer --workdir=work/demo

test: .venv/ready lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: .venv/ready
	$(BIN)/python -m pytest -m slow

benchmark: .venv/ready
	$(BIN)/python -m experiments.benchmark --workdir=work/benchmark

docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict --site-dir=work/site

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/ready: setup.py pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

clean:
	rm -rf .venv work build dist *.egg-info
