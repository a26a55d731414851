"""The quickstart in its short form, the end-to-end test."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import bcos_jax
from bcos_jax.studies.quickstart import QuickstartFindings


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Runs the command as a person does: in a process of its own, without what the tests set."""
  workdir = tmp_path_factory.mktemp("quickstart")
  ours = ("XLA_FLAGS", "PJRT_NPROC", "JAX_DISABLE_MOST_OPTIMIZATIONS")
  environment = {key: value for key, value in os.environ.items() if key not in ours}
  environment["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
  done = subprocess.run(
    [sys.executable, "-m", "bcos_jax", "quickstart", "--short", "--workdir", str(workdir)],
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  findings = QuickstartFindings(
    **json.loads((workdir / "findings.json").read_text(encoding="utf-8"))
  )
  return workdir, findings, done.stdout


def test_finds_what_the_papers_find(run):
  _, found, _ = run
  assert found.accuracy["conventional"] > 0.9
  assert found.accuracy["bcosified"] > found.accuracy["scratch"] + 0.1
  assert found.accuracy["bcosified"] > 0.85
  assert found.accuracy["bcosified_at_start"] < 0.3
  assert found.accuracy["closed_form"] > found.accuracy["conventional"] - 0.1
  assert found.steps_to_scratch is not None and found.steps_to_scratch < found.steps
  assert found.pointing["bcos"] > 2 * found.pointing["uniform"]
  assert found.pointing["closed_form"] > 2 * found.pointing["uniform"]
  assert found.pointing["bcos"] > found.pointing["input_x_gradient"]
  assert abs(found.pointing["random"] - found.pointing["uniform"]) < 0.05


def test_is_exact(run):
  _, found, _ = run
  assert 0 < found.equivalence < 1e-5
  assert found.completeness < 1e-5


def test_prints_every_number_and_says_where(run):
  workdir, found, printed = run
  for _, value in found.table()[1:]:
    assert value in printed
  assert str(workdir) in printed


@pytest.mark.parametrize("name", ["conventional", "closed_form", "bcosified", "scratch"])
def test_saves_networks_that_work(run, name):
  workdir, found, _ = run
  bundle = bcos_jax.load(workdir / name)
  assert bundle.labels == tuple("0123456789")
  assert bundle.config["provenance"]["metrics"]["accuracy"] == found.accuracy[name]
  images = np.zeros((2, 24, 24, 1), np.float32)
  ex = bcos_jax.explain(bundle.model, bundle.variables, images)
  assert np.isfinite(ex.logits).all() and np.isfinite(ex.weights).all()


def test_draws_a_figure_and_a_report_without_links(run):
  workdir, _, _ = run
  assert (workdir / "figure.png").read_bytes().startswith(b"\x89PNG")
  page = (workdir / "report.html").read_text(encoding="utf-8")
  assert page.count("<article") == 6
  assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
