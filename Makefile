# Every target makes the virtual environment that it needs.
PYTHON ?= python3
VENV ?= .venv
TORCH_VENV ?= .venv-torch
PYTEST_ARGS ?= -n auto --maxprocesses 4

.PHONY: quickstart test test-torch lint clean

quickstart: $(VENV)/.installed
	$(VENV)/bin/bcos-jax quickstart

test: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest -m "not torch" $(PYTEST_ARGS)

test-torch: $(TORCH_VENV)/.installed
	$(TORCH_VENV)/bin/python -m pytest -m torch $(PYTEST_ARGS)

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.py pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet -e .
	touch $@

$(VENV)/.installed-test: setup.py pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet -e ".[test]"
	touch $@ $(VENV)/.installed

$(TORCH_VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(TORCH_VENV)
	$(TORCH_VENV)/bin/python -m pip install --quiet -e ".[test,torch]"
	touch $@

clean:
	rm -rf $(VENV) $(TORCH_VENV) build dist *.egg-info
