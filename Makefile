# Every target makes the virtual environment that it needs.
PYTHON ?= python3
VENV ?= .venv
TORCH_VENV ?= .venv-torch
APP_VENV ?= .venv-app
PYTEST_ARGS ?= -n auto --maxprocesses 4
# Python compiles the modules that it imports; pip would compile all, which takes minutes.
INSTALL = -m pip install --quiet --no-compile

.PHONY: quickstart install-test test test-slow install-torch test-torch test-app lint clean

quickstart: $(VENV)/.installed
	$(VENV)/bin/bcos-jax quickstart

install-test: $(VENV)/.installed-test

test: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest -m "not torch and not app and not slow" $(PYTEST_ARGS)

# What a change rarely breaks and takes long to see: large golden networks, several processes.
test-slow: $(VENV)/.installed-test $(TORCH_VENV)/.installed
	$(VENV)/bin/python -m pytest -m "slow and not torch and not app" $(PYTEST_ARGS)
	$(TORCH_VENV)/bin/python -m pytest -m "slow and torch" $(PYTEST_ARGS)

install-torch: $(TORCH_VENV)/.installed

test-torch: $(TORCH_VENV)/.installed
	$(TORCH_VENV)/bin/python -m pytest -m "torch and not slow" $(PYTEST_ARGS)

# The page in a real browser: needs chromium (Debian: apt-get install chromium).
test-app: $(APP_VENV)/.installed
	$(APP_VENV)/bin/python -m pytest tests/test_app.py tests/app

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.py pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python $(INSTALL) -e .
	touch $@

$(VENV)/.installed-test: setup.py pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python $(INSTALL) -e ".[test]"
	touch $@ $(VENV)/.installed

$(TORCH_VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(TORCH_VENV)
	$(TORCH_VENV)/bin/python $(INSTALL) -e ".[test,torch,datasets]"
	touch $@

$(APP_VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(APP_VENV)
	$(APP_VENV)/bin/python $(INSTALL) -e ".[test,app,browser]"
	touch $@

clean:
	rm -rf $(VENV) $(TORCH_VENV) $(APP_VENV) build dist *.egg-info
