"""What is installed: one version, extras that are declared once, a core that needs none of them."""

from importlib import metadata
import os
import re
import subprocess
import sys
import tomllib

import pytest

import bcos_jax
from bcos_jax import errors

from .common import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HIDDEN = """
import runpy, sys
from bcos_jax.errors import EXTRAS
for extra in ("app", "datasets", "text", "train"):
  sys.modules.update(dict.fromkeys(EXTRAS[extra]))
sys.argv = ["core_only", {folder!r}]
runpy.run_path({script!r}, run_name="__main__")
"""


def _normal(name):
  return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()


def test_without_extras_networks_are_converted_b_cosified_explained_and_drawn(tmp_path):
  code = HIDDEN.format(folder=str(tmp_path), script=str(ROOT / "tests" / "core_only.py"))
  environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
  )
  assert done.returncode == 0, done.stderr
  assert f"{bcos_jax.__version__} works without extras" in done.stdout


@pytest.mark.parametrize("extra", errors.EXTRAS)
def test_the_modules_of_an_extra_are_those_of_its_packages(extra):
  """Modules of packages that are not installed here are compared in another environment."""
  declared = {_normal(name) for name in PROJECT["optional-dependencies"][extra]}
  packages = metadata.packages_distributions()
  for module in errors.EXTRAS[extra]:
    found = {_normal(name) for name in packages.get(module, ())}
    assert not found or found & declared, f"{module} is in {found}, {extra} has {declared}"


def test_the_core_declares_no_package_of_an_extra():
  core = {_normal(name) for name in PROJECT["dependencies"]}
  for extra in ("train", "text", "app"):
    assert not core & {_normal(name) for name in PROJECT["optional-dependencies"][extra]}


def test_one_version():
  assert PROJECT["dynamic"] == ["version"] and "version" not in PROJECT
  changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
  headings = re.findall(r"^## (.+)$", changelog, re.MULTILINE)
  assert headings[0] == "Unreleased"
  released, date = re.fullmatch(r"(\d+\.\d+\.\d+) \((\d{4}-\d{2}-\d{2})\)", headings[1]).groups()
  citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
  assert f"version: {released}\n" in citation and f'date-released: "{date}"' in citation
  version = [int(part) for part in re.match(r"(\d+)\.(\d+)\.(\d+)", bcos_jax.__version__).groups()]
  assert version > [int(part) for part in released.split(".")]


def test_a_missing_extra_is_an_error_of_both_kinds(monkeypatch):
  monkeypatch.setitem(errors.EXTRAS, "app", ("json", "no_such_module"))
  with pytest.raises(errors.MissingExtra) as missing:
    errors.requires("app", "Pages")
  assert isinstance(missing.value, ImportError) and isinstance(missing.value, errors.InputError)
  assert missing.value.cause == (
    "Pages need the extra 'app', which is not installed (no_such_module)."
  )
  assert "\n" not in str(missing.value) and '"bcos_jax[app]"' in missing.value.fix
