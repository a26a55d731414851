"""The documentation: its links lead somewhere, its names exist, its examples work.

That every command runs is tested in `docs`.
"""

import ast
import collections
import importlib.util
import pathlib
import re
import sys
import types

import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, models, ops
from bcos_jax.convert.readers import config_readers
from bcos_jax.convert.tables.keys import tables_of
from bcos_jax.models.registration import TRAITS

from .common import ROOT
from .docs import pages
from .docs.checks import EXAMPLES
from .docs.pages import PAGES

ARCHITECTURES = PAGES["architectures.md"].read_text(encoding="utf-8")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
  page = PAGES[name]
  for target in LINK.findall(page.read_text(encoding="utf-8")):
    assert (page.parent / target).exists(), target


_PYTHON = [
  pytest.param(block.text, id=str(block))
  for page in PAGES
  for block in pages.blocks(page)
  if block.language == pages.PYTHON
]


@pytest.mark.parametrize("block", _PYTHON)
def test_imported_names_exist(block):
  """Names of this package, and attributes of its modules; other packages may not be installed."""
  known = {"bcos_jax": bcos_jax}
  for node in ast.walk(ast.parse(block)):
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bcos_jax"):
      module = importlib.import_module(node.module)
      for alias in node.names:
        known[alias.asname or alias.name] = (
          getattr(module, alias.name)
          if hasattr(module, alias.name)
          else importlib.import_module(f"{node.module}.{alias.name}")
        )
  for node in ast.walk(ast.parse(block)):
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
      if isinstance(known.get(node.value.id), types.ModuleType):
        assert hasattr(known[node.value.id], node.attr), ast.unparse(node)


@pytest.mark.parametrize("name", PAGES)
def test_named_files_and_tests_exist(name):
  text = PAGES[name].read_text(encoding="utf-8")
  for path in re.findall(
    r"`((?:bcos_jax|convert|train|tests|configs|benchmarks)/[\w/]+\.py)`", text
  ):
    assert (ROOT / path).exists() or pathlib.Path(path).stem in EXAMPLES, path
  code = collections.defaultdict(str)  # files in several folders may share a name
  for path in ROOT.glob("tests/**/test_*.py"):
    code[path.name] += path.read_text(encoding="utf-8")
  for file, test in re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", text):
    assert f"def {test}" in code[file], (file, test)


def _rows():
  for row in ARCHITECTURES.partition("## Measured coverage")[0].splitlines():
    if row.startswith("| ") and not row.startswith("| family"):
      yield [cell.strip() for cell in row.strip("|").split("|")]


def test_the_status_table_names_what_exists():
  seen = set()
  for _, names, listed, *rest in _rows():
    # The ends of the names of sizes, as in "both `ti`", are no names.
    quoted = re.findall(r"`(\w{4,})`", names + rest[-1])
    assert set(quoted) <= set(models.names()), names
    sources = set(listed.split(", "))
    classes = {models.architecture(name) for name in quoted}
    known = {keys.layout for cls in classes for keys in tables_of(cls)}
    assert sources <= known, names
    seen |= {(cls, source) for cls in classes for source in sources}
  everything = {(cls, keys.layout) for cls in models.architectures() for keys in tables_of(cls)}
  assert seen == everything


def test_model_types_are_those_that_are_read():
  section = PAGES["converting.md"].read_text(encoding="utf-8")
  listed = re.search(r"Model types: (.*?)\.\s", section).group(1)
  readers = config_readers()
  own = {kind for kind in readers if kind.startswith("aloe_")}
  assert set(re.findall(r"`([\w-]+)`", listed)) == readers.keys() - own


def _blocks():
  section = ARCHITECTURES.partition("## Adding an architecture")[2]
  return re.findall(r"```python\n(.*?)```", section, re.S)


def test_the_example_of_an_architecture_runs(tmp_path, monkeypatch, own_architectures):
  definition, use = _blocks()
  (tmp_path / "plain.py").write_text(definition, encoding="utf-8")
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.chdir(tmp_path)
  monkeypatch.delitem(sys.modules, "plain", raising=False)
  made = {}
  exec(compile(use, "docs/architectures.md", "exec"), made)
  assert {*bcos_jax.names()} >= EXAMPLES
  assert made["explanation"].completeness_error.max() <= 1e-5
  assert made["heat"].shape == (2, 16, 16) and np.isfinite(made["heat"]).all()
  assert bcos_jax.load(tmp_path / "bundles" / "bcos_plain").model == made["bcos_model"]


def test_the_example_of_a_family_runs(tmp_path, monkeypatch):
  page = PAGES["families.md"].read_text(encoding="utf-8")
  definition, use = re.findall(r"```python\n(.*?)```", page, re.S)
  (tmp_path / "smooth.py").write_text(definition, encoding="utf-8")
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.chdir(tmp_path)
  monkeypatch.delitem(sys.modules, "smooth", raising=False)
  made = {}
  exec(compile(use, "docs/families.md", "exec"), made)
  assert made["bundle"].model == made["smooth_model"]
  assert made["bundle"].model.ops == made["SmoothOps"](sharpness=8.0)
  assert made["explanation"].completeness_error.max() <= 1e-5


def test_the_presets_of_families_are_those_of_recipes():
  section = PAGES["families.md"].read_text(encoding="utf-8").partition("## The presets")[2]
  rows = re.findall(r"^\| (`.*?) \| (.*?) \|", section.partition("##")[0], re.M)
  for calls, names in rows:
    names = re.findall(r"`(\w+)`", names)
    for call, name in zip(re.findall(r"`(?:BcosOps)?\.?(\w+)\(\)`", calls), names, strict=False):
      preset = getattr(BcosOps, call, None) or getattr(bcos_jax, call)
      assert ops.from_dict({"family": name}) == preset(), name
  assert sum(len(re.findall(r"`(\w+)`", names)) for _, names in rows) == 8


def test_traits_are_those_of_networks():
  section = ARCHITECTURES.partition("### Its traits")[2].partition("###")[0]
  rows = re.findall(r"^\| (`.*?) \|", section, re.M)
  named = {name for row in rows for name in re.findall(r"`(\w+)[`(]", row)}
  assert named <= {trait for traits in TRAITS.values() for trait in traits}
