# Everything runs in .venv, made on first use from python3 alone.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow benchmark lint clean

demo: .venv/ready
	$(BIN)/python -m experiments.lr_transfer --workdir=work/demo

test: .venv/ready lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: .venv/ready
	$(BIN)/python -m pytest -m slow

benchmark: .venv/ready
	$(BIN)/python -m experiments.benchmark --workdir=work/benchmark

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/ready: setup.py pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

clean:
	rm -rf .venv work build dist *.egg-info
