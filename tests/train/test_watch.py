"""Monitoring of a run: figures, profiles and progress."""

import sys

import jax
import numpy as np
from PIL import Image
import pytest

from bcos_jax import InputError
from bcos_jax.train import config as configs
from bcos_jax.train import loop
from bcos_jax.train.data import open_dataset, sources
from bcos_jax.train.monitor import watch
from bcos_jax.train.monitor import writer as logs

from ..common import TINY_RUN

RECIPE = (*TINY_RUN, "--config.steps=12")


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
  """One folder of prepared digits."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv(sources.DATA_DIR_VARIABLE, str(tmp_path_factory.mktemp("data")))
    open_dataset("digits", "train")
    yield


def train(folder, *overrides):
  config = configs.load_config("digits:scratch", [*RECIPE, *overrides])
  return loop.train(config, workdir=folder, progress=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("watched")
  train(
    folder,
    "--config.watch.explain_every=6",
    "--config.watch.explain_images=3",
    "--config.watch.profile_steps=2",
  )
  return folder


def test_explanations_are_drawn_every_so_often(run):
  figures = sorted((run / "explanations").glob("*.png"))
  assert [figure.name for figure in figures] == ["step-00000006.png", "step-00000012.png"]
  pictures = [np.asarray(Image.open(figure)) for figure in figures]
  assert pictures[0].std() > 10
  assert pictures[0].shape != pictures[1].shape or (pictures[0] != pictures[1]).any()


def test_a_profile_is_a_real_trace(run):
  traces = list((run / "profile").rglob("*.xplane.pb"))
  assert len(traces) == 1 and traces[0].stat().st_size > 1000


def test_arithmetic_is_that_of_the_steps_since_the_last_line(tmp_path):
  """Steps of texts differ in length, and so in arithmetic."""
  writer = logs.MetricWriter(
    tmp_path, steps=4, start_step=0, batch_size=8, log_every=2, progress=False
  )
  with writer:
    for step, flops in ((1, 1e12), (2, 3e12), (3, 0.0), (4, 5e12)):
      writer.train(step, {"loss": np.float32(1)}, flops)
  rows = logs.read_lines(tmp_path / "metrics.jsonl")
  steps_per_second = [row["train/images_per_second"] / 8 for row in rows]
  used = [row["train/tflops_per_device"] for row in rows]
  np.testing.assert_allclose(np.divide(used, steps_per_second), [2, 2.5], rtol=1e-6)


def test_arithmetic_is_counted_for_all_devices_and_parts():
  lowered = jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((8, 8), np.float32))
  assert watch.flops(lowered, devices=1) == 2 * 8**3
  assert watch.flops(lowered, devices=4, parts=2) == 8**3


def test_arithmetic_per_second_is_logged(run):
  rows = [row for row in logs.read_lines(run / "metrics.jsonl") if "train/loss" in row]
  assert all(row["train/tflops_per_device"] > 0 for row in rows)
  assert "train/utilisation" not in rows[0]  # Nobody publishes the peak of this machine.


def test_watching_does_not_change_the_run(run, tmp_path):
  train(tmp_path)
  losses = [
    [row["train/loss"] for row in logs.read_lines(f / "metrics.jsonl") if "train/loss" in row]
    for f in (run, tmp_path)
  ]
  assert losses[0] == losses[1]


@pytest.mark.parametrize(
  "kind, peak",
  [
    ("TPU v4", 275e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5", 459e12),
    ("TPU v6 lite", 918e12),
    ("NVIDIA H200", 989e12),
    ("cpu", None),
  ],
)
def test_peaks_by_the_names_of_devices(kind, peak):
  assert logs.peak_flops(kind) == peak


def test_a_logger_that_is_not_installed(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)
  with pytest.raises(InputError, match="not installed"):
    train(tmp_path, "--config.watch.wandb=digits")


def test_a_trace_is_ended_when_the_run_ends_before_it(tmp_path):
  train(tmp_path, "--config.watch.profile_steps=100", "--config.steps=6")
  assert list((tmp_path / "profile").rglob("*.xplane.pb"))
  with watch.profile(tmp_path / "again", 0, 0) as hook:
    hook(5, None)
  assert not (tmp_path / "again").exists()
