"""Calibrations that are split over devices, and those that are interrupted."""

import contextlib
import dataclasses
import os
import socket
import subprocess
import sys

from flax import traverse_util
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, StandardOps, calibration
from bcos_jax.calibration import closed_form
from bcos_jax.train.sharding import make_mesh

from ..common import ROOT, SIDE, filled, flat, photos, rel

IMAGES = photos(24)
PICTURES = np.uint8(255 * IMAGES)
FAST = calibration.Calibration(
  rows=600, rows_per_channel=2, batch_size=12, effort=calibration.Effort(rounds=1, inner=5)
)


def networks():
  fields = {"stages": (1,), "width": 4, "image_size": SIDE, "num_classes": 5}
  model = bcos_jax.create("resnet_tiny", ops=StandardOps(), **fields)
  variables = filled(model)
  return model, variables, *bcos_jax.bcosify(model, variables, ops=BcosOps())


@pytest.fixture(scope="module")
def given():
  return networks()


@pytest.fixture(scope="module")
def alone(given):
  return calibration.calibrate(*given, IMAGES, FAST)


def _same_bits(one, other):
  assert flat(one).keys() == flat(other).keys()
  return all((flat(one)[path] == leaf).all() for path, leaf in flat(other).items())


def test_split_over_devices_is_the_same_up_to_the_order_of_sums(given, alone):
  """Seven devices, whose shares of pictures and of places have to be filled up."""
  mesh = make_mesh({"data": 7, "fsdp": 1})
  made, report = calibration.calibrate(*given, IMAGES, FAST, mesh=mesh)
  outputs = [np.asarray(closed_form.apply(given[2], v, IMAGES)) for v in (made, alone[0])]
  assert rel(*outputs) < 2e-3
  for mine, theirs in zip(report.maps, alone[1].maps, strict=True):
    assert (mine.path, mine.rows, mine.kept) == (theirs.path, theirs.rows, theirs.kept)
    assert (mine.fit, mine.before) == pytest.approx((theirs.fit, theirs.before), rel=2e-3, abs=1e-4)
  assert report.agreement == alone[1].agreement


@pytest.mark.slow
def test_two_processes_of_unequal_shares_find_what_one_finds(given, alone, tmp_path):
  with contextlib.closing(socket.socket()) as free:
    free.bind(("localhost", 0))
    coordinator = f"localhost:{free.getsockname()[1]}"
  environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
  processes = [
    subprocess.Popen(
      [sys.executable, "-m", "tests.calibration.one_of_two", coordinator, str(number), tmp_path],
      env=environment | {"PYTHONPATH": str(ROOT)},
      cwd=ROOT,
      stderr=subprocess.PIPE,
      text=True,
    )
    for number in range(2)
  ]
  try:
    said = [process.communicate(timeout=200)[1] for process in processes]
  finally:
    for process in processes:
      process.kill()
  assert [process.returncode for process in processes] == [0, 0], said
  first, second = (dict(np.load(tmp_path / f"{number}.npz")) for number in range(2))
  assert all((first[name] == second[name]).all() for name in first)
  figures = [[m.rows, m.before, m.fit] for m in alone[1].maps]
  np.testing.assert_allclose(first.pop("figures"), figures, rtol=2e-3, atol=1e-4)
  assert first.pop("agreement") == pytest.approx(alone[1].agreement, abs=1e-6)
  made = traverse_util.unflatten_dict(first, sep="/")
  outputs = [np.asarray(closed_form.apply(given[2], v, IMAGES)) for v in (made, alone[0])]
  assert rel(*outputs) < 2e-3
  assert len(list(tmp_path.glob("cache/*/*.npz"))) == len(alone[1].maps)


class _Stop(Exception):
  pass


def _stopping(after):
  def progress(parts):
    yield from parts[:after]
    raise _Stop

  return progress


def test_interrupted_equals_uninterrupted_bit_for_bit(given, alone, tmp_path):
  with pytest.raises(_Stop):
    calibration.calibrate(*given, IMAGES, FAST, cache=tmp_path, progress=_stopping(2))
  (folder,) = tmp_path.iterdir()
  assert len(list(folder.glob("*.npz"))) == 2
  # What was being written does not count; in files or in memory, the bits are the same.
  (folder / "2.tmp").write_bytes(b"half")
  less = dataclasses.replace(FAST, memory=0)
  made, report = calibration.calibrate(*given, IMAGES, less, cache=tmp_path)
  assert _same_bits(alone[0], made) and report == alone[1]
  assert not list(folder.glob("activations*"))


def test_goes_on_with_the_same_networks_inputs_and_settings_only(given, tmp_path, monkeypatch):
  fits = []
  fitted = closed_form.fitted_kernel
  monkeypatch.setattr(closed_form, "fitted_kernel", lambda *a: fits.append(0) or fitted(*a))

  def again(images=IMAGES, settings=FAST, after=1):
    fits.clear()
    with pytest.raises(_Stop):
      calibration.calibrate(*given, images, settings, cache=tmp_path, progress=_stopping(after))
    return len(fits)

  assert again() == 1
  assert again() == 0
  assert again(after=2) == 1
  assert again(PICTURES) == 1
  assert again(settings=dataclasses.replace(FAST, seed=1)) == 1
  damaged = next(tmp_path.glob("*/00000.npz"))
  damaged.write_bytes(damaged.read_bytes()[:100])
  refitted = again(), again(PICTURES), again(settings=dataclasses.replace(FAST, seed=1))
  assert sum(refitted) == 1


def test_pictures_of_8_bits_are_those_of_their_colours(given):
  teacher, variables, _, _ = given
  colors = np.float32(PICTURES) / np.float32(255)
  found, wanted = (np.asarray(closed_form.apply(teacher, variables, x)) for x in (PICTURES, colors))
  assert rel(found, wanted) < 1e-6
