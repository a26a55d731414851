# Every target makes the virtual environment that it needs.
PYTHON ?= python3
VENV ?= .venv
TORCH_VENV ?= .venv-torch
APP_VENV ?= .venv-app
# That of bcos_jax/export/web_page.py.
ONNX_WEB = onnxruntime-web-1.30.0
PYTEST_ARGS ?= -n auto --maxprocesses 4
# Python compiles the modules that it imports; pip would compile all, which takes minutes.
INSTALL = -m pip install --quiet --no-compile

.PHONY: quickstart install-test test test-slow install-torch test-torch test-app test-wheel test-docs lint \
	install-docs docs clean

quickstart: $(VENV)/.installed
	$(VENV)/bin/bcos-jax quickstart

install-test: $(VENV)/.installed-test

test: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest -m "not torch and not app and not slow and not docs" $(PYTEST_ARGS)

# What a change rarely breaks and takes long to see: large golden networks, several processes.
test-slow: $(VENV)/.installed-test $(TORCH_VENV)/.installed
	$(VENV)/bin/python -m pytest -m "slow and not torch and not app and not docs" $(PYTEST_ARGS)
	$(TORCH_VENV)/bin/python -m pytest -m "slow and torch" $(PYTEST_ARGS)

install-torch: $(TORCH_VENV)/.installed

test-torch: $(TORCH_VENV)/.installed
	$(TORCH_VENV)/bin/python -m pytest -m "torch and not slow" $(PYTEST_ARGS)

# The pages in a real browser: needs chromium and npm (Debian: apt-get install chromium npm).
test-app: $(APP_VENV)/.installed build/$(ONNX_WEB).tgz
	$(APP_VENV)/bin/python -m pytest tests/app

build/$(ONNX_WEB).tgz:
	mkdir -p build
	cd build && npm pack $(subst web-,web@,$(ONNX_WEB))

# Every command and block of code of the pages, as printed, and the notebooks; half of it takes
# minutes of training: PYTEST_ARGS='-m "docs and not slow"' leaves that out.
test-docs: $(VENV)/.installed-test-docs
	$(VENV)/bin/python -m pytest -m docs $(PYTEST_ARGS) tests/docs

# The wheel without extras, in a separate environment and outside the checkout.
test-wheel: $(VENV)/bin/python
	rm -rf build/wheel build/lib && mkdir -p build/wheel
	$(VENV)/bin/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python $(INSTALL) build/wheel/*.whl
	cd build/wheel && JAX_PLATFORMS=cpu venv/bin/python -I ../../tests/core_only.py .

lint: $(VENV)/.installed-lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

install-docs: $(VENV)/.installed-docs

# Without network; warnings and broken links are errors.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 JAX_PLATFORMS=cpu $(VENV)/bin/python -m mkdocs build --quiet
	@echo "Built build/docs/index.html"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.py pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python $(INSTALL) -e ".[all]"
	touch $@

$(VENV)/.installed-test: setup.py pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python $(INSTALL) -e ".[frameworks,test]"
	touch $@ $(VENV)/.installed

$(VENV)/.installed-test-docs: $(VENV)/.installed-test
	$(VENV)/bin/python $(INSTALL) "scikit-image>=0.25"
	touch $@

# Types are checked with all extras of users, so that those of their packages are known; without onnx,
# `bcos_jax/export/onnx` would be taken for it.
$(VENV)/.installed-lint: setup.py pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python $(INSTALL) -e ".[all,onnx,lint]"
	touch $@

$(VENV)/.installed-docs: setup.py pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python $(INSTALL) -e ".[docs]"
	touch $@

$(TORCH_VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(TORCH_VENV)
	$(TORCH_VENV)/bin/python $(INSTALL) -e ".[test,torch,datasets]"
	touch $@

$(APP_VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(APP_VENV)
	$(APP_VENV)/bin/python $(INSTALL) -e ".[test,app,browser]"
	touch $@

clean:
	rm -rf $(VENV) $(TORCH_VENV) $(APP_VENV) build dist *.egg-info .ruff_cache .pytest_cache
