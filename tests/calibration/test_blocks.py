"""The second sweep: maps of a block together, weighed by what the teacher's output depends on."""

import dataclasses
import functools

import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, StandardOps, calibration
from bcos_jax.calibration import aims, closed_form, traced
from bcos_jax.calibration import blocks as second
from bcos_jax.calibration.execution import Execution
from bcos_jax.calibration.sampling import Sampler
from bcos_jax.calibration.shares import Shares
from bcos_jax.calibration.store import Store
from bcos_jax.train.sharding import make_mesh

from ..common import filled, flat, photos, rel, tiny

IMAGES = photos(24)
FAST = calibration.Calibration(
  rows=600,
  rows_per_channel=2,
  batch_size=12,
  head="logits",
  effort=calibration.Effort(rounds=1, inner=5, block_rounds=1, block_inner=3),
)
ONCE = dataclasses.replace(FAST, effort=dataclasses.replace(FAST.effort, block_rounds=0))


@functools.cache
def networks(name="resnet_tiny", ops=None):
  model = tiny(name, StandardOps())
  variables = filled(model)
  return model, variables, *bcos_jax.bcosify(model, variables, ops=ops or BcosOps())


@functools.cache
def calibrated(settings, name="resnet_tiny"):
  return calibration.calibrate(*networks(name), IMAGES, settings)


def _blocks(name):
  model, variables, student, start = networks(name)
  programs = [
    traced.trace(m, v, IMAGES[:2], closed_form.apply)
    for m, v in ((student, start), (model, variables))
  ]
  order = list(aims.parts(*programs))
  return [tuple(p.path for p in block) for block in aims.blocks(programs[0], order)]


def test_blocks_are_the_maps_between_a_fork_and_its_sum():
  first, *_ = _blocks("resnet_tiny")
  assert first == ("layer1_0/conv1", "layer1_0/conv2")
  with_shortcut = next(b for b in _blocks("resnet_tiny") if b[-1].startswith("layer2_0"))
  assert set(with_shortcut) >= {f"layer2_0/{n}" for n in ("conv1", "conv2", "downsample_conv")}
  assert _blocks("simple_vit_tiny")[:2] == [
    ("encoder_0/attn/qkv", "encoder_0/attn/out"),
    ("encoder_0/ff_linear1", "encoder_0/ff_linear2"),
  ]
  assert _blocks("vgg_tiny") == []


@pytest.mark.parametrize(
  "name", ["resnet_tiny", pytest.param("simple_vit_tiny", marks=pytest.mark.slow)]
)
def test_what_the_teacher_makes_is_met_better(name):
  model, variables, student, _ = networks(name)
  wanted = np.asarray(closed_form.apply(model, variables, IMAGES))
  once, twice = (
    rel(np.asarray(closed_form.apply(student, calibrated(each, name)[0], IMAGES)), wanted)
    for each in (ONCE, FAST)
  )
  assert twice < once
  report = calibrated(FAST, name)[1]
  assert report.blocks and all(block.after <= 1 for block in report.blocks)
  assert min(block.after for block in report.blocks) < 0.97  # The first sweep fits well already.


@pytest.mark.slow
def test_b_1_stays_the_teachers_function():
  model, variables, student, start = networks(ops=BcosOps.equivalent())
  made, _ = calibration.calibrate(model, variables, student, start, IMAGES, FAST)
  outputs = (closed_form.apply(m, v, IMAGES) for m, v in ((student, made), (model, variables)))
  assert rel(*map(np.asarray, outputs)) < 1e-4


def test_norms_have_the_statistics_of_what_they_see():
  student, made = networks()[2], calibrated(FAST)[0]
  inputs = student.ops.encoding(IMAGES)
  trained, _ = student.apply(made, inputs, train=True, mutable=["batch_stats"])
  assert rel(np.asarray(trained), np.asarray(closed_form.apply(student, made, IMAGES))) < 0.05


@pytest.mark.slow
def test_split_over_devices_is_the_same_up_to_the_order_of_sums():
  mesh = make_mesh({"data": 4, "fsdp": 1})
  made, report = calibration.calibrate(*networks(), IMAGES, FAST, mesh=mesh)
  alone = calibrated(FAST)
  outputs = [np.asarray(closed_form.apply(networks()[2], v, IMAGES)) for v in (made, alone[0])]
  assert rel(*outputs) < 5e-3
  for mine, theirs in zip(report.blocks, alone[1].blocks, strict=True):
    assert mine.paths == theirs.paths and mine.after == pytest.approx(theirs.after, abs=5e-3)


def test_interrupted_in_the_second_sweep_it_goes_on_with_the_same_bits(tmp_path):
  maps = len(calibrated(FAST)[1].maps)

  def stopping(parts):
    for number, part in enumerate(parts):
      yield part
      if len(parts) < maps and number == 1:  # in the second sweep, behind its first block
        raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    calibration.calibrate(*networks(), IMAGES, FAST, cache=tmp_path, progress=stopping)
  made, report = calibration.calibrate(*networks(), IMAGES, FAST, cache=tmp_path)
  for path, leaf in flat(calibrated(FAST)[0]).items():
    np.testing.assert_array_equal(flat(made)[path], leaf)
  assert report == calibrated(FAST)[1]


def test_importance_is_the_mean_square_of_derivatives():
  """Against the derivatives of a linear tail: the logits are a kernel's responses to a value."""
  model, variables, student, _ = networks()
  shares = Shares(None, len(IMAGES))
  shares.hold_out(3)
  program = traced.trace(model, variables, IMAGES[:12], closed_form.apply)
  run = Execution(program, flat(variables), [IMAGES[:12], IMAGES[12:]], shares, Store(2**30), {})
  sampler = Sampler(run, run, student, IMAGES, shares, FAST)
  value = program.seen_by(student.head)
  found = second.importance(run, [value], sampler, shares, 12, seed=0)[value]
  kernel = np.asarray(variables["params"][student.head]["kernel"], np.float64)
  kernel = kernel.reshape(-1, kernel.shape[-1])
  shape = (len(IMAGES), second.PROBES, kernel.shape[-1])
  signs = second._signs(np.random.default_rng(0), shape)
  squares = ((signs @ kernel.T) ** 2).sum(1)
  mean = squares.mean()
  assert np.prod(program.shapes[value][1:-1]) == 1
  np.testing.assert_allclose(found.places[:, 0], squares.mean(-1) / mean, rtol=1e-4)
  np.testing.assert_allclose(found.channels, squares.mean(0) / mean, rtol=1e-4)
