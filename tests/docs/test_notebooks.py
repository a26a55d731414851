"""The notebooks run from above to below, and hold what they display."""

import pytest

import bcos_jax

from ..common import ROOT
from . import givens, notebooks

FOLDER = ROOT / "docs" / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
GIVEN = {"one_line": ("runs/mine/bundle", "runs/reviews/bundle", "photos/a.jpg")}
MOST = 200_000  # bytes


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_clean_and_small(name):
  path = FOLDER / f"{name}.ipynb"
  content = notebooks.read(path)
  assert content["metadata"] == notebooks.METADATA and content["nbformat"] == 4
  assert path.stat().st_size < MOST
  for cell in content["cells"]:
    assert cell["metadata"] == {} and "".join(cell["source"]).strip()
  for cell in notebooks.code(content):
    assert cell["execution_count"] is None
    assert all(output["output_type"] in ("stream", "display_data") for output in cell["outputs"])


@pytest.mark.docs
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for given in GIVEN.get(name, ()):
    givens.make(given, tmp_path, {})
  path = FOLDER / f"{name}.ipynb"
  outputs, values = notebooks.execute(path)
  assert all(value.completeness_error.max() < 1e-4 for value in values if _explains(value))
  cells = notebooks.code(notebooks.read(path))
  if name in GIVEN:  # displays what the reader brings
    assert not any(cell["outputs"] for cell in cells)
    return
  for cell, made in zip(cells, outputs, strict=True):
    assert _kinds(cell["outputs"]) == _kinds(made), "".join(cell["source"])


def _explains(value):
  return isinstance(value, bcos_jax.Explanation)


def _kinds(outputs):
  return [(output["output_type"], sorted(output.get("data", ()))) for output in outputs]
